"""Makes the embedded demo model: a tokenizer and a tiny Qwen2, trained on word problems of one step and a few of two."""

import dataclasses
import itertools
import json
import pathlib
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float

from trm_jax.benchmark import SIZES
from trm_jax.conversion import write_hugging_face
from trm_jax.data import (
    NO_LABEL,
    SYSTEM_PROMPT,
    Batch,
    Loader,
    Row,
    boxed_solution,
    encode_examples,
    read_tokenizer,
)
from trm_jax.demo import problems
from trm_jax.errors import UserError
from trm_jax.hardware import count_weights
from trm_jax.model import Qwen
from trm_jax.training import cross_entropy

ROWS = 20_000  # of the training set
MAX_LENGTH = 256  # of a row, tokens
BATCH_SIZE = 64
WARMUP = 100  # batches
CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
# Qwen2's own split of a text before byte-pair merging: words, single digits, punctuation, line ends.
PRETOKENIZER = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def make_demo(
    folder: pathlib.Path,
    batches: int = 400,
    two_step_share: float = 0.1,
    seed: int = 1,
    say: Callable[[str], None] = lambda line: None,
) -> None:
    """Makes the tokenizer, trains the model, and writes both as a Hugging Face folder.

    Args:
        batches: to train on, each of BATCH_SIZE problems.
        two_step_share: the share of problems of two steps among the ROWS; the others have one step.
        seed: of the weights, the problems and their order.
        say: gets lines about the sizes, now and then the loss (nats a token), and the result.

    Raises a UserError if the share is not between 0 and 1.

    Example: `make_demo(pathlib.Path("demo"), batches=2, say=print)`.
    """
    rows = demo_rows(two_step_share, seed)
    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(folder, rows)
    tokenizer = read_tokenizer(folder)
    examples, _ = encode_examples(rows, tokenizer, MAX_LENGTH)
    end_token = tokenizer.convert_tokens_to_ids("<|im_end|>")
    config = dataclasses.replace(SIZES["demo"], vocab_size=len(tokenizer), end_tokens=(end_token,))
    backbone = Qwen(config, nnx.Rngs(seed))
    say(f"{count_weights(backbone):,} weights, {len(tokenizer)} tokens, {len(examples):,} problems")
    write_hugging_face(folder, train_language_model(backbone, Loader(examples, BATCH_SIZE, seed=seed), batches, say))
    size = sum(file.stat().st_size for file in folder.iterdir())
    say(f"wrote {folder}, {size / 1e6:.2f} MB")


def demo_rows(two_step_share: float, seed: int) -> list[Row]:
    """ROWS problems, the ones of one step first; none of them is in the demo's own splits. Raises a UserError."""
    if not 0 <= two_step_share <= 1:
        raise UserError(f"the share of two-step problems is {two_step_share}; it must be between 0 and 1")
    held_out = {row["question"] for name in ("train", "test") for row in problems.split(name)}
    rows = []
    for steps, share in {1: 1 - two_step_share, 2: two_step_share}.items():
        stream = (row for row in problems.problems(seed, steps) if row["question"] not in held_out)
        rows += itertools.islice(stream, round(ROWS * share))
    return rows


def write_tokenizer(folder: pathlib.Path, rows: Sequence[Row]) -> None:
    """A small byte-level BPE tokenizer in Qwen2's manner, learned from the problems, with a ChatML template."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(PRETOKENIZER), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=509, initial_alphabet=alphabet, show_progress=False)
    chat_words = [f"system\n{SYSTEM_PROMPT}\nuser\nassistant\n"] * len(rows)
    texts = (text for row in rows for text in (row["question"], boxed_solution(row["answer"])))
    tokenizer.train_from_iterator(itertools.chain(chat_words, texts), trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL_TOKENS])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "model_max_length": 512,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def train_language_model(backbone: Qwen, loader: Loader, batches: int, say: Callable[[str], None]) -> Qwen:
    """The backbone after plain next-token training on the solutions, with every weight trained."""
    # A warm-up longer than the training would leave the schedule nothing to decay over.
    schedule = optax.warmup_cosine_decay_schedule(0.0, 3e-3, min(WARMUP, batches // 4), batches, 1e-4)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, b2=0.95, weight_decay=0.01))

    @jax.jit
    def train_batch(backbone: Qwen, moments, batch: Batch):
        loss, gradients = jax.value_and_grad(mean_loss)(backbone, batch)
        updates, moments = optimizer.update(gradients, moments, backbone)
        return optax.apply_updates(backbone, updates), moments, loss

    moments = optimizer.init(backbone)
    for number in range(batches):
        backbone, moments, loss = train_batch(backbone, moments, loader[number])
        if number % 100 == 99:
            say(f"batch {number + 1:5d}  loss {float(loss):.4f}")
    return backbone


def mean_loss(backbone: Qwen, batch: Batch) -> Float[Array, ""]:
    """Cross-entropy of the solutions' tokens, nats a token."""
    hidden = backbone(batch.tokens[0])[0].last
    features = jnp.take_along_axis(hidden, batch.positions[0][..., None], axis=1)
    labels = batch.labels.reshape(-1)
    total = cross_entropy(features.reshape(labels.size, -1), backbone.head, labels, True)
    return total.loss / jnp.sum(labels != NO_LABEL)
