"""Buckets, order, padding; the same from a stream that is never held."""

import itertools

import numpy as np
import pytest

from trm_jax.data import loader as batches
from trm_jax.data.examples import Example
from trm_jax.data.loader import NO_LABEL, Bucket, Loader, StreamLoader


def examples(count: int = 103) -> list[Example]:
    rng = np.random.default_rng(0)
    return [
        Example(np.full(length, row, np.int32), int(rng.integers(1, length)))
        for row, length in enumerate(rng.integers(5, 200, count))
    ]


@pytest.mark.parametrize("accumulation", [1, 2])
def test_every_row_is_seen_once_an_epoch(accumulation):
    loader = Loader(examples(), 8, accumulation, seed=3)
    for epoch in range(2):
        seen = []
        for number in range(loader.batches_per_epoch):
            batch = loader[epoch * loader.batches_per_epoch + number]
            assert batch.tokens.shape[:2] == (accumulation, 8)
            labelled = (batch.labels != NO_LABEL).any(axis=2)
            seen += batch.tokens[..., 0][labelled].tolist()
        assert sorted(seen) == list(range(103))


def test_labels_are_the_tokens_after_their_positions():
    rows = [Example(np.arange(10, 10 + length, dtype=np.int32), prompt) for length, prompt in ((9, 4), (6, 1))]
    batch = Loader(rows, 2)[0]
    labelled = batch.labels != NO_LABEL
    rows_of = np.broadcast_to(np.arange(2)[:, None], labelled[0].shape)[labelled[0]]
    positions, labels = batch.positions[labelled], batch.labels[labelled]
    np.testing.assert_array_equal(batch.tokens[0][rows_of, positions + 1], labels)
    assert labelled.sum() == 5 + 5


def test_the_order_is_a_function_of_seed_and_number_alone():
    """What makes a resumed run see the same batches: no state from the batches before."""
    one, other = Loader(examples(), 8, seed=1), Loader(examples(), 8, seed=1)
    backwards = [other[number].tokens for number in reversed(range(20))][::-1]
    for number in range(20):
        np.testing.assert_array_equal(one[number].tokens, backwards[number])
    assert any(
        one[n].tokens.shape != Loader(examples(), 8, seed=2)[n].tokens.shape
        or (one[n].tokens != Loader(examples(), 8, seed=2)[n].tokens).any()
        for n in range(3)
    )


@pytest.mark.parametrize(("start", "end"), [(0, 26), (5, 9), (20, 22), (7, 7)])
def test_a_batch_of_each_shape_that_will_come_is_found(start, end):
    """A shape that is missed is compiled in the middle of a training."""
    loader = Loader(examples(), 8, seed=3)
    shape = lambda batch: (batch.tokens.shape, batch.labels.shape)  # noqa: E731
    found = [shape(loader[number]) for number in loader.of_each_shape(start, end)]
    assert sorted(found) == sorted({shape(loader[number]) for number in range(start, end)})


def test_buckets_are_the_best_division():
    """Compared with every possible division."""
    rows = examples(40)
    rounded = [-(-len(example.tokens) // batches.LENGTH_STEP) for example in rows]
    lengths = sorted(set(rounded))

    def padded(edges):
        return sum(min(edge for edge in edges if edge >= length) for length in rounded)

    best = min(padded((*cut, lengths[-1])) for cut in itertools.combinations(lengths[:-1], 2))
    buckets = batches.make_buckets(rows, max_buckets=3)
    shapes = [next(bucket for bucket in buckets if bucket.holds(example)) for example in rows]
    assert sum(bucket.length for bucket in shapes) == best * batches.LENGTH_STEP


def endless(count: int):
    """The same examples again and again, as a stream."""
    return lambda: itertools.cycle(examples(count))


def test_a_stream_gives_every_row_of_a_window_once():
    loader = StreamLoader(endless(64), 8, max_length=256, seed=3, window=32)
    for window in range(3):
        seen = [row for i in range(4) for row in loader[4 * window + i].tokens[0, :, 0].tolist()]
        assert sorted(seen) == sorted(range(32 * (window % 2), 32 * (window % 2) + 32))


def test_a_stream_is_read_again_where_a_run_resumes():
    """A resumed run asks for batch 9 first; going back is as good."""
    make = lambda: StreamLoader(endless(50), 4, max_length=256, accumulation=2, seed=1, window=24)  # noqa: E731
    straight = make()
    expected = [straight[number].tokens for number in range(12)]
    resumed = make()
    for number in (9, 10, 2, 11, 0):
        np.testing.assert_array_equal(resumed[number].tokens, expected[number])


def test_a_streams_longest_bucket_holds_what_its_first_window_did_not_show():
    short, long = Example(np.zeros(10, np.int32), 5), Example(np.zeros(100, np.int32), 2)
    loader = StreamLoader(lambda: itertools.chain([short] * 4, itertools.repeat(long)), 2, max_length=100, window=4)
    assert loader[2].tokens.shape == (1, 2, 112)
    assert (loader[2].labels != NO_LABEL).sum() == 2 * 98


def test_padding_is_counted():
    loader = Loader(examples(), 8, seed=1)
    found = [loader[number] for number in range(loader.batches_per_epoch)]
    assert sum(batch.filled for batch in found) == sum(len(example.tokens) for example in examples())
    share = 1 - sum(batch.filled for batch in found) / sum(batch.tokens.size for batch in found)
    assert abs(share - loader.waste()) < 1e-12


def test_an_example_goes_to_the_first_shape_that_holds_its_prompt_and_its_answer():
    shapes = [Bucket(16, 8), Bucket(32, 32)]
    rows = [Example(np.zeros(12, np.int32), 6), Example(np.zeros(12, np.int32), 2)]
    loader = Loader(rows, 1, buckets=shapes)
    assert sorted(loader[number].tokens.shape[-1] for number in range(2)) == [16, 32]
