"""Measures how likely a model finds worked solutions, backbone against backbone + TRM.

Each solution is read once, in one pass over all of its tokens, and nothing is generated. The figures are nats a token, of
which fewer are better. Without options: on the demo run of train.py.
"""

import dataclasses
import pathlib
from typing import Literal

from trm_jax import cli
from trm_jax.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(cli.ComputeOptions):
    checkpoint: str = "runs/train"
    """Training folder, one checkpoint below it, a model folder (its recursion untrained, unless imported), an exported
    folder, or USER/NAME[@REVISION], an exported model on the hub."""
    model: pathlib.Path | None = None
    """Model folder with the backbone, for an exported model (default: found, or fetched) or a run whose model was moved."""
    controls: tuple[str, ...] = ()
    """Other checkpoints on the same backbone, which are measured in the same pass."""
    data: str | None = None
    """Questions with solutions, as for eval_gsm8k.py (default: as trained or gsm8k)."""
    output: pathlib.Path | None = None
    """The .jsonl file to write, the summary goes beside it (default: in CHECKPOINT/likelihood, named by the settings)."""
    limit: int | None = None
    """Only the first so many questions."""
    batch_size: int = 8
    """Solutions that are read together."""
    weights: Literal["ema", "raw"] = "ema"
    """The moving average of the trained weights, or these themselves."""


def main(options: Options) -> None:
    from trm_jax.data import load_rows, own_test_set
    from trm_jax.evaluation import file_name, measure_solutions, show_losses
    from trm_jax.hardware import describe_device
    from trm_jax.model import QwenTRM, cast
    from trm_jax.publishing import open_checkpoint

    options.require(1, "limit", "batch_size")
    dtype = options.prepare()
    saved, use_ema = open_checkpoint(options.checkpoint, options.model), options.weights == "ema"
    data = options.data or own_test_set(saved.trained_on) or "gsm8k"
    rows = load_rows(data, "test")[: options.limit]
    model, backbone = saved.load(dtype, use_ema), saved.fingerprint()
    settings = {"measure": "nll", "data": data, "dtype": dtype, "checkpoint": saved.label, "weights": options.weights}
    settings |= {"supervision_steps": model.trm.config.supervision_steps, "fingerprint": saved.fingerprint(model)}
    settings["prompt_digest"] = saved.prompt_digest
    controls, fingerprints = {}, []
    for name in options.controls:
        control = open_checkpoint(name, options.model)
        if control.fingerprint() != backbone:
            raise UserError(f"--controls {name} is on another backbone than {options.checkpoint}")
        controls[name] = cast(control.load_trm(use_ema), dtype)
        fingerprints.append([name, control.fingerprint(QwenTRM(model.backbone, controls[name]))])
    if controls:
        settings["control_heads"] = fingerprints
    output = options.output or saved.results / "likelihood" / file_name(settings)
    print(f"{describe_device()}, {len(rows)} questions of {data}, losses in {output}")
    output.parent.mkdir(parents=True, exist_ok=True)
    heads, marks = (model.backbone, model.trm), saved.keeps_annotations
    losses = measure_solutions(rows, saved.tokenizer, *heads, output, settings, controls, options.batch_size, marks)
    print(show_losses(losses))


if __name__ == "__main__":
    cli.run(main, Options, __doc__)
