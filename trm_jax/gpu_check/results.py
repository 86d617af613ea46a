"""Whether results are those of the CPU, and whether a killed training ends as one left alone."""

import contextlib
import pathlib
from collections.abc import Iterator, Sequence

import jax
import numpy as np

from trm_jax.benchmark import SIZES, TrainingBenchmark, prepare_device, random_model, random_prompts
from trm_jax.config import TrainConfig, TRMConfig
from trm_jax.decoding import generate
from trm_jax.experiments import kill_runs
from trm_jax.gpu_check.runner import Finding
from trm_jax.model import QwenTRM, cast, choose_attention, supervision_logits

ROWS, LENGTH = 4, 48
MOST_FLOAT32 = 1e-4  # relative error of the logits that float32 may have
MOST_TIMES = 2  # the error that bfloat16 may have, in errors of the CPU's bfloat16


def against_cpu(size: str, new_tokens: int) -> Iterator[Finding]:
    """Logits and greedy tokens of a recursion whose readout is its own, here and on the CPU.

    Errors are root mean squares, relative to that of the logits on the CPU in float32.
    """
    prepare_device()
    choose_attention()
    cpu, here = jax.local_devices(backend="cpu")[0], jax.local_devices()[0]
    config = TRMConfig.residual(readout="replace", latent_updates=2, recursions=2, supervision_steps=2)
    with _on(cpu):
        model = random_model(SIZES[size], config, "float32")
    prompts = random_prompts([LENGTH] * ROWS, SIZES[size].vocab_size)
    exact = _logits(model, prompts, cpu, "float32")
    error = _error(_logits(model, prompts, here, "float32"), exact)
    yield Finding("logits in float32", f"error {error:.2g}, at most {MOST_FLOAT32:.2g}", error <= MOST_FLOAT32)
    for kv_cache in ("per_pass", "last_pass"):
        expected, found = (_tokens(model, prompts, device, new_tokens, kv_cache) for device in (cpu, here))
        same = int(np.sum(np.array(expected) == np.array(found)))
        count = f"{same} of {ROWS * new_tokens} as on the CPU"
        yield Finding(f"greedy tokens in float32, {kv_cache}", count, expected == found)
    errors = [_error(_logits(model, prompts, device, "bfloat16"), exact) for device in (here, cpu)]
    found = f"error {errors[0]:.2g}, at most {MOST_TIMES} times the CPU's {errors[1]:.2g}"
    yield Finding("logits in bfloat16", found, errors[0] <= MOST_TIMES * errors[1])


def finite_losses(size: str, presets: Sequence[str], batch_size: int) -> Iterator[Finding]:
    """Whether all losses are finite, in training on rows of each length: each length has a program of its own."""
    dtype = prepare_device()
    choose_attention()
    for preset in presets:
        train_config = TrainConfig(batch_size=batch_size, dtype=dtype)
        losses = TrainingBenchmark(SIZES[size], TRMConfig.preset(preset), train_config).losses_by_length()
        wrong = [str(length) for length, found in losses.items() if not np.isfinite(found).all()]
        found = f"not finite at {', '.join(wrong)} tokens" if wrong else f"finite at {len(losses)} lengths"
        yield Finding(f"losses of {preset}", found, not wrong)


def killed_and_resumed(scripts: pathlib.Path, batches: int) -> Iterator[Finding]:
    """Kills train.py on the demo behind a checkpoint, starts it again, and compares its end with that of a whole run."""
    jax.config.update("jax_platforms", "cpu")  # the device is for the processes that are killed
    outcome = kill_runs(scripts, ["saved"], kills=1, max_batches=batches)
    holds = outcome.kills > 0 and not outcome.faults
    yield Finding("metrics and weights, bit for bit", outcome.describe().replace("\n", "; "), holds)


def _logits(model: QwenTRM, prompts, device: jax.Device, dtype: str) -> np.ndarray:
    with _on(device):
        return np.asarray(supervision_logits(jax.device_put(cast(model, dtype), device), np.array(prompts)))


def _tokens(model: QwenTRM, prompts, device: jax.Device, new_tokens: int, kv_cache: str) -> list[list[int]]:
    with _on(device):
        placed, sizes = jax.device_put(model, device), dict(max_new_tokens=new_tokens, batch_size=ROWS)
        return generate(placed, prompts, kv_cache=kv_cache, eos_token_ids=[], **sizes)


def _error(found: np.ndarray, exact: np.ndarray) -> float:
    return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))


@contextlib.contextmanager
def _on(device: jax.Device) -> Iterator[None]:
    """Computes on a device, with exact products in float32: a GPU's default rounds their operands to ten bits."""
    with jax.default_device(device), jax.default_matmul_precision("highest"):
        yield
