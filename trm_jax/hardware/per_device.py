"""What each device of a mesh does by itself: its rows, and its heads.

Dimensions are named as in the annotations of arrays: over a dimension B the rows are split, over N and K the heads of
queries, and of keys and values. Without a mesh, and for a dimension that it does not divide, nothing is split.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import PartitionSpec

from trm_jax.hardware.sharding import ROWS, mesh_parts, traced_mesh

SPLIT = {"B": ROWS, "N": ("tensor",), "K": ("tensor",)}


def split(array: jax.Array, dims: str) -> jax.Array:
    """While a program is traced: the array, laid out over the mesh by the first of its dimensions, which `dims` names.

    Example: `split(keys, "layers B K C H")`.
    """
    mesh = traced_mesh()
    if mesh is None:
        return array
    return jax.lax.with_sharding_constraint(array, _spec(dims, _divided(mesh, [(dims, array)])))


def per_device(function: Callable, *dims: str, out: Any) -> Callable:
    """While a program is traced: a function that each device computes by itself, of its parts of the arrays.

    JAX's partitioner would gather what it cannot split, such as the cache that a kernel of our own reads.

    Args:
        dims: the dimensions of each argument; those of an argument that is a tree are those of all arrays in it.
        out: of the results, in the same form.

    Example: `per_device(write, "layers B K C H", "B", out="layers B K C H")(cache, lengths)`.
    """

    def compute(*args):
        mesh = traced_mesh()
        if mesh is None:
            return function(*args)
        divided = _divided(mesh, zip(dims, args, strict=True))
        specs = jax.tree.map(lambda names: _spec(names, divided), (dims, out))
        return jax.shard_map(function, in_specs=specs[0], out_specs=specs[1], check_vma=False)(*args)

    return compute


def _divided(mesh, arguments) -> set[tuple[str, ...]]:
    """The axes, as SPLIT has them, that divide all dimensions which are to be split over them."""
    divided = set(SPLIT.values())
    for names, argument in arguments:
        for array in jax.tree.leaves(argument):
            for name, size in zip(names.split(), array.shape, strict=False):
                if name in SPLIT and size % mesh_parts(mesh, SPLIT[name]):
                    divided.discard(SPLIT[name])
    return divided


def _spec(names: str, divided: set[tuple[str, ...]]) -> PartitionSpec:
    return PartitionSpec(*[SPLIT.get(name) if SPLIT.get(name) in divided else None for name in names.split()])
