"""Makes the embedded demo model: a tokenizer and a tiny Qwen2, trained on word problems of one step, few of two.

python scripts/make_demo.py --output trm_jax/demo/model
"""

import dataclasses
import itertools
import json
import pathlib

import tyro

CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
# Qwen2's own split of a text before byte-pair merging: words, single digits, punctuation, line ends.
PRETOKENIZER = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclasses.dataclass(frozen=True)
class Options:
    output: pathlib.Path = pathlib.Path("trm_jax/demo/model")
    """The Hugging Face folder to write."""
    batches: int = 400
    """Training batches of 64 problems."""
    two_step_share: float = 0.1
    """The share of two-step problems in the training set; the others have one step."""
    seed: int = 1
    """Seed of the weights, the problems and their order."""


def main(options: Options) -> None:
    import numpy as np
    import optax
    from flax import nnx
    from transformers import AutoTokenizer

    from trm_jax.config import QwenConfig
    from trm_jax.conversion import hugging_face as convert
    from trm_jax.data.examples import encode_examples
    from trm_jax.data.loader import Loader
    from trm_jax.demo import problems
    from trm_jax.model.qwen import Qwen
    from trm_jax.model.weights import count_weights

    held_out = {row["question"] for name in ("train", "test") for row in problems.split(name)}
    counts = {1: round(20_000 * (1 - options.two_step_share)), 2: round(20_000 * options.two_step_share)}
    rows = []
    for steps, count in counts.items():
        stream = (p for p in problems.problems(options.seed, steps) if p["question"] not in held_out)
        rows += itertools.islice(stream, count)

    options.output.mkdir(parents=True, exist_ok=True)
    write_tokenizer(options.output, rows)
    tokenizer = AutoTokenizer.from_pretrained(options.output)
    examples, _ = encode_examples(rows, tokenizer, max_length=256)
    config = QwenConfig(
        vocab_size=len(tokenizer),
        width=64,
        mlp_width=192,
        num_layers=3,
        num_heads=4,
        num_kv_heads=2,
        rope_theta=10_000.0,
        norm_eps=1e-6,
        tied_head=True,
        max_length=512,
        end_tokens=(tokenizer.convert_tokens_to_ids("<|im_end|>"),),
    )
    backbone = Qwen(config, nnx.Rngs(options.seed))
    print(f"{count_weights(backbone):,} weights, {len(tokenizer)} tokens, {len(examples):,} problems")

    schedule = optax.warmup_cosine_decay_schedule(0.0, 3e-3, 100, options.batches, 1e-4)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, b2=0.95, weight_decay=0.01))
    train_batch = make_language_model_step(optimizer)
    state = (backbone, optimizer.init(backbone))
    loader = Loader(examples, batch_size=64, seed=options.seed)
    for number in range(options.batches):
        state, loss = train_batch(state, loader[number])
        if number % 100 == 99:
            print(f"batch {number + 1:5d}  loss {float(loss):.4f}", flush=True)
    convert.write_hugging_face(options.output, state[0])
    size = sum(file.stat().st_size for file in options.output.iterdir())
    print(f"wrote {options.output}, {np.round(size / 1e6, 2)} MB")


def write_tokenizer(folder: pathlib.Path, rows: list[dict[str, str]]) -> None:
    """A small byte-level BPE tokenizer in Qwen2's manner, learned from the problems, with a ChatML template."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    from trm_jax.data.examples import SYSTEM_PROMPT, boxed_solution

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
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
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


def make_language_model_step(optimizer):
    """A jitted step of plain next-token training on the answers."""
    import jax
    import jax.numpy as jnp
    import optax

    from trm_jax.data.loader import NO_LABEL, Batch
    from trm_jax.training.loss import cross_entropy

    def mean_loss(backbone, batch: Batch):
        hidden = backbone(batch.tokens[0])[0].last
        features = jnp.take_along_axis(hidden, batch.positions[0][..., None], axis=1)
        labels = batch.labels.reshape(-1)
        total = cross_entropy(features.reshape(labels.size, -1), backbone.head, labels, True)
        return total.loss / jnp.sum(labels != NO_LABEL)

    @jax.jit
    def train_batch(state, batch: Batch):
        backbone, moments = state
        loss, grads = jax.value_and_grad(mean_loss)(backbone, batch)
        updates, moments = optimizer.update(grads, moments, backbone)
        return (optax.apply_updates(backbone, updates), moments), loss

    return train_batch


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
