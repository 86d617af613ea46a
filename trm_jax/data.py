"""From questions and worked solutions to bucketed batches of tokens. Knows no model."""

import dataclasses
import json
import math
import pathlib
import re
from collections.abc import Sequence

import numpy as np

SYSTEM_PROMPT = "Please reason step by step, and put your final answer within \\boxed{}."
END_TOKEN = "<|im_end|>"
NO_LABEL = -1  # the loss skips these slots
NAMED_SETS = ("gsm8k", "demo")  # those that have a train and a test split
LENGTH_STEP = 16  # bucket lengths are multiples of this many tokens
MAX_BUCKETS = 8


class DataError(ValueError):
    """A data set that cannot be trained or evaluated on; the message says where and what to do."""


def load_rows(source: str, split: str) -> list[dict[str, str]]:
    """Rows with `question` and `answer`.

    Args:
        source: `gsm8k` (from the hub, through `datasets`), `demo` (made on the spot), or the path of a `.jsonl` file.
        split: `train` or `test`; a file is taken as it is.

    Raises DataError for a source that is none of these, or a file with an unusable line.
    """
    if source == "demo":
        from trm_jax.demo import problems

        return problems.split(split)
    if source == "gsm8k":
        import datasets

        try:
            return list(datasets.load_dataset("openai/gsm8k", "main", split=split))
        except (OSError, ValueError) as error:
            raise DataError(f"gsm8k cannot be had from the hub; a local .jsonl file serves as well: {error}") from None
    path = pathlib.Path(source)
    if not path.is_file():
        raise DataError(f"no data set {source!r}: give 'gsm8k', 'demo', or the path of a .jsonl file")
    lines = path.read_text(encoding="utf-8").split("\n")
    rows = [_parse_row(line, path, number) for number, line in enumerate(lines, 1) if line.strip()]
    if not rows:
        raise DataError(f"{path} has no rows")
    return rows


def _parse_row(line: str, path: pathlib.Path, number: int) -> dict[str, str]:
    try:
        row = json.loads(line)
        return {"question": row["question"].strip(), "answer": row["answer"].strip()}
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path}, line {number}: each line must be a JSON object with texts 'question' and 'answer' ({error!r})"
        ) from None


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
    return tokenizer(texts, add_special_tokens=False)["input_ids"]


def encode_examples(
    rows: Sequence[dict[str, str]], tokenizer, max_length: int, keep_annotations: bool = False
) -> tuple[list[Example], int]:
    """All rows as tokens, and how many were dropped for being longer than `max_length` tokens.

    Raises DataError if none is left.
    """
    end = tokenizer.convert_tokens_to_ids(END_TOKEN)
    prompts = encode_prompts(tokenizer, [row["question"] for row in rows])
    solutions = [boxed_solution(row["answer"], keep_annotations) for row in rows]
    answers = tokenizer(solutions, add_special_tokens=False)["input_ids"] if solutions else []
    examples = [
        Example(np.array([*prompt, *answer, end], np.int32), len(prompt))
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    kept = [example for example in examples if len(example.tokens) <= max_length]
    if not kept:
        raise DataError(f"none of {len(rows)} rows has at most {max_length} tokens: raise --max-length")
    return kept, len(examples) - len(kept)


@dataclasses.dataclass(frozen=True)
class Batch:
    """A accumulated micro-batches of B rows, padded on the right. Arrays are int32."""

    tokens: np.ndarray  # [A, B, S]
    positions: np.ndarray  # [A, B, R]: slots whose next token is a label
    labels: np.ndarray  # [A, B, R]: that token, or NO_LABEL where a row has fewer than R


@dataclasses.dataclass(frozen=True)
class Bucket:
    """Rows that are padded to one shape."""

    length: int  # S, tokens
    answer_length: int  # R, label slots
    rows: tuple[int, ...]


def make_buckets(examples: Sequence[Example], max_buckets: int = MAX_BUCKETS) -> list[Bucket]:
    """Divides examples by length so that the padding is least, over at most `max_buckets` lengths."""
    rounded = np.array([math.ceil(len(example.tokens) / LENGTH_STEP) for example in examples])
    lengths, counts = np.unique(rounded, return_counts=True)
    below = np.concatenate([[0], np.cumsum(counts)])
    # best[j]: the least padded total of the j shortest lengths, with one more bucket each round; `cut` remembers how.
    best, cuts = np.where(np.arange(len(lengths) + 1) == 0, 0, np.inf), []
    for _ in range(min(max_buckets, len(lengths))):
        cost = best[None, :-1] + (below[1:, None] - below[None, :-1]) * lengths[:, None]
        cost = np.where(np.tri(len(lengths), dtype=bool), cost, np.inf)
        cuts.append(np.argmin(cost, axis=1))
        best = np.concatenate([[0], np.min(cost, axis=1)])
    edges, end = [], len(lengths)
    for cut in reversed(cuts):
        if end:
            edges.append(int(lengths[end - 1]))
            end = int(cut[end - 1])
    buckets, shortest, answers = [], 0, 0
    for edge in reversed(edges):
        rows = np.flatnonzero((rounded > shortest) & (rounded <= edge))
        # At least the answers of the shorter buckets, whose last rows move up into this one.
        answers = max(answers, *(math.ceil(examples[row].answer_length / LENGTH_STEP) for row in rows))
        buckets.append(Bucket(edge * LENGTH_STEP, answers * LENGTH_STEP, tuple(rows.tolist())))
        shortest = edge
    return buckets


class Loader:
    """Batches in an order that is a function of the seed and the batch's number alone.

    Every epoch shuffles the rows of each bucket and the order of the batches. What does not fill a bucket's last batch
    moves up into the next longer bucket; the very last batch is filled with empty rows, so every row is seen once.
    """

    def __init__(self, examples: Sequence[Example], batch_size: int, accumulation: int = 1, seed: int = 0):
        self.examples, self.seed = examples, seed
        self.shape = (accumulation, batch_size)
        self.buckets = make_buckets(examples)
        self._planned, self._planned_epoch = [], None
        self.batches_per_epoch = math.ceil(len(examples) / (accumulation * batch_size))

    def __getitem__(self, number: int) -> Batch:
        """Batch `number`, counted from the start of training over all epochs."""
        epoch, index = divmod(number, self.batches_per_epoch)
        bucket, rows = self._plan(epoch)[index]
        return self._pad(bucket, rows)

    def _plan(self, epoch: int) -> list[tuple[Bucket, list[int]]]:
        if epoch != self._planned_epoch:
            self._planned, self._planned_epoch = self._make_plan(epoch), epoch
        return self._planned

    def _make_plan(self, epoch: int) -> list[tuple[Bucket, list[int]]]:
        rng = np.random.default_rng((self.seed, epoch))
        size = self.shape[0] * self.shape[1]
        batches, left = [], []
        for bucket in self.buckets:
            rows = left + rng.permutation(bucket.rows).tolist()
            full = len(rows) // size * size
            batches += [(bucket, rows[start : start + size]) for start in range(0, full, size)]
            left = rows[full:]
        if left:
            batches.append((self.buckets[-1], left))
        return [batches[i] for i in rng.permutation(len(batches))]

    def _pad(self, bucket: Bucket, rows: list[int]) -> Batch:
        size = self.shape[0] * self.shape[1]
        tokens = np.zeros((size, bucket.length), np.int32)
        positions = np.zeros((size, bucket.answer_length), np.int32)
        labels = np.full((size, bucket.answer_length), NO_LABEL, np.int32)
        for slot, row in enumerate(rows):
            example = self.examples[row]
            count, prompt = example.answer_length, example.prompt_length
            tokens[slot, : len(example.tokens)] = example.tokens
            positions[slot, :count] = np.arange(prompt - 1, prompt - 1 + count)
            labels[slot, :count] = example.tokens[prompt:]
        return Batch(*(array.reshape(*self.shape, -1) for array in (tokens, positions, labels)))

    def waste(self) -> float:
        """The share of padding in the tokens of an epoch."""
        padded = sum(math.prod(self.shape) * bucket.length for bucket, _ in self._plan(0))
        return 1 - sum(len(example.tokens) for example in self.examples) / padded
