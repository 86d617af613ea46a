"""Compilation: reports programs while they are compiled, and keeps them on disk for the next start."""

import concurrent.futures
import contextlib
import functools
import gc
import os
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax

from trm_jax.files import cache_folder


def enable_compilation_cache() -> None:
    """Keeps compiled programs on disk between processes.

    They lie in `~/.cache/trm_jax` or below XDG_CACHE_HOME; JAX's own JAX_COMPILATION_CACHE_DIR takes precedence, and if it
    is empty nothing is kept.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    jax.config.update("jax_compilation_cache_dir", str(cache_folder()))


class Programs:
    """A jitted function, compiled ahead once for each set of argument shapes.

    Example: `train_batch = Programs(make_train_batch(optimizer, 0.999, dtype))`.
    """

    def __init__(
        self,
        function: Callable,
        describe: Callable[..., str] | None = None,
        say: Callable[[str], None] = lambda line: None,
    ):
        """`describe` names the program for a call's arguments; `say` gets a line before and after it is compiled."""
        self._function, self._describe, self._say = function, describe, say
        self._compiled: dict[Any, jax.stages.Compiled] = {}
        self.seconds = 0.0  # spent compiling

    def __call__(self, *args):
        return self.compiled(*args)(*args)

    def __len__(self) -> int:
        return len(self._compiled)

    def compiled(self, *args) -> jax.stages.Compiled:
        """The program for arguments of these shapes."""
        key = _key(args)
        if key not in self._compiled:
            self.prepare([args])
        return self._compiled[key]

    def prepare(self, calls: Iterable[tuple]) -> None:
        """Compiles the programs of these calls' arguments that are not there yet, several at once.

        Of the arguments no more than those of one call are kept, so that `calls` may make them one after the other.
        """
        started = time.perf_counter()
        lowered = {}
        for args in calls:
            key, name = _key(args), self._describe(*args) if self._describe else ""
            if key not in self._compiled and (key, name) not in lowered:
                self._say(f"compiling {name} ...")
                lowered[key, name] = self._function.lower(*args)
        with _no_garbage_collection(), concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            waiting = {pool.submit(one.compile): (key, name) for (key, name), one in lowered.items()}
            for number, future in enumerate(concurrent.futures.as_completed(waiting), 1):
                (key, name), compiled = waiting[future], future.result()
                self._compiled[key] = compiled
                spent = f"{time.perf_counter() - started:.1f} s"
                when = f"in {spent}" if len(waiting) == 1 else f"after {spent} ({number} of {len(waiting)})"
                needed = memory_needed(compiled)
                memory = "" if needed is None else f", which needs {needed / 2**30:.2f} GiB"
                self._say(f"compiled  {name} {when}{memory}")
        self.seconds += time.perf_counter() - started


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Leaves garbage for later: collected in a thread that compiles, it crashed CPython 3.11 with jaxlib 0.10 twice."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@functools.cache
def compilations() -> list[float]:
    """A list that gets, from the first call on, the seconds of each compilation in this process.

    What JAX finds on disk counts too: whoever waits for a program waits for that as well.

    Example: `before = len(compilations())`.
    """
    seconds: list[float] = []

    def listen(event: str, duration: float, **details) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            seconds.append(duration)

    jax.monitoring.register_event_duration_secs_listener(listen)
    return seconds


def _key(args) -> tuple:
    leaves, structure = jax.tree.flatten(args)
    return (structure, *((leaf.shape, leaf.dtype) for leaf in leaves))


def memory_needed(compiled: jax.stages.Compiled) -> int | None:
    """Bytes that a program holds while it runs: arguments, results and temporaries; None where XLA does not tell."""
    memory = compiled.memory_analysis()
    if memory is None:
        return None
    results = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return memory.argument_size_in_bytes + results + memory.temp_size_in_bytes
