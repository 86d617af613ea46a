"""The machine: its devices and memory, and what is compiled for it."""

from trm_jax.hardware.compilation import Programs
from trm_jax.hardware.devices import choose_device, describe_device
from trm_jax.hardware.flops import count_flops
from trm_jax.hardware.memory import (
    count_bytes,
    count_weights,
    free_memory,
    peak_memory,
    require_memory,
    training_memory,
)
