"""The same seed on the same machine gives the same metrics file, byte for byte."""

import pytest

from tests.conftest import run
from trm_jax.training.metrics import METRICS, TIMINGS

OPTIONS = "--batch-size 8 --num-samples 200 --held-out 8 --eval-limit 0 --max-batches 4 --save-every 2 --device cpu"


@pytest.mark.parametrize("change", [[], ["--seed", 1]], ids=["same", "other"])
def test_two_runs_with_the_same_seed(tmp_path, demo_model_folder, change):
    """Run in processes of their own; the second one from another place, with programs from the compilation cache or not."""
    contents = []
    for name, options in (("one", []), ("two", change)):
        folder = tmp_path / name / "run"
        done = run("train.py", "--model", demo_model_folder, "--output", folder, *OPTIONS.split(), *options)
        assert done.returncode == 0, done.stderr
        contents.append((folder / METRICS).read_bytes())
        assert (folder / TIMINGS).read_bytes().count(b"\n") == contents[-1].count(b"\n") == 4
    assert (contents[0] == contents[1]) == (not change)
