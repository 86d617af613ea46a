"""Speed and memory with random weights and the lengths of real GSM8K rows."""

import dataclasses
import importlib
import json
import pathlib
import sys
from collections.abc import Callable
from typing import Any, Literal

from trm_jax import cli
from trm_jax.config import TrainConfig, TRMConfig
from trm_jax.files import write_whole

Size = Literal["demo", "width-128", "width-512", "qwen2.5-0.5b", "qwen2.5-math-1.5b", "qwen2.5-math-7b"]
LOOPS = ("latent_updates", "recursions", "supervision_steps")
LoopOptions = cli.options_of(
    TRMConfig,
    leave_out={field.name for field in dataclasses.fields(TRMConfig)} - set(LOOPS),
    chosen_by_preset=TRMConfig.preset_fields(),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Common(LoopOptions, cli.ComputeOptions):
    config: Size = "demo"
    """Dimensions of the backbone."""
    preset: Literal["residual", "mathllm"] = "residual"
    """Kind of recursion."""
    batch_size: int = 8
    """Rows in a batch."""
    repeats: int = 3
    """Runs, of which the median counts."""
    peer: Literal["none", "torch"] = "none"
    """torch: also time PyTorch on the same rows (from a checkout); see docs/speed.md."""
    json: pathlib.Path | None = None
    """Write the figures to this file."""

    @property
    def title(self) -> str:
        return f"{self.config}, {self.preset}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Train(Common):
    """Training: samples/s, TFLOP/s, memory."""

    batches: int = 8
    """Batches that are timed, the first of a shuffled epoch."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decode(Common):
    """Generation: tokens/s, GB/s, prefill, and what continuous batching gains."""

    kv_cache: Literal["last_pass", "per_pass"] | None = None
    """Keys and values kept of the recursion (default: the preset's)."""
    head: Literal["trm", "backbone"] = "trm"
    """backbone: leave the recursion out; the peer is then transformers."""
    prompt_length: int | None = None
    """Tokens of each prompt (default: of GSM8K's median question)."""
    new_tokens: int | None = None
    """Tokens of each answer (default: of GSM8K's median answer)."""
    questions: int = 128
    """Questions of GSM8K, with their own lengths, for continuous against static batches; 0 leaves that out."""


def main(options: Train | Decode) -> None:
    options.require(1, "batch_size", "repeats")
    trm_config = TRMConfig.preset(options.preset, **cli.given(options, TRMConfig))
    if options.json:  # before the timings, not behind them
        options.json.parent.mkdir(parents=True, exist_ok=True)
    figures = (train if isinstance(options, Train) else decode)(options, trm_config)
    if options.json:
        settings = {name: value for name, value in vars(options).items() if name != "json"}
        settings |= {name: getattr(trm_config, name) for name in LOOPS}
        write_whole(options.json, json.dumps({"settings": settings} | figures, indent=1) + "\n")


def train(options: Train, trm_config: TRMConfig) -> dict[str, Any]:
    options.require(1, "batches")
    from trm_jax.benchmark import SIZES, TrainingBenchmark, prepare_device
    from trm_jax.hardware import choose_mesh, require_rows
    from trm_jax.model import choose_attention

    dtype = prepare_device(options.device, options.dtype, shared=options.peer == "torch")
    choose_attention(options.attention)
    choose_mesh(options.mesh)
    require_rows(options.batch_size)
    train_config = TrainConfig(batch_size=options.batch_size, dtype=dtype)
    benchmark = TrainingBenchmark(
        SIZES[options.config], trm_config, train_config, batches=options.batches, repeats=options.repeats
    )
    speed = benchmark.measure(peers(options, "make_training_peers"))
    print(speed.describe(options.title))
    return speed.to_json()


def decode(options: Decode, trm_config: TRMConfig) -> dict[str, Any]:
    options.require(1, "prompt_length")
    options.require(2, "new_tokens")  # the first one comes with the prefill, the others are timed by themselves
    options.require(0, "questions")
    from trm_jax.benchmark import SIZES, DecodingBenchmark, prepare_device
    from trm_jax.hardware import choose_mesh, require_rows
    from trm_jax.model import choose_attention

    dtype = prepare_device(options.device, options.dtype, shared=options.peer == "torch")
    choose_attention(options.attention)
    choose_mesh(options.mesh)
    require_rows(options.batch_size)
    chosen = ("kv_cache", "head", "batch_size", "prompt_length", "new_tokens", "repeats")
    own = {name: getattr(options, name) for name in chosen}
    benchmark = DecodingBenchmark(SIZES[options.config], trm_config, dtype, **own)
    benchmark.require_length(options.questions)  # before the timings, not behind them
    speed = benchmark.measure(peers(options, "make_decoding_peers"))
    print(speed.describe(options.title))
    if not options.questions:
        return speed.to_json()
    batching = benchmark.measure_batching(options.questions)
    print(f"\n{batching.describe()}")
    return speed.to_json() | {"batching": batching.to_json()}


def peers(options: Common, name: str) -> Callable | None:
    """What makes the peers: a function of that name in tests/reference/timing.py, imported when it is called."""
    if options.peer == "none":
        return None
    sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
    return lambda *args: getattr(importlib.import_module("tests.reference.timing"), name)(*args)


if __name__ == "__main__":
    cli.run(main, Train | Decode, __doc__)
