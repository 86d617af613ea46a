"""Kills training at random moments, some inside a save, resumes it, and compares its end with that of a run left alone."""

import contextlib
import dataclasses
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

import tyro

TRAIN = pathlib.Path(__file__).with_name("train.py")


@dataclasses.dataclass(frozen=True)
class Options:
    model: pathlib.Path = pathlib.Path("runs/demo/model")
    """Model folder, from convert_qwen.py."""
    kills: int = 20
    """Times that the run is killed."""
    max_batches: int = 240
    """Batches of the run."""
    seed: int = 0
    """Seed of the moments."""


def main(options: Options) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        started = time.monotonic()
        if status := start(options, folder / "whole").wait():
            sys.exit(f"train.py ended with status {status}")
        whole = time.monotonic() - started
        print(f"left alone: {whole:.0f} s", flush=True)
        rng, kills, inside, rounds, different = random.Random(options.seed), 0, 0, 0, 0
        while kills < options.kills:
            rounds += 1
            killed = folder / f"killed-{rounds}"
            for saving in kill_until_it_ends(options, killed, rng, whole, options.kills - kills):
                kills, inside = kills + 1, inside + saving
                where = "inside a save, " if saving else ""
                print(f"kill {kills}: {where}checkpoints {checkpoints(killed)}", flush=True)
            same = final_state(folder / "whole") == final_state(killed)
            different += not same
            print(f"run {rounds} ended {'as the one left alone, bit for bit' if same else 'DIFFERENTLY'}", flush=True)
    print(f"{kills} kills in {rounds} runs, {inside} of them inside a save; {different} runs ended differently")
    if different:
        sys.exit(1)


def kill_until_it_ends(options: Options, folder: pathlib.Path, rng: random.Random, whole: float, most: int):
    """Starts the run again and again until it ends; yields after each of at most `most` kills: did it fall into a save?

    Every other kill waits for a save to begin; the others come at any moment of a start or of the training.
    """
    for number in range(most):
        process = start(options, folder)
        if number % 2:
            wait_for_a_save(folder, process)
            time.sleep(rng.uniform(0, 0.05))
        else:
            wait(process, rng.uniform(0, whole))
        if process.poll() is not None:
            return
        process.send_signal(signal.SIGKILL)
        process.wait()
        yield is_saving(folder)
    start(options, folder).wait()


def wait(process: subprocess.Popen, seconds: float) -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)


def start(options: Options, folder: pathlib.Path) -> subprocess.Popen:
    command = [sys.executable, str(TRAIN), "--model", str(options.model), "--output", str(folder)]
    settings = (
        "--batch-size 8 --save-every 2 --eval-limit 0 --held-out 16 --num-samples 400 --epochs 1000 --random-depth"
    )
    command += [*settings.split(), "--max-batches", str(options.max_batches), "--device", "cpu"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def wait_for_a_save(folder: pathlib.Path, process: subprocess.Popen) -> None:
    while not is_saving(folder) and process.poll() is None:
        time.sleep(0.001)


def is_saving(folder: pathlib.Path) -> bool:
    """Whether a checkpoint is there under its temporary name."""
    return any("tmp" in path for path in list_checkpoints(folder))


def checkpoints(folder: pathlib.Path) -> list[str]:
    return sorted((path for path in list_checkpoints(folder) if path.isdecimal()), key=int)


def list_checkpoints(folder: pathlib.Path) -> list[str]:
    return os.listdir(folder / "checkpoints") if (folder / "checkpoints").is_dir() else []


def final_state(folder: pathlib.Path) -> tuple[dict[str, bytes], list[list[float]]]:
    """Every array of the newest checkpoint, optimizer and counters included, and the losses of all batches."""
    import numpy as np
    from orbax.checkpoint import v1 as ocp

    newest = folder / "checkpoints" / checkpoints(folder)[-1]
    arrays = {name: np.asarray(array).tobytes() for name, array in ocp.load(newest.absolute()).items()}
    return arrays, [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
