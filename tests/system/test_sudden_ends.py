"""Ends that nobody asked for: kills, a full disk, two runs in one folder. Saved work stays; the same command goes on.

scripts/kill_runs.py kills more, in every phase, and compares the ends bit for bit; docs/reliability.md has its count.
"""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.support.command_line import ROOT, SMALL, run
from trm_jax import demo, load_model
from trm_jax.checkpoints import newest_sound
from trm_jax.training import METRICS


def start(script: str, *options) -> subprocess.Popen:
    command = [sys.executable, ROOT / "scripts" / script, *map(str, options)]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def wait_for(condition, process: subprocess.Popen, seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)


def end(process: subprocess.Popen, sign: signal.Signals) -> None:
    process.send_signal(sign)
    process.wait(60)


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_conversion_leaves_the_model_that_was_there(tmp_path, sign):
    folder = tmp_path / "model"
    options = ("--model", demo.MODEL, "--output", folder)
    assert run("convert_qwen.py", *options, "--dtype", "bfloat16").returncode == 0
    before = (folder / "config.json").read_text()
    process = start("convert_qwen.py", *options)
    wait_for((folder / ".converting/backbone").exists, process)
    end(process, sign)
    assert (folder / "config.json").read_text() == before
    assert load_model(folder).backbone.embedding.dtype == "bfloat16"
    assert run("convert_qwen.py", *options).returncode == 0
    assert load_model(folder).backbone.embedding.dtype == "float32"
    assert sorted(path.name for path in folder.iterdir()) == [".lock", "backbone", "config.json", "tokenizer"]


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_evaluation_goes_on_behind_its_last_answer(tmp_path, demo_model_folder, sign):
    path = tmp_path / "answers.jsonl"
    options = (
        "--checkpoint",
        demo_model_folder,
        "--head",
        "backbone",
        "--data",
        "demo",
        "--limit",
        120,
        "--output",
        path,
    )
    options += ("--batch-size", 8)
    process = start("eval_gsm8k.py", *options)
    wait_for(lambda: path.exists() and path.read_bytes().count(b"\n") >= 8, process)
    end(process, sign)
    before = path.read_bytes()
    whole = before[: before.rfind(b"\n") + 1]
    assert run("eval_gsm8k.py", *options).returncode == 0
    assert path.read_bytes().startswith(whole)
    assert sorted(json.loads(line)["index"] for line in path.read_text().splitlines()) == list(range(120))
    assert json.loads(path.with_suffix(".json").read_text())["questions"] == 120


def test_two_runs_in_one_folder(tmp_path, demo_model_folder):
    options = ("--model", demo_model_folder, "--output", tmp_path / "run", *SMALL, "--max-batches", 1000)
    process = start("train.py", *options)
    wait_for((tmp_path / "run/config.json").exists, process)
    second = run("train.py", *options)
    assert second.returncode == 2
    assert "another process is writing to" in second.stderr
    assert process.poll() is None
    end(process, signal.SIGKILL)
    assert (tmp_path / "run/config.json").exists()


@pytest.fixture
def small_disk(tmp_path):
    """A disk of two megabytes, and what mounts it again with other options."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("a small disk needs the right to mount one")
    yield disk, lambda options: subprocess.run(["mount", "-o", f"remount,{options}", disk], check=True)
    subprocess.run(["umount", disk], check=True)


def test_a_disk_that_cannot_be_written(small_disk, demo_model_folder):
    disk, remount = small_disk
    remount("ro")
    for script, options in (
        ("convert_qwen.py", ["--output", disk / "model"]),
        ("train.py", ["--model", demo_model_folder, "--output", disk / "run", *SMALL, "--max-batches", 1]),
        ("eval_gsm8k.py", ["--checkpoint", demo_model_folder, "--data", "demo", "--output", disk / "answers.jsonl"]),
    ):
        done = run(script, *options)
        assert done.returncode == 2, done.stderr
        assert "Read-only file system" in done.stderr.splitlines()[-1]
        assert done.stderr.splitlines()[-1].startswith(f"{script}: {disk}")


def test_a_full_disk_in_the_middle_of_a_save(small_disk, demo_model_folder):
    """Two checkpoints fit, a third beside them does not."""
    disk, remount = small_disk
    options = (
        "--model",
        demo_model_folder,
        "--output",
        disk / "run",
        *SMALL,
        "--max-batches",
        6,
        "--save-every",
        1,
    )
    full = run("train.py", *options)
    assert full.returncode == 2, full.stderr
    line = full.stderr.splitlines()[-1]
    assert line.startswith("train.py: ")
    assert "space" in line.lower()
    saved, damaged = newest_sound(disk / "run/checkpoints")
    assert saved >= 1
    assert not damaged
    remount("size=50m")
    assert run("train.py", *options).returncode == 0
    assert newest_sound(disk / "run/checkpoints") == (6, [])
    records = map(json.loads, (disk / "run" / METRICS).read_text().splitlines())
    assert [record["batch"] for record in records] == [1, 2, 3, 4, 5, 6]
