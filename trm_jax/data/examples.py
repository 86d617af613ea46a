"""Turns questions and worked solutions into tokens: conversations whose solution is learned; long ones are dropped."""

import dataclasses
import itertools
import re
from collections.abc import Iterator, Sequence

import numpy as np

from trm_jax.data.datasets import DataError, Row
from trm_jax.data.tokenizer import end_token

SYSTEM_PROMPT = "Please reason step by step, and put your final answer within \\boxed{}."
STREAM_CHUNK = 512  # rows of a stream that are tokenised together


def boxed_solution(answer: str, keep_annotations: bool = False) -> str:
    """GSM8K's solution in Qwen's style: `#### 42` becomes `\\boxed{42}`, `<<48/2=24>>` is removed unless kept.

    Example: `boxed_solution("1+1 = <<1+1=2>>2\\n#### 2")`.
    """
    if not keep_annotations:
        answer = re.sub(r"<<[^<>]*>>", "", answer)
    return re.sub(r"####\s*(.+?)\s*$", lambda match: f"\\boxed{{{match[1]}}}", answer.strip())


@dataclasses.dataclass(frozen=True)
class Example:
    """One conversation: the prompt's tokens, then the assistant's with the end token."""

    tokens: np.ndarray  # int32[length]
    prompt_length: int

    @property
    def solution_length(self) -> int:
        return len(self.tokens) - self.prompt_length


def encode_prompts(tokenizer, questions: Sequence[str]) -> list[list[int]]:
    """The token ids of each question as a ChatML prompt that ends where the assistant begins.

    Example: `encode_prompts(tokenizer, ["What is 2 + 2?"])[0]`.
    """
    conversations = [
        [{"role": "system", "content": SYSTEM_PROMPT}, {"role": "user", "content": question}] for question in questions
    ]
    texts = [tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) for chat in conversations]
    return _token_ids(tokenizer, texts)


def _token_ids(tokenizer, texts: Sequence[str]) -> list[list[int]]:
    return tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"] if texts else []


def encode_rows(rows: Sequence[Row], tokenizer, keep_annotations: bool = False) -> list[Example]:
    """Every row as an Example. Raises TokenizerError if the tokenizer has no end token."""
    end = end_token(tokenizer)
    prompts = encode_prompts(tokenizer, [row["question"] for row in rows])
    solutions = [boxed_solution(row["answer"], keep_annotations) for row in rows]
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
