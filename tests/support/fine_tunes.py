"""The demo's Hugging Face folder as other people's fine-tunes have theirs: another chat format, other end tokens."""

import json
import pathlib
import shutil

from tests.support.world import LEFT_OUT, edit_json
from trm_jax import demo

# As in DeepSeek-R1-Distill-Qwen: marks of its own, no line breaks, no <|im_end|>.
MARKS = {"<|im_end|>": "<｜end▁of▁sentence｜>", "<|im_start|>": "<｜Assistant｜>", "<|endoftext|>": "<｜User｜>"}
TEMPLATE = (
    "{% for message in messages %}{% if message.role == 'user' %}<｜User｜>{{ message.content }}"
    "{% elif message.role == 'assistant' %}<｜Assistant｜>{{ message.content }}<｜end▁of▁sentence｜>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<｜Assistant｜>{% endif %}"
)
REFUSING = "{% if messages[0].role == 'system' %}{{ raise_exception('no system message') }}{% endif %}" + TEMPLATE
WITH_SYSTEM = "{% if messages[0].role == 'system' %}{{ messages[0].content }}{% endif %}" + TEMPLATE
THINKING = TEMPLATE.replace("prompt %}<｜Assistant｜>", "prompt %}{{ '<｜Assistant｜><think>\\n' }}")
FORMATS = {
    "without a system message": TEMPLATE,
    "refusing one": REFUSING,
    "with one": WITH_SYSTEM,
    "opening a thought": THINKING,
}


def deepseek_like(folder: pathlib.Path, template: str = TEMPLATE) -> pathlib.Path:
    """A folder whose config names the wrong end token; the demo's own is the one that its chat format writes."""
    shutil.copytree(demo.MODEL, folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        text = (folder / name).read_text()
        for old, new in MARKS.items():
            text = text.replace(old, new)
        (folder / name).write_text(text)
    edit_json(folder / "tokenizer_config.json", chat_template=template, tokenizer_class="LlamaTokenizerFast")
    return with_end_tokens(folder, 492)


def with_end_tokens(folder: pathlib.Path, end_tokens) -> pathlib.Path:
    """The folder with other end tokens in its config; LEFT_OUT for none."""
    values = json.loads((folder / "config.json").read_text())
    edit_json(folder / "config.json", **values | {"eos_token_id": end_tokens})
    return folder


def base_like(folder: pathlib.Path, end_tokens) -> pathlib.Path:
    """As base models are published: the config knows nothing of the chat format's end token."""
    shutil.copytree(demo.MODEL, folder)
    return with_end_tokens(folder, end_tokens)


NO_END_TOKENS = {"another": 492, "null": None, "missing": LEFT_OUT}
