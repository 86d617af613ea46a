"""The same seed on the same machine gives the same metrics file, byte for byte."""

import pytest

from tests.support.command_line import run
from trm_jax.training import METRICS, TIMINGS

OPTIONS = "--batch-size 8 --num-samples 40 --held-out 4 --eval-limit 0 --max-batches 4 --save-every 2 --device cpu"


def train(model, folder, *options) -> bytes:
    done = run("train.py", "--model", model, "--output", folder, *OPTIONS.split(), *options)
    assert done.returncode == 0, done.stderr
    metrics = (folder / METRICS).read_bytes()
    assert (folder / TIMINGS).read_bytes().count(b"\n") == metrics.count(b"\n") == 4
    return metrics


@pytest.fixture(scope="module")
def first(demo_model_folder, tmp_path_factory) -> bytes:
    return train(demo_model_folder, tmp_path_factory.mktemp("one") / "run")


@pytest.mark.parametrize("change", [[], ["--seed", 1]], ids=["same", "other"])
def test_two_runs_with_the_same_seed(first, tmp_path, demo_model_folder, change):
    """Run in processes of their own; the second one from another place, with programs from the compilation cache or not."""
    second = train(demo_model_folder, tmp_path / "two" / "run", *change)
    assert (first == second) == (not change)


def test_hidden_states_on_disk_change_nothing(first, tmp_path, demo_model_folder):
    """Written by one run, and read by the next one, which also answers questions at its end: with the whole backbone."""
    for name, said, limit in (("one", "to be written", 0), ("two", "all of them there", 4)):
        options = ["--model", demo_model_folder, "--output", tmp_path / name, *OPTIONS.split(), "--cache-hidden"]
        done = run("train.py", *options, "--eval-limit", limit, XDG_CACHE_HOME=str(tmp_path))
        assert done.returncode == 0, done.stderr
        assert said in done.stdout
        assert ("backbone alone" in done.stdout) == bool(limit)
        assert (tmp_path / name / METRICS).read_bytes() == first
