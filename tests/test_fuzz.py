"""Files that other people made, spoilt at random: a reader gives what is in them or says what is wrong, in little memory.

HYPOTHESIS_PROFILE=thorough tries ten times as many for each reader; docs/log.md has the counts of long runs.
"""

import contextlib
import json
import struct
import tracemalloc
import warnings
from collections.abc import Callable

import numpy as np
import pytest
from flax import nnx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.models import randomize, tiny_model, tiny_qwen_config
from trm_jax import demo
from trm_jax.checkpoints import folders
from trm_jax.checkpoints.integrity import require_sealed
from trm_jax.conversion import hugging_face as convert
from trm_jax.conversion import mathllm as original
from trm_jax.conversion.hugging_face_config import read_config
from trm_jax.conversion.safetensors_files import find_tensors
from trm_jax.data import datasets as sources
from trm_jax.errors import UserError
from trm_jax.evaluation import read_evaluation
from trm_jax.model.qwen import Qwen

fuzz = settings(
    deadline=10_000,  # milliseconds: no input may hang a reader
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
ALLOWANCE = 2**22  # bytes that a reader may take whatever the size of the file
JSON_FACTOR = 100  # Python objects are larger than the text that they were read from

texts = st.text(max_size=9)
leaves = st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats() | st.text(max_size=20)
values = st.recursive(leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4))


@st.composite
def spoilt(draw, content: bytes) -> bytes:
    """Bytes changed, taken out, put in, the end cut off."""
    content = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(len(content) - 1, 0)))
        kind = draw(st.sampled_from(["change", "cut", "insert", "remove"]))
        if kind == "change":
            content[place : place + 1] = draw(st.binary(min_size=1, max_size=8))
        elif kind == "insert":
            content[place:place] = draw(st.binary(min_size=1, max_size=8))
        elif kind == "remove":
            del content[place : place + draw(st.integers(1, 64))]
        elif draw(st.booleans()):
            del content[place:]
    return bytes(content)


def read_or_refuse(read: Callable[[], object], size: int, factor: int) -> None:
    tracemalloc.start()
    try:
        with contextlib.suppress(UserError):
            read()
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < ALLOWANCE + factor * size


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("fuzz")
    convert.write_hugging_face(path, randomize(Qwen(tiny_qwen_config(), nnx.Rngs(0)), seed=5))
    list(convert.read_backbone(path, tiny_qwen_config(), "float32"))  # what is read once for all does not count
    return path


def spoil_object(content: dict) -> st.SearchStrategy[bytes]:
    """A JSON object with some fields of any kind, or its text with spoilt bytes."""
    fields = st.dictionaries(st.sampled_from(sorted(content)) | st.text(max_size=9), values, min_size=1, max_size=3)
    return fields.map(lambda some: json.dumps(content | some).encode()) | spoilt(json.dumps(content).encode())


@fuzz
@given(data=st.data())
def test_config(data, tmp_path):
    content = data.draw(spoil_object(json.loads((demo.MODEL / "config.json").read_text())))
    (tmp_path / "config.json").write_bytes(content)
    read_or_refuse(lambda: read_config(tmp_path), len(content), JSON_FACTOR)


@fuzz
@given(data=st.data())
def test_our_own_folders(data, tmp_path):
    config = {
        "kind": "model",
        "format": folders.FORMAT,
        "backbone": tiny_qwen_config().to_json(),
        "fingerprint": "0",
        "trm": None,
    }
    content = data.draw(spoil_object(config))
    (tmp_path / "config.json").write_bytes(content)
    (tmp_path / "seal.json").write_bytes(content)

    read_or_refuse(lambda: folders.open_folder(tmp_path), len(content), JSON_FACTOR)
    read_or_refuse(lambda: require_sealed(tmp_path), len(content), JSON_FACTOR)


names = st.sampled_from([convert.EMBEDDING, "model.norm.weight", "lm_head.weight", "x"])
files = (
    st.sampled_from(["model.safetensors", "other.safetensors", "../model.safetensors", "/etc/passwd", "a\0b", "."])
    | st.text()
)


@fuzz
@given(data=st.data())
def test_index(data, folder):
    index, part = folder / "model.safetensors.index.json", "part.safetensors"
    places = dict.fromkeys(sorted(find_tensors(folder)), part) | data.draw(
        st.dictionaries(names, files | values, max_size=3)
    )
    content = data.draw(st.just(json.dumps({"weight_map": places}).encode()) | spoil_object({"weight_map": places}))
    index.write_bytes(content)
    (folder / "model.safetensors").rename(folder / part)  # a whole file would win over the index
    try:
        size = len(content) + (folder / part).stat().st_size
        read_or_refuse(lambda: list(convert.read_backbone(folder, tiny_qwen_config(), "float32")), size, JSON_FACTOR)
    finally:
        index.unlink()
        (folder / part).rename(folder / "model.safetensors")


entry = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "BF16", "F64", "I8", "F8_E4M3"]) | st.text(max_size=4),
        "shape": st.lists(st.integers(-2, 2**40), max_size=3),
        "data_offsets": st.lists(st.integers(-2, 2**40), max_size=3),
    }
)


@fuzz
@given(data=st.data())
def test_safetensors(data, folder, tmp_path):
    whole = (folder / "model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", whole[:8])
    header = json.loads(whole[8 : 8 + length])
    some = data.draw(st.dictionaries(st.sampled_from(sorted(header)), entry | values, min_size=1, max_size=3))
    text = json.dumps(header | some).encode()
    size = data.draw(st.just(len(text)) | st.integers(0, 2**64 - 1))
    built = struct.pack("<Q", size) + text + whole[8 + length :]
    content = data.draw(
        st.just(built) | spoilt(whole[: 8 + length]).map(lambda head: head + whole[8 + length :]) | spoilt(whole)
    )
    (tmp_path / "model.safetensors").write_bytes(content)
    read_or_refuse(lambda: list(convert.read_backbone(tmp_path, tiny_qwen_config(), "float32")), len(content), 4)


@fuzz
@given(data=st.data())
def test_rows(data, tmp_path):
    rows = st.dictionaries(st.sampled_from(["question", "answer", "problem", "solution"]), values, max_size=3)
    lines = st.lists(rows.map(json.dumps), max_size=4).map(lambda lines: "\n".join(lines).encode())
    content = data.draw(lines | lines.flatmap(spoilt) | st.binary(max_size=200))
    path = tmp_path / "data.jsonl"
    path.write_bytes(content)
    read_or_refuse(lambda: sources.load_rows(str(path), "train"), len(content), JSON_FACTOR)
    read_or_refuse(lambda: read_evaluation(path), len(content), JSON_FACTOR)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> bytes:
    """An original's checkpoint of the tiny model; torch and what it loads first are in memory then."""
    pytest.importorskip("torch")
    from tests.support.oracle import save_original

    path = tmp_path_factory.mktemp("original") / "trm_model.pt"
    save_original(path, tiny_model("mathllm").trm)
    original.read_trm_checkpoint(path, tiny_qwen_config())
    return path.read_bytes()


@fuzz
@given(data=st.data())
def test_checkpoint_of_the_original(data, checkpoint, tmp_path):
    content = data.draw(
        spoilt(checkpoint) | spoilt(checkpoint[:4000]).map(lambda head: head + checkpoint[4000:]) | st.binary()
    )
    path = tmp_path / "trm_model.pt"
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        read_or_refuse(lambda: original.read_trm_checkpoint(path, tiny_qwen_config()), len(content), 8)


def test_a_small_archive_that_unpacks_to_a_large_one_is_refused(checkpoint, tmp_path):
    import io
    import zipfile

    path = tmp_path / "trm_model.pt"
    with zipfile.ZipFile(io.BytesIO(checkpoint)) as whole, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in whole.namelist():
            packed.writestr(name, np.zeros(2**24, np.uint8).tobytes() if "/data/" in name else whole.read(name))
    with pytest.raises(UserError, match="does not pack"):
        original.read_trm_checkpoint(path, tiny_qwen_config())
