"""Without any network: everything local works in full, and what needs the hub fails at once, with the remedy."""

import pytest

from tests.support.command_line import SMALL, can_take_the_network_away, run
from trm_jax import demo

pytestmark = pytest.mark.skipif(not can_take_the_network_away(), reason="taking the network away needs unshare")


def test_local_folders_and_files_work_in_full(tmp_path):
    model, training = tmp_path / "model", tmp_path / "run"
    for script, options in (
        ("convert_qwen.py", ["--model", demo.MODEL, "--output", model]),
        ("train.py", ["--model", model, "--output", training, *SMALL, "--max-batches", 2]),
        ("eval_gsm8k.py", ["--checkpoint", training, "--data", "demo", "--limit", 2]),
    ):
        done = run(script, *options, network=False)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("script", "options"),
    [
        ("convert_qwen.py", ["--model", "Qwen/Qwen2.5-Math-1.5B-Instruct"]),
        ("train.py", ["--data", "gsm8k"]),
        ("eval_gsm8k.py", ["--checkpoint", "ada/trm-gsm8k@main"]),
    ],
)
def test_what_needs_the_hub_fails_at_once(tmp_path, demo_model_folder, script, options):
    """The hub's own libraries would try again for half a minute."""
    options = [*options, "--output", tmp_path / "out"]
    options += ["--model", demo_model_folder] if script == "train.py" else []
    done = run(script, *options, network=False)
    assert done.returncode == 2, done.stderr
    assert "cannot be reached" in done.stderr
    assert "give a local folder or file" in done.stderr
    assert "retry" not in done.stderr.lower()
    assert not (tmp_path / "out").exists()
