"""The data of a run: batches to train on, and batches to measure the held-out loss on."""

import dataclasses
import hashlib
import itertools
from collections.abc import Sequence

from trm_jax.config import DataConfig, TrainConfig
from trm_jax.data.datasets import DataError, stream_rows, training_rows
from trm_jax.data.examples import Example, encode_examples, encode_stream
from trm_jax.data.inspection import check_trainable, show_lengths, show_rows
from trm_jax.data.loader import Bucket, Loader, StreamLoader, make_buckets, pad_batch

SAMPLE = 1024  # rows of a stream that are read before training
CHECKED = 64  # rows that are checked for something to learn


@dataclasses.dataclass(frozen=True)
class TrainingSet:
    """Batches, and what is known of their rows before training."""

    loader: Loader | StreamLoader
    held_out: Loader | None
    examples: Sequence[Example]  # all that are trained on; of a stream, those among the first SAMPLE rows
    dropped: int  # rows that are too long; of a stream, those among the first SAMPLE rows

    @property
    def batches_per_epoch(self) -> int | None:
        """None for a stream, which has no end."""
        return self.loader.batches_per_epoch if isinstance(self.loader, Loader) else None

    def count_batches(self, epochs: int, limit: int | None = None) -> int:
        """The number of batches in so many epochs, at most `limit`; for a stream it is `limit`."""
        whole = self.batches_per_epoch and self.batches_per_epoch * epochs
        return min(filter(None, (whole, limit)))

    @property
    def fingerprint(self) -> str:
        """A hash of `examples`, by which a resumed run tells whether it has the same rows in the same order."""
        digest = hashlib.sha256()
        for example in self.examples:
            digest.update(f"{example.prompt_length} {len(example.tokens)} ".encode())
            digest.update(example.tokens)
        return digest.hexdigest()[:16]

    def describe(self, max_length: int) -> str:
        """One line for a person."""
        shapes = f"{len(self.loader.buckets)} lengths up to {self.loader.buckets[-1].length}"
        if not isinstance(self.loader, Loader):
            return f"a stream, in {shapes}"
        return (
            f"{len(self.examples):,} rows, {self.dropped} dropped as longer than {max_length} tokens, {shapes}, "
            f"{100 * self.loader.waste():.1f} % padding"
        )

    def inspect(self, tokenizer, max_length: int) -> str:
        """The texts of the first rows, as they are trained, and a bar chart of the lengths of all rows."""
        lengths = show_lengths(self.examples, self.loader.buckets, self.dropped, max_length)
        return f"{show_rows(self.loader[0], tokenizer)}\n\n{lengths}"


def make_training_set(config: DataConfig, train: TrainConfig, tokenizer, held_out_rows: int) -> TrainingSet:
    """Reads and tokenises the rows, keeps some out of training, and checks that the rest can be learned from.

    Raises DataError if the rows cannot be read or used.

    Example: `make_training_set(DataConfig(("gsm8k",)), TrainConfig(), tokenizer, held_out_rows=128).loader[0]`.
    """
    stream = itertools.islice(stream_rows(config), SAMPLE)
    rows = list(stream) if config.streaming else training_rows(config, train.seed)
    examples, dropped = encode_examples(rows, tokenizer, train.max_length, config.keep_annotations)
    held_out = examples[: min(held_out_rows, len(examples) // 10)]
    # Held-out rows are recognised by their tokens, because a mixture or a stream may repeat a row.
    kept_out = {example.tokens.tobytes() for example in held_out}
    trained = [example for example in examples if example.tokens.tobytes() not in kept_out]
    if not trained:
        raise DataError(f"all {len(examples)} rows are alike")
    if config.streaming:
        loader = _stream_loader(config, train, tokenizer, kept_out)
    else:
        loader = Loader(trained, train.batch_size, train.accumulation, train.seed)
    checked = trained[:CHECKED]
    check_trainable(rows, pad_batch(checked, _longest(checked), (1, len(checked))), tokenizer)
    return TrainingSet(loader, _held_out_loader(held_out, train, loader.buckets), trained, dropped)


def _stream_loader(config: DataConfig, train: TrainConfig, tokenizer, kept_out: set[bytes]) -> StreamLoader:
    def stream():
        encoded = encode_stream(stream_rows(config), tokenizer, train.max_length, config.keep_annotations)
        return (example for example in encoded if example.tokens.tobytes() not in kept_out)

    return StreamLoader(stream, train.batch_size, train.max_length, train.accumulation, train.seed)


def _held_out_loader(examples: Sequence[Example], train: TrainConfig, trained: Sequence[Bucket]) -> Loader | None:
    """Batches of one shape, so that one program is enough for the held-out loss; of a length that training has, if any."""
    if not examples:
        return None
    holding = (bucket for bucket in trained if all(map(bucket.holds, examples)))
    return Loader(examples, train.batch_size, buckets=[next(holding, None) or _longest(examples)])


def _longest(examples: Sequence[Example]) -> Bucket:
    """The smallest of the shapes that rows are padded to into which all of these fit."""
    return make_buckets(examples, 1)[0]
