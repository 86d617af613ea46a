"""What each device of a mesh does by itself: its rows, and its heads.

Dimensions are named as in the annotations of arrays: over a dimension B the rows are split, over N and K the heads of
queries, and of keys and values. Without a mesh, and for a dimension that it does not divide, nothing is split.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from trm_jax.hardware.sharding import ROWS, mesh_parts, traced_mesh

SPLIT = {"B": ROWS, "N": ("tensor",), "K": ("tensor",)}


def split(array: jax.Array, dims: str) -> jax.Array:
    """While a program is traced: the array, laid out over the mesh by the first of its dimensions, which `dims` names.

    Example: `split(keys, "layers B K C H")`.
    """
    mesh = traced_mesh()
    if mesh is None:
        return array
    return jax.lax.with_sharding_constraint(array, _spec(dims, _axes(mesh, [(dims, array)])))


def split_sharding(array: Any, dims: str, mesh: Mesh) -> NamedSharding:
    """Where an array, or one of this shape, lies that `split` has laid out.

    Example: `split_sharding(keys, "layers B K C H", make_mesh("data=4"))`.
    """
    return NamedSharding(mesh, _spec(dims, _axes(mesh, [(dims, array)])))


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
        axes = _axes(mesh, zip(dims, args, strict=True))
        inputs, outputs = jax.tree.map(lambda names: _spec(names, axes), (dims, out))
        return jax.shard_map(function, in_specs=inputs, out_specs=outputs, check_vma=False)(*args)

    return compute


def _axes(mesh, arguments) -> dict[str, Any]:
    """For each name of SPLIT the axes of the mesh, or the one, that it is split over, because all such sizes are divided."""
    sizes = {axes: [] for axes in SPLIT.values()}
    for names, argument in arguments:
        for array in jax.tree.leaves(argument):
            for name, size in zip(names.split(), array.shape, strict=False):
                if name in SPLIT:
                    sizes[SPLIT[name]].append(size)
    found = {}
    for name, axes in SPLIT.items():
        if all(size % mesh_parts(mesh, axes) == 0 for size in sizes[axes]):
            # Axes of one device are left out, as XLA does: JAX compiles anew for the same layout in other words.
            long = tuple(axis for axis in axes if mesh.shape[axis] > 1)
            found[name] = long[0] if len(long) == 1 else long or None
    return found


def _spec(names: str, axes: dict[str, Any]) -> PartitionSpec:
    spec = [axes.get(name) for name in names.split()]
    while spec and spec[-1] is None:  # which XLA leaves out, too
        spec.pop()
    return PartitionSpec(*spec)
