"""Evaluates a model on GSM8K or a set like it, question by question. Without options: the demo run of train.py."""

import dataclasses
import functools
import pathlib
from typing import Literal

from trm_jax import cli


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(cli.AnswerOptions, cli.ProcessOptions):
    checkpoint: str = "runs/train"
    """Training folder, one checkpoint below it, a model folder (its recursion untrained, unless imported), an exported
    folder, or USER/NAME[@REVISION], an exported model on the hub."""
    model: pathlib.Path | None = None
    """Model folder with the backbone, for an exported model (default: found, or fetched) or a run whose model was moved."""
    data: str | None = None
    """Questions: gsm8k (the hub's test split), demo, a hub id, a file or folder of rows (default: as trained or gsm8k)."""
    output: pathlib.Path | None = None
    """The .jsonl file to write, the summary goes beside it (default: in CHECKPOINT/evaluation, named by the settings)."""
    supervision_steps: int | None = None
    """Supervision steps a token (default: as trained)."""
    kv_cache: Literal["last_pass", "per_pass"] | None = None
    """Keys and values of the last pass only, or of every pass, which is exact (default: the model's)."""
    head: Literal["trm", "backbone"] = "trm"
    """backbone: leave the recursion out."""
    early_exit: float | None = None
    """End a token's supervision steps once its distribution moves by less than this, in nats (default: never)."""
    samples: int = 1
    """Completions drawn for each question, of which the majority counts; several need a temperature."""
    temperature: float = 0.0
    """0: the most likely token."""
    top_p: float = 1.0
    """Draw from the most likely tokens that together have this probability."""
    seed: int = 0
    """Of the draws."""
    weights: Literal["ema", "raw"] = "ema"
    """The moving average of the trained weights, or these themselves."""
    skip_unreadable: bool = False
    """Leave out rows whose solution states no answer, and count them."""
    too_long: Literal["wrong", "left_out"] = "wrong"
    """Questions that do not fit into the backbone's length with --max-new-tokens: count them as wrong, or leave them out."""


def main(options: Options) -> None:
    from trm_jax.data import own_test_set, question_rows
    from trm_jax.decoding import Sampling, decode_config, generate_each
    from trm_jax.evaluation import evaluate, file_name, settings_of, show_summary, summarize
    from trm_jax.hardware import describe_device
    from trm_jax.model import for_decoding
    from trm_jax.processes import is_first
    from trm_jax.publishing import open_checkpoint

    options.require(1, "limit", "batch_size", "supervision_steps", "max_new_tokens", "samples")
    options.require(0, "seed")
    if options.temperature == 0:
        options.refuse(cli.OF_DRAWS, "top_p", "seed")
    if options.head == "backbone":
        options.refuse(cli.OF_RECURSION, "supervision_steps", "kv_cache", "early_exit", "weights")
    options.join()
    dtype = options.prepare(each_process=True)
    saved = open_checkpoint(options.checkpoint, options.model)
    data = options.data or own_test_set(saved.trained_on) or "gsm8k"
    model = saved.load(dtype, use_ema=options.weights == "ema")
    rows = question_rows(data, "test", options.columns, options.limit, options.skip_unreadable)
    config = decode_config(
        model,
        options.supervision_steps,
        options.kv_cache,
        head=options.head,
        early_exit=options.early_exit,
    )
    max_new_tokens = options.longest(data, model.backbone.config.max_length)
    draws = {"samples": options.samples, "sampling": Sampling(options.temperature, options.top_p, options.seed)}
    settings = settings_of(saved, model, config, data, max_new_tokens, dtype, options.weights, **draws)
    if options.too_long != "wrong":
        settings["long_questions"] = options.too_long
    output = options.output or saved.results / "evaluation" / file_name(settings)
    print(f"{describe_device()}, {len(rows)} questions of {data}, answers in {output}")

    model = for_decoding(model, donate=True)
    sizes = {"batch_size": options.batch_size, "max_new_tokens": max_new_tokens}
    generate = functools.partial(generate_each, model, config=config, **sizes, **draws)
    fits = {"longest_prompt": model.backbone.config.max_length - max_new_tokens, "too_long": options.too_long}
    answers = evaluate(rows, saved.tokenizer, generate, output, settings, options.samples, label="answered", **fits)
    if is_first():
        print(show_summary(summarize(answers, len(rows)), options.samples, options.early_exit))


if __name__ == "__main__":
    cli.run(main, Options, __doc__)
