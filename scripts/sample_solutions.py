"""Samples solutions of training questions from the backbone alone and keeps the right ones, for train.py --data.

Started again with the same options, it goes on behind the last question answered. Without options: on the embedded demo.
"""

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
    model: pathlib.Path = pathlib.Path("runs/model")
    """Model folder, from convert_qwen.py."""
    data: str = "demo"
    """Questions with their answers: gsm8k (the train split), demo, a hub id, or a .jsonl file."""
    output: pathlib.Path = pathlib.Path("runs/solutions.jsonl")
    """The right solutions; all samples are kept in NAME.samples.jsonl, the counts in NAME.json."""
    limit: int | None = None
    """Only the first so many questions."""
    samples: int = 4
    """Solutions drawn for each question."""
    keep: int = 4
    """Different right solutions kept for each question, at most."""
    temperature: float = 0.7
    """Of the draws."""
    top_p: float = 0.8
    """Draw from the most likely tokens that together have this probability."""
    max_new_tokens: int | None = None
    """Tokens of the longest solution (default 512; demo 48)."""
    batch_size: int | None = None
    """Rows generated together (default 32; demo 64)."""
    seed: int = 0
    """Of the draws."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto stops if there is an NVIDIA GPU that JAX does not see."""
    dtype: Literal["bfloat16", "float32"] | None = None
    """Type to compute in (default: bfloat16, float32 on a CPU)."""


def main(options: Options) -> None:
    from trm_jax.hardware.devices import choose_device, compute_dtype, describe_device

    choose_device(options.device)
    from tqdm import tqdm

    from trm_jax import demo
    from trm_jax.checkpoints import folders
    from trm_jax.checkpoints import models as checkpoint
    from trm_jax.data.datasets import load_rows
    from trm_jax.decoding.generate import decode_config, generate_each
    from trm_jax.evaluation.evaluate import evaluate, require_jsonl, require_same_settings
    from trm_jax.experiments.solutions import write_solutions
    from trm_jax.model.layout import for_decoding

    options.require(1, "samples", "keep", "limit", "max_new_tokens", "batch_size")
    options.require(0, "seed")
    if options.temperature <= 0:
        raise UserError("--temperature must be above zero: without it all solutions of a question are the same")
    on_demo, dtype = options.data == "demo", compute_dtype(options.dtype)
    folder = folders.model_folder(options.model)
    model = for_decoding(checkpoint.load_model(folder, dtype))
    tokenizer = checkpoint.load_tokenizer(options.model)
    rows = load_rows(options.data, "train")[: options.limit]
    max_new_tokens = options.max_new_tokens or (demo.MAX_NEW_TOKENS if on_demo else 512)
    drawing = {name: getattr(options, name) for name in ("samples", "temperature", "top_p", "seed")}
    settings = {"data": options.data, "max_new_tokens": max_new_tokens, "dtype": dtype} | drawing
    settings["fingerprint"] = checkpoint.fingerprint(folder)
    drawn = options.output.with_suffix(".samples.jsonl")
    if options.output.exists() and not drawn.exists():
        raise UserError(f"{options.output} holds something else than solutions drawn here: give another --output")
    require_jsonl(options.output)
    require_same_settings(drawn, settings)
    print(f"{describe_device()}, {options.samples} solutions for each of {len(rows)} questions of {options.data}")

    config = decode_config(model, head="backbone", temperature=options.temperature, top_p=options.top_p)
    answer = functools.partial(
        generate_each,
        model,
        max_new_tokens=max_new_tokens,
        config=config,
        batch_size=options.batch_size or (demo.EVAL_BATCH if on_demo else max(32, options.samples)),
        samples=options.samples,
        seed=options.seed,
    )
    progress = functools.partial(tqdm, unit="question")
    records = evaluate(rows, tokenizer, answer, drawn, settings, options.samples, progress)
    counts = write_solutions(options.output, records, options.keep)
    write_whole(options.output.with_suffix(".json"), json.dumps(settings | counts, indent=2) + "\n")
    print(
        f"{counts['right']:,} of {counts['samples']:,} samples are right, {counts['right_but_not_boxed']:,} of them without "
        f"a box\n{counts['questions_without']:,} of {counts['questions']:,} questions have no right solution\n"
        f"{counts['solutions']:,} different right solutions are in {options.output}"
    )


if __name__ == "__main__":
    cli.run(main, Options, __doc__)
