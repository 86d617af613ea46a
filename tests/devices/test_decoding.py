"""Decoding on four devices: the tokens of one device, with rows and heads of its own on each, and caches that stay there."""

import contextlib
import math

import jax
import numpy as np
import pytest

from tests.support.models import tiny_model
from trm_jax.decoding import DecodeState, Placement, Room, decode_config, decode_until, generate, insert, prefill
from trm_jax.hardware import Hlo, count_bytes, free_memory, make_mesh, put_rows, put_weights, row_parts, tensor_parts
from trm_jax.model import for_decoding

PROMPTS = [[1, 2, 3], [4, 5, 6, 7, 8, 9, 10], [11], [12, 13, 14, 15], list(range(16, 60)), [7, 7]]
ROWS, LENGTH, CAPACITY = 8, 64, 128


def on(mesh: str | None):
    """The context in which weights and rows are put on this mesh."""
    return contextlib.nullcontext() if mesh is None else jax.set_mesh(make_mesh(mesh))


def tokens_of(preset: str, mesh: str | None, **settings) -> list[list[int]]:
    with on(mesh):
        return generate(put_weights(tiny_model(preset)), PROMPTS, max_new_tokens=12, batch_size=5, **settings)


@pytest.mark.parametrize(
    ("preset", "mesh", "settings"),
    [
        ("residual", "data=4", {}),
        ("residual", "tensor=4", {}),  # the backbone has two key/value heads
        ("residual", "data=2,tensor=2", {"early_exit": 0.05}),
        ("residual", "fsdp=4", {"head": "backbone"}),
        ("mathllm", "fsdp=2,tensor=2", {}),
        ("mathllm", "data=2,fsdp=2", {"temperature": 0.8, "top_p": 0.9}),
    ],
)
def test_tokens_are_those_of_one_device(preset, mesh, settings):
    """With five rows, which no mesh divides: there are as many more as it takes."""
    assert tokens_of(preset, mesh, **settings) == tokens_of(preset, None, **settings)


def test_one_program_for_each_capacity():
    """A state that came back laid out in another way would need a second one."""
    with on("data=2,tensor=2"):
        model = for_decoding(put_weights(tiny_model("residual")))
        before = decode_until._cache_size()
        for _ in range(2):
            generate(model, PROMPTS, max_new_tokens=100, batch_size=4, eos_token_ids=[])
        assert decode_until._cache_size() - before == 2  # 128 tokens, and then 144


class Decoding:
    """The programs of a batch on a mesh, as XLA compiles them."""

    def __init__(self, mesh: str):
        with on(mesh):
            self.model = for_decoding(put_weights(tiny_model("residual")))
            config = decode_config(self.model)
            self.state = DecodeState.empty(self.model, config, ROWS, CAPACITY, 16)
            prompts = put_rows((np.ones((ROWS, LENGTH), np.int32), np.full(ROWS, LENGTH, np.int32)))
            self.prompts = prefill(self.model, *prompts, config)
            placement = Placement.of_prompts(ROWS, 16)
            step = decode_until.lower(self.model, self.state, np.int32(ROWS), np.int32(99), config)
            self.step = Hlo(step.compile().as_text())
            self.insertion = Hlo(insert.lower(self.state, self.prompts, placement, config).compile().as_text())


def test_a_token_needs_nothing_of_other_devices_where_only_rows_are_split():
    assert [one for one in Decoding("data=4").step.collectives if one.bytes > 16] == []


def test_with_heads_split_each_pair_of_products_ends_in_one_sum():
    """Of the hidden states of a device's own rows; no keys, values or weights move."""
    decoding = Decoding("data=2,tensor=2")
    moved = [one for one in decoding.step.collectives if one.bytes > 16]
    config = decoding.model.backbone.config
    assert {(one.kind, one.bytes) for one in moved} == {("all-reduce", 4 * ROWS // 2 * config.width)}
    calls = 2 * (config.num_layers + decoding.model.trm.config.calls)
    assert len(moved) == calls  # attention and MLP of each layer, and of each block call of a pass


@pytest.mark.parametrize("mesh", ["data=4", "data=2,tensor=2", "fsdp=4"])
def test_prompts_are_gathered_but_no_cache_is(mesh):
    decoding = Decoding(mesh)
    largest = max(
        count_bytes(new.keys) for kept in (decoding.prompts.backbone, decoding.prompts.trm) for new in kept.new
    )
    assert max(one.bytes for one in decoding.insertion.collectives) <= largest
    assert count_bytes(decoding.state.backbone.keys[0]) == 2 * count_bytes(decoding.prompts.backbone.new[0].keys)


@pytest.mark.parametrize(("mesh", "rows", "heads"), [("data=4", 4, 1), ("tensor=2,data=2", 2, 2), ("tensor=4", 1, 4)])
def test_each_device_holds_its_rows_and_heads(mesh, rows, heads):
    with on(mesh):
        model = for_decoding(put_weights(tiny_model("residual")))
        state = DecodeState.empty(model, decode_config(model), ROWS, CAPACITY, 16)
        for array in (*state.backbone.keys, *state.trm.values):
            here = array.sharding.shard_shape(array.shape)
            assert here[1:3] == (ROWS // rows, max(array.shape[2] // heads, 1))
        needed = Room(model, decode_config(model), CAPACITY, LENGTH, row_parts(), tensor_parts()).needed(ROWS)
        assert needed["caches"] == sum(
            math.prod(array.sharding.shard_shape(array.shape)) * 4
            for cache in (state.backbone, state.trm)
            for array in (*cache.keys, *cache.values)
        )


def test_rows_are_chosen_for_all_devices(monkeypatch):
    model = tiny_model("residual")
    with on("data=4"):
        room = Room(model, decode_config(model), CAPACITY, LENGTH, row_parts(), tensor_parts())
        assert room.choose_rows(None, most=1000, samples=3) % 12 == 0
        assert room.choose_rows(None, most=1000, samples=1) == 256
        assert room.choose_rows(5, most=1000, samples=1) == 8
        few = sum(room.needed(12).values())
        monkeypatch.setattr("trm_jax.decoding.room.free_memory", lambda: few)
        assert room.choose_rows(None, most=1000, samples=1) == 12
    assert free_memory() > few
