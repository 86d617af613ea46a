"""The programs that the tests look at, each compiled once. They are skipped where JAX has no CUDA wheels."""

import dataclasses
import functools
import importlib.util
import os

import jax
import jax.numpy as jnp
import pytest

from tests.support.real_sizes import abstract_model, train_batch
from trm_jax.decoding import DecodeState, Placement, decode_config, decode_until, insert, prefill
from trm_jax.hardware import CARDS, compile_for
from trm_jax.hardware.hlo import Hlo
from trm_jax.model import for_decoding

ROWS, CAPACITY, PROMPT, LONGEST = 8, 768, 256, 512


def pytest_collection_modifyitems(items):
    reason = None
    if not any(importlib.util.find_spec(f"jax_cuda{version}_plugin") for version in (12, 13)):
        reason = "JAX's CUDA wheels are not installed: make check-cuda installs them"
    elif "xla_gpu_autotune_level=0" not in os.environ.get("XLA_FLAGS", ""):
        reason = "autotuning needs a GPU: set XLA_FLAGS=--xla_gpu_autotune_level=0, as make check-cuda does"
    for item in items:
        if "tests/cuda/test_programs" in item.nodeid:
            # The tests of one model on one card share its programs, and so a process.
            item.add_marker(
                pytest.mark.xdist_group("-".join(item.callspec.params[name] for name in ("card", "size", "preset")))
            )
        if reason and "tests/cuda/test_hlo" not in item.nodeid and "tests/cuda/" in item.nodeid:
            item.add_marker(pytest.mark.skip(reason=reason))


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A compiled program, as text and with its memory."""

    text: Hlo
    arguments: int
    aliased: int
    peak: int

    @classmethod
    def of(cls, compiled: jax.stages.Compiled) -> "Compiled":
        memory = compiled.memory_analysis()
        sizes = memory.argument_size_in_bytes, memory.alias_size_in_bytes, memory.peak_memory_in_bytes
        return cls(Hlo(compiled.as_text()), *sizes)


@functools.cache
def training(card: str, size: str, preset: str) -> Compiled:
    """A batch of 8 x 512 tokens with all supervision steps."""
    return Compiled.of(compile_for(CARDS[card], *train_batch(size, preset)))


@functools.cache
def reading(card: str, size: str, preset: str) -> Compiled:
    """The prefill of 8 prompts of 256 tokens."""
    model = abstract_model(size, preset)
    prompts = jax.ShapeDtypeStruct((ROWS, PROMPT), jnp.int32), jax.ShapeDtypeStruct((ROWS,), jnp.int32)
    return Compiled.of(compile_for(CARDS[card], prefill, model, *prompts, config=decode_config(model)))


@functools.cache
def inserting(card: str, size: str, preset: str) -> Compiled:
    """8 such prompts that are put into 8 rows of 768 tokens."""
    model = jax.eval_shape(functools.partial(for_decoding, platform="cuda"), abstract_model(size, preset))
    config = decode_config(model)
    state = jax.eval_shape(lambda: DecodeState.empty(model, config, ROWS, CAPACITY, LONGEST))
    tokens = jnp.zeros((ROWS, PROMPT), jnp.int32)
    prompts = jax.eval_shape(lambda model: prefill(model, tokens, tokens[:, 0], config), model)
    placement = jax.eval_shape(lambda: Placement.of_prompts(ROWS, 1))
    return Compiled.of(compile_for(CARDS[card], insert, state, prompts, placement, config=config))


@functools.cache
def decoding(card: str, size: str, preset: str) -> Compiled:
    """The loop that decodes 8 rows of 768 tokens."""
    model = jax.eval_shape(functools.partial(for_decoding, platform="cuda"), abstract_model(size, preset))
    config = decode_config(model)
    state = jax.eval_shape(lambda: DecodeState.empty(model, config, ROWS, CAPACITY, LONGEST))
    finished = jax.ShapeDtypeStruct((), jnp.int32)
    return Compiled.of(compile_for(CARDS[card], decode_until, model, state, finished, finished, config=config))
