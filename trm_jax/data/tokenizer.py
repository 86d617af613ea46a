"""Reads a model's tokenizer without running code from its folder, and checks it before it is used."""

import os
import pathlib

from trm_jax.errors import UserError

END_TOKEN = "<|im_end|>"  # ChatML's


class TokenizerError(UserError):
    """A tokenizer that cannot be read, or that belongs to another kind of model."""


def read_tokenizer(folder: str | os.PathLike):
    """The tokenizer whose files are in the folder. Raises TokenizerError.

    Example: `read_tokenizer("runs/model/tokenizer").decode(tokens)`.
    """
    from transformers import AutoTokenizer

    folder = pathlib.Path(folder)
    if not (folder / "tokenizer.json").is_file() and not (folder / "vocab.json").is_file():
        raise TokenizerError(f"{folder} has no tokenizer: neither tokenizer.json nor vocab.json is there")
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # of any type: these are files that other people made
        raise TokenizerError(f"the tokenizer in {folder} cannot be read: {error}") from None


def check_tokenizer(tokenizer, vocab_size: int, where: pathlib.Path) -> None:
    """Raises TokenizerError unless the tokenizer writes ChatML in tokens of a vocabulary of `vocab_size`.

    Example: `check_tokenizer(tokenizer, config.vocab_size, folder)`.
    """
    end_token(tokenizer)
    if len(tokenizer) > vocab_size:
        raise TokenizerError(
            f"the tokenizer in {where} has {len(tokenizer):,} tokens, the model {vocab_size:,}: it belongs to another model"
        )
    try:
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": "Hello"}], tokenize=False, add_generation_prompt=True
        )
    except Exception as error:  # of any type: a template is a program
        raise TokenizerError(f"the tokenizer in {where} has no chat template that works: {error}") from None
    if END_TOKEN not in text:
        raise TokenizerError(f"the chat template in {where} does not end a message with {END_TOKEN}: it is no ChatML")


def end_token(tokenizer) -> int:
    """The id of ChatML's end token. Raises TokenizerError."""
    token = tokenizer.convert_tokens_to_ids(END_TOKEN)
    if token is None or token == tokenizer.unk_token_id:
        raise TokenizerError(f"the tokenizer has no {END_TOKEN}: it does not belong to a Qwen2 chat model")
    return token
