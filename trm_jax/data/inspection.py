"""Shows what a run would train on, and refuses data from which nothing useful would be learned."""

import itertools
import logging
from collections import Counter
from collections.abc import Sequence

import numpy as np

from trm_jax.data.answers import reference_answer
from trm_jax.data.columns import DataError, Row
from trm_jax.data.examples import Example, boxed_solution
from trm_jax.data.loader import NO_LABEL, Batch, Bucket
from trm_jax.data.tokenizer import end_token

_log = logging.getLogger(__name__)

BAR = 40  # characters of the longest bar


def check_trainable(rows: Sequence[Row], batch: Batch, tokenizer) -> None:
    """Raises DataError if the labels of a batch of the rows are empty or lack the end token.

    Rows without a final answer can be learned from; how many they are is logged.
    """
    count = sum(reference_answer(boxed_solution(row["answer"])) is None for row in rows)
    if count:
        _log.warning(
            "%d of %d solutions state no final answer in a box: the model will not learn it there", count, len(rows)
        )
    labels = batch.labels.reshape(-1, batch.labels.shape[-1])
    learned = [row[row != NO_LABEL] for row in labels if (row != NO_LABEL).any()]
    if not learned:
        raise DataError("every label is masked: no token of these rows would be learned")
    end = end_token(tokenizer)
    if any(row[-1] != end for row in learned):
        raise DataError(f"the answers do not end in {tokenizer.decode([end])}: the model would never learn to stop")


def show_rows(batch: Batch, tokenizer, count: int = 3) -> str:
    """The texts of the first rows of a batch, as they are trained, with the learned tokens between « and »."""
    tokens = batch.tokens.reshape(-1, batch.tokens.shape[-1])
    positions, labels = (array.reshape(len(tokens), -1) for array in (batch.positions, batch.labels))
    shown = []
    for row in range(min(count, len(tokens))):
        labelled = labels[row] != NO_LABEL
        learned = set((positions[row][labelled] + 1).tolist())
        if not learned:
            continue
        length = max(learned) + 1
        runs = itertools.groupby(
            range(length), learned.__contains__
        )  # decoded whole: a character may be several tokens
        texts = [(inside, tokenizer.decode(tokens[row, list(slots)])) for inside, slots in runs]
        text = "".join(f"«{text}»" if inside else text for inside, text in texts)
        padding = tokens.shape[1] - length
        shown.append(f"--- row {row + 1}: {length} tokens, {len(learned)} learned, {padding} padding\n{text}")
    return "\n".join(shown)


def show_lengths(examples: Sequence[Example], buckets: Sequence[Bucket], dropped: int, max_length: int) -> str:
    """How many examples each bucket takes, as bars."""
    edges = [bucket.length for bucket in buckets]
    counts = Counter(int(np.searchsorted(edges, len(example.tokens))) for example in examples)
    most = max(counts.values())
    lines = [
        f"up to {edge:>5} tokens {counts[index]:>8,} {'█' * round(BAR * counts[index] / most)}"
        for index, edge in enumerate(edges)
    ]
    return "\n".join([*lines, f"dropped, above {max_length:,} tokens: {dropped:,}"])
