"""Seals: whatever changes in a folder shows. Fingerprints: the same weights, and only those, have the same."""

import json

import ml_dtypes
import numpy as np
import pytest

from tests.support.damage import flip_bit
from trm_jax.checkpoints.integrity import SEAL, DamageError, Fingerprint, require_sealed, seal


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "part").mkdir()
    (tmp_path / "part/a").write_bytes(bytes(range(256)) * 100)
    (tmp_path / "b").write_bytes(b"b")
    seal(tmp_path)
    require_sealed(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda f: (f / "b").unlink(), "b is missing"),
        (lambda f: (f / "part/a").write_bytes(b"short"), "part/a has 5 bytes"),
        (lambda f: flip_bit(f / "part/a"), "part/a has changed"),
        (lambda f: (f / SEAL).unlink(), "is not whole"),
        (lambda f: (f / SEAL).write_text("{"), "not JSON"),
        (lambda f: (f / SEAL).write_text('{"b": 7}'), "b has 1 bytes"),
        (lambda f: (f / SEAL).write_text(json.dumps({"../outside": [1, 2]})), "outside is missing"),
    ],
)
def test_harm_is_named(folder, harm, message):
    harm(folder)
    with pytest.raises(DamageError, match=message):
        require_sealed(folder)


def test_files_that_came_later_do_not_matter(folder):
    (folder / "notes.txt").write_text("mine")
    require_sealed(folder)


def fingerprint(weights) -> str:
    found = Fingerprint()
    assert list(found.of_passing(weights)) == list(weights)
    return str(found)


def test_a_fingerprint_is_of_names_and_values_alone():
    values = np.arange(6, dtype=np.float32)
    one = fingerprint([("a", values), ("b", values)])
    assert one == fingerprint([("a", values.astype(ml_dtypes.bfloat16)), ("b", values.astype(np.float16))])
    others = [
        [("a", values), ("c", values)],
        [("a", values.reshape(2, 3)), ("b", values)],
        [("a", values), ("b", values + 1e-6)],
        [("a", values)],
    ]
    assert len({one, *map(fingerprint, others)}) == 5
