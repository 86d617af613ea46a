"""Samples solutions of training questions from the backbone alone and keeps the right ones, for train.py --data.

Started again with the same options, it goes on behind the last question answered. Without options: on the embedded demo.
"""

import dataclasses
import functools
import pathlib

from trm_jax import cli
from trm_jax.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(cli.AnswerOptions):
    model: pathlib.Path = pathlib.Path("runs/model")
    """Model folder, from convert_qwen.py."""
    data: str = "demo"
    """Questions with their answers: gsm8k (the train split), demo, a hub id, or a file or folder of rows."""
    output: pathlib.Path = pathlib.Path("runs/solutions.jsonl")
    """The right solutions; all samples are kept in NAME.samples.jsonl, the counts in NAME.json."""
    samples: int = 4
    """Solutions drawn for each question."""
    keep: int = 4
    """Different right solutions kept for each question, at most."""
    temperature: float = 0.7
    """Of the draws; 0, with --samples 1, takes the likeliest solution."""
    top_p: float = 0.8
    """Draw from the most likely tokens that together have this probability."""
    seed: int = 0
    """Of the draws."""


def main(options: Options) -> None:
    from trm_jax.checkpoints import SavedModel, open_folder
    from trm_jax.data import question_rows
    from trm_jax.decoding import Sampling, decode_config, generate_each
    from trm_jax.evaluation import evaluate
    from trm_jax.experiments import samples_file, write_solutions
    from trm_jax.hardware import describe_device
    from trm_jax.model import for_decoding

    options.require(1, "samples", "keep", "limit", "max_new_tokens", "batch_size")
    options.require(0, "seed")
    if options.temperature <= 0 and options.samples > 1:
        raise UserError(
            "with --temperature 0 all solutions of a question are the same: "
            "give a --temperature above zero, or --samples 1 for the likeliest solution alone"
        )
    if options.temperature == 0:
        options.refuse(cli.OF_DRAWS, "top_p", "seed")
    sampling = Sampling(options.temperature, options.top_p, options.seed)
    dtype = options.prepare()
    saved = SavedModel.open(open_folder(options.model).model.path)
    drawn = samples_file(options.output)
    model = for_decoding(saved.load(dtype), donate=True)
    rows = question_rows(options.data, "train", options.columns, options.limit)
    most = model.backbone.config.max_length
    max_new_tokens = options.longest(options.data, most)
    drawing = {name: getattr(options, name) for name in ("samples", "temperature", "top_p", "seed")}
    settings = {"data": options.data, "max_new_tokens": max_new_tokens, "dtype": dtype, **drawing}
    settings |= {"fingerprint": saved.fingerprint(), "prompt_digest": saved.prompt_digest}
    print(f"{describe_device()}, {options.samples} solutions for each of {len(rows)} questions of {options.data}")

    generate = functools.partial(
        generate_each,
        model,
        config=decode_config(model, head="backbone"),
        batch_size=options.batch_size,
        max_new_tokens=max_new_tokens,
        samples=options.samples,
        sampling=sampling,
    )
    answers = evaluate(
        rows,
        saved.tokenizer,
        generate,
        drawn,
        settings,
        options.samples,
        label="questions",
        longest_prompt=most - max_new_tokens,
    )
    print(write_solutions(options.output, answers, options.keep, settings))


if __name__ == "__main__":
    cli.run(main, Options, __doc__)
