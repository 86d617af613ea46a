"""Memory: what the device has, and what weights, a training and decoding take of it: the one place of all estimates."""

import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from trm_jax.config import QwenConfig, TrainConfig, TRMConfig
from trm_jax.errors import UserError

MLP_RATIO = 4  # of the recursion's block: the width of its MLP over its own


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

    stats = jax.local_devices()[0].memory_stats() or {}
    return stats.get("peak_bytes_in_use") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def free_memory() -> int:
    """Bytes that can still be allocated on the device; on a CPU, what the system calls available.

    Example: `free_memory() / 2**30`.
    """
    stats = jax.local_devices()[0].memory_stats() or {}
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
    row_parts: int = 1,
    weight_parts: int = 1,
    early_states: int = 0,
) -> dict[str, int]:
    """The memory that training needs on each device, bytes by part; tests/cuda holds it to what XLA plans for real sizes.

    Args:
        backbone, trm: the weights, or their abstract shapes.
        length: of the longest rows, tokens.
        logits_rows: tokens whose logits exist at the same time.
        row_parts, weight_parts: into how many parts a mesh splits the rows of a batch, and the weights. What of the
            activations is split by the heads, and the output head that is gathered, are not counted.
        early_states: hidden states of a token that are there for the next batch already, while one is trained.

    Example: `training_memory(backbone, trm, qwen, TRMConfig.residual(), TrainConfig(), 512, logits_rows=256)["backbone"]`.
    """
    size, trained = jnp.dtype(train_config.dtype).itemsize, count_weights(trm)
    width, mlp_width, kv_width = (
        backbone_config.width,
        MLP_RATIO * backbone_config.width,
        trm_config.kv_heads(backbone_config) * backbone_config.head_size,
    )
    tokens = train_config.batch_size // row_parts * length
    # Of each block call stay its input, queries, keys, values, the attention's output, the gate and the MLP's output.
    call = 4 * width + 2 * kv_width + mlp_width
    # Of one call at a time: the MLP's inner arrays and their gradients, or the logits of one chunk and their gradient.
    working = max(tokens * 4 * mlp_width * size, logits_rows * backbone_config.vocab_size * (2 * 4 + size))
    return {
        "backbone": count_bytes(backbone) // weight_parts,
        "masters": 4 * trained // weight_parts,
        "moments": 2 * 4 * trained // weight_parts,
        "moving average": 4 * trained // weight_parts,
        "gradients and copies": trained
        * (4 + 2 * size),  # the sum in float32; weights and gradients in the type computed in
        # x, four levels, y, z, the context.
        "hidden states": tokens * train_config.accumulation * width * size * (8 + early_states),
        "activations": tokens * trm_config.calls * call * size,
        "temporaries": working,
    }


def filling_memory(
    backbone: Any,
    backbone_config: QwenConfig,
    train_config: TrainConfig,
    length: int,
    row_parts: int = 1,
    weight_parts: int = 1,
) -> int:
    """The memory that computing hidden states for a cache on disk needs on each device, bytes.

    Example: `filling_memory(backbone, qwen, TrainConfig(), 512)`.
    """
    tokens, size = train_config.batch_size // row_parts * length, jnp.dtype(train_config.dtype).itemsize
    return count_bytes(backbone) // weight_parts + tokens * size * (
        12 * backbone_config.width + 3 * backbone_config.mlp_width
    )


def cache_bytes(backbone: QwenConfig, trm: TRMConfig, dtype, passes: int, tensor_parts: int = 1) -> int:
    """Bytes of the keys and values of one token, in the caches of the backbone and of the recursion.

    Args:
        passes: of the recursion that are kept: none for the backbone alone, one for `last_pass`, all for `per_pass`.
        tensor_parts: devices that share the heads; the bytes are those of one of them.

    Example: `cache_bytes(qwen, TRMConfig.residual(), "bfloat16", passes=2)`.
    """
    heads = backbone.num_layers * heads_of_device(backbone.num_kv_heads, tensor_parts)
    heads += passes * trm.calls * heads_of_device(trm.kv_heads(backbone), tensor_parts)
    return 2 * heads * backbone.head_size * jnp.dtype(dtype).itemsize


def heads_of_device(heads: int, tensor_parts: int) -> int:
    """How many of the key/value heads each of the devices that share them holds: all where they cannot be shared.

    Example: `heads_of_device(4, 8)` is 1: each head is on two devices.
    """
    if heads % tensor_parts and tensor_parts % heads:
        return heads
    return max(heads // tensor_parts, 1)


def decoding_memory(
    backbone: QwenConfig,
    trm: TRMConfig,
    dtype,
    passes: int,
    rows: int,
    capacity: int,
    prompt_rows: int,
    prompt_length: int,
    row_parts: int = 1,
    tensor_parts: int = 1,
) -> dict[str, int]:
    """The memory that decoding needs beside the weights, bytes by part; tests/cuda holds it to what XLA plans.

    On a mesh it is that of each device.

    Args:
        passes: of the recursion, whose keys and values are kept, see `cache_bytes`.
        rows, capacity: of the batch, and the tokens that each row has room for in the end.
        prompt_rows, prompt_length: the prompts that are read together, and their padded length.
        row_parts, tensor_parts: into how many parts the mesh splits rows, and heads.

    Example: `sum(decoding_memory(qwen, trm, "bfloat16", 2, 8, 736, 8, 224).values())`.
    """
    size, token = jnp.dtype(dtype).itemsize, cache_bytes(backbone, trm, dtype, passes, tensor_parts)
    rows = -(-rows // row_parts)
    prompts, read = prompt_rows * prompt_length, -(-prompt_rows // row_parts) * prompt_length
    inner = max(backbone.mlp_width, MLP_RATIO * backbone.width)
    reading = read * size * (28 * backbone.width + 3 * inner)
    # The new tokens' keys and values are there as they were computed, and arranged for the caches.
    stepping = rows * (2 * token + 2 * 4 * backbone.vocab_size) + prompt_rows * 4 * backbone.vocab_size
    # A cache of one layer, or of one block call, is held twice while prompts are inserted or it gets another capacity.
    of_call = passes * heads_of_device(trm.kv_heads(backbone), tensor_parts)
    largest = max(heads_of_device(backbone.num_kv_heads, tensor_parts), of_call) * backbone.head_size * size
    return {
        "caches": rows * capacity * token,
        "prompts": prompts * token,  # on a mesh, too, each device gets all of them
        "temporaries": stepping + max(reading, rows * capacity * largest),
    }


def largest(fits: Callable[[int], bool], most: int) -> int:
    """The largest number up to `most` that fits, 0 if 1 does not; whatever is smaller than one that fits must fit too.

    Example: `largest(lambda rows: rows * size <= free, 64)`.
    """
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def describe_bytes(parts: Mapping[str, int]) -> str:
    """The sum and its parts, in GiB. Example: `describe_bytes({"caches": 2**30, "prompts": 2**29})`."""
    listed = ", ".join(f"{name} {size / 2**30:.3g}" for name, size in parts.items())
    return f"{sum(parts.values()) / 2**30:.3g} GiB ({listed})"


def require_memory(needed: int) -> None:
    """Raises TooLargeError if the device has less than `needed` bytes free for a training.

    Example: `require_memory(8 * 2**30)`.
    """
    if needed > (free := free_memory()):
        raise TooLargeError(
            f"training needs about {needed / 2**30:,.1f} GiB, {free / 2**30:,.1f} GiB are free: a smaller --batch-size or "
            "--max-length needs less (--accumulation keeps the batch as large)"
        )
