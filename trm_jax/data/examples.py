"""Turns questions and worked solutions into tokens: conversations whose solution is learned; long ones are dropped."""

import dataclasses
import itertools
import logging
import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from trm_jax.data.answers import marked_span, reference_answer, stated_answer
from trm_jax.data.columns import DataError, Row
from trm_jax.data.tokenizer import end_token, render_chats, special_tokens, without_tokens

SYSTEM_PROMPT = "Please reason step by step, and put your final answer within \\boxed{}."
SAID_AGAIN = re.compile(r"\n\s*The answer is:[^\n]*\s*$")  # MetaMath's last line
STREAM_CHUNK = 512  # rows of a stream that are tokenised together

_log = logging.getLogger(__name__)


def boxed_solution(answer: str, keep_annotations: bool = False) -> str:
    """A worked solution in Qwen's style: the final answer in a box, once, and no `<<48/2=24>>` unless it is kept.

    GSM8K's `#### 42` becomes `\\boxed{42}`, wherever it stands. MetaMath's last line, `The answer is: 42`, goes if the
    answer is stated already. A solution that is a bare number becomes the box. A heading behind `####` is no answer.

    Example: `boxed_solution("1+1 = <<1+1=2>>2\\n#### 2")`.
    """
    if not keep_annotations:
        answer = re.sub(r"<<[^<>]*>>", "", answer)
    answer = answer.strip()
    shorter = SAID_AGAIN.sub("", answer).rstrip()
    found = stated_answer(shorter)
    if found is not None and found.form != "number":
        answer = shorter
    else:
        found = stated_answer(answer)
    if found is not None and found.form == "marked":
        start, end = marked_span(answer)
        before, mark, line = answer[:start].rpartition("####")
        before = before + line.lstrip() if mark and "\n" not in line.strip() else answer[:start]
        return f"{before}\\boxed{{{found.text}}}{answer[end:]}".strip()
    return f"\\boxed{{{answer}}}" if reference_answer(answer) == answer else answer


@dataclasses.dataclass(frozen=True)
class Example:
    """One conversation: the prompt's tokens, then the assistant's with the end token."""

    tokens: np.ndarray  # int32[length]
    prompt_length: int

    @property
    def solution_length(self) -> int:
        return len(self.tokens) - self.prompt_length


def encode_prompts(tokenizer, questions: Sequence[str]) -> list[list[int]]:
    """The token ids of each question as a prompt in the tokenizer's chat format, which ends where the assistant begins.

    Where the format has no system message, the instruction stands before the question.

    Example: `encode_prompts(tokenizer, ["What is 2 + 2?"])[0]`.
    """
    return _encode_chats(tokenizer, [[{"role": "user", "content": question}] for question in questions])


def encode_chat(tokenizer, messages: Sequence[Mapping[str, str]]) -> list[int]:
    """The token ids of a conversation, each message with its `role` and `content`, as `encode_prompts` makes those of one.

    The system message of the training comes first, unless the conversation has one of its own.

    Example: `encode_chat(tokenizer, [{"role": "user", "content": "What is 2 + 2?"}])`.
    """
    return _encode_chats(tokenizer, [messages])[0]


def _encode_chats(tokenizer, chats: Sequence[Sequence[Mapping[str, str]]]) -> list[list[int]]:
    system, special = {"role": "system", "content": SYSTEM_PROMPT}, special_tokens(tokenizer)
    own = [chat if chat[0]["role"] == "system" else [system, *chat] for chat in chats]
    clean = [[{**one, "content": without_tokens(one["content"], special)} for one in chat] for chat in own]
    return _token_ids(tokenizer, render_chats(tokenizer, clean, add_generation_prompt=True))


def _token_ids(tokenizer, texts: Sequence[str]) -> list[list[int]]:
    return tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"] if texts else []


def encode_rows(rows: Sequence[Row], tokenizer, keep_annotations: bool = False) -> list[Example]:
    """Every row as an Example. Raises TokenizerError if the tokenizer has no end token.

    Special tokens that stand in a row's texts, as an end token that was left in them, are taken out, and that is logged:
    they would end an answer before its end.

    Example: `encode_rows(rows, tokenizer)[0].solution_length`.
    """
    end, special = end_token(tokenizer), special_tokens(tokenizer)
    texts = (row["question"] + " " + row["answer"] for row in rows)
    if count := sum(any(token in text for token in special) for text in texts):
        _log.warning("special tokens stand in the texts of %d of %d rows; they are taken out", count, len(rows))
    prompts = encode_prompts(tokenizer, [row["question"] for row in rows])
    plain = [boxed_solution(without_tokens(row["answer"], special), keep_annotations) for row in rows]
    # Once more: an annotation, or a mark before the answer, may have stood within what is a special token without it.
    solutions = [without_tokens(solution, special) for solution in plain]
    return [
        Example(np.array([*prompt, *solution, end], np.int32), len(prompt))
        for prompt, solution in zip(prompts, _token_ids(tokenizer, solutions), strict=True)
    ]


def encode_examples(
    rows: Sequence[Row], tokenizer, max_length: int, keep_annotations: bool = False
) -> tuple[list[Example], int]:
    """All rows of at most `max_length` tokens, and how many longer ones were dropped. Raises DataError if none is left.

    Example: `examples, dropped = encode_examples(rows, tokenizer, max_length=1024)`.
    """
    examples = encode_rows(rows, tokenizer, keep_annotations)
    kept = [example for example in examples if len(example.tokens) <= max_length]
    if not kept:
        raise DataError(f"none of {len(rows)} rows has at most {max_length} tokens: raise --max-length")
    return kept, len(examples) - len(kept)


def encode_stream(rows: Iterator[Row], tokenizer, max_length: int, keep_annotations: bool = False) -> Iterator[Example]:
    """The rows of at most `max_length` tokens, a few hundred tokenised at a time."""
    while chunk := list(itertools.islice(rows, STREAM_CHUNK)):
        examples = encode_rows(chunk, tokenizer, keep_annotations)
        yield from (example for example in examples if len(example.tokens) <= max_length)
