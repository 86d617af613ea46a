"""From questions and worked solutions to tokens: the conversation, what of it is learned, what is dropped."""

import dataclasses
import itertools
import re
from collections.abc import Iterator, Sequence

import numpy as np

from trm_jax.data.tokenizer import end_token
from trm_jax.errors import UserError

SYSTEM_PROMPT = "Please reason step by step, and put your final answer within \\boxed{}."
STREAM_CHUNK = 512  # rows of a stream that are tokenised together


class DataError(UserError):
    """A data set that cannot be trained or evaluated on; the message says where and what to do."""


def boxed_solution(answer: str, keep_annotations: bool = False) -> str:
    """GSM8K's worked solution in Qwen's style: `#### 42` becomes `\\boxed{42}`, `<<48/2=24>>` goes unless kept."""
    if not keep_annotations:
        answer = re.sub(r"<<[^<>]*>>", "", answer)
    return re.sub(r"####\s*(.+?)\s*$", lambda match: f"\\boxed{{{match[1]}}}", answer.strip())


@dataclasses.dataclass(frozen=True)
class Example:
    """One conversation: the prompt's tokens, then the assistant's with the end token."""

    tokens: np.ndarray  # int32[length]
    prompt_length: int

    @property
    def answer_length(self) -> int:
        return len(self.tokens) - self.prompt_length


def encode_prompts(tokenizer, questions: Sequence[str]) -> list[list[int]]:
    """The token ids of each question as a ChatML prompt that ends where the assistant begins."""
    conversations = [
        [{"role": "system", "content": SYSTEM_PROMPT}, {"role": "user", "content": question}] for question in questions
    ]
    texts = [tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) for chat in conversations]
    return tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]


def encode_rows(rows: Sequence[dict[str, str]], tokenizer, keep_annotations: bool = False) -> list[Example]:
    """Every row as an Example. Raises TokenizerError if the tokenizer has no end token."""
    end = end_token(tokenizer)
    prompts = encode_prompts(tokenizer, [row["question"] for row in rows])
    solutions = [boxed_solution(row["answer"], keep_annotations) for row in rows]
    answers = tokenizer(solutions, add_special_tokens=False, verbose=False)["input_ids"] if solutions else []
    return [
        Example(np.array([*prompt, *answer, end], np.int32), len(prompt))
        for prompt, answer in zip(prompts, answers, strict=True)
    ]


def encode_examples(
    rows: Sequence[dict[str, str]], tokenizer, max_length: int, keep_annotations: bool = False
) -> tuple[list[Example], int]:
    """All rows of at most `max_length` tokens, and how many longer ones were dropped. Raises DataError if none is left."""
    examples = encode_rows(rows, tokenizer, keep_annotations)
    kept = [example for example in examples if len(example.tokens) <= max_length]
    if not kept:
        raise DataError(f"none of {len(rows)} rows has at most {max_length} tokens: raise --max-length")
    return kept, len(examples) - len(kept)


def encode_stream(
    rows: Iterator[dict[str, str]], tokenizer, max_length: int, keep_annotations: bool = False
) -> Iterator[Example]:
    """The rows of at most `max_length` tokens, a few hundred tokenised at a time."""
    while chunk := list(itertools.islice(rows, STREAM_CHUNK)):
        examples = encode_rows(chunk, tokenizer, keep_annotations)
        yield from (example for example in examples if len(example.tokens) <= max_length)
