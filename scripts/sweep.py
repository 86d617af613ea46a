"""Decodes a checkpoint in several ways on the same questions: a table, a plot. Without options: the demo run of train.py."""

import dataclasses
import pathlib
from typing import Literal

import tyro

from trm_jax import cli
from trm_jax.errors import UserError

LABELS = {
    "depth": "supervision steps (0: the backbone), passes a step where they are not as trained",
    "kv_cache": "key/value cache",
    "early_exit": "early exit, threshold in nats",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(cli.AnswerOptions):
    over: tyro.conf.Positional[Literal["depth", "kv_cache", "early_exit"]]
    """depth: supervision steps, none (the backbone) to many, and passes in a step. kv_cache: both policies. early_exit:
    thresholds, against all supervision steps."""
    checkpoint: str = "runs/train"
    """Training folder, one checkpoint below it, a model folder, an exported folder, or USER/NAME[@REVISION] on the hub."""
    model: pathlib.Path | None = None
    """Model folder with the backbone, for an exported model (default: found, or fetched) or a run whose model was moved."""
    data: str = "demo"
    """Questions: gsm8k (the hub's test split), demo, a hub id, or a file or folder of rows."""
    output: pathlib.Path | None = None
    """Folder for the table (.md), the plot (.png) and the figures (.json) (default: CHECKPOINT/sweeps)."""
    limit: int | None = 500
    """Only the first so many questions."""
    batch_size: int | None = 64
    """Rows generated together."""
    supervision_steps: int | None = None
    """Supervision steps a token, where they do not vary (default: as trained)."""
    depths: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    """Of supervision steps; those trained with come by themselves."""
    recursions: tuple[int, ...] = (1, 2, 4)
    """Of passes in a supervision step, where the depth varies."""
    thresholds: tuple[float, ...] = (0.0001, 0.001, 0.01, 0.1, 1.0)
    """Of early exit, in nats."""


def main(options: Options) -> None:
    options.require(1, "limit", "batch_size", "supervision_steps", "max_new_tokens")
    if not all(number >= 1 for number in (*options.depths, *options.recursions)):
        raise UserError("--depths and --recursions must be at least 1")
    if options.over != "depth":
        options.refuse("is of the sweep over depth", "depths", "recursions")
    if options.over != "early_exit":
        options.refuse("is of the sweep over early_exit", "thresholds")
    from trm_jax.data import question_rows
    from trm_jax.experiments import depths, early_exits, kv_caches, sweep, sweep_table, write_sweep
    from trm_jax.hardware import describe_device
    from trm_jax.model import for_decoding
    from trm_jax.publishing import open_checkpoint

    dtype = options.prepare()
    saved = open_checkpoint(options.checkpoint, options.model)
    model = for_decoding(saved.load(dtype), donate=True)
    rows = question_rows(options.data, "test", options.columns, options.limit)
    print(f"{describe_device()}, {len(rows)} questions of {options.data}, {saved.label}")
    if options.over == "depth":
        ways = depths(model, options.depths, options.recursions, options.supervision_steps)
    elif options.over == "kv_cache":
        ways = kv_caches(model, options.supervision_steps)
    else:
        ways = early_exits(model, options.thresholds, options.supervision_steps)
    max_new_tokens = options.longest(options.data, model.backbone.config.max_length)
    found = sweep(model, saved.tokenizer, rows, ways, options.batch_size, max_new_tokens)
    print(sweep_table(found))
    path = (options.output or saved.results / "sweeps") / options.over
    write_sweep(found, rows, path, LABELS[options.over])
    print(f"table, plot and figures are in {path}.*")


if __name__ == "__main__":
    cli.run(main, Options, __doc__)
