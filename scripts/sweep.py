"""Decodes a checkpoint in several ways on the same questions: a table, a plot. Without options: the demo run of train.py."""

import dataclasses
import json
import pathlib
from typing import Literal

import tyro

from trm_jax import cli
from trm_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Options(cli.CommonOptions):
    over: tyro.conf.Positional[Literal["depth", "kv_cache", "early_exit"]]
    """depth: supervision steps, none (the backbone) to many, and passes in a step. kv_cache: both policies. early_exit:
    thresholds, against all supervision steps."""
    checkpoint: pathlib.Path = pathlib.Path("runs/train")
    """Training folder, or one checkpoint below it."""
    data: str = "demo"
    """Questions: gsm8k (the hub's test split), demo, or a .jsonl file."""
    output: pathlib.Path | None = None
    """Folder for the table (.md), the plot (.png) and the figures (.json) (default: CHECKPOINT/sweeps)."""
    limit: int = 500
    """Only the first so many questions."""
    batch_size: int = 64
    """Rows generated together."""
    supervision_steps: int | None = None
    """Supervision steps a token, where they do not vary (default: as trained)."""
    max_new_tokens: int | None = None
    """Tokens of the longest answer (default 512; demo 48)."""
    depths: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    """Of supervision steps; those trained with come by themselves."""
    recursions: tuple[int, ...] = (1, 2, 4)
    """Of passes in a supervision step, where the depth varies."""
    thresholds: tuple[float, ...] = (0.0001, 0.001, 0.01, 0.1, 1.0)
    """Of early exit, in nats."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto stops if there is an NVIDIA GPU that JAX does not see."""
    dtype: Literal["bfloat16", "float32"] | None = None
    """Type to compute in (default: bfloat16, float32 on a CPU)."""


def main(options: Options) -> None:
    from trm_jax.hardware.devices import choose_device, compute_dtype, describe_device

    options.require(1, "limit", "batch_size", "supervision_steps", "max_new_tokens")
    if not all(number >= 1 for number in (*options.depths, *options.recursions)):
        raise UserError("--depths and --recursions must be at least 1")
    choose_device(options.device)
    from trm_jax import demo
    from trm_jax.checkpoints import folders
    from trm_jax.checkpoints import models as checkpoint
    from trm_jax.data.datasets import load_rows
    from trm_jax.experiments.sweep import markdown, plot, sweep
    from trm_jax.model.layout import for_decoding

    chosen = checkpoint.resolve(options.checkpoint)
    model = for_decoding(checkpoint.load_resolved(chosen, compute_dtype(options.dtype)))
    tokenizer = checkpoint.load_tokenizer(options.checkpoint)
    rows = load_rows(options.data, "test")[: options.limit]
    print(f"{describe_device()}, {len(rows)} questions of {options.data}, {checkpoint.describe(chosen)}")
    longest = options.max_new_tokens or (demo.MAX_NEW_TOKENS if options.data == "demo" else 512)
    found = sweep(model, tokenizer, rows, ways(options, model), options.batch_size, longest)
    print(markdown(found))

    folder = options.output or folders.training_folder(options.checkpoint) / "sweeps"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / options.over
    path.with_suffix(".md").write_text(markdown(found) + "\n")
    path.with_suffix(".json").write_text(json.dumps([one.to_json() for one in found], indent=1) + "\n")
    labels = {
        "depth": "supervision steps (0: the backbone), passes a step where they are not as trained",
        "kv_cache": "key/value cache",
        "early_exit": "early exit, threshold in nats",
    }
    by_depth = sum(", T=" not in one.name for one in found)  # the other ways are no part of the curve
    plot(found, labels[options.over], path.with_suffix(".png"), joined=by_depth)
    print(f"table, plot and figures are in {path}.*")


def ways(options: Options, model) -> dict:
    """The ways to decode, by name; the first one is compared with."""
    from trm_jax.decoding.generate import decode_config

    if options.over == "depth":
        own = options.supervision_steps or model.trm.config.supervision_steps
        found = {"0": decode_config(model, head="backbone")}
        found |= {str(depth): decode_config(model, depth) for depth in sorted({own, *options.depths})}
        others = [passes for passes in options.recursions if passes != model.trm.config.recursions]
        return found | {f"{own}, T={passes}": decode_config(model, own, recursions=passes) for passes in others}
    if options.over == "kv_cache":
        policies = ("per_pass", "last_pass")
        return {policy: decode_config(model, options.supervision_steps, policy) for policy in policies}
    found = {"off": decode_config(model, options.supervision_steps)}
    for threshold in sorted(options.thresholds):
        found[f"{threshold:g}"] = decode_config(model, options.supervision_steps, early_exit=threshold)
    return found


if __name__ == "__main__":
    cli.run(main, Options, __doc__)
