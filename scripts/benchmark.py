"""Speed and memory with random weights and the lengths of real GSM8K rows."""

import dataclasses
import json
import os
import pathlib
import sys
from typing import Literal

from trm_jax import cli

Size = Literal["demo", "width-128", "width-512", "qwen2.5-0.5b", "qwen2.5-math-1.5b", "qwen2.5-math-7b"]


@dataclasses.dataclass(frozen=True)
class Common(cli.CommonOptions):
    config: Size = "demo"
    """Dimensions of the backbone."""
    preset: Literal["residual", "mathllm"] = "residual"
    """Kind of recursion."""
    latent_updates: int = 6
    """n, updates of z in a pass."""
    recursions: int = 3
    """T, passes in a supervision step."""
    supervision_steps: int = 16
    """N_sup, supervision steps on each batch, or for each token."""
    batch_size: int = 8
    """Rows in a batch."""
    repeats: int = 3
    """Runs, of which the median counts."""
    peer: Literal["none", "torch"] = "none"
    """torch: also time PyTorch on the same rows (from a checkout); see the README."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""
    dtype: Literal["bfloat16", "float32"] | None = None
    """Type to compute in (default: bfloat16, float32 on a CPU)."""
    json: pathlib.Path | None = None
    """Write the figures to this file."""


@dataclasses.dataclass(frozen=True)
class Train(Common):
    """Training: samples/s, TFLOP/s, memory."""

    batches: int = 8
    """Batches that are timed, the first of a shuffled epoch."""


@dataclasses.dataclass(frozen=True)
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


def train(options: Train) -> None:
    options.require(1, "batches")
    dtype = start(options)
    from trm_jax.benchmark.measure import matmul_rate
    from trm_jax.benchmark.sizes import SIZES, random_backbone
    from trm_jax.benchmark.training import Training, gsm8k_batches, measure_training
    from trm_jax.config import TrainConfig
    from trm_jax.hardware.devices import describe_device

    backbone = random_backbone(SIZES[options.config], dtype)
    trm_config = recursion(options)
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
        f"training {describe(options)}, {dtype}, on {found['device']}\n"
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


def decode(options: Decode) -> None:
    options.require(1, "prompt_length", "new_tokens")
    options.require(0, "questions")
    dtype = start(options)
    from trm_jax.benchmark.decoding import measure_batching, measure_decoding, median_lengths
    from trm_jax.benchmark.measure import copy_bandwidth, matmul_rate
    from trm_jax.benchmark.sizes import SIZES, random_backbone
    from trm_jax.decoding.generate import decode_config
    from trm_jax.hardware.devices import describe_device
    from trm_jax.model.layout import for_decoding
    from trm_jax.model.qwen_trm import QwenTRM, new_trm
    from trm_jax.model.weights import cast

    backbone = random_backbone(SIZES[options.config], dtype)
    model = QwenTRM(backbone, cast(new_trm(backbone, recursion(options)), dtype))
    config = decode_config(model, kv_cache=options.kv_cache, head=options.head, eos_token_ids=[])
    prompt, answer = median_lengths()
    lengths = options.prompt_length or prompt, options.new_tokens or answer

    def make_peers(new_tokens):
        if options.peer == "none":
            return {}
        from tests.reference.timing import make_decoding_peers

        return make_decoding_peers(QwenTRM(backbone, model.trm), config, dtype, new_tokens)

    bandwidth, matmuls = copy_bandwidth(), matmul_rate(dtype)
    decoding_model = for_decoding(model)
    if options.peer == "none":
        del model, backbone
    speed = measure_decoding(decoding_model, config, options.batch_size, *lengths, options.repeats, make_peers)
    found = speed.to_json() | {"copy_bandwidth": bandwidth, "matmul_rate": matmuls, "device": describe_device()}
    rate, flops = found["bytes_per_second"], found["flops_per_second"]
    print(
        f"decoding {describe(options)}, {config.head}, {config.kv_cache}, {dtype}, on {found['device']}\n"
        f"rows          {options.batch_size}, prompts of {lengths[0]} tokens, {lengths[1]} new ones\n"
        f"compiling     {speed.compile_seconds:.1f} s\n"
        f"peak memory   {speed.peak_memory / 2**30:.2f} GiB\n"
        f"prefill       {1e3 * speed.prefill_seconds:.1f} ms\n"
        f"token step    {1e3 * speed.step_seconds:.2f} ms, in which {speed.bytes_per_step / 1e9:.3g} GB must be read: "
        f"{rate / 1e9:.3g} GB/s, {100 * rate / bandwidth:.0f} % of the {bandwidth / 1e9:.3g} of a copy here\n"
        f"matmuls       {flops / 1e12:.3g} TFLOP/s, {100 * flops / matmuls:.0f} % of {matmuls / 1e12:.3g} measured here\n"
    )
    print(f"{'':16}{'tokens/s':>12}{'s/sample':>12}{'same tokens':>14}{'trm_jax is':>14}")
    for name, run in found["seconds"].items():
        ratio = f"{100 * speed.same_tokens[name]:.0f} %{run['ratio']:10.2f} x as fast" if name != "trm_jax" else ""
        print(f"{name:16}{run['tokens_per_second']:12,.1f}{run['seconds_per_sample']:12.3f}{ratio:>30}")
    if options.questions:
        spent = measure_batching(decoding_model, config, options.questions, options.batch_size)
        found["batching"] = {"questions": options.questions, "seconds": spent}
        print(
            f"\n{options.questions} questions with GSM8K's lengths: continuous {spent['continuous']:.1f} s "
            f"({spent['continuous'] / options.questions:.3f} s a sample), in whole batches {spent['static']:.1f} s, "
            f"{spent['static'] / spent['continuous']:.2f} times as long"
        )
    write(options, found)


def recursion(options: Common):
    from trm_jax.config import TRMConfig

    names = ("latent_updates", "recursions", "supervision_steps")
    return TRMConfig.preset(options.preset, **{name: getattr(options, name) for name in names})


def describe(options: Common) -> str:
    loops = f"n={options.latent_updates}, T={options.recursions}, N_sup={options.supervision_steps}"
    return f"{options.config}, {options.preset}, {loops}"


def start(options) -> str:
    """Chooses the device, makes room for the peer on it, and returns the type to compute in."""
    if options.peer == "torch":
        # PyTorch shares the GPU's memory, and its reference implementation lies with the tests.
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
        sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
    from trm_jax.hardware.devices import choose_device, compute_dtype

    choose_device(options.device)
    import jax

    jax.config.update("jax_enable_compilation_cache", False)  # compiling is timed
    return compute_dtype(options.dtype)


def write(options, found: dict) -> None:
    if options.json:
        settings = {name: value for name, value in vars(options).items() if name != "json"}
        options.json.write_text(json.dumps({"settings": settings} | found, indent=1) + "\n")


def main(options: Train | Decode) -> None:
    options.require(1, "batch_size", "repeats")
    train(options) if isinstance(options, Train) else decode(options)


if __name__ == "__main__":
    cli.run(main, Train | Decode, __doc__)
