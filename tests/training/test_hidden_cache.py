"""Hidden states on disk: training from them is training without them, and what is on disk is right, or made anew."""

import dataclasses
import os
import pathlib
import resource
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support.damage import flip_bit
from tests.support.models import random_tokens, tiny_model
from trm_jax.checkpoints import RunConfig, load_backbone, open_folder, save_model
from trm_jax.config import DataConfig, TrainConfig
from trm_jax.data import Example, Loader, TrainingSet
from trm_jax.data.loader import Bucket
from trm_jax.model import named_weights
from trm_jax.training import HiddenCache, hidden_cache, hold_run
from trm_jax.training.hidden_cache import HiddenCacheError
from trm_jax.training.loop import fit

BATCHES = 7  # of two epochs: 22 rows of two lengths in batches of 2 x 3, so that one row is padded to both lengths


def training_set(seed: int = 1, accumulation: int = 2) -> TrainingSet:
    lengths = [12, 14, 16, 20, 24, 28, 30]
    rows = [Example(random_tokens(lengths[i % 7], seed=i), 4) for i in range(22)]
    loader = Loader(rows, 3, accumulation, seed, [Bucket(16, 16), Bucket(32, 32)])
    held_out = Loader([Example(random_tokens(11 + i, seed=50 + i), 4) for i in range(4)], 3, buckets=[Bucket(16, 16)])
    return TrainingSet(loader, held_out, rows, 0)


@pytest.fixture
def model(tmp_path, monkeypatch):
    """A folder with the tiny model, and a cache folder of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    save_model(tmp_path / "model", tiny_model("residual").backbone.config, backbone_weights(tiny_model("residual")))
    return open_folder(tmp_path / "model")


def backbone_weights(model):
    return named_weights(model.backbone).items()


def cache_of(model, preset="residual", rows=None, **changes) -> HiddenCache:
    train = TrainConfig(**(dict(dtype="float32", batch_size=3, accumulation=2) | changes))
    return HiddenCache.of(model, tiny_model(preset).trm.config, train, rows or training_set(), BATCHES)


def filled(model, *args, **changes) -> HiddenCache:
    cache = cache_of(model, *args, **changes)
    cache.fill(load_backbone(model, cache.dtype))
    assert cache.missing_bytes == 0
    return cache


def parts(cache: HiddenCache) -> list[pathlib.Path]:
    return sorted(path for path in cache.folder.glob("*/*") if path.name.isdecimal())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("preset", ["residual", "mathllm"])
def test_a_training_from_them_is_the_same_bit_for_bit(preset, dtype, model, tmp_path):
    """Weights, and all that is recorded; the rows that move up into a longer length among them."""
    tiny, ends = tiny_model(preset, trained=False), {}
    train = TrainConfig(dtype=dtype, batch_size=3, accumulation=2, random_depth=preset == "residual")
    config = RunConfig("", DataConfig(("data.jsonl",)), "", 0, BATCHES, tiny.trm.config, train)
    for name in ("without", "with"):
        hidden = filled(model, preset, dtype=dtype) if name == "with" else None
        backbone = load_backbone(model, dtype, layers=hidden is None)
        folder, rows, trm = tmp_path / name, training_set(), jax.tree.map(jnp.copy, tiny.trm)
        with hold_run(folder, config, tmp_path):
            _, state = fit(folder, config, backbone, trm, rows.loader, rows.held_out, hidden=hidden)
        ends[name] = named_weights(state), (folder / "metrics.jsonl").read_text()
    assert ends["with"][1] == ends["without"][1]
    for name, weight in ends["without"][0].items():
        np.testing.assert_array_equal(ends["with"][0][name], weight, err_msg=name)


def test_some_row_of_that_training_is_padded_to_two_lengths(model):
    needed = cache_of(model).needed
    assert len({digest for digest, _ in needed}) < len(needed)


def test_only_the_states_that_the_context_uses_are_kept(model):
    cache = filled(model, "mathllm")
    tokens = sum(map(len, cache.needed.values()))
    assert cache.total_bytes == tokens * cache.width * 4
    on_disk = sum(path.stat().st_size for path in cache.folder.rglob("states"))
    assert on_disk == cache.total_bytes
    assert cache_of(model, "residual").missing_bytes == 4 * cache.total_bytes  # the levels; the last one is there
    half = filled(model, "mathllm", dtype="bfloat16")
    assert half.total_bytes == cache.total_bytes // 2


def test_a_run_that_is_killed_while_it_writes_goes_on_behind_the_last_part(model, monkeypatch):
    monkeypatch.setattr(hidden_cache, "PART", 20_000)
    whole = filled(model)
    expected = {path.name: (path / "states").read_bytes() for path in parts(whole)}
    shutil.rmtree(whole.folder)
    original, written = hidden_cache.seal, []

    def killed(folder):
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(folder)
        original(folder)

    cache = cache_of(model)
    with monkeypatch.context() as patch:
        patch.setattr(hidden_cache, "seal", killed)
        with pytest.raises(KeyboardInterrupt):
            cache.fill(load_backbone(model, "float32"))
    assert len(parts(cache)) == 3
    kept = {path: path.stat().st_mtime_ns for path in parts(cache)}
    assert 0 < cache_of(model).missing_bytes < whole.total_bytes
    again = filled(model)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert not list(again.folder.glob("*/partial"))
    assert len(expected) > 3
    for number in range(BATCHES):
        for found, wanted in zip(again.read(training_set().loader, number), whole.read(training_set().loader, number)):
            np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("content", ["[", "3", "[3]"])
def test_a_part_that_is_damaged_is_made_anew(model, caplog, content):
    cache = filled(model)
    wanted = [np.array(array) for array in cache.read(training_set().loader, 0)]
    (levels,) = [path for path in parts(cache) if path.parent.name == "levels"]
    flip_bit(levels / "states")
    (levels.parents[1] / "last/000000/index.json").write_text(content)
    again = cache_of(model)
    assert again.missing_bytes == cache.total_bytes
    assert "has changed since it was written" in caplog.text
    again = filled(model)
    for found, expected in zip(again.read(training_set().loader, 0), wanted, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_another_backbone_precision_or_batch_size_has_states_of_its_own_and_seeds_share(model, tmp_path):
    cache = filled(model)
    other = dataclasses.replace(model, backbone_fingerprint="0" * 64)
    turned = dataclasses.replace(model.backbone_config, rope_theta=2 * model.backbone_config.rope_theta)
    turned = dataclasses.replace(model, backbone_config=turned)  # the same weights, which compute other states
    for another in (
        cache_of(other),
        cache_of(turned),
        cache_of(model, dtype="bfloat16"),
        cache_of(model, batch_size=4),
    ):
        assert another.folder != cache.folder
        assert another.missing_bytes == another.total_bytes
    rows = training_set(seed=2)
    seeded = cache_of(model, rows=rows)
    # Only rows that move up into another length with this seed are missing.
    assert seeded.folder == cache.folder
    assert seeded.missing_bytes < seeded.total_bytes / 4
    others = [dataclasses.replace(row, tokens=row.tokens[::-1].copy()) for row in rows.examples]
    changed = dataclasses.replace(rows, loader=Loader(others, 3, 2, 1, rows.loader.buckets), held_out=None)
    assert cache_of(model, rows=changed).missing_bytes == cache_of(model, rows=changed).total_bytes


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(model, monkeypatch):
    cache = cache_of(model)
    usage = shutil.disk_usage(model.path)._replace(free=cache.missing_bytes - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    monkeypatch.setattr(hidden_cache, "hidden_states", None)
    with pytest.raises(HiddenCacheError, match=r"GB of hidden states are to be written to .* XDG_CACHE_HOME"):
        cache.fill(load_backbone(model, "float32"))
    assert parts(cache) == []


def test_there_may_be_more_parts_than_a_process_may_open_files_at_first(model, monkeypatch):
    monkeypatch.setattr(hidden_cache, "PART", 1)  # a part for each row
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 30, before[1]))
    try:
        cache = filled(model)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert len(parts(cache)) > 40


def test_a_stream_is_refused(model):
    rows = dataclasses.replace(training_set(), loader=object())
    with pytest.raises(HiddenCacheError, match="stream"):
        cache_of(model, rows=rows)
