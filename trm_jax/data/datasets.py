"""Rows with a question and a worked solution: from the hub, files or the demo; one set or a mixture of several."""

import itertools
import logging
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from trm_jax.config import DataConfig
from trm_jax.data.answers import reference_answer
from trm_jax.data.columns import Columns, DataError, Row, is_wrong, to_row
from trm_jax.data.hub import HubError, HubModel, require_hub
from trm_jax.data.judges import same_answer
from trm_jax.data.readers import NumberedRow, is_rows, read_rows

HUB_SETS = {"gsm8k": ("openai/gsm8k", "main")}  # sets known by a short name: hub id, configuration
SHORT_NAMES = ("gsm8k", "demo")  # sets with a train and a test split that need no column names
OWN_COLUMNS = re.compile(r"(.+):\s*((?:question|answer)=[^,=]+),\s*((?:question|answer)=[^,=]+)")

One = TypeVar("One")

_log = logging.getLogger(__name__)


def training_sets(config: DataConfig, seed: int) -> list[list[Row]]:
    """The rows of each set: all, or the first `num_samples`.

    Those of a mixture are in a random order; `num_samples` counts them together, and is in the shares of the weights.
    """
    sets = [load_rows(source, "train", config.columns) for source in config.sources]
    if len(sets) > 1:
        rng = np.random.default_rng(seed)
        sets = [[rows[i] for i in rng.permutation(len(rows))] for rows in sets]
    return [rows[:limit] for rows, limit in zip(sets, _limits(config), strict=True)]


def _limits(config: DataConfig) -> list[int | None]:
    """How many rows of each set are used; None for all."""
    if config.num_samples is None:
        return [None] * len(config.sources)
    return [max(1, count) for count in split_in_shares(config.num_samples, len(config.sources), config.weights)]


def split_in_shares(total: int, sets: int, weights: Sequence[float] = ()) -> list[int]:
    """How many of `total` items of a mixture come from each set. Example: `split_in_shares(5, 2)` is `[3, 2]`."""
    exact = total * _shares(sets, weights)
    counts = np.floor(exact).astype(int)
    counts[np.argsort(counts - exact, stable=True)[: total - counts.sum()]] += 1  # where most of an item is missing
    return counts.tolist()


def _shares(sets: int, weights: Sequence[float]) -> np.ndarray:
    shares = np.array(weights or [1.0] * sets)
    return shares / shares.sum()


def mix(sets: Sequence[Sequence[One]], weights: Sequence[float], total: int) -> list[One]:
    """So many items of the sets, in the shares of the weights; a set with fewer than its share repeats them.

    Example: `mix(["aaa", "b"], (1, 3), 8)` is `list("babbbabb")`.
    """
    return list(itertools.islice(interleave([itertools.cycle(items) for items in sets], weights), total))


def own_test_set(sources: Sequence[str]) -> str | None:
    """The name of the set that these sources are, if it has a test split of its own; None for files, hub ids and mixtures.

    Example: `own_test_set(["gsm8k"])` is `"gsm8k"`.
    """
    return sources[0] if len(sources) == 1 and sources[0] in SHORT_NAMES else None


def public_name(source: str) -> str:
    """What others may read about where rows come from: the name of a public set; of a file or folder only that it is one.

    It is right where the rows can be read: elsewhere the relative path of a folder looks like a name on the hub.

    Example: `public_name("/home/me/rows.jsonl:question=q,answer=a")` is `"a local file"`.
    """
    source, _ = _without_columns(source)
    is_public = source in SHORT_NAMES or (not pathlib.Path(source).exists() and _may_be_on_hub(source))
    return source if is_public else "a local file"


def evaluation_rows(config: DataConfig, source: str | None, limit: int) -> list[Row]:
    """The first `limit` rows to evaluate a training on: of `source`, else of its set's own test split; empty without either.

    Example: `evaluation_rows(DataConfig(("gsm8k",)), None, limit=256)`.
    """
    found = own_test_set(config.sources) if source is None else source
    if found is None or limit == 0:
        return []
    return question_rows(found, "test", config.columns if source else None, limit)


def question_rows(
    source: str,
    split: str,
    columns: Columns | None = None,
    limit: int | None = None,
    skip_unreadable: bool = False,
) -> list[Row]:
    """The first `limit` rows of a set, each of which states an answer that can be graded; see `load_rows`.

    Where another column states another answer than the solution, that column counts; how often it does is logged. Raises
    DataError, naming the first row that states none; with `skip_unreadable` such rows are left out, and that is logged.

    Example: `question_rows("gsm8k", "test", limit=256)`.
    """
    loaded = load_rows(source, split, columns)[:limit]
    rows = [_as_stated(row) for row in loaded]
    if count := sum(row["answer"] != old["answer"] for row, old in zip(rows, loaded, strict=True)):
        _log.warning("%s: %d of %d solutions contradict the answer beside them, which counts", source, count, len(rows))
    readable = [row for row in rows if reference_answer(row["answer"]) is not None]
    if len(readable) == len(rows):
        return rows
    first = next(number for number, row in enumerate(rows, 1) if reference_answer(row["answer"]) is None)
    said = f"{source}, row {first}: the solution states no answer, ending in {rows[first - 1]['answer'][-40:]!r}"
    missing = f"{len(rows) - len(readable):,} of {len(rows):,} rows"
    if not readable or not skip_unreadable:
        raise DataError(
            f"{said}. It is needed alone, in a box or behind ####; so it is in {missing} (eval_gsm8k.py can leave them out, "
            "--skip-unreadable)"
        )
    _log.warning("%s; %s like it are left out", said, missing)
    return readable


def _as_stated(row: Row) -> Row:
    """The row without `stated`. If its solution states another answer, a last box, which counts, holds the stated one."""
    answer, stated = row["answer"], row.get("stated", "")
    stated = reference_answer(stated) or stated
    if stated and "\n" not in stated and not same_answer(reference_answer(answer), stated):
        answer = f"{answer}\n\\boxed{{{stated}}}"
    return {"question": row["question"], "answer": answer}


def stream_rows(config: DataConfig) -> Iterator[Row]:
    """An endless stream of the rows of a set or mixture, never held in memory; a source that ends starts again."""

    def endless(number: int) -> Iterator[Row]:
        while True:
            yield from stream_once(config, number)

    return interleave([endless(number) for number in range(len(config.sources))], config.weights)


def stream_once(config: DataConfig, number: int) -> Iterator[Row]:
    """The rows of set `number`, counted from 0, from its first to its last one, never held in memory."""
    source, limit = config.sources[number], _limits(config)[number]
    rows = itertools.islice(iterate_rows(source, "train", config.columns, streaming=True), limit)
    first = next(rows, None)
    if first is None:
        raise DataError(f"{source} has no rows")
    yield from itertools.chain([first], rows)


def interleave(streams: Sequence[Iterator[One]], weights: Sequence[float] = ()) -> Iterator[One]:
    """Takes from endless streams so that at any time each has given its share, to within one row."""
    shares, taken = _shares(len(streams), weights), np.zeros(len(streams))
    while True:
        behind = int(np.argmax(shares * (taken.sum() + 1) - taken))
        taken[behind] += 1
        yield next(streams[behind])


def load_rows(source: str, split: str, columns: Columns | None = None) -> list[Row]:
    """The rows of one set.

    Args:
        source: `gsm8k`, `demo` (made on the spot), the hub id of a set (through `datasets`; `id:configuration` where it has
            several), or a path: a .jsonl, .json, .csv or .parquet file, also gzipped, or a folder of these. Behind each may
            stand the columns, `PATH:question=query,answer=response`.
        split: `train` or `test`; a file has none, and of a folder those files are read whose paths name it or none.
        columns: names of the columns of question and solution, where they do not stand behind the source; None recognises
            those of public data sets.

    Raises DataError for a source that is none of these, or for an unusable row.

    Example: `load_rows("gsm8k", "test")[0]["question"]`.
    """
    rows = list(iterate_rows(source, split, columns))
    if not rows:
        raise DataError(f"{source} has no rows")
    return rows


def iterate_rows(source: str, split: str, columns: Columns | None = None, streaming: bool = False) -> Iterator[Row]:
    """Yields the rows of one set; see `load_rows`. With `streaming` the set is never in memory as a whole."""
    source, own = _without_columns(source)
    columns = own or columns
    if not source.strip():
        raise DataError("the name of a data set is empty")
    if source == "demo":
        from trm_jax.demo import problems

        return iter(problems.split(split))
    rows = _without_wrong(_numbered_rows(source, split, streaming), source)
    return (to_row(values, columns, where) for where, values in rows)


def _without_columns(source: str) -> tuple[str, Columns | None]:
    """A source without the columns behind it, and these, if there are any."""
    if own := OWN_COLUMNS.fullmatch(source):
        named = dict(part.split("=") for part in own.groups()[1:])
        if len(named) == 2:
            return own[1], (named["question"].strip(), named["answer"].strip())
    return source, None


def _may_be_on_hub(source: str) -> bool:
    """Whether a source that is no place on this machine can be a set of the hub, `id` or `id:configuration`."""
    path = pathlib.Path(source)
    is_file = is_rows(path) or (path.suffix and path.parent.is_dir())  # a file of another kind, or one that is missing
    return source in HUB_SETS or not (is_file or HubModel.named(source.partition(":")[0]) is None)


def _without_wrong(rows: Iterable[NumberedRow], source: str) -> Iterator[NumberedRow]:
    """Leaves out the rows that say that their solution is wrong; how many they are is logged when the set ends."""
    wrong = total = 0
    for where, values in rows:
        total += 1
        if is_wrong(values):
            wrong += 1
        else:
            yield where, values
    if wrong:
        _log.warning("%s: %d of %d rows say that they are not correct, and are left out", source, wrong, total)


def _numbered_rows(source: str, split: str, streaming: bool) -> Iterable[NumberedRow]:
    path = pathlib.Path(source)
    if path.is_file() or path.is_dir():
        return read_rows(path, split)
    if is_rows(path):
        raise DataError(f"there is no file {source}")
    if not _may_be_on_hub(source):
        raise DataError(
            f"no data set {source!r}: give 'gsm8k', 'demo', a hub id, or the path of a file or folder of rows"
        )
    return ((f"{source}, row {number}", row) for number, row in enumerate(_load_hub(source, split, streaming), 1))


def _load_hub(source: str, split: str, streaming: bool) -> Iterator[Mapping[str, Any]]:
    import datasets

    name, _, configuration = source.partition(":")
    name, configuration = HUB_SETS.get(source, (name, configuration or None))
    require_hub(source)
    try:
        yield from datasets.load_dataset(name, configuration, split=split, streaming=streaming)
    except Exception as error:  # a connection that is lost is an error of the HTTP library in use
        raise HubError(f"{source!r} cannot be had from the hub; a local .jsonl file serves as well: {error}") from None
