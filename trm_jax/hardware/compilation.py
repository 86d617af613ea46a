"""Compilation: seen while it happens, kept for the next start."""

import os
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax


def enable_compilation_cache() -> None:
    """Keeps compiled programs on disk between processes.

    In `~/.cache/trm_jax`, or in XDG_CACHE_HOME; JAX's own JAX_COMPILATION_CACHE_DIR takes precedence (empty: no cache).
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    caches = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    jax.config.update("jax_compilation_cache_dir", str(caches / "trm_jax"))


class Programs:
    """A jitted function, compiled ahead once for each set of argument shapes and said so."""

    def __init__(self, function: Callable, say: Callable[[str], None], describe: Callable[..., str]):
        """`say` takes a line of text; `describe` names the program that a call's arguments need."""
        self._function, self._say, self._describe = function, say, describe
        self._compiled: dict[Any, jax.stages.Compiled] = {}

    def __call__(self, *args):
        leaves, structure = jax.tree.flatten(args)
        key = (structure, *((leaf.shape, leaf.dtype) for leaf in leaves))
        if key not in self._compiled:
            self._compiled[key] = self._compile(args)
        return self._compiled[key](*args)

    def __len__(self) -> int:
        return len(self._compiled)

    def _compile(self, args) -> jax.stages.Compiled:
        name = self._describe(*args)
        self._say(f"compiling {name} ...")
        started = time.perf_counter()
        compiled = self._function.lower(*args).compile()
        needed = memory_needed(compiled)
        memory = "" if needed is None else f", which needs {needed / 2**30:.2f} GiB"
        self._say(f"compiled  {name} in {time.perf_counter() - started:.1f} s{memory}")
        return compiled


def memory_needed(compiled: jax.stages.Compiled) -> int | None:
    """Bytes that a program holds while it runs: arguments, results and temporaries; None where XLA does not tell."""
    memory = compiled.memory_analysis()
    if memory is None:
        return None
    results = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return memory.argument_size_in_bytes + results + memory.temp_size_in_bytes
