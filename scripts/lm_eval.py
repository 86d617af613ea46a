"""Runs tasks of lm-evaluation-harness on a model. Without options: the demo run of train.py, the demo's questions."""

import dataclasses
import json
import pathlib
import sys
from typing import Literal

from trm_jax import cli, demo

# Python puts the folder of the script first, where this file would be found in place of the package lm_eval.
sys.path[:] = [place for place in sys.path if pathlib.Path(place).resolve() != pathlib.Path(__file__).resolve().parent]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(cli.AnswerOptions):
    checkpoint: str = "runs/train"
    """Training folder, one checkpoint below it, a model folder, an exported folder, or USER/NAME[@REVISION] on the hub."""
    model: pathlib.Path | None = None
    """Model folder with the backbone, for an exported model (default: found, or fetched) or a run whose model was moved."""
    tasks: tuple[str, ...] = ("trm_gsm8k_chat",)
    """Names of tasks, lm-eval's or trm_gsm8k_chat and trm_gsm8k_fewshot, or task files."""
    data: str | None = None
    """Questions of the trm_ tasks, as eval_gsm8k.py takes them (default: as trained or gsm8k)."""
    output: pathlib.Path | None = None
    """The .json file to write, with every request and its response (default: none)."""
    supervision_steps: int | None = None
    """Supervision steps a token (default: as trained)."""
    kv_cache: Literal["last_pass", "per_pass"] | None = None
    """Keys and values of the last pass only, or of every pass, which is exact (default: the model's)."""
    head: Literal["trm", "backbone"] = "trm"
    """backbone: leave the recursion out."""
    weights: Literal["ema", "raw"] = "ema"
    """The moving average of the trained weights, or these themselves."""
    max_new_tokens: int | None = None
    """Tokens of the longest completion where a task has no limit of its own (default 1024; for the demo's questions 48)."""
    num_fewshot: int | None = None
    """Worked examples before each question (default: the task's)."""
    apply_chat_template: bool = False
    """Put the questions as conversations; trm_gsm8k_chat is always put so."""


def main(options: Options) -> None:
    from trm_jax.data import own_test_set
    from trm_jax.evaluation import run_harness
    from trm_jax.files import write_whole
    from trm_jax.publishing import open_checkpoint

    options.require(1, "limit", "batch_size", "supervision_steps", "max_new_tokens")
    options.require(0, "num_fewshot")
    if options.head == "backbone":
        options.refuse(cli.OF_RECURSION, "supervision_steps", "kv_cache", "weights")
    options.prepare()
    saved = open_checkpoint(options.checkpoint, options.model)
    data = options.data or own_test_set(saved.trained_on) or "gsm8k"
    names = ("head", "supervision_steps", "kv_cache", "dtype", "weights", "batch_size", "device")
    arguments = {name: getattr(options, name) for name in names} | {"checkpoint": saved}
    of_demo = data == "demo" and all(task.startswith("trm_") for task in options.tasks)
    arguments["max_gen_toks"] = options.max_new_tokens or (demo.DEFAULTS["max_new_tokens"] if of_demo else 1024)
    if options.output:  # before hours of work, not behind them
        options.output.parent.mkdir(parents=True, exist_ok=True)
    found = run_harness(
        arguments,
        list(options.tasks),
        data,
        options.columns,
        limit=options.limit,
        num_fewshot=options.num_fewshot,
        apply_chat_template=options.apply_chat_template or "trm_gsm8k_chat" in options.tasks,
    )
    for task, metrics in found["results"].items():
        for name, value in metrics.items():
            if isinstance(value, float):
                print(f"{task:20}  {name:32}  {value:.4f}")
    if options.output:
        write_whole(options.output, json.dumps(found, indent=2, default=str) + "\n")


if __name__ == "__main__":
    cli.run(main, Options, __doc__)
