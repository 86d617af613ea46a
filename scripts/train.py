"""Trains a Tiny Recursive Model on a frozen backbone, with deep supervision. Without options: on the embedded demo."""

import dataclasses
import pathlib
from typing import TYPE_CHECKING, Any, Literal

from trm_jax import cli
from trm_jax.errors import UserError

if TYPE_CHECKING:
    from trm_jax.config import TrainConfig, TRMConfig
    from trm_jax.data.datasets import DataConfig
    from trm_jax.data.training_set import TrainingSet
    from trm_jax.training.loop import RunConfig

EVAL_BATCH, MAX_NEW_TOKENS = 8, 512  # of the evaluation at the end


@dataclasses.dataclass(frozen=True)
class Options(cli.CommonOptions):
    model: pathlib.Path = pathlib.Path("runs/model")
    """Model folder, from convert_qwen.py."""
    output: pathlib.Path = pathlib.Path("runs/train")
    """Training folder; an unfinished run in it is resumed."""
    data: tuple[str, ...] = ("demo",)
    """Training set: gsm8k, demo, a hub id (id:configuration), or a .jsonl file; several make a mixture."""
    data_weights: tuple[float, ...] = ()
    """Shares of the sets in a mixture (default: equal)."""
    question_column: str | None = None
    """Column of the question (default: question or problem)."""
    answer_column: str | None = None
    """Column of the worked solution (default: answer or solution)."""
    streaming: bool = False
    """Never hold the whole set in memory; needs --max-batches."""
    inspect: bool = False
    """Show rows as they would be trained, and their lengths, then stop."""
    eval_data: str | None = None
    """Held-out set for the evaluation at the end (default: the test split of --data; for a file: none)."""
    held_out: int = 128
    """Rows kept out of training, at most a tenth, for a held-out loss at each checkpoint; 0 keeps none."""
    eval_limit: int = 256
    """Questions of the evaluation at the end; 0 leaves it out."""
    preset: Literal["residual", "mathllm", "single", "layers"] = "residual"
    """residual: starts at the backbone's accuracy. mathllm: the original in everything. Controls of residual: single calls
    the block once each for z and y; layers has a block of its own for each block call of the loop counts."""
    block: Literal["plain", "post_norm"] | None = None
    """Without residuals, as the original, or with residuals and norms behind them (default: the preset's)."""
    context: Literal["last", "mix"] | None = None
    """What the recursion sees: the last hidden state, or four levels of the backbone too (default: the preset's)."""
    readout: Literal["replace", "residual"] | None = None
    """The head reads the answer state, or the backbone's last hidden state moved by it (default: the preset's)."""
    kv_cache: Literal["last_pass", "per_pass"] | None = None
    """What decoding keeps of the recursion, as the model's own setting (default: the preset's)."""
    latent_updates: int | None = None
    """n, updates of z in a pass (default 6; demo 1)."""
    recursions: int | None = None
    """T, passes in a supervision step (default 3; demo 1)."""
    supervision_steps: int | None = None
    """N_sup, supervision steps on each batch, an optimizer step after each (default 16; demo 2)."""
    num_kv_heads: int | None = None
    """Key/value heads of the block: fewer make the cache smaller (default: as many as query heads, as the original)."""
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
    optimizer: Literal["adamw", "muon"] | None = None
    """adamw (default), or muon for the block's matrices and adamw for the rest."""
    learning_rate: float | None = None
    """Peak learning rate (default 1e-4; demo 3e-3)."""
    alpha_rate: float | None = None
    """Factor on the learning rate for alpha, the weight of the residual readout (default 1; demo 15)."""
    weight_decay: float | None = None
    """Decoupled weight decay (default 0.01)."""
    decay: Literal["all", "matrices"] | None = None
    """Which weights decay (default all)."""
    warmup_steps: int | None = None
    """Optimizer steps of linear warm-up (default 0; demo 40)."""
    ema_decay: float | None = None
    """Decay of the weights' moving average, per optimizer step (default 0.999; demo 0.98)."""
    random_depth: bool = False
    """Draw each batch's supervision steps, up to N_sup, so that fewer steps work at test time."""
    depth_warmup: float | None = None
    """Share of the batches over which the supervision steps grow from one to N_sup (default 0)."""
    max_length: int | None = None
    """Longer examples are dropped and counted, tokens (default 1024; demo 128)."""
    keep_annotations: bool = False
    """Keep GSM8K's calculator marks, <<48/2=24>>, in the solutions."""
    freeze_head: bool | None = None
    """Use the backbone's own output head, untrained (default: the preset's; residual freezes it, mathllm does not)."""
    save_every: int = 100
    """Batches between two checkpoints, each with a held-out loss; the last two stay, and the best."""
    track: Literal["none", "tensorboard", "wandb", "trackio"] = "none"
    """Send the metrics to a tracker, too; each is an extra of this package."""
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
    from trm_jax.hardware.devices import choose_device

    choose_device(options.device)
    from trm_jax.checkpoints import folders
    from trm_jax.checkpoints import models as checkpoint
    from trm_jax.data.training_set import make_training_set
    from trm_jax.model.qwen_trm import QwenTRM, new_trm
    from trm_jax.model.weights import cast
    from trm_jax.training import loop as train_loop

    options.require(1, "max_batches", "save_every")
    options.require(0, "held_out", "eval_limit")
    if options.streaming and options.max_batches is None:
        raise UserError("--streaming needs --max-batches: a stream does not tell how long it is")
    trm_config, train_config, data_config = configs(options)
    folder = folders.model_folder(options.model)
    tokenizer = checkpoint.load_tokenizer(folder)
    training_set = make_training_set(data_config, train_config, tokenizer, options.held_out)
    if options.inspect:
        print(training_set.inspect(tokenizer, train_config.max_length))
        return
    num_batches = count_batches(options, training_set, train_config.epochs)
    run = train_loop.RunConfig(
        model=folder,
        backbone=folders.read_config(folder)["fingerprint"],
        data=data_config,
        rows_fingerprint=training_set.fingerprint,
        held_out=options.held_out,
        num_batches=num_batches,
        trm=trm_config,
        train=train_config,
    )
    memory = require_fit(run, training_set)
    with train_loop.open_folder(options.output, run):
        backbone = checkpoint.load_backbone(folder, train_config.dtype)
        trm = new_trm(backbone, trm_config, train_config.seed)
        print_plan(options, run, backbone, trm, training_set, memory)
        outcome = train_loop.fit(
            options.output,
            run,
            backbone,
            trm,
            training_set.loader,
            training_set.held_out,
            save_every=options.save_every,
            track=options.track,
        )
    trained = f"{int(outcome.state.batches):,} batches"
    if not outcome.finished:
        print(f"stopped and saved after {trained}; the same command goes on from there")
        return
    print(f"trained {trained}; checkpoints, metrics.jsonl and loss.png are in {options.output}")
    if outcome.best is not None:
        print(f"lowest held-out loss at batch {outcome.best}: {options.output / 'checkpoints' / str(outcome.best)}")
    model = QwenTRM(backbone, cast(outcome.state.ema, train_config.dtype))
    evaluate_at_end(options, model, tokenizer)


def configs(options: Options) -> "tuple[TRMConfig, TrainConfig, DataConfig]":
    """What the options say, the demo's own sizes for those not given on its data."""
    from trm_jax import demo
    from trm_jax.config import TrainConfig, TRMConfig
    from trm_jax.data.datasets import DataConfig
    from trm_jax.hardware.devices import compute_dtype

    on_demo = options.data == ("demo",)
    sizes = options.given(
        *(
            "latent_updates",
            "recursions",
            "supervision_steps",
            "num_kv_heads",
            "block",
            "context",
            "readout",
            "kv_cache",
        )
    )
    if options.freeze_head is not None:
        sizes["frozen_head"] = options.freeze_head
    trm_config = TRMConfig.preset(options.preset, **((demo.TRM_SIZES if on_demo else {}) | sizes))
    own = {field.name for field in dataclasses.fields(TrainConfig)} - {"dtype"}
    settings = (demo.TRAINING if on_demo else {}) | options.given(*own & vars(options).keys())
    train_config = TrainConfig(**settings, dtype=compute_dtype(options.dtype))
    data_config = DataConfig(
        sources=options.data,
        weights=options.data_weights,
        **options.given("question_column", "answer_column", "num_samples", "keep_annotations", "streaming"),
    )
    return trm_config, train_config, data_config


def count_batches(options: Options, training_set: "TrainingSet", epochs: int) -> int:
    from trm_jax import demo

    limit = options.max_batches or (demo.MAX_BATCHES if options.data == ("demo",) else None)
    whole = training_set.batches_per_epoch and training_set.batches_per_epoch * epochs
    return min(filter(None, (whole, limit)))


def require_fit(run: "RunConfig", training_set: "TrainingSet") -> int:
    """The memory that training needs, bytes, before anything large is read.

    Raises a UserError if it is not there, or if rows are longer than the backbone was trained for.
    """
    import jax

    from trm_jax.checkpoints.models import read_backbone_config
    from trm_jax.data.examples import DataError
    from trm_jax.model.qwen import abstract_qwen
    from trm_jax.model.qwen_trm import abstract_trm
    from trm_jax.model.weights import cast
    from trm_jax.training import loop as train_loop

    config, longest = read_backbone_config(run.model), training_set.loader.buckets[-1].length
    if longest > config.max_length:
        raise DataError(
            f"rows of {longest:,} tokens are longer than the backbone's {config.max_length:,}: lower --max-length"
        )
    backbone = jax.eval_shape(lambda weights: cast(weights, run.train.dtype), abstract_qwen(config))
    trm = abstract_trm(backbone, run.trm)
    memory = train_loop.expected_memory(backbone, trm, run, training_set.loader)
    train_loop.require_memory(memory)
    return memory


def print_plan(options: Options, run, backbone, trm, training_set: "TrainingSet", memory: int) -> None:
    from trm_jax.hardware.devices import describe_device
    from trm_jax.model.weights import count_weights

    config, train = run.trm, run.train
    held_out = 0 if training_set.held_out is None else len(training_set.held_out.examples)
    print(
        f"device        {describe_device()}, computing in {train.dtype}\n"
        f"weights       {count_weights(trm):,} trained, {count_weights(backbone):,} frozen\n"
        f"memory        about {memory / 2**30:.2f} GiB expected\n"
        f"recursion     {options.preset}: n={config.latent_updates}, T={config.recursions}, "
        f"N_sup={config.supervision_steps}, {config.passes * config.calls} block calls a token\n"
        f"data          {training_set.describe(train.max_length)}, {held_out} rows held out\n"
        f"training      {run.num_batches:,} batches of {train.accumulation} x {train.batch_size} rows, "
        f"{run.optimizer_steps:,} optimizer steps"
    )


def evaluate_at_end(options: Options, model, tokenizer) -> None:
    """Backbone alone against backbone + TRM, on the test split or on --eval-data."""
    from trm_jax import demo
    from trm_jax.data.datasets import SHORT_NAMES, load_rows
    from trm_jax.evaluation.report import compare_with_backbone

    own = options.data[0] if len(options.data) == 1 and options.data[0] in SHORT_NAMES else None
    source = options.eval_data or own
    if source is None or options.eval_limit == 0:
        return
    columns = (options.question_column, options.answer_column) if options.question_column else None
    rows = load_rows(source, "test", columns if options.eval_data else None)[: options.eval_limit]
    on_demo = options.data == ("demo",)
    size, longest = (demo.EVAL_BATCH, demo.MAX_NEW_TOKENS) if on_demo else (EVAL_BATCH, MAX_NEW_TOKENS)
    compare_with_backbone(model, tokenizer, rows, options.output, size, longest)


if __name__ == "__main__":
    cli.run(main, Options, __doc__)
