"""The weights of a module, or of any tree of arrays, by name: `layers.attention.query.kernel`."""

from collections.abc import Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from trm_jax.errors import UserError, listing

Tree = TypeVar("Tree")


class WeightsError(UserError):
    """Weights that do not fit the module they are meant for; the message lists all kinds of faults."""


def named_weights(tree: Any) -> dict[str, jax.Array]:
    """Every array (or its abstract shape) of a tree, by the dotted path to it.

    Example: `named_weights(model)["trm.norm.scale"]`.
    """
    paths, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {_name(path): leaf for path, leaf in paths}


def with_weights(tree: Tree, weights: Mapping[str, Any]) -> Tree:
    """The tree with its arrays replaced by those of the same names.

    Raises WeightsError if names or shapes differ.

    Example: `with_weights(module, named_weights(module))`.
    """
    paths, structure = jax.tree_util.tree_flatten_with_path(tree)
    check_weights({_name(path): leaf.shape for path, leaf in paths}, {name: w.shape for name, w in weights.items()})
    return jax.tree.unflatten(structure, [weights[_name(path)] for path, _ in paths])


def check_weights(
    expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]], where: str = ""
) -> None:
    """Raises WeightsError, all kinds of faults in one message, unless both map the same names to the same shapes.

    Example: `check_weights({"norm.scale": (64,)}, {"norm.scale": (65,)})` raises.
    """
    missing = [f"{name} {list(expected[name])}" for name in expected if name not in found]
    unused = [f"{name} {list(found[name])}" for name in found if name not in expected]
    shapes = [
        f"{name} is {list(found[name])}, expected {list(expected[name])}"
        for name in expected
        if name in found and tuple(found[name]) != tuple(expected[name])
    ]
    kinds = {"missing": missing, "not used": unused, "of another shape": shapes}
    if faults := [f"{kind}: {listing(names)}" for kind, names in kinds.items() if names]:
        raise WeightsError(f"the weights{where} do not fit; {'; '.join(faults)}")


def first_bad_weight(tree: Any) -> str | None:
    """The name of the first weight with a number that is not finite. Example: `first_bad_weight(model)` is None."""
    finite = jax.device_get(_finite(list(named_weights(tree).values())))
    return next((name for name, is_finite in zip(named_weights(tree), finite, strict=True) if not is_finite), None)


@jax.jit
def _finite(weights: list[jax.Array]) -> list[jax.Array]:
    return [jnp.isfinite(weight).all() for weight in weights]


def cast(tree: Tree, dtype) -> Tree:
    """The module with every weight in `dtype`, which is then the type that it computes in.

    Example: `cast(model, jnp.bfloat16)`.
    """
    return jax.tree.map(lambda weight: weight.astype(dtype), tree)


def _name(path) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value")
