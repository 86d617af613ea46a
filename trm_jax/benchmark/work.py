"""Arithmetic, traffic and launches: what a piece of work asks of a card, and the least time that each of them takes."""

import dataclasses

from trm_jax.config import QwenConfig, TRMConfig
from trm_jax.hardware import MLP_RATIO, Card

LAUNCH = 3e-6  # seconds from one small kernel to the next in a stream; assumed, not measured
# Kernels of a block call and of the code around it, in programs compiled for an H100 at the dimensions of 1.5B.
TRAINING_KERNELS = {
    "without gradient": 12,
    "differentiated": 20 + 42,
    "a step": 140,
    "a chunk of logits": 15,
    "a layer": 24,
}
DECODING_KERNELS = {"a block call": 11, "a layer": 10, "a token": 20}


@dataclasses.dataclass(frozen=True)
class Work:
    """What a piece of work asks of a card."""

    flops: float  # of matrix products
    bytes: float  # that must pass between memory and chip
    kernels: float

    def __add__(self, other: "Work") -> "Work":
        return Work(self.flops + other.flops, self.bytes + other.bytes, self.kernels + other.kernels)

    def times(self, count: float) -> "Work":
        """The same work, so many times."""
        return Work(self.flops * count, self.bytes * count, self.kernels * count)

    def seconds(self, card: Card) -> dict[str, float]:
        """The least time that each of the three takes by itself."""
        return {
            "arithmetic": self.flops / card.flops,
            "memory": self.bytes / card.bandwidth,
            "launches": self.kernels * LAUNCH,
        }

    def describe(self, card: Card) -> str:
        """Work and least times, for a person."""
        times = self.seconds(card)
        binds = max(times, key=times.get)
        listed = ", ".join(f"{name} {_duration(spent)}" for name, spent in times.items())
        work = f"{self.flops / 1e12:,.4g} TFLOP, {self.bytes / 1e9:,.4g} GB, {self.kernels:,.0f} kernels"
        return f"{work}: {listed}; {binds} binds"


def layer_flops(qwen: QwenConfig, seen: float) -> float:
    """FLOPs of a backbone layer for one token that sees `seen` others."""
    kv_width = qwen.num_kv_heads * qwen.head_size
    return 2 * (2 * qwen.width**2 + 2 * qwen.width * kv_width + 3 * qwen.width * qwen.mlp_width) + 4 * seen * qwen.width


def call_flops(qwen: QwenConfig, trm: TRMConfig, seen: float) -> float:
    """FLOPs of a block call for one token that sees `seen` others."""
    kv_width = trm.kv_heads(qwen) * qwen.head_size
    return 2 * (2 * qwen.width**2 + 2 * qwen.width * kv_width + 3 * MLP_RATIO * qwen.width**2) + 4 * seen * qwen.width


def _duration(seconds: float) -> str:
    if seconds < 1:
        return f"{1000 * seconds:.3g} ms"
    return (
        f"{seconds:.3g} s"
        if seconds < 120
        else f"{seconds / 60:.3g} min"
        if seconds < 7200
        else f"{seconds / 3600:.3g} h"
    )
