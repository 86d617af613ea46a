"""Evaluates a model on GSM8K or a set like it, question by question. Without options: the demo run of train.py."""

import dataclasses
import functools
import json
import pathlib
from typing import Literal

from trm_jax import cli
from trm_jax.errors import UserError
from trm_jax.files import write_whole


@dataclasses.dataclass(frozen=True)
class Options(cli.CommonOptions):
    checkpoint: pathlib.Path = pathlib.Path("runs/train")
    """Training folder, one checkpoint below it, or a model folder (its recursion untrained, unless imported)."""
    data: str | None = None
    """Questions: gsm8k (the hub's test split), demo, or a .jsonl file (default: as trained, else gsm8k)."""
    output: pathlib.Path | None = None
    """The .jsonl file to write, the summary goes beside it (default: in CHECKPOINT/evaluation, named by the settings)."""
    limit: int | None = None
    """Only the first so many questions."""
    batch_size: int | None = None
    """Rows generated together, one for each sample of a question (default 8; demo 64)."""
    supervision_steps: int | None = None
    """Supervision steps a token (default: as trained)."""
    max_new_tokens: int | None = None
    """Tokens of the longest answer (default 512; demo 48)."""
    kv_cache: Literal["last_pass", "per_pass"] | None = None
    """Keys and values of the last pass only, or of every pass, which is exact (default: the model's)."""
    head: Literal["trm", "backbone"] = "trm"
    """backbone: leave the recursion out."""
    early_exit: float | None = None
    """End a token's supervision steps once its distribution moves by less than this, in nats (default: never)."""
    samples: int = 1
    """Answers drawn for each question, of which the majority counts; several need a temperature."""
    temperature: float = 0.0
    """0: the most likely token."""
    top_p: float = 1.0
    """Draw from the most likely tokens that together have this probability."""
    seed: int = 0
    """Of the draws."""
    weights: Literal["ema", "raw"] = "ema"
    """The moving average of the trained weights, or these themselves."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto stops if there is an NVIDIA GPU that JAX does not see."""
    dtype: Literal["bfloat16", "float32"] | None = None
    """Type to compute in (default: bfloat16, float32 on a CPU)."""


def main(options: Options) -> None:
    from trm_jax.hardware.devices import choose_device, compute_dtype, describe_device

    options.require(1, "limit", "batch_size", "supervision_steps", "max_new_tokens", "samples")
    options.require(0, "seed")
    choose_device(options.device)
    from tqdm import tqdm

    from trm_jax import demo
    from trm_jax.checkpoints import folders
    from trm_jax.checkpoints import models as checkpoint
    from trm_jax.data.datasets import SHORT_NAMES, load_rows
    from trm_jax.decoding.generate import decode_config, generate_each
    from trm_jax.evaluation.evaluate import evaluate, file_name, require_same_settings, summarize
    from trm_jax.model.layout import for_decoding

    folder = folders.training_folder(options.checkpoint)
    config = folders.read_config(folder)
    trained_on = config.get("data", {}).get("sources", [])
    source = options.data or (trained_on[0] if trained_on in [[name] for name in SHORT_NAMES] else "gsm8k")
    on_demo = source == "demo"
    dtype = compute_dtype(options.dtype)
    chosen = checkpoint.resolve(options.checkpoint)
    model = checkpoint.load_resolved(chosen, dtype, use_ema=options.weights == "ema")
    tokenizer = checkpoint.load_tokenizer(options.checkpoint)
    rows = load_rows(source, "test")[: options.limit]
    max_new_tokens = options.max_new_tokens or (demo.MAX_NEW_TOKENS if on_demo else 512)
    settings = {"data": source, "head": options.head, "max_new_tokens": max_new_tokens, "dtype": dtype}
    if options.temperature > 0:
        settings |= {name: getattr(options, name) for name in ("samples", "temperature", "top_p", "seed")}
    elif options.samples > 1:
        raise UserError("--samples above 1 without --temperature would give the same answer each time")
    if options.head == "trm":
        settings |= {
            "checkpoint": checkpoint.describe(chosen),
            "weights": options.weights,
            "supervision_steps": options.supervision_steps or model.trm.config.supervision_steps,
            "kv_cache": options.kv_cache or model.trm.config.kv_cache,
        }
        if options.early_exit is not None:
            settings["early_exit"] = options.early_exit
    output = options.output or folder / "evaluation" / file_name(settings)
    settings["fingerprint"] = checkpoint.fingerprint(chosen, model if options.head == "trm" else None)
    require_same_settings(output, settings)
    model = for_decoding(model)
    print(f"{describe_device()}, {len(rows)} questions of {source}, answers in {output}")

    answer = functools.partial(
        generate_each,
        model,
        max_new_tokens=max_new_tokens,
        config=decode_config(
            model,
            options.supervision_steps,
            options.kv_cache,
            head=options.head,
            early_exit=options.early_exit,
            temperature=options.temperature,
            top_p=options.top_p,
        ),
        batch_size=options.batch_size or (demo.EVAL_BATCH if on_demo else max(8, options.samples)),
        samples=options.samples,
        seed=options.seed,
    )
    progress = functools.partial(tqdm, unit="question")
    summary = settings | summarize(evaluate(rows, tokenizer, answer, output, settings, options.samples, progress))
    write_whole(output.with_suffix(".json"), json.dumps(summary, indent=2) + "\n")
    print(
        f"accuracy   {100 * summary['accuracy']:.1f} %, 95 % interval {100 * summary['accuracy_low']:.1f} to "
        f"{100 * summary['accuracy_high']:.1f} ({summary['correct']} of {summary['questions']}, "
        f"{summary['strict']} of them boxed)\n"
        f"answers    {', '.join(f'{count} {form}' for form, count in summary['forms'].items())}\n"
        f"speed      {summary['seconds_per_sample']:.3f} s a sample, {summary['tokens_per_second']:,.1f} tokens/s, "
        f"compilation included"
    )
    if options.samples > 1:
        print(f"one sample {100 * summary['sample_accuracy']:.1f} % on average; the accuracy is of the majority")
    if options.early_exit is not None:
        print(f"steps      {summary['steps_per_token']:.2f} supervision steps a token")


if __name__ == "__main__":
    cli.run(main, Options, __doc__)
