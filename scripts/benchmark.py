"""Speed and memory with random weights and the lengths of real GSM8K rows."""

import dataclasses
import json
import os
import pathlib
import sys
from typing import Literal

import tyro

Size = Literal["demo", "width-128", "width-512", "qwen2.5-0.5b", "qwen2.5-math-1.5b", "qwen2.5-math-7b"]


@dataclasses.dataclass(frozen=True)
class Train:
    """Training: samples/s, TFLOP/s, memory."""

    config: Size = "demo"
    """Dimensions of the backbone."""
    preset: Literal["residual", "mathllm"] = "residual"
    """Kind of recursion."""
    latent_updates: int = 6
    """n, updates of z in a pass."""
    recursions: int = 3
    """T, passes in a supervision step."""
    supervision_steps: int = 16
    """N_sup, supervision steps on each batch."""
    batch_size: int = 8
    """Rows in a batch."""
    batches: int = 8
    """Batches that are timed, the first of a shuffled epoch."""
    repeats: int = 3
    """Runs of each batch, of which the median counts."""
    peer: Literal["none", "torch"] = "none"
    """torch: also time the same rows in PyTorch, at equal shapes and by the original's recipe (from a checkout)."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""
    dtype: Literal["bfloat16", "float32"] | None = None
    """Type to compute in (default: bfloat16, float32 on a CPU)."""
    json: pathlib.Path | None = None
    """Write the figures to this file."""


def train(options: Train) -> None:
    dtype = start(options)
    from trm_jax.benchmark.measure import matmul_rate
    from trm_jax.benchmark.sizes import SIZES, random_backbone
    from trm_jax.benchmark.training import Training, gsm8k_batches, measure_training
    from trm_jax.config import TrainConfig, TRMConfig
    from trm_jax.device import describe_device

    backbone = random_backbone(SIZES[options.config], dtype)
    trm_config = TRMConfig.preset(
        options.preset,
        latent_updates=options.latent_updates,
        recursions=options.recursions,
        supervision_steps=options.supervision_steps,
    )
    train_config = TrainConfig(batch_size=options.batch_size, dtype=dtype)
    batches = gsm8k_batches(SIZES[options.config], options.batch_size, options.batches)

    def make_peers():
        if options.peer == "none":
            return {}
        from tests.reference.timing import make_training_peers

        return make_training_peers(backbone, trm_config, train_config)

    rate = matmul_rate(dtype) / 1e12
    speed = measure_training(Training(backbone, trm_config, train_config), batches, options.repeats, make_peers)
    found = speed.to_json() | {"matmul_tflops": rate, "device": describe_device()}
    print(
        f"training {options.config}, {options.preset}, n={options.latent_updates}, T={options.recursions}, "
        f"N_sup={options.supervision_steps}, {dtype}, on {found['device']}\n"
        f"rows          {speed.rows} in batches of {options.batch_size}, {speed.answer_tokens:,} answer tokens\n"
        f"compiling     {speed.compile_seconds:.1f} s, {speed.programs} programs\n"
        f"peak memory   {speed.peak_memory / 2**30:.2f} GiB\n"
        f"matmuls       {speed.tflops:.3g} TFLOP/s, {100 * speed.tflops / rate:.0f} % of the {rate:.3g} measured here\n"
    )
    print(f"{'':32}{'samples/s':>12}{'answer tokens/s':>18}{'trm_jax is':>14}")
    for name, run in found["seconds"].items():
        ratio = f"{run['ratio']:.2f} x as fast" if name != "trm_jax" else ""
        print(f"{name:32}{run['samples_per_second']:12.3g}{run['answer_tokens_per_second']:18,.0f}{ratio:>16}")
    write(options, found)


def start(options) -> str:
    """Chooses the device, makes room for the peer on it, and returns the type to compute in."""
    if options.peer == "torch":
        # PyTorch shares the GPU's memory, and its reference implementation lies with the tests.
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
        sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
    from trm_jax.device import choose_device, compute_dtype

    choose_device(options.device)
    import jax

    jax.config.update("jax_enable_compilation_cache", False)  # compiling is timed
    return compute_dtype(options.dtype)


def write(options, found: dict) -> None:
    if options.json:
        settings = {name: value for name, value in vars(options).items() if name != "json"}
        options.json.write_text(json.dumps({"settings": settings} | found, indent=1) + "\n")


def main(options: Train) -> None:
    train(options)


if __name__ == "__main__":
    options = tyro.extras.subcommand_cli_from_dict({"train": Train}, description=__doc__)
    try:
        main(options)
    except ValueError as error:
        sys.exit(f"benchmark.py: {error}")
