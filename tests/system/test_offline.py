"""Without any network: everything local works in full, and what needs the hub fails at once, with the remedy."""

import os
import shutil
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from trm_jax import demo

SMALL = "--latent-updates 1 --recursions 1 --supervision-steps 1 --batch-size 4 --held-out 0 --eval-limit 0 --num-samples 40"


def run_without_network(script: str, *options, hub_offline: str) -> subprocess.CompletedProcess:
    """In a namespace of its own that has no way out, not even to the machine itself."""
    isolated = ["unshare", "--net"]
    if shutil.which("unshare") is None or subprocess.run([*isolated, "true"], capture_output=True).returncode:
        pytest.skip("taking the network away needs unshare and the right to use it")
    command = [*isolated, sys.executable, ROOT / "scripts" / script, *map(str, options)]
    environment = os.environ | {"HF_HUB_OFFLINE": hub_offline}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, timeout=300)


def test_local_folders_and_files_work_in_full(tmp_path):
    model, run = tmp_path / "model", tmp_path / "run"
    train = ["--model", model, "--output", run, *SMALL.split(), "--max-batches", 2]
    for script, options in (
        ("convert_qwen.py", ["--model", demo.MODEL, "--output", model]),
        ("train.py", train),
        ("eval_gsm8k.py", ["--checkpoint", run, "--data", "demo", "--limit", 2]),
    ):
        done = run_without_network(script, *options, hub_offline="1")
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("script", "options"),
    [
        ("convert_qwen.py", ["--model", "Qwen/Qwen2.5-Math-1.5B-Instruct"]),
        ("train.py", ["--data", "gsm8k"]),
    ],
)
def test_what_needs_the_hub_fails_at_once(tmp_path, demo_model_folder, script, options):
    """The hub's own libraries would try again for half a minute."""
    options = [*options, "--output", tmp_path / "out"]
    options += ["--model", demo_model_folder] if script == "train.py" else []
    done = run_without_network(script, *options, hub_offline="0")
    assert done.returncode == 2, done.stderr
    assert "cannot be reached" in done.stderr
    assert "give a local folder or file" in done.stderr
    assert "retry" not in done.stderr.lower()
    assert not (tmp_path / "out").exists()
