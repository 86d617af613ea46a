"""The data of a run: batches to train on, and batches to measure the held-out loss on."""

import dataclasses
import hashlib
import itertools
from collections.abc import Mapping, Sequence

from trm_jax.config import DataConfig, TrainConfig
from trm_jax.data.datasets import DataError, mix, split_in_shares, stream_once, stream_rows, training_sets
from trm_jax.data.examples import Example, encode_examples, encode_stream
from trm_jax.data.inspection import check_trainable, show_lengths, show_rows
from trm_jax.data.loader import Bucket, Loader, StreamLoader, make_buckets, pad_batch

SAMPLE = 1024  # rows of each set of a stream that are read before training
CHECKED = 64  # rows that are checked for something to learn


@dataclasses.dataclass(frozen=True)
class TrainingSet:
    """Batches, and what is known of their rows before training."""

    loader: Loader | StreamLoader
    held_out: Loader | None
    examples: Sequence[Example]  # all that are trained on; of a stream, those among the first SAMPLE rows of each set
    dropped: int  # rows that are too long; of a stream, those among the same

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
    if config.streaming:
        sets = [list(itertools.islice(stream_once(config, number), SAMPLE)) for number in range(len(config.sources))]
    else:
        sets = training_sets(config, train.seed)
    encoded = [encode_examples(rows, tokenizer, train.max_length, config.keep_annotations) for rows in sets]
    kept_out = _kept_out([examples for examples, _ in encoded], config.weights, held_out_rows)
    left = [[example for example in examples if example.tokens.tobytes() not in kept_out] for examples, _ in encoded]
    for source, examples in zip(config.sources, left, strict=True):
        if not examples:
            raise DataError(
                f"{source} has no row that the sets before it do not hold out; leave it out, or --held-out 0"
            )
    rows, trained = list(itertools.chain(*sets)), list(itertools.chain(*left))
    if config.streaming:
        loader = _stream_loader(config, train, tokenizer, kept_out)
    else:
        if len(sets) > 1:  # what is too long or held out is not made up for by repeating other rows
            missing = len(rows) - len(trained)
            trained = mix(left, config.weights, (config.num_samples or len(rows)) - missing)
        loader = Loader(trained, train.batch_size, train.accumulation, train.seed)
    checked = trained[:CHECKED]
    check_trainable(rows, pad_batch(checked, _longest(checked), (1, len(checked))), tokenizer)
    held_out = _held_out_loader(list(kept_out.values()), train, loader.buckets)
    return TrainingSet(loader, held_out, trained, sum(dropped for _, dropped in encoded))


def _kept_out(sets: Sequence[Sequence[Example]], weights: Sequence[float], count: int) -> dict[bytes, Example]:
    """The first rows of each set, in its share of `count`, but at most a tenth of it; a row that comes again counts once.

    They are named by their tokens: a mixture or a stream may repeat a row, which then is kept out each time.
    """
    found: dict[bytes, Example] = {}
    for examples, share in zip(sets, split_in_shares(count, len(sets), weights), strict=True):
        own = {example.tokens.tobytes(): example for example in examples}
        most = min(share, len(own) // 10)
        found |= dict(itertools.islice(((key, one) for key, one in own.items() if key not in found), most))
    return found


def _stream_loader(
    config: DataConfig, train: TrainConfig, tokenizer, kept_out: Mapping[bytes, Example]
) -> StreamLoader:
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
