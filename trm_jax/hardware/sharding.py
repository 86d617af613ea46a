"""Several devices: the mesh that they form, and on which of them each weight and each row lies.

JAX's partitioner does the rest. A mesh has three axes. Rows are split over `data` and `fsdp`. Weights are split over `fsdp`,
by which they are gathered where they are used, and over `tensor`, where each device computes with its part of them. The
functions that are called while a program is traced take the mesh that `jax.set_mesh` has set; without one they do nothing.
"""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from trm_jax.errors import UserError, listing

AXES = ("data", "fsdp", "tensor")
ROWS = ("data", "fsdp")  # the axes over which rows are split

# Where a weight lies, by the end of its name; each entry is of its last dimensions. Of two products that follow each other
# the first splits its outputs over `tensor` and the second its inputs, so that there is one sum over devices behind both.
RULES = [
    (r"embedding|head", ("tensor", "fsdp")),  # vocabulary, width
    (r"(query|key|value|gate|up)\.kernel", ("fsdp", "tensor")),
    (r"(query|key|value)\.bias", ("tensor",)),
    (r"(output|down)\.kernel", ("tensor", "fsdp")),
    (r"\w+", ("fsdp",)),
]


class MeshError(UserError):
    """A mesh that the devices do not make up, or rows that it does not divide."""


def choose_mesh(sizes: str | None = None, each_process: bool = False) -> Mesh | None:
    """Makes the mesh of all devices the one that all weights and rows are put on from now on; see `make_mesh`.

    With `each_process` it is that of the devices of this process. With one device and without `sizes` there is no mesh, and
    nothing changes.

    Example: `choose_mesh("data=2,fsdp=2")`.
    """
    devices = jax.local_devices() if each_process else jax.devices()
    if sizes is None and len(devices) == 1:
        return None
    mesh = make_mesh(sizes, devices)
    jax.set_mesh(mesh)
    return mesh


def make_mesh(sizes: str | None = None, devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh of all devices, from a text like `data=4,fsdp=2`; without one all of them are on `data`.

    Raises MeshError.

    Example: `make_mesh("fsdp=2,tensor=2")`.
    """
    devices = jax.devices() if devices is None else devices
    found = mesh_sizes(sizes, len(devices))
    # Auto: with Explicit axes, which are JAX's default, looking up embeddings raises an error.
    return Mesh(np.array(devices).reshape(*found.values()), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def mesh_sizes(sizes: str | None, count: int) -> dict[str, int]:
    """The sizes of all axes of a mesh of `count` devices. Raises MeshError.

    Example: `mesh_sizes("fsdp=4", 4)` is `{"data": 1, "fsdp": 4, "tensor": 1}`.
    """
    found = dict.fromkeys(AXES, 1)
    for part in [f"data={count}"] if sizes is None else sizes.split(","):
        axis, _, size = part.strip().partition("=")
        if axis not in AXES or not size.isdecimal() or int(size) < 1:
            raise MeshError(f"--mesh {sizes}: {part!r} is no axis with its size, such as data=4 ({', '.join(AXES)})")
        found[axis] = int(size)
    if math.prod(found.values()) != count:
        shape = " x ".join(map(str, found.values()))
        raise MeshError(f"--mesh {sizes}: {shape} do not make up the number of devices, {count}")
    return found


def shardings(tree: Any, mesh: Mesh) -> Any:
    """Where each weight of a tree lies: a tree of NamedSharding. An optimizer's state lies as its weights do.

    Example: `jax.device_put(model, shardings(model, make_mesh("fsdp=4")))`.
    """
    is_spec = lambda leaf: isinstance(leaf, PartitionSpec)  # noqa: E731
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), _specs(tree, mesh), is_leaf=is_spec)


def placements(tree: Any) -> Any:
    """Where each weight of a tree is to be put: on the chosen mesh, else on the first device of this process.

    Example: `placements(abstract_qwen(config))`.
    """
    mesh = _chosen_mesh()
    if mesh is None:
        return jax.tree.map(lambda _: SingleDeviceSharding(jax.local_devices()[0]), tree)
    return shardings(tree, mesh)


def put_weights(tree: Any) -> Any:
    """The weights on the chosen mesh; without one they stay where they are. All processes have the same weights.

    Example: `put_weights(state)`.
    """
    mesh = _chosen_mesh()
    return tree if mesh is None else jax.tree.map(_put, tree, shardings(tree, mesh))


def rows_shardings(tree: Any, mesh: Mesh, rows_at: int = 0) -> Any:
    """Where the rows of arrays, their dimension `rows_at`, lie. Example: `rows_shardings(batch, mesh, rows_at=1)`."""
    return jax.tree.map(lambda array: NamedSharding(mesh, _rows_spec(len(array.shape), rows_at)), tree)


def put_rows(tree: Any, rows_at: int = 0) -> Any:
    """Arrays of the host on the devices of the chosen mesh, each of which takes its rows, else on the first device.

    Dimension `rows_at` holds the rows. All processes have the same arrays.

    Example: `put_rows(batch, rows_at=1)`.
    """
    mesh = _chosen_mesh()
    return jax.device_put(tree) if mesh is None else jax.tree.map(_put, tree, rows_shardings(tree, mesh, rows_at))


def fetch(array: Any) -> np.ndarray:
    """The whole of an array in the host's memory, also where parts of it lie with other processes: all of them ask for it.

    Example: `fetch(weight).sum()`.
    """
    if not isinstance(array, jax.Array) or array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    return multihost_utils.process_allgather(array, tiled=True)


def describe_mesh(tree: Any) -> str | None:
    """The chosen mesh, and which weights of the tree lie whole on each device because it does not divide them.

    None without a mesh. Example: `describe_mesh(backbone)` is `"data=4, fsdp=1, tensor=1"`.
    """
    mesh = _chosen_mesh()
    if mesh is None:
        return None
    said = ", ".join(f"{axis}={mesh.shape[axis]}" for axis in AXES)
    if names := kept_whole(tree, mesh):
        said += f"; not divided, and so whole on each device: {listing(names)}"
    return said


def kept_whole(tree: Any, mesh: Mesh) -> list[str]:
    """The weights of a tree that the rules split and the mesh does not divide."""
    leaves = [(_name(path), leaf.shape) for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]]
    return [name for name, shape in leaves if any(not divides for _, divides in _rule(name, shape, mesh))]


def require_rows(rows: int) -> None:
    """Raises MeshError unless the chosen mesh divides so many rows. Example: `require_rows(batch_size)`."""
    parts = row_parts()
    if rows % parts:
        fitting = [size for size in (rows // parts * parts, -(-rows // parts) * parts) if size]
        raise MeshError(
            f"batches of {rows} rows cannot be split over {parts} devices (data x fsdp): --batch-size "
            f"{' or '.join(map(str, fitting))} would do"
        )


def has_mesh() -> bool:
    """Whether a mesh is chosen. Example: `has_mesh()` is False on one device."""
    return traced_mesh() is not None


def row_parts() -> int:
    """Into how many parts the chosen mesh splits rows. Example: `row_parts()` is 1 without a mesh."""
    return mesh_parts(traced_mesh(), ROWS)


def weight_parts() -> int:
    """Into how many parts the chosen mesh splits large weights. Example: `weight_parts()` is 1 without a mesh."""
    return mesh_parts(traced_mesh(), ("fsdp", "tensor"))


def tensor_parts() -> int:
    """Into how many parts the chosen mesh splits heads. Example: `tensor_parts()` is 1 without a mesh."""
    return mesh_parts(traced_mesh(), ("tensor",))


def laid_out(tree: Any) -> Any:
    """The weights as the mesh lays them out, also while a program is traced. Example: `return laid_out(state)`."""
    mesh = traced_mesh()
    return tree if mesh is None else jax.lax.with_sharding_constraint(tree, _specs(tree, mesh))


def gathered(tree: Any) -> Any:
    """While a program is traced: weights that are to be used now, gathered from the devices over which `fsdp` splits them.

    Example: `layer = gathered(layer)`.
    """
    mesh = traced_mesh()
    if mesh is None or mesh.shape["fsdp"] == 1:
        return tree
    return jax.lax.with_sharding_constraint(tree, _specs(tree, mesh, without="fsdp"))


class Groups:
    """While a program is traced: the rows of a micro-batch in groups, one for each device that has rows of its own.

    What is computed for each group apart stays on its device, until it is summed. Of the gradient of weights that are used
    over and over JAX's partitioner would make a sum over devices at each use. Without a mesh there is one group, and nothing
    is done.
    """

    def __init__(self):
        self.count = mesh_parts(traced_mesh(), ROWS)

    def split(self, tree: Any, rows_at: int = 0) -> Any:
        """Dimension `rows_at` of each array, its rows, as two: groups and rows."""
        if self.count == 1:
            return tree

        def split(array):
            found = array.reshape(*array.shape[:rows_at], self.count, -1, *array.shape[rows_at + 1 :])
            return jax.lax.with_sharding_constraint(found, _rows_spec(found.ndim, rows_at))

        return jax.tree.map(split, tree)

    def map(self, function: Callable) -> Callable:
        """The function of one argument, for each group apart."""
        return function if self.count == 1 else jax.vmap(function, spmd_axis_name=ROWS)

    def each(self, tree: Any) -> Any:
        """The same arrays for each group."""
        if self.count == 1:
            return tree

        def repeat(array):
            found = jnp.broadcast_to(array, (self.count, *array.shape))
            return jax.lax.with_sharding_constraint(found, _rows_spec(found.ndim))

        return jax.tree.map(repeat, tree)

    def sum(self, tree: Any) -> Any:
        """The sum over groups."""
        return tree if self.count == 1 else jax.tree.map(lambda array: jnp.sum(array, axis=0), tree)


def _put(array: Any, sharding: NamedSharding) -> jax.Array:
    """An array on the devices of this process, each of which takes its part."""
    if sharding.is_fully_addressable or (isinstance(array, jax.Array) and not array.is_fully_addressable):
        return jax.device_put(array, sharding)
    whole = np.asarray(array)
    return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])


def _chosen_mesh() -> Mesh | None:
    mesh = jax.sharding.get_mesh()
    return mesh if mesh.axis_names == AXES else None


def traced_mesh() -> AbstractMesh | None:
    mesh = jax.sharding.get_abstract_mesh()
    return mesh if mesh.axis_names == AXES else None


def mesh_parts(mesh: Mesh | AbstractMesh | None, axes: Sequence[str]) -> int:
    return 1 if mesh is None else math.prod(mesh.shape[axis] for axis in axes)


def _rows_spec(rank: int, rows_at: int = 0) -> PartitionSpec:
    return PartitionSpec(*[None] * rows_at, ROWS, *[None] * (rank - rows_at - 1))


def _specs(tree: Any, mesh, without: str | None = None) -> Any:
    def spec(path, leaf):
        rule = _rule(_name(path), leaf.shape, mesh)
        return PartitionSpec(*[axis if divides and axis != without else None for axis, divides in rule])

    return jax.tree_util.tree_map_with_path(spec, tree)


def _rule(name: str, shape: tuple[int, ...], mesh) -> list[tuple[str | None, bool]]:
    """For each dimension the axis that the rules split it over, and whether that divides it."""
    rule = next(rule for pattern, rule in RULES if re.fullmatch(rf"(.*\.)?({pattern})", name))
    if len(shape) < len(rule):  # a counter
        return []
    axes = [*[None] * (len(shape) - len(rule)), *rule]
    return [(axis, axis is None or size % mesh.shape[axis] == 0) for axis, size in zip(axes, shape, strict=True)]


def _name(path) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value")
