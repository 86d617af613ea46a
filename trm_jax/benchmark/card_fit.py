"""What plans have in common: the memory of a card, and the words for what a program takes of it."""

import os
from collections.abc import Mapping

import jax

from trm_jax.hardware import (
    Card,
    Hlo,
    describe_bytes,
)


def usable_memory(card: Card) -> tuple[float, int]:
    """The share of a card's memory that JAX takes, as the environment says or by default, and its bytes."""
    names = ("XLA_PYTHON_CLIENT_MEM_FRACTION", "XLA_CLIENT_MEM_FRACTION")
    share = float(next((os.environ[name] for name in names if os.environ.get(name)), 0.75))
    return share, int(share * card.memory)


def placed(tree, places):
    """The shapes of a tree, with where each array lies."""
    return jax.tree.map(lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), tree, places)


def block_of(trm):
    """The weights that one block call reads."""
    return trm.calls[0]


def describe_plan(what: str, memory: Mapping[str, int], card: Card, gpus: int) -> list[str]:
    """The first lines of a plan: what it is of, the bytes that each card needs, by part, and whether they fit."""
    several, each = (f"{gpus} x ", " for each") if gpus > 1 else ("", "")
    return [
        f"{what}, on {several}{card.name}",
        f"memory       {describe_bytes(memory)}, worked out{each}",
        f"             {_describe_fit(memory, card)}",
    ]


def _describe_fit(memory: Mapping[str, int], card: Card) -> str:
    """Whether so many bytes, by part, fit into what JAX takes of a card."""
    share, usable = usable_memory(card)
    needed = sum(memory.values())
    taken = f"JAX takes {usable / 2**30:.1f} GiB, {share:.2f} of the card"
    if needed <= usable:
        return f"fits: {taken}"
    if needed <= 0.97 * card.memory:
        return f"does not fit: {taken}; XLA_PYTHON_CLIENT_MEM_FRACTION={needed / card.memory + 0.005:.2f} would do"
    return f"does not fit: {taken} of {card.memory / 2**30:.1f}"


def describe_compiled(compiled: jax.stages.Compiled, unit: str) -> str:
    """Peak memory and kernels of a program."""
    peak = compiled.memory_analysis().peak_memory_in_bytes
    return f"compiled     {peak / 2**30:.3g} GiB, {Hlo(compiled.as_text()).launches():,} kernels {unit}"
