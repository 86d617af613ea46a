"""Generation for any number of prompts: a row that ends makes room for the next prompt while the others go on."""

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Literal

from trm_jax.decoding.room import Room
from trm_jax.decoding.rows import ENDLESS, Request, Rows, require_prompts
from trm_jax.decoding.sampling import GREEDY, GenerationError, Sampling
from trm_jax.decoding.shapes import CAPACITY_STEP, REFILL_SHARE, Reading, padded_length, round_up
from trm_jax.decoding.step import DecodeConfig
from trm_jax.hardware import row_parts, tensor_parts
from trm_jax.model import QwenTRM, for_decoding

ASKED_EVERY = 32  # tokens; less would let the device wait more often
IsWhole = Callable[[int, Sequence[int]], bool]  # of the number of a prompt, and its completion's tokens so far


@dataclasses.dataclass(frozen=True)
class Completion:
    """The tokens generated for one sample of a prompt."""

    prompt: int  # index of the prompt
    sample: int  # number of the sample of this prompt, from 0
    tokens: list[int]  # the end token included
    steps: list[int]  # supervision steps that each token took; zeros for the backbone alone
    ended: bool  # by an end token, or because it was whole; else at the limit of tokens


def generate(
    model: QwenTRM,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int = 256,
    supervision_steps: int | None = None,
    kv_cache: Literal["last_pass", "per_pass"] | None = None,
    eos_token_ids: Sequence[int] | None = None,
    head: Literal["trm", "backbone"] = "trm",
    batch_size: int | None = None,
    early_exit: float | None = None,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
) -> list[list[int]]:
    """Generates a completion of each prompt.

    Args:
        model: from `load_model`; for several calls, pass it through `for_decoding` once, or every call does that again.
        prompts: token ids, one list a row; rows may differ in length and do not influence each other.
        max_new_tokens: the most tokens that a completion may have.
        supervision_steps, kv_cache: None takes the model's own.
        eos_token_ids: tokens that end a completion; None takes the model's own, and with an empty list no token does.
        head: "backbone" leaves the recursion out.
        batch_size: rows that are generated together; None: as many as fit into the memory, at most 64.
        early_exit: stop a token's supervision steps when its distribution changes by less than this (nats).
        temperature: 0 takes the most likely token.
        top_p: draw from the smallest set of tokens that holds this share of the probability.
        seed: seed of the draws; a prompt with the same seed gets the same completion, whatever other prompts there are.

    Returns the new tokens of each row, the end token included. Raises GenerationError.

    Example: `generate(model, [[1, 2, 3], [4, 5]], max_new_tokens=64)`.
    """
    config = decode_config(model, supervision_steps, kv_cache, eos_token_ids, head, early_exit)
    answers = generate_each(model, prompts, max_new_tokens, config, batch_size, 1, Sampling(temperature, top_p, seed))
    return [answer.tokens for answer in sorted(answers, key=lambda answer: answer.prompt)]


def decode_config(
    model: QwenTRM,
    supervision_steps: int | None = None,
    kv_cache: Literal["last_pass", "per_pass"] | None = None,
    eos_token_ids: Sequence[int] | None = None,
    head: Literal["trm", "backbone"] = "trm",
    early_exit: float | None = None,
    recursions: int | None = None,
) -> DecodeConfig:
    """The settings of `generate`, and T (`recursions`), as a DecodeConfig; None takes the model's own.

    Example: `decode_config(model, supervision_steps=4, head="trm")`.
    """
    ends = model.backbone.config.end_tokens if eos_token_ids is None else eos_token_ids
    return DecodeConfig(
        supervision_steps=model.trm.config.supervision_steps if supervision_steps is None else supervision_steps,
        recursions=model.trm.config.recursions if recursions is None else recursions,
        kv_cache=kv_cache or model.trm.config.kv_cache,
        head=head,
        end_tokens=tuple(sorted(ends)),
        early_exit=early_exit,
    )


def generate_each(
    model: QwenTRM,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int | Sequence[int],
    config: DecodeConfig,
    batch_size: int | None = None,
    samples: int = 1,
    sampling: Sampling = GREEDY,
    is_whole: IsWhole | None = None,
) -> Iterator[Completion]:
    """Yields completions as they end, `samples` for each prompt; `max_new_tokens` is one limit, or one for each prompt.

    A completion depends only on its prompt, the seed and the number of its sample, up to the rounding of matrix products of
    different shapes. Every prompt is read once: its samples start together. The longest prompts come first. Without a
    `batch_size` there are as many rows as fit into the device's memory, at most 64; their memory is logged. `is_whole` is
    asked every 32 tokens, with the number of the prompt and the tokens so far, whether a completion may end there. Raises
    GenerationError, and NoRoomError if the rows that are asked for, or even one, do not fit.

    Example: `for completion in generate_each(model, prompts, 512, config, batch_size=8): ...`.
    """
    if not prompts:
        return iter(())
    limits = [max_new_tokens] * len(prompts) if isinstance(max_new_tokens, int) else max_new_tokens
    require_prompts(prompts, limits, model.backbone.config)
    if batch_size is not None and batch_size < samples:
        raise GenerationError(f"{samples} samples of a prompt need as many rows; the batch has {batch_size}")
    model = for_decoding(model)
    longest = max(map(len, prompts))
    capacity = round_up(longest + max(limits), CAPACITY_STEP)
    config = dataclasses.replace(config, draws=sampling.temperature > 0)
    room = Room(model, config, capacity, padded_length(longest), row_parts(), tensor_parts())
    rows = room.choose_rows(batch_size, len(prompts) * samples, samples)
    requests = {
        number: Request(prompt, limit, sampling, samples)
        for number, (prompt, limit) in enumerate(zip(prompts, limits, strict=True))
    }
    return _run(
        Rows(model, config, rows, capacity, max(limits), Reading.of_batch(rows, samples, row_parts())),
        requests,
        config.end_tokens,
        is_whole,
    )


def _run(
    rows: Rows, requests: Mapping[int, Request], ends: Collection[int], is_whole: IsWhole | None
) -> Iterator[Completion]:
    """The longest prompts first: rows of like length share a capacity, and short ones are left for the end."""
    waiting = sorted(requests, key=lambda number: -len(requests[number].prompt))
    samples, wanted = requests[0].samples, 0
    while waiting or len(rows.free) < len(rows):
        if len(rows.free) >= wanted:
            count = len(rows.free) // samples
            rows.read({number: requests[number] for number in waiting[:count]})
            waiting = waiting[count:]
        # While prompts wait, decoding stops for a few free rows; without any, it runs until all rows are finished.
        wanted = max(samples, len(rows) // REFILL_SHARE) if waiting else len(rows)
        stopped = set()
        for found in rows.advance(wanted, ENDLESS if is_whole is None else ASKED_EVERY):
            if not found.finished and is_whole and is_whole(found.request, found.tokens):
                stopped.add((found.request, found.sample))
            if found.finished or (found.request, found.sample) in stopped:
                ended = not found.finished or int(found.tokens[-1]) in ends
                yield Completion(found.request, found.sample, found.tokens.tolist(), found.steps.tolist(), ended)
        rows.stop(stopped)
