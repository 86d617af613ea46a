"""Compilation: reports programs while they are compiled, and keeps them on disk for the next start."""

import os
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax


def enable_compilation_cache() -> None:
    """Keeps compiled programs on disk between processes.

    They lie in `~/.cache/trm_jax` or below XDG_CACHE_HOME; JAX's own JAX_COMPILATION_CACHE_DIR takes precedence, and if it
    is empty nothing is kept.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    caches = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    jax.config.update("jax_compilation_cache_dir", str(caches / "trm_jax"))


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
        leaves, structure = jax.tree.flatten(args)
        key = (structure, *((leaf.shape, leaf.dtype) for leaf in leaves))
        if key not in self._compiled:
            self._compiled[key] = self._compile(args)
        return self._compiled[key]

    def _compile(self, args) -> jax.stages.Compiled:
        name = self._describe(*args) if self._describe else ""
        self._say(f"compiling {name} ...")
        started = time.perf_counter()
        compiled = self._function.lower(*args).compile()
        spent = time.perf_counter() - started
        self.seconds += spent
        needed = memory_needed(compiled)
        memory = "" if needed is None else f", which needs {needed / 2**30:.2f} GiB"
        self._say(f"compiled  {name} in {spent:.1f} s{memory}")
        return compiled


def memory_needed(compiled: jax.stages.Compiled) -> int | None:
    """Bytes that a program holds while it runs: arguments, results and temporaries; None where XLA does not tell."""
    memory = compiled.memory_analysis()
    if memory is None:
        return None
    results = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return memory.argument_size_in_bytes + results + memory.temp_size_in_bytes
