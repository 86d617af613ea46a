"""Compiles programs for a GPU that this machine need not have, from a description of the card; nothing is allocated or run.

JAX's CUDA wheels are needed, and `XLA_FLAGS=--xla_gpu_autotune_level=0`, because autotuning would run kernels.
JAX's cache of compiled programs must be off: it cannot read back programs for a device that is not there.
"""

import functools
from typing import Any

import jax
from jax.experimental import topologies
from jax.sharding import Mesh

from trm_jax.hardware.cards import Card
from trm_jax.hardware.sharding import make_mesh

# Shared memory by compute capability, bytes a multiprocessor and most of a block, and resident threads (CUDA C++
# Programming Guide, technical specifications by compute capability).
_BY_CAPABILITY = {
    (8, 0): (167_936, 166_912, 2048),
    (8, 6): (102_400, 101_376, 1536),
    (8, 9): (102_400, 101_376, 1536),
    (9, 0): (233_472, 232_448, 2048),
}


def compile_for(card: Card, function: Any, *args, mesh: Mesh | None = None, **static) -> jax.stages.Compiled:
    """The program of a jitted function for a card; `args` are arrays or their shapes.

    With a `mesh` of `card_mesh` it is the program of each of several cards, and the shapes say where they lie. Raises
    RuntimeError where JAX has no CUDA plugin.

    Example: `compile_for(CARDS["h100"], prefill, model, tokens, lengths, config=config).memory_analysis()`.
    """
    # Pallas asks which GPU a kernel is for.
    device = jax.sharding.AbstractDevice(device_kind=card.name, num_cores=card.multiprocessors, platform="gpu")
    if mesh is None:
        alone = jax.sharding.NamedSharding(card_mesh(card), jax.sharding.PartitionSpec())
        args = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=alone), args)
        abstract = jax.sharding.AbstractMesh((), (), abstract_device=device)
    else:
        sizes, names = tuple(mesh.shape.values()), mesh.axis_names
        abstract = jax.sharding.AbstractMesh(sizes, names, axis_types=mesh.axis_types, abstract_device=device)
    with jax.sharding.use_abstract_mesh(abstract):
        return function.trace(*args, **static).lower(lowering_platforms=("cuda",)).compile()


@functools.cache
def card_mesh(card: Card, count: int = 1, sizes: str | None = None) -> Mesh:
    """A mesh of so many cards, none of which need be there; see `make_mesh`.

    Example: `card_mesh(CARDS["h100"], 8, "fsdp=8")`.
    """
    shared, shared_by_block, threads = _BY_CAPABILITY[card.capability]
    info = {
        "threads_per_block_limit": 1024,
        "threads_per_warp": 32,
        "shared_memory_per_block": 49152,
        "shared_memory_per_core": shared,
        "shared_memory_per_block_optin": shared_by_block,
        "threads_per_core_limit": threads,
        "core_count": card.multiprocessors,
        "fpus_per_core": 64 if card.capability == (8, 0) else 128,
        "block_dim_limit_x": 2**31 - 1,
        "block_dim_limit_y": 65535,
        "block_dim_limit_z": 65535,
        "memory_bandwidth": int(card.bandwidth),
        "l2_cache_size": card.l2_mebibytes * 2**20,
        "clock_rate_ghz": card.clock_ghz,
        "device_memory_size": card.memory,
        "registers_per_core_limit": 65536,
        "registers_per_block_limit": 65536,
    }
    fields = " ".join(f"{name}: {value}" for name, value in info.items())
    major, minor = card.capability
    text = (
        f"gpu_device_info {{ {fields} cuda_compute_capability {{ major: {major} minor: {minor} }} }} "
        'platform_name: "CUDA" dnn_version_info { major: 9 minor: 7 } '
        f'runtime_version {{ major: 12 minor: 8 patch: 0 }} device_description_str: "{card.name}"'
    )
    topology = topologies.get_topology_desc(platform="cuda", target_config=text, topology=f"1x1x{count}")
    return make_mesh(sizes, topology.devices)
