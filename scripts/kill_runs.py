"""Kills conversions, trainings and evaluations of the demo in every phase, starts them again, and compares how they end.

SIGKILL and SIGTERM take turns. After each kill, what was saved before must still be whole; in the end everything must be,
bit for bit, what a run left alone gives. Exit status 1 if it is not.
"""

import contextlib
import dataclasses
import json
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any, Literal, get_args

from trm_jax import cli

SCRIPTS = pathlib.Path(__file__).parent
TRAINING = "--batch-size 8 --save-every 2 --eval-limit 0 --held-out 16 --num-samples 400 --epochs 1000 --random-depth"


Phase = Literal["converting", "tokenising", "compiling", "training", "saving", "evaluating"]


@dataclasses.dataclass(frozen=True)
class Options(cli.CommonOptions):
    kills: int = 4
    """In each phase."""
    phases: tuple[Phase, ...] = get_args(Phase)
    """Of which job to kill when."""
    max_batches: int = 120
    """Batches of the trainings."""
    seed: int = 0
    """Seed of the moments."""


@dataclasses.dataclass(frozen=True)
class Job:
    """A script at work in a folder, what it has saved so far, and how it ends."""

    command: list[str]
    saved: Callable[[], int]  # raises a UserError if what is there is not whole
    end: Callable[[], Any]

    @property
    def output(self) -> pathlib.Path:
        return pathlib.Path(self.command[self.command.index("--output") + 1])

    def start(self, log: pathlib.Path) -> subprocess.Popen:
        return subprocess.Popen([sys.executable, *self.command], stdout=subprocess.DEVNULL, stderr=log.open("wb"))


IsReached = Callable[[Job, float], bool]  # given when the job was started


def main(options: Options) -> None:
    rng, kills, faults = random.Random(options.seed), 0, []
    with tempfile.TemporaryDirectory() as name:
        root = pathlib.Path(name)
        whole = {kind: job(kind, root / "whole", options) for kind in ("convert", "train", "evaluate")}
        seconds = {kind: finish(one, root / "log") for kind, one in whole.items()}
        for phase in options.phases:
            kind, is_reached, spread = moments(root / "log")[phase]
            tested = job(kind, root / phase, options, model=root / "whole/model", run=root / "whole/run")
            for number in range(options.kills):
                saved = tested.saved()
                sign = (signal.SIGKILL, signal.SIGTERM)[number % 2]
                was_killed = kill(tested, root, is_reached, rng.uniform(0, spread * seconds[kind]), sign)
                kills += was_killed
                now = tested.saved()
                print(f"{phase}: {sign.name if was_killed else 'ended first'}, saved {saved} then {now}", flush=True)
                if now < saved:
                    faults.append(f"{phase}: {saved - now} of what was saved is lost")
            finish(tested, root / "log")
            if tested.end() != whole[kind].end():
                faults.append(f"{phase}: ends differently from what was left alone")
    print(f"{kills} kills; {len(faults)} faults", *faults, sep="\n")
    if faults:
        sys.exit(1)


def job(kind: str, folder: pathlib.Path, options: Options, model=None, run=None) -> Job:
    """A conversion, training or evaluation; the latter two on a model and a run that are there, or of the same folder."""
    model, run, answers = model or folder / "model", run or folder / "run", folder / "answers.jsonl"
    if kind == "convert":
        own = folder / "model"
        command = [str(SCRIPTS / "convert_qwen.py"), "--output", str(own)]
        return Job(command, lambda: saved_model(own), lambda: final_model(own))
    if kind == "train":
        own = folder / "run"
        command = [str(SCRIPTS / "train.py"), "--model", str(model), "--output", str(own), *TRAINING.split()]
        command += ["--max-batches", str(options.max_batches)]
        return Job(command, lambda: saved_batches(own), lambda: final_state(own))
    command = [str(SCRIPTS / "eval_gsm8k.py"), "--checkpoint", str(run), "--data", "demo", "--output", str(answers)]
    command += ["--limit", "256", "--batch-size", "8"]
    return Job(command, lambda: saved_answers(answers), lambda: final_answers(answers))


def moments(log: pathlib.Path) -> dict[Phase, tuple[str, IsReached, float]]:
    """Of each phase: the kind of job, whether it has been reached, and the share of the job's time that it may take."""

    def at_once(job: Job, started: float) -> bool:
        return True

    def says(words: str) -> IsReached:
        return lambda job, started: words in log.read_text(errors="replace")

    def saves(job: Job, started: float) -> bool:
        return any(path.stat().st_mtime > started for path in (job.output / "checkpoints").glob("*tmp*"))

    def answers(job: Job, started: float) -> bool:
        return job.output.exists() and job.output.stat().st_mtime > started

    return {
        "converting": ("convert", at_once, 1.0),
        "tokenising": ("train", at_once, 0.15),
        "compiling": ("train", says("compiling training"), 0.05),
        "training": ("train", says("tokens/s="), 0.5),
        "saving": ("train", saves, 0.001),
        "evaluating": ("evaluate", answers, 0.3),
    }


def finish(job: Job, log: pathlib.Path) -> float:
    """Runs a job to its end. Returns the seconds that it took."""
    started = time.monotonic()
    if job.start(log).wait():
        sys.exit(log.read_text(errors="replace")[-3000:])
    return time.monotonic() - started


def kill(job: Job, root: pathlib.Path, is_reached: IsReached, delay: float, sign: signal.Signals) -> bool:
    """Starts a job and kills it, `delay` seconds after it has reached a phase. Returns False if it has ended before."""
    started, process = time.time(), job.start(root / "log")
    while process.poll() is None:
        with contextlib.suppress(FileNotFoundError):  # a temporary folder may go at any moment
            if is_reached(job, started):
                break
        time.sleep(0.001)
    try:
        process.wait(delay)
        return False
    except subprocess.TimeoutExpired:
        process.send_signal(sign)
        process.wait()
        return True


def saved_model(folder: pathlib.Path) -> int:
    """1 if a whole model is there, 0 if none is."""
    from trm_jax.checkpoints.models import load_model

    return 0 if not folder.exists() else bool(load_model(folder))


def saved_batches(folder: pathlib.Path) -> int:
    """Batches behind the newest checkpoint, which must be whole."""
    from trm_jax.checkpoints.training import newest_sound

    newest, damaged = newest_sound(folder / "checkpoints")
    return -1 if damaged else newest or 0


def saved_answers(path: pathlib.Path) -> int:
    """Answers on whole lines."""
    return path.read_bytes().count(b"\n") if path.exists() else 0


def final_model(folder: pathlib.Path) -> dict[str, Any]:
    from trm_jax.checkpoints.folders import read_config

    return read_config(folder)


def final_state(folder: pathlib.Path) -> tuple[dict[str, bytes], bytes]:
    """Every array of the newest checkpoint, optimizer and counters included, and the metrics of all batches."""
    import numpy as np
    from orbax.checkpoint import v1 as ocp

    newest = folder / "checkpoints" / str(saved_batches(folder))
    arrays = {name: np.asarray(array).tobytes() for name, array in ocp.load(newest.absolute()).items()}
    return arrays, (folder / "metrics.jsonl").read_bytes()


def final_answers(path: pathlib.Path) -> list[tuple[int, str]]:
    records = map(json.loads, path.read_text().splitlines())
    return sorted((record["index"], record["text"]) for record in records)


if __name__ == "__main__":
    cli.run(main, Options, __doc__)
