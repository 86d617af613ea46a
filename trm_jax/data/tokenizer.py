"""Reads a model's tokenizer without running code from its folder, and checks it before it is used."""

import os
import pathlib
import re
from collections.abc import Sequence

from trm_jax.errors import UserError
from trm_jax.files import is_pointer

OPENED_THOUGHT = re.compile(r"<think>\s*\Z")
Chat = list[dict[str, str]]  # messages, each with a role and its content


class TokenizerError(UserError):
    """A tokenizer that cannot be read, or that belongs to another kind of model."""


def read_tokenizer(folder: str | os.PathLike):
    """The tokenizer whose files are in the folder. Raises TokenizerError.

    A tokenizer.json counts as it is. transformers 5 would go by the name of the model's kind, and set Qwen's own rules and
    special tokens in place of those of a fine-tune that has others.

    Example: `read_tokenizer("runs/model/tokenizer").decode(tokens)`.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    folder = pathlib.Path(folder)
    if not (folder / "tokenizer.json").is_file() and not (folder / "vocab.json").is_file():
        raise TokenizerError(f"{folder} has no tokenizer: neither tokenizer.json nor vocab.json is there")
    files = [folder / name for name in ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt")]
    if pointers := [path for path in files if path.is_file() and is_pointer(path)]:
        raise TokenizerError(f"{pointers[0]} is a pointer of Git LFS, not the file itself: git lfs pull fetches it")
    kind = PreTrainedTokenizerFast if (folder / "tokenizer.json").is_file() else AutoTokenizer
    try:
        return kind.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # of any type: these are files that other people made
        raise TokenizerError(f"the tokenizer in {folder} cannot be read: {error}") from None


def check_tokenizer(tokenizer, vocab_size: int, where: pathlib.Path) -> None:
    """Raises TokenizerError unless the tokenizer's chat template works, ends a message, and fits `vocab_size` tokens.

    Example: `check_tokenizer(tokenizer, config.vocab_size, folder)`.
    """
    if len(tokenizer) > vocab_size:
        raise TokenizerError(
            f"the tokenizer in {where} has {len(tokenizer):,} tokens, the model {vocab_size:,}: it belongs to another model"
        )
    try:
        [text] = render_chats(tokenizer, [[{"role": "user", "content": "Hello"}]], add_generation_prompt=True)
        if "hello" not in text.lower():
            raise TokenizerError("the chat template leaves out what the user says")
        end_token(tokenizer)
    except TokenizerError as error:
        raise TokenizerError(f"{where}: {error}") from None
    except Exception as error:  # of any type: a template is a program
        raise TokenizerError(f"the tokenizer in {where} has no chat template that works: {error}") from None


def end_token(tokenizer) -> int:
    """The id of the token that the chat template writes behind an assistant's message: what a model learns to end with.

    Where the template writes none, it is the tokenizer's own end token. Raises TokenizerError if there is neither.

    Example: `tokenizer.decode([end_token(tokenizer)])` is `"<|im_end|>"` for Qwen2.5.
    """
    message = "The answer is 7."
    chat = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": message}]
    _, found, behind = tokenizer.apply_chat_template(chat, tokenize=False).rpartition(message)
    marks = [token for token in special_tokens(tokenizer) if token in behind]
    if found and marks:
        return tokenizer.convert_tokens_to_ids(min(marks, key=behind.index))
    if tokenizer.eos_token_id is None:
        raise TokenizerError("the chat template writes no special token behind an answer, and there is no end token")
    return tokenizer.eos_token_id


def special_tokens(tokenizer) -> tuple[str, ...]:
    """The tokens that are marks of the chat format and no words, the longest first."""
    added = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    return tuple(sorted(filter(None, added | set(tokenizer.all_special_tokens)), key=len, reverse=True))


def without_tokens(text: str, tokens: Sequence[str]) -> str:
    """The text without these tokens, and without those that come together where others are taken out.

    It takes a time that grows with the text alone, however deep tokens are put into each other.

    Example: `without_tokens("a<|im_<|im_end|>end|>b", ["<|im_end|>"])` is `"ab"`.
    """
    if not any(token in text for token in tokens):
        return text
    kept, longest, ends = [], max(map(len, tokens)), {token[-1] for token in tokens}
    for character in text:
        kept.append(character)
        if character in ends:
            behind = "".join(kept[-longest:])
            if found := next(filter(behind.endswith, tokens), None):
                del kept[-len(found) :]
    return "".join(kept)


def render_chats(tokenizer, chats: Sequence[Chat], **options) -> list[str]:
    """Each conversation as a text in the tokenizer's chat format.

    Where the format has no system message, its text stands before the first question. `options` are those of
    `apply_chat_template`.

    With a generation prompt the text ends where the template puts an assistant's message that is given: a thought that the
    prompt opens, as DeepSeek-R1 and QwQ have it, is left out. A solution learned behind `<think>` would be a part of the
    thought, and its own `<think>` a second one. A model may still open a thought itself.

    Example: `render_chats(tokenizer, [[{"role": "user", "content": "Hello"}]], add_generation_prompt=True)[0]`.
    """
    if any(chat[0]["role"] == "system" for chat in chats) and not takes_system(tokenizer):
        chats = [_without_system(chat) for chat in chats]
    texts = [tokenizer.apply_chat_template(chat, tokenize=False, **options) for chat in chats]
    return [OPENED_THOUGHT.sub("", text) for text in texts] if options.get("add_generation_prompt") else texts


def _without_system(chat: Chat) -> Chat:
    if chat[0]["role"] != "system" or len(chat) == 1:
        return chat
    system, first, *rest = chat
    return [first | {"content": f"{system['content']}\n\n{first['content']}"}, *rest]


def takes_system(tokenizer) -> bool:
    """Whether the chat template writes a system message; some refuse it, some leave it out."""
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    try:
        return "Be brief." in tokenizer.apply_chat_template(chat, tokenize=False)
    except Exception:  # a template refuses in its own words
        return False
