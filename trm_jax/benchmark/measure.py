"""Prepares the device, takes times, and measures the highest rates that the device reaches."""

import functools
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp

from trm_jax.config import TRMConfig
from trm_jax.hardware import choose_device

Input = TypeVar("Input")
OURS = "trm_jax"  # the name of this package's program beside its peers


def prepare_device(name: str = "auto", dtype: str | None = None, shared: bool = False) -> str:
    """Chooses the device as `choose_device` does, but without the cache of compiled programs, because compiling is timed.

    To be called before JAX is first used. Arguments, result and errors are those of `choose_device`; on a device that is
    `shared` with another library, JAX takes memory only as it needs it.

    Example: `dtype = prepare_device("cuda", "bfloat16")`.
    """
    if shared:
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    dtype = choose_device(name, dtype)
    jax.config.update("jax_enable_compilation_cache", False)
    return dtype


def describe_loops(trm_config: TRMConfig) -> str:
    """The loop counts of a recursion, for a person."""
    return f"n={trm_config.latent_updates}, T={trm_config.recursions}, N_sup={trm_config.supervision_steps}"


def time_in_turns(
    runners: Mapping[str, Callable[[Input], None]], inputs: Sequence[Input], repeats: int
) -> dict[str, float]:
    """Seconds that each runner needs for all inputs: the sum of each input's median over the repeats.

    A runner returns when its work is done, and has been warmed up. Runners take turns, so that a slow spell of the machine
    affects all of them.
    """
    times = {name: [[] for _ in inputs] for name in runners}
    for _ in range(repeats):
        for name, run in runners.items():
            for number, value in enumerate(inputs):
                times[name][number].append(seconds(run, value))
    return {name: sum(map(statistics.median, of_runner)) for name, of_runner in times.items()}


def seconds(function: Callable, *args) -> float:
    """How long one call takes. Example: `seconds(lambda: jax.block_until_ready(program(array)))`."""
    started = time.perf_counter()
    function(*args)
    return time.perf_counter() - started


def matmul_rate(dtype, repeats: int = 5) -> float:
    """FLOP/s of a large square matrix product in `dtype`, accumulated in float32: the median of a few runs."""
    size, chain = (2048, 2) if jax.default_backend() == "cpu" else (8192, 16)
    matrix = jax.random.normal(jax.random.key(0), (size, size), jnp.float32).astype(dtype) / size**0.5

    @jax.jit
    def multiply(matrix):
        step = lambda product, _: (jnp.dot(product, matrix, preferred_element_type=jnp.float32).astype(dtype), None)  # noqa: E731
        return jax.lax.scan(step, matrix, length=chain)[0]

    jax.block_until_ready(multiply(matrix))
    times = [seconds(lambda: jax.block_until_ready(multiply(matrix))) for _ in range(repeats)]
    return chain * 2 * size**3 / statistics.median(times)


def copy_bandwidth(repeats: int = 5) -> float:
    """Bytes a second, read and written, of passes over an array that no cache holds: the median of a few runs."""
    size, passes = (2**26, 1) if jax.default_backend() == "cpu" else (2**28, 8)  # float32 numbers
    array = jnp.zeros(size, jnp.float32)

    @functools.partial(jax.jit, donate_argnums=0)  # in place: fresh memory would be timed too
    def add(array):
        return jax.lax.fori_loop(0, passes, lambda _, array: array + 1, array)

    times = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        array = jax.block_until_ready(add(array))
        times.append(time.perf_counter() - started)
    return 2 * passes * array.nbytes / statistics.median(times[1:])
