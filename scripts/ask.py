"""Asks a model a question, or talks with it. Without options: the demo run of train.py."""

import dataclasses
import json
import logging
import pathlib
import sys
from typing import Annotated, Literal

import tyro

from trm_jax import cli
from trm_jax.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(cli.ComputeOptions):
    question: Annotated[str | None, tyro.conf.Positional] = None
    """The question; - reads it from standard input. Without one a conversation begins."""
    checkpoint: str = "runs/train"
    """Training folder, one checkpoint below it, a model folder, an exported folder, or USER/NAME[@REVISION] on the hub."""
    model: pathlib.Path | None = None
    """Model folder with the backbone, for an exported model (default: found, or fetched) or a run whose model was moved."""
    head: Literal["trm", "backbone", "both"] = "trm"
    """backbone: leave the recursion out. both: side by side; one after the other where there is no room for it."""
    max_length: int = 2048
    """Tokens of the longest conversation with its last answer, at most the backbone's; what goes beyond is forgotten."""
    max_new_tokens: int | None = None
    """Tokens of the longest answer (default: 512, or half of --max-length if that is less)."""
    supervision_steps: int | None = None
    """Supervision steps a token (default: as trained)."""
    kv_cache: Literal["last_pass", "per_pass"] | None = None
    """Keys and values of the last pass only, or of every pass, which is exact (default: the model's)."""
    early_exit: float | None = None
    """End a token's supervision steps once its distribution moves by less than this, in nats (default: never)."""
    temperature: float = 0.0
    """0: the most likely token."""
    top_p: float = 1.0
    """Draw from the most likely tokens that together have this probability."""
    seed: int = 0
    """Of the draws."""
    weights: Literal["ema", "raw"] = "ema"
    """The moving average of the trained weights, or these themselves."""
    json: bool = False
    """Print one JSON object with the answer of each head, its tokens and their supervision steps."""


def main(options: Options) -> None:
    from trm_jax.decoding import Sampling
    from trm_jax.model import for_decoding
    from trm_jax.publishing import open_checkpoint
    from trm_jax.serving import Conversation, Heads, Settings, answer_all, talk, terminal_width

    options.require(1, "max_new_tokens", "supervision_steps")
    options.require(2, "max_length")
    options.require(0, "seed")
    if options.json and options.question is None:
        raise UserError("--json needs a question")
    question = options.question
    if question == "-":
        question = sys.stdin.buffer.read().decode(errors="surrogateescape")
    if question is not None and not question.strip():
        raise UserError("the question is empty")
    if question is not None and options.temperature == 0:  # a conversation can change the temperature, and the head
        options.refuse(cli.OF_DRAWS, "top_p", "seed")
    if question is not None and options.head == "backbone":
        options.refuse(cli.OF_RECURSION, "supervision_steps", "kv_cache", "early_exit", "weights")
    logging.getLogger("trm_jax").setLevel(logging.WARNING)  # an answer needs no figures of memory
    sampling = Sampling(options.temperature, options.top_p, options.seed)
    dtype = options.prepare()  # before a backbone of the hub is converted, which starts JAX
    saved = open_checkpoint(options.checkpoint, options.model)
    model = for_decoding(saved.load(dtype, use_ema=options.weights == "ema"), donate=True)
    most = min(options.max_length, model.backbone.config.max_length)
    limit = options.max_new_tokens or cli.longest_completion("", most)
    if limit >= most:
        raise UserError(f"--max-new-tokens {limit}: there are {most:,} for prompt and answer")
    settings = Settings(options.head, limit, sampling)
    conversation = Conversation(saved.tokenizer, most - limit)
    prompt = None if question is None else conversation.ask(question.strip())
    capacity = most if prompt is None else len(prompt) + limit
    decoding = {name: getattr(options, name) for name in ("supervision_steps", "kv_cache", "early_exit")}
    heads = Heads(model, saved.tokenizer, capacity, **decoding)
    if prompt is None:
        talk(heads, conversation, settings)
    else:
        write = (lambda text: None) if options.json else (lambda text: print(text, end="", flush=True))
        answers = answer_all(heads, prompt, settings, write, None if options.json else terminal_width())
        if options.json:
            print(
                json.dumps({head: dataclasses.asdict(answer) for head, answer in answers.items()}, ensure_ascii=False)
            )
    heads.close()


if __name__ == "__main__":
    cli.run(main, Options, __doc__)
