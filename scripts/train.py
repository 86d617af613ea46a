"""Trains a Tiny Recursive Model on a frozen backbone, with deep supervision. Without options: on the embedded demo."""

import dataclasses
import pathlib
from typing import Any, Literal

from trm_jax import cli, demo
from trm_jax.config import DataConfig, TrainConfig, TRMConfig
from trm_jax.errors import UserError

RENAMED = {"frozen_head": "freeze_head", "sources": "data", "weights": "data_weights"}
BY_PRESET = TRMConfig.preset_fields()
TRMOptions = cli.options_of(
    TRMConfig, leave_out=["tied", "rope_theta"], renamed=RENAMED, chosen_by_preset=BY_PRESET, for_demo=demo.DEFAULTS
)
TrainOptions = cli.options_of(TrainConfig, leave_out=["clip_norm", "dtype"], for_demo=demo.DEFAULTS)
DataOptions = cli.options_of(DataConfig, renamed=RENAMED)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(cli.ComputeOptions, cli.ProcessOptions, TrainOptions, TRMOptions, DataOptions):
    model: pathlib.Path | None = None
    """Model folder, from convert_qwen.py (default: runs/model, or that of --init-from)."""
    output: pathlib.Path = pathlib.Path("runs/train")
    """Training folder; an unfinished run in it is resumed."""
    init_from: str | None = None
    """Start from the weights of another run (training folder or one checkpoint below it, an exported folder, or
    USER/NAME[@REVISION] on the hub) and its architecture."""
    init_weights: Literal["ema", "raw"] | None = None
    """Of --init-from: the moving average of the weights, or these themselves (default: ema)."""
    preset: Literal["residual", "mathllm", "single", "layers"] | None = None
    """residual (the default): starts at the backbone's accuracy. mathllm: the original in everything. Controls of residual:
    single calls the block once each for z and y; layers has a block of its own for each block call of the loop counts."""
    inspect: bool = False
    """Show rows as they would be trained, and their lengths, then stop."""
    max_batches: int | None = None
    """Stop after this many batches (default: none; demo 600 unless --epochs is given)."""
    held_out: int = 128
    """Rows kept out of training, at most a tenth of each set, for a held-out loss at each checkpoint; 0 keeps none."""
    save_every: int = 100
    """Batches between two checkpoints, each with a held-out loss; the last two stay, and the best."""
    eval_data: str | None = None
    """Held-out set for the evaluation at the end (default: the test split of --data if that is gsm8k or demo, else none)."""
    eval_limit: int = 256
    """Questions of the evaluation at the end; 0 leaves it out."""
    cache_hidden: bool = False
    """Compute the backbone's hidden states of each row once, keep them on disk (below ~/.cache/trm_jax or XDG_CACHE_HOME),
    and train without the backbone's layers in memory; the results are the same."""
    track: Literal["none", "tensorboard", "wandb", "trackio"] = "none"
    """Send the metrics to a tracker, too; each is an extra of this package."""


def main(options: Options) -> None:
    from trm_jax.data import evaluation_rows, make_training_set, own_test_set
    from trm_jax.decoding import NoRoomError
    from trm_jax.evaluation import EvaluationError, compare_with_backbone
    from trm_jax.processes import several
    from trm_jax.training import hold_run, make_run

    options.require(1, "max_batches", "save_every")
    options.require(0, "held_out", "eval_limit")
    if options.streaming and options.max_batches is None:
        raise UserError("--streaming needs --max-batches: a stream does not tell how long it is")
    if options.streaming and options.epochs is not None:
        raise UserError("--epochs: a stream has no end; --max-batches alone says how long to train")
    if options.init_weights is not None and options.init_from is None:
        raise UserError("--init-weights is of --init-from, which is not given")
    options.join()
    dtype = options.prepare()
    data = DataConfig(**cli.given(options, DataConfig, RENAMED))
    usual = demo.DEFAULTS if data.sources == ("demo",) else {}
    train = TrainConfig(**cli.usual(TrainConfig, usual) | cli.given(options, TrainConfig) | {"dtype": dtype})
    model, recursion, trm, init = starting_point(options, usual)
    training_set = make_training_set(data, train, model.tokenizer, options.held_out)
    if options.inspect:
        print(training_set.inspect(model.tokenizer, train.max_length))
        return
    # Before the training, which takes long: what the evaluation at its end could not read is refused now.
    rows = evaluation_rows(data, options.eval_data, options.eval_limit)
    max_batches = options.max_batches or (usual.get("max_batches") if options.epochs is None else None)
    sizes = options.held_out, max_batches
    run = make_run(model, data, trm, train, training_set, *sizes, init, options.cache_hidden)
    with hold_run(options.output, run.config, model.path, options.init_from and recursion):
        print(run.describe(recursion))
        outcome, trained = run.train(options.output, options.save_every, options.track)
    print(outcome.describe(options.output))
    if outcome.finished and rows and several():
        data = f" --data {options.eval_data}" if options.eval_data else ""
        print(f"not evaluated, with several processes; one can: eval_gsm8k.py --checkpoint {options.output}{data}")
    elif outcome.finished and rows:
        asked = options.eval_data or own_test_set(data.sources)
        longest = cli.longest_completion(asked, model.backbone_config.max_length)
        try:
            print(compare_with_backbone(trained(), model.tokenizer, rows, options.output, longest))
        except (NoRoomError, EvaluationError) as error:
            print(f"the evaluation does not fit; eval_gsm8k.py can do it with other options. {error}")
    elif outcome.finished and options.eval_limit:
        print("not evaluated: no --eval-data is given, and a test split is known of gsm8k and of demo alone")


def starting_point(options: Options, usual: dict[str, Any]):
    """The model folder, what the recursion is called, its config, and its weights where another run has trained them."""
    from trm_jax.checkpoints import open_folder
    from trm_jax.publishing import open_checkpoint

    changes = cli.given(options, TRMConfig, RENAMED)
    if options.init_from is None:
        preset = options.preset or "residual"
        trm = TRMConfig.preset(preset, **cli.usual(TRMConfig, usual) | changes)
        return open_folder(options.model or "runs/model").model, preset, trm, None
    if options.preset is not None:
        raise UserError("--preset: with --init-from the recursion is that run's; name the options that are to differ")
    saved = open_checkpoint(options.init_from, options.model)
    model = open_folder(options.model).model if options.model else saved.folder.model
    weights = options.init_weights or "ema"
    init = saved.load_trm(weights == "ema")
    trm = dataclasses.replace(saved.trm_config, **changes)
    return model, f"{weights} weights of {saved.path}", trm, init


if __name__ == "__main__":
    cli.run(main, Options, __doc__)
