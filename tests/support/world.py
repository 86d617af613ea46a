"""A small world of folders and files for a script to work on, and ways to spoil it."""

import dataclasses
import hashlib
import json
import pathlib
import shutil
from collections.abc import Callable

import pytest
import safetensors.numpy

from tests.support.damage import flip_bit, largest_data


@dataclasses.dataclass(frozen=True)
class World:
    """The folders and files of a case: a Hugging Face model, the same converted, a run, rows, and what is not there yet."""

    root: pathlib.Path

    def __getattr__(self, name: str) -> pathlib.Path:
        return self.root / {"data": "data.jsonl", "answers": "answers.jsonl", "trm": "trm_model.pt"}.get(name, name)

    def snapshot(self) -> dict[str, str]:
        files = (path for path in self.root.rglob("*") if path.is_file() and not path.name.endswith(".lock"))
        return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def names(world: World, template: World) -> dict[str, str]:
    """What commands call `{name}`; `{rows}` are those that the run was started with."""
    own = {name: str(getattr(world, name)) for name in "root hf model run out data answers trm nothing".split()}
    return own | {"rows": str(template.data)}


LEFT_OUT = object()


def edit_json(path: pathlib.Path, **changes) -> None:
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in values.items() if value is not LEFT_OUT}))


def config(**changes):
    return lambda world: edit_json(world.hf / "config.json", **changes)


def tensors(edit):
    def spoil(world):
        path = world.hf / "model.safetensors"
        content = safetensors.numpy.load_file(path)
        edit(content)
        safetensors.numpy.save_file(content, path)

    return spoil


def put(**changes):
    return tensors(lambda content: content.update({name.replace("__", "."): value for name, value in changes.items()}))


def shards(edit=lambda index, world: None):
    """The model in two files with an index, which `edit` changes."""

    def spoil(world):
        path = world.hf / "model.safetensors"
        content = safetensors.numpy.load_file(path)
        path.unlink()
        names = sorted(content)
        index = {"weight_map": {}}
        for number, part in enumerate((names[:5], names[5:]), 1):
            file = f"model-0000{number}-of-00002.safetensors"
            safetensors.numpy.save_file({name: content[name] for name in part}, world.hf / file)
            index["weight_map"] |= dict.fromkeys(part, file)
        edit(index, world)
        (world.hf / "model.safetensors.index.json").write_text(json.dumps(index))

    return spoil


def cut(path: Callable[[World], pathlib.Path], size: int):
    def spoil(world):
        content = path(world).read_bytes()
        path(world).write_bytes(content[:size])

    return spoil


def write(name: str, content: str | bytes):
    return lambda world: (world.root / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def rows(*lines: str | bytes):
    good = b'{"question": "1 + 1?", "answer": "#### 2"}'
    content = [good, good, *(line if isinstance(line, bytes) else line.encode() for line in lines)]
    return write("data.jsonl", b"\n".join(content) + b"\n")


def damage(checkpoints: pathlib.Path, *numbers: int) -> None:
    for number in numbers:
        flip_bit(largest_data(checkpoints / str(number)))


def index_alone(content: str):
    """An index without the whole file, which would win over it."""

    def spoil(world):
        (world.hf / "model.safetensors").unlink()
        (world.hf / "model.safetensors.index.json").write_text(content)

    return spoil


def index_of(**changes):
    return shards(lambda index, world: index["weight_map"].update(changes))


def save_torch(content):
    def spoil(world):
        torch = pytest.importorskip("torch")
        torch.save(content, world.trm)

    return spoil


def no_template(world):
    (world.hf / "chat_template.jinja").unlink(missing_ok=True)
    edit_json(world.hf / "tokenizer_config.json", chat_template=LEFT_OUT)


def no_end_token(world):
    """A template that ends an answer with a line break, and a tokenizer without an end token."""
    template = "{% for message in messages %}{{ message.content }}\n{% endfor %}"
    edit_json(world.hf / "tokenizer_config.json", chat_template=template, eos_token=None)
    (world.hf / "chat_template.jinja").write_text(template)


def another_backbone(world):
    """In place of the model; the one that the run was trained on is nowhere else."""
    edit_json(world.model / "config.json", fingerprint="0" * 64)
    edit_json(world.run / "config.json", model=str(world.nothing))


def another_model(world):
    """In place of the Hugging Face folder, a converted model with another backbone."""
    shutil.rmtree(world.hf)
    shutil.copytree(world.model, world.hf)
    edit_json(world.hf / "config.json", fingerprint="0" * 64)


def weights_gone(world):
    shutil.rmtree(world.model / "backbone")


def backbone_gone(world):
    shutil.rmtree(world.model)
    edit_json(world.run / "config.json", model=str(world.nothing))


def answers_of_another_model(world):
    settings = {"data": str(world.data), "head": "backbone", "max_new_tokens": 48, "dtype": "float32"}
    write("answers.jsonl", "")(world)
    write("answers.json", json.dumps(settings | {"fingerprint": "other"}))(world)
