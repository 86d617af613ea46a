"""Which device JAX computes on; to be chosen before JAX is first used."""

import os
import pathlib
import shutil

from trm_jax.errors import UserError
from trm_jax.hardware.compilation import enable_compilation_cache


class DeviceError(UserError):
    """A device that was asked for, or should be there, and that JAX does not see."""


def choose_device(name: str = "auto") -> None:
    """Makes JAX use `cpu`, `cuda`, or (`auto`) what it finds, and keep what it compiles.

    Raises DeviceError if `cuda` is not there, or if `auto` would use the CPU of a machine that has an NVIDIA GPU.
    """
    import jax

    enable_compilation_cache()
    if name == "cpu":
        jax.config.update("jax_platforms", "cpu")
    backend = jax.default_backend()
    if name == "cuda" and backend != "gpu":
        raise DeviceError(f"--device cuda, but JAX sees only the {backend}.\n{_cuda_advice()}")
    if name == "auto" and backend == "cpu" and has_nvidia_gpu():
        raise DeviceError(
            f"this machine has an NVIDIA GPU, but JAX sees only the CPU.\n{_cuda_advice()}\nTo use the CPU: --device cpu"
        )


def has_nvidia_gpu() -> bool:
    return pathlib.Path("/proc/driver/nvidia/gpus").is_dir() or shutil.which("nvidia-smi") is not None


def compute_dtype(name: str | None) -> str:
    """The type to compute in: the one asked for, else bfloat16, but float32 on a CPU, which is no faster in bfloat16."""
    import jax

    return name or ("float32" if jax.default_backend() == "cpu" else "bfloat16")


def peak_memory() -> int:
    """Bytes: the most that the device has held in this process; on a CPU, the most that the process has."""
    import resource

    import jax

    stats = jax.devices()[0].memory_stats() or {}
    return stats.get("peak_bytes_in_use") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def free_memory() -> int:
    """Bytes that can still be allocated on the device; on a CPU, what the system calls available."""
    import jax

    stats = jax.devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"] - stats["bytes_in_use"]
    try:
        lines = pathlib.Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):  # not Linux
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def describe_device() -> str:
    import jax

    device = jax.devices()[0]
    stats = device.memory_stats() or {}
    memory = f", {stats['bytes_limit'] / 2**30:.1f} GiB" if "bytes_limit" in stats else ""
    return f"{device.device_kind} ({device.platform}){memory}"


def _cuda_advice() -> str:
    return (
        "Install JAX's CUDA wheels, pip install -e '.[cuda12]' or '.[cuda13]' (the driver's version: nvidia-smi), and leave "
        "JAX_PLATFORMS unset."
    )
