"""How long real GSM8K rows are, as `trm_jax.data` makes them with the Qwen2.5 tokenizer.

The table beside this file holds every row's tokens of the prompt and of the answer, end token included, in the order of the
published files (github.com/openai/grade-school-math, MIT).
"""

import pathlib
from typing import Literal

import numpy as np
from jaxtyping import Int

from trm_jax.data.examples import Example

_TABLE = pathlib.Path(__file__).with_name("gsm8k_lengths.npz")


def gsm8k_lengths(split: Literal["train", "test"]) -> Int[np.ndarray, "rows 2"]:
    """Tokens of the prompt and of the answer of each row: 7,473 rows of `train`, 1,319 of `test`."""
    with np.load(_TABLE) as table:
        return table[split].astype(np.int32)


def random_examples(lengths: Int[np.ndarray, "rows 2"], vocab_size: int, seed: int = 0) -> list[Example]:
    """Rows of these lengths that say nothing."""
    rng = np.random.default_rng(seed)
    totals = lengths.sum(axis=1)
    tokens = np.split(rng.integers(0, vocab_size, totals.sum(), np.int32), np.cumsum(totals)[:-1])
    return [Example(row, int(prompt)) for row, (prompt, _) in zip(tokens, lengths, strict=True)]
