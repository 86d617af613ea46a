"""The check of a GPU, on a CPU: all of it runs, and what is wrong does not hold."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support.command_line import ROOT, run
from trm_jax.experiments.kills import Outcome
from trm_jax.gpu_check import attention, make_parts, results
from trm_jax.model import choose_attention, fused, is_fused


def test_all_of_it_at_the_size_of_the_demo(tmp_path):
    """On the day that a GPU is lent, nothing of the script may be at fault."""
    done = run("gpu_check.py", "--tiny", "--output", tmp_path / "found.md", timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 do not hold" in done.stdout
    rows = [line.split("|")[1].strip() for line in (tmp_path / "found.md").read_text().splitlines()[2:]]
    assert list(dict.fromkeys(rows)) == [part.name for part in make_parts(ROOT / "scripts", tiny=True)]


def test_without_a_gpu_it_says_what_can_be_done(tmp_path):
    done = run("gpu_check.py", "--output", tmp_path / "found.md")
    assert done.returncode == 2
    assert "--tiny" in done.stderr


def test_the_parts_of_the_whole_take_half_an_hour_at_most():
    assert sum(part.seconds for part in make_parts(ROOT / "scripts")) <= 1800


def test_a_loss_that_is_not_finite_does_not_hold(monkeypatch):
    """On an H100 one of eight lengths once had such losses, at some of its batches."""
    losses = {128: np.ones((3, 2)), 464: np.array([[1.0, 1.0], [1.0, np.nan], [1.0, 1.0]])}
    monkeypatch.setattr(results.TrainingBenchmark, "losses_by_length", lambda self: losses)
    [found] = results.finite_losses("demo", ["single"], batch_size=1)
    assert (found.holds, found.found) == (False, "not finite at 464 tokens")
    del losses[464]
    [found] = results.finite_losses("demo", ["single"], batch_size=1)
    assert (found.holds, found.found) == (True, "finite at 1 lengths")


@pytest.fixture
def fused_is_there(monkeypatch):
    monkeypatch.setattr(fused, "_work", lambda: True)
    yield
    choose_attention("xla")


@pytest.mark.parametrize(("factor", "holds"), [(1.0, True), (1.01, False)])
def test_attention_that_is_off_by_a_hundredth_does_not_hold(fused_is_there, factor, holds):
    def attend(array):
        return array * (factor if is_fused() and array.dtype == jnp.bfloat16 else 1.0) / 3

    array = jax.random.normal(jax.random.key(0), (64,), jnp.bfloat16)
    error, _ = attention._compare("it", attend, array)
    assert error.holds is holds


def test_other_logits_or_tokens_than_the_cpus_do_not_hold(monkeypatch):
    exact = np.ones((2, 3))
    logits = iter([exact, exact * 1.001, exact * 1.3, exact * 1.1])
    tokens = iter([[[1, 2]], [[1, 3]], [[1, 2]], [[1, 2]]])
    monkeypatch.setattr(results, "_logits", lambda *args: next(logits))
    monkeypatch.setattr(results, "_tokens", lambda *args: next(tokens))
    found = list(results.against_cpu("demo", new_tokens=2))
    assert [finding.holds for finding in found] == [False, False, True, False]


def test_a_training_that_was_never_killed_shows_nothing(monkeypatch):
    for outcome, holds in [(Outcome(0, []), False), (Outcome(1, ["lost"]), False), (Outcome(1, []), True)]:
        monkeypatch.setattr(results, "kill_runs", lambda *args, outcome=outcome, **options: outcome)
        [found] = results.killed_and_resumed(pathlib.Path("scripts"), 4)
        assert found.holds is holds
