"""Which device JAX computes on; to be chosen before JAX is first used."""

import os
import pathlib
import shutil

from trm_jax.errors import UserError
from trm_jax.hardware.compilation import enable_compilation_cache


class DeviceError(UserError):
    """A device that was asked for, or should be there, and that JAX does not see."""


def choose_device(name: str = "auto", dtype: str | None = None) -> str:
    """Makes JAX use `cpu`, `cuda` or, for `auto`, what it finds, and keep compiled programs on disk.

    Returns the type to compute in: `dtype` if it is given, else bfloat16, but float32 on a CPU, which before
    jax 0.12 is no faster in bfloat16. Raises DeviceError if `cuda` is not there, if JAX has started on a GPU before `cpu` is
    chosen, or if `auto` would use the CPU of a machine that has an NVIDIA GPU.

    Example: `dtype = choose_device("cuda")`.
    """
    import jax

    enable_compilation_cache()
    if name == "cpu":
        jax.config.update("jax_platforms", "cpu")
    backend = _backend()
    if name == "cpu" and backend != "cpu":
        raise DeviceError(f"--device cpu, but JAX has started on the {backend}: the device must be chosen before")
    if name == "cuda" and backend != "gpu":
        raise DeviceError(f"--device cuda, but JAX sees only the {backend}.\n{_cuda_advice()}")
    if name == "auto" and backend == "cpu" and has_nvidia_gpu():
        raise DeviceError(
            f"this machine has an NVIDIA GPU, but JAX sees only the CPU.\n{_cuda_advice()}\nTo use the CPU: --device cpu"
        )
    return dtype or ("float32" if backend == "cpu" else "bfloat16")


def _backend() -> str:
    """The platform that JAX computes on. Raises DeviceError where it finds none of those that JAX_PLATFORMS asks for."""
    import jax

    try:
        return jax.default_backend()
    except (AssertionError, RuntimeError) as error:  # the first where JAX has no plugin for what it is asked for
        asked = os.environ.get("JAX_PLATFORMS")
        said = f"JAX finds no device{f' for JAX_PLATFORMS={asked}, which is set in the environment' if asked else ''}"
        raise DeviceError(f"{said}. {error}\n{_cuda_advice()}") from None


def has_nvidia_gpu() -> bool:
    """Whether the system has an NVIDIA driver, whatever JAX sees. Example: `has_nvidia_gpu()`."""
    return pathlib.Path("/proc/driver/nvidia/gpus").is_dir() or shutil.which("nvidia-smi") is not None


def describe_device() -> str:
    """The number of devices if there are several, the kind and platform of the first and, where it tells, its memory.

    Of several processes also their number.

    Example: `describe_device()` is `"NVIDIA H100 80GB HBM3 (gpu), 59.3 GiB"`.
    """
    import jax

    device = jax.local_devices()[0]
    stats = device.memory_stats() or {}
    memory = f", {stats['bytes_limit'] / 2**30:.1f} GiB" if "bytes_limit" in stats else ""
    several = f"{jax.device_count()} x " if jax.device_count() > 1 else ""
    together = f", in {jax.process_count()} processes" if jax.process_count() > 1 else ""
    return f"{several}{device.device_kind} ({device.platform}){memory}{together}"


def _cuda_advice() -> str:
    return (
        "Install JAX's CUDA wheels, pip install -e '.[cuda12]' or '.[cuda13]' (the driver's version: nvidia-smi), and leave "
        "JAX_PLATFORMS unset."
    )
