"""The lengths of real GSM8K rows, as `trm_jax.data` makes them with the Qwen2.5 tokenizer.

The table beside this file holds, for every row, the tokens of the prompt and of the solution, end token included, in the
order of the published files (github.com/openai/grade-school-math, MIT).
"""

import pathlib
from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Int

from trm_jax.data import Example

Prompts = Sequence[Sequence[int]]

_TABLE = pathlib.Path(__file__).with_name("gsm8k_lengths.npz")


def gsm8k_lengths(split: Literal["train", "test"]) -> Int[np.ndarray, "rows 2"]:
    """Tokens of the prompt and of the solution of each row: 7,473 rows of `train`, 1,319 of `test`."""
    with np.load(_TABLE) as table:
        return table[split].astype(np.int32)


def median_lengths() -> tuple[int, int]:
    """Tokens of the prompt and of the solution of the median GSM8K test question."""
    prompt, answer = np.median(gsm8k_lengths("test"), axis=0)
    return int(prompt), int(answer)


def random_examples(lengths: Int[np.ndarray, "rows 2"], vocab_size: int, seed: int = 0) -> list[Example]:
    """Rows of random tokens, with these lengths of prompt and solution."""
    rng = np.random.default_rng(seed)
    totals = lengths.sum(axis=1)
    tokens = np.split(rng.integers(0, vocab_size, totals.sum(), np.int32), np.cumsum(totals)[:-1])
    return [Example(row, int(prompt)) for row, (prompt, _) in zip(tokens, lengths, strict=True)]


def random_prompts(lengths: Sequence[int], vocab_size: int, seed: int = 0) -> list[list[int]]:
    """Prompts of random tokens, with these lengths. Example: `random_prompts([97, 120], vocab_size=151_936)`."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0, vocab_size, length).tolist() for length in lengths]
