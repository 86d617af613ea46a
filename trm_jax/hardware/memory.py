"""Memory: what the device has, and what weights and a training take of it."""

import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp

from trm_jax.config import QwenConfig, TrainConfig, TRMConfig
from trm_jax.errors import UserError


class TooLargeError(UserError):
    """A training that would not fit; the message says what to make smaller."""


def count_weights(tree: Any) -> int:
    """The numbers in all arrays of a tree, or in their abstract shapes. Example: `count_weights(model.trm)`."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def count_bytes(tree: Any) -> int:
    """The bytes of all arrays of a tree, or of their abstract shapes. Example: `count_bytes(model)`."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def peak_memory() -> int:
    """The most bytes that the device has held in this process; on a CPU, the most that the process has held.

    Example: `peak_memory() / 2**30`.
    """
    import resource

    stats = jax.devices()[0].memory_stats() or {}
    return stats.get("peak_bytes_in_use") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def free_memory() -> int:
    """Bytes that can still be allocated on the device; on a CPU, what the system calls available.

    Example: `free_memory() / 2**30`.
    """
    stats = jax.devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"] - stats["bytes_in_use"]
    try:
        lines = pathlib.Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):  # not Linux
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def training_memory(
    backbone: Any,
    trm: Any,
    backbone_config: QwenConfig,
    trm_config: TRMConfig,
    train_config: TrainConfig,
    length: int,
    logits_rows: int,
) -> int:
    """An estimate of the memory that training needs, bytes.

    Weights, moments, moving average and gradients are counted; the activations of the one differentiated pass are
    estimated.

    Args:
        backbone, trm: the weights, or their abstract shapes.
        length: of the longest rows, tokens.
        logits_rows: tokens whose logits exist at the same time.

    Example: `training_memory(backbone, trm, qwen, TRMConfig.residual(), TrainConfig(), 512, logits_rows=256)`.
    """
    size = jnp.dtype(train_config.dtype).itemsize
    # Masters, two moments, moving average and gradient in float32, and a copy in the type to compute in.
    state = count_weights(trm) * (4 * 5 + size)
    width, tokens = backbone_config.width, train_config.batch_size * length
    mlp_width = 4 * width
    hidden = tokens * train_config.accumulation * width * size * 7  # four levels, x, y and z of every micro-batch
    activations = tokens * trm_config.calls * (8 * width + 3 * mlp_width) * size
    logits = 3 * logits_rows * backbone_config.vocab_size * 4
    return count_bytes(backbone) + state + hidden + activations + logits


def require_memory(needed: int) -> None:
    """Raises TooLargeError if the device has less than `needed` bytes free for a training.

    Example: `require_memory(8 * 2**30)`.
    """
    if needed > (free := free_memory()):
        raise TooLargeError(
            f"training needs about {needed / 2**30:,.1f} GiB, {free / 2**30:,.1f} GiB are free: a smaller --batch-size or "
            "--max-length needs less (--accumulation keeps the batch as large)"
        )
