"""Trains a Tiny Recursive Model on a frozen backbone, with deep supervision. Without options: on the embedded demo."""

import dataclasses
import pathlib
import sys
from typing import Any, Literal

import tyro

EVAL_BATCH, MAX_NEW_TOKENS = 8, 512  # of the evaluation at the end


@dataclasses.dataclass(frozen=True)
class Options:
    model: pathlib.Path = pathlib.Path("runs/model")
    """Model folder, from convert_qwen.py."""
    output: pathlib.Path = pathlib.Path("runs/train")
    """Training folder; an unfinished run in it is resumed."""
    data: str = "demo"
    """Training set: gsm8k (from the hub), demo, or a .jsonl file with question and answer."""
    eval_data: str | None = None
    """Held-out set for the evaluation at the end (default: the test split of --data; for a file: none)."""
    eval_limit: int = 256
    """Questions of the evaluation at the end; 0 leaves it out."""
    preset: Literal["residual", "mathllm"] = "residual"
    """residual: starts at the backbone's accuracy. mathllm: the original in everything."""
    latent_updates: int | None = None
    """n, updates of z in a pass (default 6; demo 2)."""
    recursions: int | None = None
    """T, passes in a supervision step (default 3; demo 2)."""
    supervision_steps: int | None = None
    """N_sup, supervision steps on each batch, an optimizer step after each (default 16; demo 2)."""
    epochs: int | None = None
    """Times through the training set (default 1; demo 2)."""
    max_batches: int | None = None
    """Stop after this many batches (default: none; demo 600)."""
    num_samples: int | None = None
    """Use only the first so many rows of the training set."""
    batch_size: int | None = None
    """Rows in a micro-batch (default 8; demo 48)."""
    accumulation: int | None = None
    """Micro-batches in a batch, whose gradients are summed (default 1)."""
    learning_rate: float | None = None
    """Peak learning rate (default 1e-4; demo 3e-3)."""
    alpha_rate: float | None = None
    """Factor on the learning rate for alpha, the weight of the residual readout (default 1; demo 15)."""
    weight_decay: float | None = None
    """AdamW's weight decay, on all weights (default 0.01)."""
    warmup_steps: int | None = None
    """Optimizer steps of linear warm-up (default 0; demo 40)."""
    ema_decay: float | None = None
    """Decay of the weights' moving average, per optimizer step (default 0.999; demo 0.98)."""
    max_length: int | None = None
    """Longer examples are dropped and counted, tokens (default 1024; demo 128)."""
    keep_annotations: bool = False
    """Keep GSM8K's calculator marks, <<48/2=24>>, in the solutions."""
    freeze_head: bool | None = None
    """Use the backbone's own output head, untrained (default: the preset's; residual freezes it, mathllm does not)."""
    save_every: int = 100
    """Batches between two checkpoints."""
    seed: int = 0
    """Seed of the initial weights and of the order of the data."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto stops if there is an NVIDIA GPU that JAX does not see."""
    dtype: Literal["bfloat16", "float32"] | None = None
    """Type to compute in; master weights are float32 (default: bfloat16, float32 on a CPU)."""

    def given(self, *names: str) -> dict[str, Any]:
        """The options of these names that were set."""
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


def main(options: Options) -> None:
    from trm_jax.device import choose_device, compute_dtype, describe_device

    choose_device(options.device)
    from trm_jax import checkpoint, data, demo, train_loop
    from trm_jax.config import TRMConfig
    from trm_jax.model import QwenTRM, new_trm
    from trm_jax.report import compare_with_backbone
    from trm_jax.train import TrainConfig
    from trm_jax.weights import cast, count_weights

    on_demo = options.data == "demo"
    sizes = options.given("latent_updates", "recursions", "supervision_steps")
    if options.freeze_head is not None:
        sizes["frozen_head"] = options.freeze_head
    trm_config = TRMConfig.preset(options.preset, **((demo.TRM_SIZES if on_demo else {}) | sizes))
    names = (
        "epochs batch_size accumulation learning_rate alpha_rate weight_decay warmup_steps ema_decay max_length seed"
    )
    settings = (demo.TRAINING if on_demo else {}) | options.given(*names.split())
    train_config = TrainConfig(**settings, dtype=compute_dtype(options.dtype))

    tokenizer = checkpoint.load_tokenizer(options.model)
    rows = data.load_rows(options.data, "train")[: options.num_samples]
    examples, dropped = data.encode_examples(rows, tokenizer, train_config.max_length, options.keep_annotations)
    loader = data.Loader(examples, train_config.batch_size, train_config.accumulation, train_config.seed)
    limit = options.max_batches or (demo.MAX_BATCHES if on_demo else None)
    num_batches = min(filter(None, (loader.batches_per_epoch * train_config.epochs, limit)))
    run = train_loop.RunConfig(
        options.model,
        options.data,
        options.num_samples,
        options.keep_annotations,
        num_batches,
        trm_config,
        train_config,
    )
    train_loop.open_folder(options.output, run)

    backbone = checkpoint.load_backbone(checkpoint.model_folder(options.model), train_config.dtype)
    trm = new_trm(backbone, trm_config, train_config.seed)
    print(
        f"device        {describe_device()}, computing in {train_config.dtype}\n"
        f"weights       {count_weights(trm):,} trained, {count_weights(backbone):,} frozen\n"
        f"memory        about {train_loop.expected_memory(backbone, trm, run, loader) / 2**30:.2f} GiB expected\n"
        f"recursion     {options.preset}: n={trm_config.latent_updates}, T={trm_config.recursions}, "
        f"N_sup={trm_config.supervision_steps}, {trm_config.passes * trm_config.calls} block calls a token\n"
        f"data          {len(examples):,} rows, {dropped} dropped as longer than {train_config.max_length} tokens, "
        f"{len(loader.buckets)} lengths up to {loader.buckets[-1].length}, {100 * loader.waste():.1f} % padding\n"
        f"training      {num_batches:,} batches of {train_config.accumulation} x {train_config.batch_size} rows, "
        f"{run.optimizer_steps:,} optimizer steps"
    )
    state = train_loop.fit(options.output, run, backbone, trm, loader, options.save_every)
    print(f"trained {int(state.batches):,} batches; checkpoints, metrics.jsonl and loss.png are in {options.output}")

    held_out = options.eval_data or (options.data if options.data in data.NAMED_SETS else None)
    if options.eval_limit and held_out:
        model = QwenTRM(backbone, cast(state.ema, train_config.dtype))
        test_rows = data.load_rows(held_out, "test")[: options.eval_limit]
        size, longest = (demo.EVAL_BATCH, demo.MAX_NEW_TOKENS) if on_demo else (EVAL_BATCH, MAX_NEW_TOKENS)
        compare_with_backbone(model, tokenizer, test_rows, options.output, size, longest)


if __name__ == "__main__":
    options = tyro.cli(Options, description=__doc__)
    try:
        main(options)
    except ValueError as error:
        sys.exit(f"train.py: {error}")
