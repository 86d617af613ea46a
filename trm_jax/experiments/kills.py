"""Kills conversions, trainings and evaluations of the demo in a chosen phase, and starts them again."""

import contextlib
import dataclasses
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from orbax.checkpoint import v1 as ocp

from trm_jax.checkpoints import SavedModel, kind_of, newest_sound, read_config
from trm_jax.errors import UserError
from trm_jax.evaluation import read_evaluation
from trm_jax.training import METRICS

Kind = Literal["convert", "train", "evaluate"]
KINDS: tuple[Kind, ...] = ("convert", "train", "evaluate")  # each uses the output of those before it
TRAINING = "--batch-size 8 --save-every 2 --eval-limit 0 --held-out 16 --num-samples 400 --epochs 1000 --random-depth"
EVALUATION = "--data demo --limit 256 --batch-size 8"


class JobError(UserError):
    """A script that was not killed has failed; the message is the end of its output."""


@dataclasses.dataclass(frozen=True)
class Job:
    """A script that writes to a place of its own, and functions that read what it has saved and its result."""

    command: Sequence[str]
    output: pathlib.Path  # the folder or file that it writes
    log: pathlib.Path  # what it says on standard error
    saved: Callable[[], int]  # how much it has saved; raises a UserError if that is not whole
    end: Callable[[], Any]  # its result, to be compared

    def start(self) -> subprocess.Popen:
        """The script in a process of its own."""
        with self.log.open("wb") as log:
            return subprocess.Popen([sys.executable, *self.command], stdout=subprocess.DEVNULL, stderr=log)

    def finish(self) -> float:
        """Runs the script to its end. Returns the seconds that it took. Raises JobError if it fails."""
        started = time.monotonic()
        if self.start().wait():
            raise JobError(self.log.read_text(errors="replace")[-3000:])
        return time.monotonic() - started

    def kill(self, is_reached: "IsReached", delay: float, sign: signal.Signals) -> bool:
        """Starts the script and kills it `delay` seconds after it has reached a phase. Returns False if it ended before."""
        started, process = time.time(), self.start()
        while process.poll() is None:
            with contextlib.suppress(FileNotFoundError):  # a temporary folder may go at any moment
                if is_reached(self, started):
                    break
            time.sleep(0.001)
        try:
            process.wait(delay)
            return False
        except subprocess.TimeoutExpired:
            process.send_signal(sign)
            process.wait()
            return True


IsReached = Callable[[Job, float], bool]  # takes the job and when it was started, seconds since 1970


@dataclasses.dataclass(frozen=True)
class Phase:
    """A part of a job's work, in which it is killed."""

    kind: Kind
    is_reached: IsReached
    share: float  # of the whole job's time, which the phase takes at most


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The result of all kills."""

    kills: int
    faults: Sequence[str]  # what was lost or ended differently, one sentence each

    def describe(self) -> str:
        """The counts, and each fault, for a person."""
        return "\n".join([f"{self.kills} kills; {len(self.faults)} faults", *self.faults])


def kill_runs(
    scripts: pathlib.Path,
    phases: Sequence[str],
    kills: int,
    max_batches: int,
    seed: int = 0,
    say: Callable[[str], None] = lambda line: None,
) -> Outcome:
    """Kills scripts in every phase, by SIGKILL and SIGTERM in turn, and compares how they end with runs left alone.

    Args:
        scripts: the folder of convert_qwen.py, train.py and eval_gsm8k.py.
        phases: names of PHASES. Only the kinds of jobs that they need are run.
        kills: tries in each phase; a job may end before the moment of its kill comes.
        max_batches: the number of batches in each training.
        seed: seed of the random moments.
        say: gets a line about each kill.

    Raises JobError if a script fails that was not killed, and a UserError if what a kill leaves is damaged.

    Example: `kill_runs(pathlib.Path("scripts"), ["saving"], kills=1, max_batches=12).faults`.
    """
    rng, count, faults = random.Random(seed), 0, []
    with tempfile.TemporaryDirectory() as name:
        root = pathlib.Path(name)
        whole = {kind: make_job(kind, scripts, root, "whole", max_batches) for kind in kinds_of(phases)}
        seconds = {kind: job.finish() for kind, job in whole.items()}
        for phase in phases:
            kind, longest = PHASES[phase].kind, PHASES[phase].share * seconds[PHASES[phase].kind]
            tested = make_job(kind, scripts, root, phase, max_batches)
            for number in range(kills):
                saved = tested.saved()
                sign = (signal.SIGKILL, signal.SIGTERM)[number % 2]
                was_killed = tested.kill(PHASES[phase].is_reached, rng.uniform(0, longest), sign)
                count += was_killed
                now = tested.saved()
                say(f"{phase}: {sign.name if was_killed else 'ended first'}, saved {saved} then {now}")
                if now < saved:
                    faults.append(f"{phase}: {saved - now} of what was saved is lost")
            tested.finish()
            if tested.end() != whole[kind].end():
                faults.append(f"{phase}: ends differently from what was left alone")
    return Outcome(count, faults)


def kinds_of(phases: Sequence[str]) -> Sequence[Kind]:
    """The kinds of jobs that phases need: their own, and those whose output these use."""
    last = max((KINDS.index(PHASES[phase].kind) for phase in phases), default=-1)
    return KINDS[: last + 1]


def make_job(kind: Kind, scripts: pathlib.Path, root: pathlib.Path, name: str, max_batches: int) -> Job:
    """A job that works on the model and the run in `root / "whole"`, and writes below `root / name`."""
    model, run, log = root / "whole/model", root / "whole/run", root / "log"
    if kind == "convert":
        own = root / name / "model"
        command = [str(scripts / "convert_qwen.py"), "--output", str(own)]
        return Job(command, own, log, lambda: saved_model(own), lambda: read_config(own))
    if kind == "train":
        own = root / name / "run"
        command = [str(scripts / "train.py"), "--model", str(model), "--output", str(own), *TRAINING.split()]
        command += ["--max-batches", str(max_batches)]
        return Job(command, own, log, lambda: saved_batches(own), lambda: final_state(own))
    own = root / name / "answers.jsonl"
    command = [str(scripts / "eval_gsm8k.py"), "--checkpoint", str(run), "--output", str(own), *EVALUATION.split()]
    return Job(command, own, log, lambda: saved_answers(own), lambda: final_answers(own))


def at_once(job: Job, started: float) -> bool:
    """Reached as soon as the job starts."""
    return True


def says(words: str) -> IsReached:
    """Reached when the job has printed these words."""
    return lambda job, started: words in job.log.read_text(errors="replace")


def saves(job: Job, started: float) -> bool:
    """Reached when a checkpoint is being written."""
    return any(path.stat().st_mtime > started for path in (job.output / "checkpoints").glob("*tmp*"))


def has_saved(job: Job, started: float) -> bool:
    """Reached when it has written a whole checkpoint."""
    found = (path for path in (job.output / "checkpoints").glob("*") if path.name.isdigit())
    return any(path.stat().st_mtime > started for path in found)


def answers(job: Job, started: float) -> bool:
    """Reached when the job has written an answer."""
    return job.output.exists() and job.output.stat().st_mtime > started


PHASES = {
    "converting": Phase("convert", at_once, 1.0),
    "tokenising": Phase("train", at_once, 0.15),
    "compiling": Phase("train", says("compiling training"), 0.05),
    "training": Phase("train", says("tokens/s="), 0.5),
    "saving": Phase("train", saves, 0.001),
    "saved": Phase("train", has_saved, 0.0),
    "evaluating": Phase("evaluate", answers, 0.3),
}


def saved_model(folder: pathlib.Path) -> int:
    """1 if a whole model is there, 0 if none is."""
    if kind_of(folder) is None:
        return 0
    SavedModel.open(folder).load()
    return 1


def saved_batches(folder: pathlib.Path) -> int:
    """Batches behind the newest checkpoint; -1 if it is damaged."""
    newest, damaged = newest_sound(folder / "checkpoints")
    return -1 if damaged else newest or 0


def saved_answers(path: pathlib.Path) -> int:
    """Answers on whole lines."""
    return path.read_bytes().count(b"\n") if path.exists() else 0


def final_state(folder: pathlib.Path) -> tuple[dict[str, bytes], bytes]:
    """Every array of the newest checkpoint, optimizer and counters included, and the metrics of all batches."""
    newest = folder / "checkpoints" / str(saved_batches(folder))
    arrays = {name: np.asarray(array).tobytes() for name, array in ocp.load(newest.absolute()).items()}
    return arrays, (folder / METRICS).read_bytes()


def final_answers(path: pathlib.Path) -> list[tuple[int, str]]:
    """The number of each question, and the text generated for it."""
    return [(answer.index, answer.text) for answer in read_evaluation(path).answers.values()]
