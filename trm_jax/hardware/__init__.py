"""The machine: its devices and memory, and what is compiled for it."""

from trm_jax.hardware.cards import CARDS, Card, find_card
from trm_jax.hardware.compilation import Programs, compilations
from trm_jax.hardware.devices import choose_device, describe_device, has_nvidia_gpu
from trm_jax.hardware.flops import count_flops
from trm_jax.hardware.hlo import Collective, Hlo
from trm_jax.hardware.memory import (
    MLP_RATIO,
    cache_bytes,
    count_bytes,
    count_weights,
    decoding_memory,
    describe_bytes,
    filling_memory,
    free_memory,
    heads_of_device,
    largest,
    peak_memory,
    require_memory,
    training_memory,
)
from trm_jax.hardware.per_device import per_device, split, split_sharding
from trm_jax.hardware.sharding import (
    Groups,
    MeshError,
    choose_mesh,
    describe_mesh,
    fetch,
    gathered,
    has_mesh,
    laid_out,
    make_mesh,
    mesh_sizes,
    placements,
    put_rows,
    put_weights,
    require_rows,
    row_parts,
    rows_shardings,
    shardings,
    tensor_parts,
    weight_parts,
)
from trm_jax.hardware.targets import card_mesh, compile_for
