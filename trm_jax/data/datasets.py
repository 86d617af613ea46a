"""Rows with a question and a worked solution: from the hub, files or the demo; one set or a mixture of several."""

import itertools
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from trm_jax.config import DataConfig
from trm_jax.data.hub import HubError, require_hub
from trm_jax.errors import UserError
from trm_jax.files import read_lines

Row = dict[str, str]  # `question`, and `answer`: the worked solution

HUB_SETS = {"gsm8k": ("openai/gsm8k", "main")}  # sets known by a short name: hub id, configuration
SHORT_NAMES = ("gsm8k", "demo")  # sets with a train and a test split that need no column names
COLUMNS = (("question", "answer"), ("problem", "solution"))  # GSM8K; MATH and NuminaMath


class DataError(UserError):
    """A data set that cannot be trained or evaluated on; the message says where and what to do."""


def training_rows(config: DataConfig, seed: int) -> list[Row]:
    """All rows of a set; of a mixture, as many as its sets have together, in the shares of the weights.

    A set with fewer rows than its share repeats them; one with more rows gives a random part of them.
    """
    sets = [load_rows(source, "train", config.columns) for source in config.sources]
    if len(sets) == 1:
        return sets[0][: config.num_samples]
    rng = np.random.default_rng(seed)
    endless = [itertools.cycle([rows[i] for i in rng.permutation(len(rows))]) for rows in sets]
    total = sum(map(len, sets)) if config.num_samples is None else config.num_samples
    return list(itertools.islice(interleave(endless, config.weights), total))


def own_test_set(sources: Sequence[str]) -> str | None:
    """The name of the set that these sources are, if it has a test split of its own; None for files, hub ids and mixtures.

    Example: `own_test_set(["gsm8k"])` is `"gsm8k"`.
    """
    return sources[0] if len(sources) == 1 and sources[0] in SHORT_NAMES else None


def evaluation_rows(config: DataConfig, source: str | None, limit: int) -> list[Row]:
    """The first `limit` rows to evaluate a training on: of `source`, else of its set's own test split; empty without either.

    Example: `evaluation_rows(DataConfig(("gsm8k",)), None, limit=256)`.
    """
    found = source or own_test_set(config.sources)
    if found is None or limit == 0:
        return []
    return load_rows(found, "test", config.columns if source else None)[:limit]


def stream_rows(config: DataConfig) -> Iterator[Row]:
    """An endless stream of the rows of a set or mixture, never held in memory; a source that ends starts again."""

    def endless(source: str) -> Iterator[Row]:
        while True:
            yield from itertools.islice(
                iterate_rows(source, "train", config.columns, streaming=True), config.num_samples
            )

    return interleave([endless(source) for source in config.sources], config.weights)


def interleave(streams: Sequence[Iterator[Row]], weights: Sequence[float] = ()) -> Iterator[Row]:
    """Takes from endless streams so that at any time each has given its share, to within one row."""
    shares = np.array(weights or [1.0] * len(streams))
    shares, taken = shares / shares.sum(), np.zeros(len(streams))
    while True:
        behind = int(np.argmax(shares * (taken.sum() + 1) - taken))
        taken[behind] += 1
        yield next(streams[behind])


def load_rows(source: str, split: str, columns: tuple[str, str] | None = None) -> list[Row]:
    """The rows of one set.

    Args:
        source: `gsm8k`, `demo` (made on the spot), the hub id of a set (through `datasets`; `id:configuration` where it has
            several), or the path of a `.jsonl` file.
        split: `train` or `test`; a file has no splits.
        columns: names of the columns of question and solution; None looks for those in COLUMNS.

    Raises DataError for a source that is none of these, or for an unusable row.

    Example: `load_rows("gsm8k", "test")[0]["question"]`.
    """
    rows = list(iterate_rows(source, split, columns))
    if not rows:
        raise DataError(f"{source} has no rows")
    return rows


def iterate_rows(
    source: str, split: str, columns: tuple[str, str] | None = None, streaming: bool = False
) -> Iterator[Row]:
    """Yields the rows of one set; see `load_rows`. With `streaming` the set is never in memory as a whole."""
    if source == "demo":
        from trm_jax.demo import problems

        return iter(problems.split(split))
    path = pathlib.Path(source)
    if path.is_file():
        return _text_columns(read_lines(path, DataError), columns, lambda index: f"{path}, line {index}")
    if path.suffix in (".jsonl", ".json"):
        raise DataError(f"there is no file {source}")
    if source not in HUB_SETS and (source.count("/") != 1 or path.suffix):
        raise DataError(f"no data set {source!r}: give 'gsm8k', 'demo', a hub id, or the path of a .jsonl file")
    return _text_columns(
        enumerate(_load_hub(source, split, streaming), 1), columns, lambda index: f"{source}, row {index}"
    )


def _load_hub(source: str, split: str, streaming: bool) -> Iterable[Mapping[str, Any]]:
    import datasets

    name, _, configuration = source.partition(":")
    name, configuration = HUB_SETS.get(source, (name, configuration or None))
    require_hub(source)
    try:
        return datasets.load_dataset(name, configuration, split=split, streaming=streaming)
    except (OSError, ValueError) as error:
        raise HubError(f"{source!r} cannot be had from the hub; a local .jsonl file serves as well: {error}") from None


def _text_columns(
    rows: Iterable[tuple[int, Any]], columns: tuple[str, str] | None, where: Callable[[int], str]
) -> Iterator[Row]:
    """Yields each row with its columns renamed to `question` and `answer`. Raises DataError, naming an unusable row."""
    for number, row in rows:
        if columns is None:
            columns = next((pair for pair in COLUMNS if set(pair) <= row.keys()), None)
            if columns is None:
                names = " or ".join("/".join(pair) for pair in COLUMNS)
                raise DataError(
                    f"{where(number)}: columns {sorted(row)}, none of {names}: name them with --question-column and "
                    "--answer-column"
                )
        texts = [row.get(name) for name in columns]
        if not all(isinstance(text, str) for text in texts):
            raise DataError(f"{where(number)}: {columns[0]!r} and {columns[1]!r} must both be texts")
        question, answer = (text.strip() for text in texts)
        if not question or not answer:
            raise DataError(f"{where(number)}: {columns[0 if answer else 1]!r} is empty")
        yield {"question": question, "answer": answer}
