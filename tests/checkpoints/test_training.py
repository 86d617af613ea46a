"""Checkpoints of a run: the newest whole one counts, damaged ones are named, and nothing is cast or mixed up in silence."""

import logging
import shutil

import jax.numpy as jnp
import numpy as np
import pytest

from tests.support.damage import flip_bit, largest_data
from trm_jax.checkpoints.folders import CheckpointError
from trm_jax.checkpoints.integrity import SEAL
from trm_jax.checkpoints.training import Checkpoints, newest_sound


def state(number: int) -> dict:
    return {"weight": jnp.arange(100.0) * number, "steps": jnp.int32(number)}


@pytest.fixture
def run(tmp_path):
    """A folder with checkpoints 2 and 3."""
    with Checkpoints(tmp_path) as checkpoints:
        for number in (1, 2, 3):
            checkpoints.save(number, state(number))
        checkpoints.wait()
    return tmp_path


@pytest.mark.parametrize(
    "harm",
    [
        lambda c: flip_bit(largest_data(c)),
        lambda c: largest_data(c).write_bytes(largest_data(c).read_bytes()[:-7]),
        lambda c: largest_data(c).unlink(),
        lambda c: (c / "_CHECKPOINT_METADATA").unlink(),
        lambda c: shutil.rmtree(c / "state"),
        lambda c: [shutil.rmtree(c), c.mkdir()],
    ],
    ids=["bit", "end", "file", "metadata", "state", "all"],
)
def test_a_damaged_newest_checkpoint_is_named_and_skipped(run, harm, caplog):
    harm(run / "checkpoints/3")
    with caplog.at_level(logging.WARNING), Checkpoints(run) as checkpoints:
        assert checkpoints.latest == 2
        np.testing.assert_array_equal(checkpoints.restore(state(0))["weight"], state(2)["weight"])
        checkpoints.save(3, state(3))
    assert f"{run}/checkpoints/3 is " in caplog.text
    assert (run / "damaged-checkpoint-3").is_dir()
    with Checkpoints(run) as checkpoints:
        assert checkpoints.latest == 3


def test_all_damaged_is_an_error_and_moves_nothing(run):
    for number in (2, 3):
        flip_bit(largest_data(run / "checkpoints" / str(number)))
    with pytest.raises(CheckpointError, match="are damaged: remove them"):
        Checkpoints(run)
    assert newest_numbers(run) == ["2", "3"]


def newest_numbers(run) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def test_a_checkpoint_that_a_kill_left_unsealed_counts_if_it_can_be_read(run):
    (run / "checkpoints/3" / SEAL).unlink()
    assert newest_sound(run / "checkpoints") == (3, [])
    largest_data(run / "checkpoints/3").write_bytes(b"")
    assert newest_sound(run / "checkpoints") == (2, [3])


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (
            {"weight": jnp.zeros(100, jnp.int32), "steps": jnp.int32(0)},
            r"weight is float32\[100\], expected int32\[100\]",
        ),
        ({"weight": jnp.zeros(100, jnp.bfloat16), "steps": jnp.int32(0)}, "expected bfloat16"),
        ({"weight": jnp.zeros(99), "steps": jnp.int32(0)}, r"expected float32\[99\]"),
        ({"weight": jnp.zeros(100)}, "steps is not part of this run"),
        (state(0) | {"bias": jnp.zeros(1)}, "bias is missing"),
    ],
)
def test_types_and_shapes_are_compared_before_orbax_casts_them(run, wanted, message):
    with Checkpoints(run) as checkpoints, pytest.raises(CheckpointError, match=message):
        checkpoints.restore(wanted)
