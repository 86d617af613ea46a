"""What --inspect shows, and the sets that are refused before any training."""

import collections
import dataclasses
import json
import pathlib

import pytest
from transformers import AutoTokenizer

from trm_jax import demo
from trm_jax.config import DataConfig, TrainConfig
from trm_jax.data.datasets import DataError
from trm_jax.data.examples import encode_examples
from trm_jax.data.inspection import check_trainable, show_rows
from trm_jax.data.loader import NO_LABEL, Loader
from trm_jax.data.training_set import TrainingSet, make_training_set

ROWS = [{"question": f"Ana has {i} nuts.", "answer": f"{i}\n#### {i}"} for i in range(30)]


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(demo.MODEL)


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return DataConfig((str(path),))


def batch_of(rows, tokenizer):
    return Loader(encode_examples(rows, tokenizer, 200)[0], len(rows))[0]


def test_learned_tokens_are_marked_as_the_batch_has_them(tokenizer):
    shown = show_rows(batch_of(ROWS[:1], tokenizer), tokenizer)
    assert shown.endswith("<|im_start|>assistant\n«0\n\\boxed{0}<|im_end|>»")
    assert "Ana has 0 nuts." in shown


def test_characters_of_several_tokens_are_shown_whole(tokenizer):
    row = {"question": "Zoë has 3 🥜.", "answer": "3 🥜 → \\boxed{3}"}
    shown = show_rows(batch_of([row], tokenizer), tokenizer)
    assert "Zoë has 3 🥜." in shown
    assert "«3 🥜 → \\boxed{3}" in shown


def test_lengths_and_dropped_rows_are_counted(tokenizer, source):
    training_set = make_training_set(source, TrainConfig(batch_size=4), tokenizer, held_out_rows=3)
    text = training_set.inspect(tokenizer, 1024)
    assert "27 ████" in text
    assert "dropped, above 1,024 tokens: 0" in text


def test_held_out_rows_are_not_trained_on(tokenizer, source):
    """Also where a mixture brings the same row twice."""
    twice = DataConfig(source.sources * 2)
    training_set = make_training_set(twice, TrainConfig(batch_size=4), tokenizer, held_out_rows=3)

    def texts(batch):  # without the padding of rows and batches, which is the same everywhere
        return {tokenizer.decode(row[row > 0]) for row in batch.tokens[0] if row.any()}

    held_out = texts(training_set.held_out[0])
    assert len(held_out) == 3
    assert set(training_set.held_out.buckets) <= set(training_set.loader.buckets)  # no program of their own
    for number in range(training_set.batches_per_epoch):
        assert not held_out & texts(training_set.loader[number])


@pytest.mark.parametrize("streaming", [False, True])
def test_a_small_set_of_a_mixture_stays_in_training(tokenizer, tmp_path, streaming):
    """No more than a tenth of each set is held out, however often the mixture repeats its rows."""
    sizes, files = {"large": 200, "small": 30}, []
    for name, size in sizes.items():
        files.append(str(tmp_path / f"{name}.jsonl"))
        rows = [{"question": f"{name} {i}?", "answer": f"\\boxed{{{i}}}"} for i in range(size)]
        pathlib.Path(files[-1]).write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = DataConfig(tuple(files), streaming=streaming)
    training_set = make_training_set(config, TrainConfig(batch_size=4, max_length=200), tokenizer, held_out_rows=128)

    def counts(examples):
        texts = collections.Counter(tokenizer.decode(example.tokens) for example in examples)
        return {name: [count for text, count in texts.items() if f"{name} " in text] for name in sizes}

    held_out, trained = counts(training_set.held_out.examples), counts(training_set.examples)
    assert {name: len(each) for name, each in held_out.items()} == {"large": 20, "small": 3}
    assert len(trained["small"]) == 27
    if not streaming:
        assert len(training_set.examples) == 207  # 230, less those that are held out
        assert abs(sum(trained["small"]) - sum(trained["large"])) <= 1  # equal shares
        batches = [training_set.loader[number] for number in range(training_set.batches_per_epoch)]
        assert sum((batch.labels >= 0).any(axis=-1).sum() for batch in batches) == 207


def test_a_set_whose_rows_are_all_held_out_by_another_is_refused(tokenizer, source, tmp_path):
    """Its share could not be filled."""
    path = tmp_path / "part.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    same = DataConfig((str(path), str(path)), weights=(1000, 1))
    training_set = make_training_set(same, TrainConfig(batch_size=4), tokenizer, held_out_rows=3)
    assert len(training_set.held_out.examples) == 3
    held = training_set.held_out.examples
    path.write_text(json.dumps(next(row for row in ROWS if row["question"] in tokenizer.decode(held[0].tokens))))
    with pytest.raises(DataError, match="leave it out, or --held-out 0"):
        make_training_set(DataConfig((*source.sources, str(path))), TrainConfig(batch_size=4), tokenizer, 30)


def test_a_stream_of_few_rows_is_trained_on(tokenizer, source):
    """At most a tenth of its rows is held out, and not of how often they are read."""
    stream = DataConfig(source.sources, streaming=True)
    training_set = make_training_set(stream, TrainConfig(batch_size=4, max_length=200), tokenizer, held_out_rows=128)
    assert len(training_set.held_out.examples) == len(ROWS) // 10
    assert len(training_set.examples) == len(ROWS) - len(ROWS) // 10


def test_other_rows_have_another_fingerprint(tokenizer, source, tmp_path):
    """A word, a row, the order, or where the answer begins."""

    def fingerprint(rows):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return make_training_set(DataConfig((str(path),)), TrainConfig(), tokenizer, held_out_rows=0).fingerprint

    first, *others = ROWS
    changed = [first | {"question": first["question"].replace("Ana", "Ben")}, *others]
    assert fingerprint(ROWS) == fingerprint(ROWS)
    assert len({fingerprint(rows) for rows in (ROWS, changed, others, ROWS[::-1])}) == 4
    first, *others = make_training_set(source, TrainConfig(), tokenizer, held_out_rows=0).examples
    moved = dataclasses.replace(first, prompt_length=first.prompt_length - 1)
    sets = [TrainingSet(None, None, [one, *others], 0) for one in (first, moved)]
    assert sets[0].fingerprint != sets[1].fingerprint


def test_a_stream_is_trained_on_without_its_held_out_rows(tokenizer, source):
    stream = DataConfig(source.sources, streaming=True)
    training_set = make_training_set(stream, TrainConfig(batch_size=4, max_length=200), tokenizer, held_out_rows=3)
    assert training_set.batches_per_epoch is None
    held_out = training_set.held_out[0].tokens[0]
    length = held_out.shape[1]
    batch = training_set.loader[0]
    assert not {row.tobytes() for row in held_out} & {row[:length].tobytes() for row in batch.tokens[0]}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda batch: batch.labels.fill(NO_LABEL), "every label is masked"),
        (lambda batch: batch.labels.__setitem__(batch.labels == batch.labels.max(), 5), "never learn to stop"),
    ],
)
def test_batches_without_labels_or_ends_are_refused(tokenizer, spoil, message):
    batch = batch_of(ROWS[:4], tokenizer)
    check_trainable(ROWS[:4], batch, tokenizer)
    spoil(batch)
    with pytest.raises(DataError, match=message):
        check_trainable(ROWS[:4], batch, tokenizer)


def test_answers_that_cannot_be_graded_are_counted(tokenizer, caplog):
    """They can be learned from; what they do not teach is the box."""
    rows = [{"question": "Why?", "answer": "Because."}] * 3 + [{"question": "2?", "answer": "#### 2"}]
    check_trainable(rows, batch_of(rows, tokenizer), tokenizer)
    assert "3 of 4 solutions" in caplog.text
