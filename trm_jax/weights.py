"""The weights of a module, or of any tree of arrays, by name: `layers.attention.query.kernel`."""

from collections.abc import Mapping
from typing import Any, TypeVar

import jax

Tree = TypeVar("Tree")


class WeightsError(ValueError):
    """Weights that do not fit the module they are meant for; the message lists every fault."""


def named_weights(tree: Any) -> dict[str, jax.Array]:
    """Every array (or its abstract shape) of a tree, by the dotted path to it."""
    paths, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {_name(path): leaf for path, leaf in paths}


def with_weights(tree: Tree, weights: Mapping[str, Any]) -> Tree:
    """The tree with its arrays replaced by those of the same names.

    Raises WeightsError if names or shapes differ, listing all of them.
    """
    paths, structure = jax.tree_util.tree_flatten_with_path(tree)
    check_weights({_name(path): leaf.shape for path, leaf in paths}, {name: w.shape for name, w in weights.items()})
    return jax.tree.unflatten(structure, [weights[_name(path)] for path, _ in paths])


def check_weights(
    expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]], where: str = ""
) -> None:
    """Raises WeightsError with all faults in one message unless both map the same names to the same shapes."""
    faults = [f"missing: {name} {tuple(expected[name])}" for name in expected if name not in found]
    faults += [f"not used: {name} {tuple(found[name])}" for name in found if name not in expected]
    faults += [
        f"shape of {name}: {tuple(found[name])}, expected {tuple(expected[name])}"
        for name in expected
        if name in found and tuple(found[name]) != tuple(expected[name])
    ]
    if faults:
        raise WeightsError("\n  ".join([f"the weights{where} do not fit:", *faults]))


def cast(tree: Tree, dtype) -> Tree:
    """The module with every weight in `dtype`, which is then the type that it computes in."""
    return jax.tree.map(lambda weight: weight.astype(dtype), tree)


def count_weights(tree: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def count_bytes(tree: Any) -> int:
    """Of arrays, or of their abstract shapes."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _name(path) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value")
