"""Training and decoding at published sizes with random weights: rates, their shares of what the device reaches, memory."""

import dataclasses
from collections.abc import Iterator, Sequence

import jax

from trm_jax.benchmark import SIZES, DecodingBenchmark, TrainingBenchmark, prepare_device
from trm_jax.config import TrainConfig, TRMConfig
from trm_jax.gpu_check.runner import Finding
from trm_jax.hardware import free_memory
from trm_jax.model import choose_attention

BATCHES = 2  # of training


def training(size: str, loops: tuple[int, int, int], batch_size: int) -> Iterator[Finding]:
    """The preset `residual` with n, T, N_sup = `loops`, on the first batches of rows as long as GSM8K's."""
    dtype = prepare_device()
    choose_attention()
    benchmark = TrainingBenchmark(
        SIZES[size], _trm_config(loops), TrainConfig(batch_size=batch_size, dtype=dtype), BATCHES
    )
    if left_out := _too_large(f"batches of {batch_size}", benchmark.planned_memory):
        yield left_out
        return
    speed = benchmark.measure()
    samples = speed.to_json()["seconds"]["trm_jax"]["samples_per_second"]
    share = speed.tflops / speed.matmul_tflops
    yield Finding(f"batches of {batch_size}", f"{samples:.3g} samples/s")
    yield Finding("matrix products", f"{speed.tflops:.3g} TFLOP/s, {_percent(share)} of {speed.matmul_tflops:.3g} here")
    yield _memory("", speed.peak_memory, benchmark.planned_memory)
    yield Finding("compiling", f"{speed.compile_seconds:.1f} s, {speed.programs} programs")


def decoding(size: str, batch_sizes: Sequence[int], new_tokens: int, loops: tuple[int, int, int]) -> Iterator[Finding]:
    """The same model, continuing prompts of GSM8K's median length."""
    dtype = prepare_device()
    choose_attention()
    whole = DecodingBenchmark(SIZES[size], _trm_config(loops), dtype, new_tokens=new_tokens)
    for batch_size in sorted(batch_sizes):  # because the peak of memory is that of the process so far
        benchmark, rows = dataclasses.replace(whole, batch_size=batch_size), f"batch {batch_size}"
        if left_out := _too_large(rows, benchmark.planned_memory):
            yield left_out
            continue
        speed = benchmark.measure()
        figures = speed.to_json()
        rate, tokens = figures["bytes_per_second"], figures["seconds"]["trm_jax"]["tokens_per_second"]
        yield Finding(
            rows,
            f"{1e3 * speed.step_seconds:.3g} ms a token, {rate / 1e9:.3g} GB/s, {_percent(rate / speed.copy_bandwidth)} of "
            f"{speed.copy_bandwidth / 1e9:.4g} here",
        )
        yield Finding(rows, f"{tokens:.4g} tokens/s with the prefill, which takes {1e3 * speed.prefill_seconds:.3g} ms")
        yield _memory(f"{rows}, ", speed.peak_memory, benchmark.planned_memory)
        del benchmark, speed  # and the weights


def _trm_config(loops: tuple[int, int, int]) -> TRMConfig:
    names = "latent_updates", "recursions", "supervision_steps"
    return TRMConfig.residual(**dict(zip(names, loops, strict=True)))


def _too_large(what: str, planned: int) -> Finding | None:
    if planned <= (free := free_memory()):
        return None
    return Finding(what, f"left out: it needs {planned / 2**30:.1f} GiB, {free / 2**30:.1f} are free")


def _memory(rows: str, peak: int, planned: int) -> Finding:
    on_gpu = jax.default_backend() == "gpu"  # on a CPU it is that of the whole process
    found = f"{peak / 2**30:.3g} GiB, {planned / 2**30:.3g} planned"
    return Finding(f"{rows}peak memory", found, peak <= planned if on_gpu else None)


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
