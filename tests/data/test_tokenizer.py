"""Tokenizers that other people made: nothing that they bring along is run, and one that does not fit is refused."""

import contextlib
import json
import shutil

import pytest

from trm_jax import demo
from trm_jax.data.tokenizer import TokenizerError, check_tokenizer, end_token, read_tokenizer

VOCABULARY = 495  # of the demo


@pytest.fixture
def folder(tmp_path):
    shutil.copytree(demo.MODEL, tmp_path / "hf")
    return tmp_path / "hf"


def test_code_that_comes_with_a_tokenizer_is_not_run(folder, tmp_path):
    """`auto_map` names a class in a file beside it, which transformers would import if it were trusted."""
    evil = f"import pathlib\npathlib.Path({str(tmp_path / 'run')!r}).touch()\nclass Evil: pass\n"
    (folder / "evil.py").write_text(evil)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config |= {"auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}, "tokenizer_class": "Evil"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    with contextlib.suppress(TokenizerError):
        read_tokenizer(folder)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "template",
    [
        "{% for i in range(10 ** 12) %}x{% endfor %}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ raise_exception('no') }}",
    ],
)
def test_a_template_that_does_other_things_is_refused(folder, template):
    (folder / "chat_template.jinja").write_text(template)
    with pytest.raises(TokenizerError, match="no chat template that works"):
        check_tokenizer(read_tokenizer(folder), VOCABULARY, folder)


def test_the_demo_has_a_tokenizer_that_fits(folder):
    tokenizer = read_tokenizer(folder)
    check_tokenizer(tokenizer, VOCABULARY, folder)
    assert tokenizer.decode([end_token(tokenizer)]) == "<|im_end|>"
    with pytest.raises(TokenizerError, match="495 tokens, the model 494"):
        check_tokenizer(tokenizer, VOCABULARY - 1, folder)
