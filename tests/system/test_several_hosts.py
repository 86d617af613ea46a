"""Two processes that train together, as on two hosts: the numbers of one, and ends that nobody asked for.

One run goes through all of it: process 1 is killed, another pair is refused the folder, both go on, process 1 gets SIGTERM,
and in the end both finish the run, and one alone a copy of it.
"""

import contextlib
import dataclasses
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterable

import numpy as np
import pytest

from tests.support.command_line import SMALL, Started, run
from trm_jax.checkpoints import newest_sound
from trm_jax.evaluation.records import read_answers
from trm_jax.files import locked
from trm_jax.training import METRICS, read_metrics

BATCHES, SAVE_EVERY = 40, 5
MINUTE = 60.0
# One device for each process, so that two of them compute as one process with two does.
FLAGS = os.environ["XLA_FLAGS"].replace("device_count=2", "device_count=1")


class Pair:
    """Two processes of a script."""

    def __init__(self, options: Iterable, by_slurm: bool = False, script: str = "train.py"):
        place, port = slurm if by_slurm else plain, free_port()
        self.processes = []
        for number in range(2):
            more, variables = place(port, number)
            self.processes.append(Started(script, *options, *more, beside=number, XLA_FLAGS=FLAGS, **variables))

    def __enter__(self):
        return self

    def __exit__(self, *error) -> None:
        for process in self.processes:
            process.__exit__(*error)

    def wait_for(self, condition, seconds: float = 120) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert not any(process.has_ended() for process in self.processes), self.ends()
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def signal(self, number: int, sign: signal.Signals) -> None:
        os.kill(self.processes[number].pid, sign)

    def ends(self, seconds: float = 120) -> list[subprocess.CompletedProcess]:
        """Waits for both."""
        return [process.end(seconds) for process in self.processes]


def plain(port: int, number: int) -> tuple[list[str], dict[str, str]]:
    """Options and variables of one process."""
    return f"--coordinator 127.0.0.1:{port} --num-processes 2 --process-id {number}".split(), {}


def slurm(port: int, number: int) -> tuple[list[str], dict[str, str]]:
    """The same where Slurm tells it: JAX makes the port of the number of the job."""
    values = {"JOB_ID": port - 61440, "STEP_NODELIST": "127.0.0.1", "NTASKS": 2, "PROCID": number, "LOCALID": number}
    return ["--distributed"], {f"SLURM_{name}": str(value) for name, value in values.items()}


def free_port() -> int:
    """Among those that JAX makes of the numbers of Slurm's jobs."""
    for port in random.sample(range(61440, 65536), 100):
        with contextlib.suppress(OSError), socket.create_server(("", port)):
            return port
    raise AssertionError("no port is free")


@dataclasses.dataclass(frozen=True)
class Story:
    """What came of the run, and of what happened to it."""

    folders: dict[str, pathlib.Path]  # the run to its end: by both processes, by one of them, and by one undisturbed
    killed: list[subprocess.CompletedProcess]
    seconds: float  # from the death of process 1 until process 0 ended
    killed_at: int  # the newest checkpoint, by its number of batches
    refused: list[subprocess.CompletedProcess]
    stopped: list[subprocess.CompletedProcess]
    stopped_at: tuple[int, int]  # the numbers of the checkpoint and of the last batch
    finished: list[subprocess.CompletedProcess]


@pytest.fixture(scope="module")
def story(tmp_path_factory, demo_model_folder) -> Story:
    root = tmp_path_factory.mktemp("hosts")
    folders = {name: root / name for name in ("both", "one", "undisturbed")}
    common = ["--model", demo_model_folder, *SMALL, "--max-batches", BATCHES, "--save-every", SAVE_EVERY]
    common += ["--num-samples", 11, "--held-out", 1, "--batch-size", 10]  # of one shape, and so one program each
    both = [*common, "--output", folders["both"], "--mesh", "fsdp=2"]  # each process has half of the weights
    checkpoints = folders["both"] / "checkpoints"
    with Pair(both) as pair:
        pair.wait_for((checkpoints / str(SAVE_EVERY) / "seal.json").exists)
        pair.signal(1, signal.SIGKILL)
        died = time.monotonic()
        killed = pair.ends(2 * MINUTE)
        seconds = time.monotonic() - died
    with locked(folders["both"] / ".lock", folders["both"]), Pair(both, by_slurm=True) as pair:
        refused = pair.ends()
    killed_at = newest_sound(checkpoints)[0]
    with Pair(both) as pair:
        pair.wait_for(lambda: any(int(seal.parent.name) > killed_at for seal in checkpoints.glob("[0-9]*/seal.json")))
        pair.signal(1, signal.SIGTERM)
        stopped = pair.ends()
    stopped_at = newest_sound(checkpoints)[0], read_metrics(folders["both"] / METRICS)[-1]["batch"]
    shutil.copytree(folders["both"], folders["one"])
    (folders["one"] / f"checkpoints/{stopped_at[0]}/seal.json").unlink()  # as if killed before it was sealed
    with Pair([*both, "--eval-limit", 8]) as pair:
        finished = pair.ends()
    for name in ("one", "undisturbed"):
        done = run("train.py", *common, "--output", folders[name])
        assert done.returncode == 0, done.stderr
    return Story(folders, killed, seconds, killed_at, refused, stopped, stopped_at, finished)


def test_a_dead_process_ends_the_other_which_names_it(story):
    first, second = story.killed
    assert second.returncode == -signal.SIGKILL
    assert first.returncode == 1
    line = first.stderr.splitlines()[-1]
    assert line.startswith("train.py: process 1 (")
    assert "has ended without a word" in line
    assert story.seconds < MINUTE


def test_process_0_talks_for_both(story):
    first, second = story.stopped
    assert "in 2 processes" in first.stdout
    assert "mesh          data=1, fsdp=2" in first.stdout
    assert [line for line in second.stdout.splitlines() if "Gloo" not in line] == []
    assert "batch" not in second.stderr


def test_another_run_in_the_folder_is_refused_by_both_and_told_once(story):
    first, second = story.refused
    assert (first.returncode, second.returncode) == (2, 2)
    assert "another process is writing to" in first.stderr.splitlines()[-1]
    assert "writing" not in second.stderr


def test_sigterm_to_one_stops_both_behind_the_same_batch(story):
    first, second = story.stopped
    assert (first.returncode, second.returncode) == (0, 0)
    saved, trained = story.stopped_at
    assert story.killed_at < saved == trained < BATCHES
    assert f"stopped and saved after {saved} batches; the same command goes on from there" in first.stdout


def test_one_reads_a_checkpoint_of_both_that_is_not_sealed_yet(story):
    assert list(story.folders["one"].glob("damaged*")) == []
    assert newest_sound(story.folders["one"] / "checkpoints") == (BATCHES, [])


def test_both_go_on_to_the_end(story):
    first, second = story.finished
    assert (first.returncode, second.returncode) == (0, 0)
    assert f"trained {BATCHES} batches" in first.stdout
    assert (
        f"not evaluated, with several processes; one can: eval_gsm8k.py --checkpoint {story.folders['both']}"
        in first.stdout
    )
    assert newest_sound(story.folders["both"] / "checkpoints") == (BATCHES, [])
    assert (story.folders["both"] / "loss.png").exists()


@pytest.mark.parametrize("name", ["both", "one"])
def test_the_numbers_are_those_of_one_process(story, name):
    """Of the other mesh of its two devices, too."""
    found, expected = (read_metrics(story.folders[place] / METRICS) for place in (name, "undisturbed"))
    assert [record["batch"] for record in found] == list(range(1, BATCHES + 1))
    for what, every in (("loss", 1), ("held_out_loss", SAVE_EVERY)):
        losses = ([record[what] for record in records[every - 1 :: every]] for records in (found, expected))
        np.testing.assert_allclose(*losses, rtol=1e-5, atol=1e-6)


def test_two_evaluate_as_one_does(demo_model_folder, tmp_path):
    """Process 0 writes all answers, and goes on behind those that one process has given before."""
    common = ["--checkpoint", demo_model_folder, "--data", "demo", "--head", "backbone", "--batch-size", 4]
    outputs = [tmp_path / name / "answers.jsonl" for name in ("two", "one")]
    for output in outputs:
        done = run("eval_gsm8k.py", *common, "--limit", 3, "--output", output)
        assert done.returncode == 0, done.stderr
    with Pair([*common, "--limit", 24, "--output", outputs[0]], script="eval_gsm8k.py") as pair:
        first, second = pair.ends()
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert "of 24, " in first.stdout
    assert "accuracy" not in second.stdout
    done = run("eval_gsm8k.py", *common, "--limit", 24, "--output", outputs[1])
    assert done.returncode == 0, done.stderr
    two, one = (
        {answer.index: (answer.text, answer.correct) for _, answer in read_answers(output)} for output in outputs
    )
    assert sorted(two) == list(range(24))
    assert two == one
