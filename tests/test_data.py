"""Rows, templates, labels, buckets, order."""

import json
import pathlib

import numpy as np
import pytest

from trm_jax import checkpoint, data
from trm_jax.data import NO_LABEL, DataError, Example, Loader
from trm_jax.demo import problems


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    from trm_jax import demo

    return AutoTokenizer.from_pretrained(demo.MODEL)


def test_solutions_end_in_a_box_and_lose_their_annotations():
    answer = "48/2 = <<48/2=24>>24 clips.\n48+24 = <<48+24=72>>72\n#### 72"
    assert data.boxed_solution(answer) == "48/2 = 24 clips.\n48+24 = 72\n\\boxed{72}"
    assert "<<48/2=24>>" in data.boxed_solution(answer, keep_annotations=True)
    assert data.boxed_solution("so it is #### 1,234 ") == "so it is \\boxed{1,234}"


def test_the_conversation_is_chatml_and_its_end_is_learned(tokenizer):
    row = {"question": "Ana has 3 nuts.", "answer": "3\n#### 3"}
    (example,), dropped = data.encode_examples([row], tokenizer, 128)
    assert dropped == 0
    text = tokenizer.decode(example.tokens)
    assert text == (
        f"<|im_start|>system\n{data.SYSTEM_PROMPT}<|im_end|>\n<|im_start|>user\nAna has 3 nuts.<|im_end|>\n"
        "<|im_start|>assistant\n3\n\\boxed{3}<|im_end|>"
    )
    assert tokenizer.decode(example.tokens[example.prompt_length :]) == "3\n\\boxed{3}<|im_end|>"
    assert example.tokens[: example.prompt_length].tolist() == data.encode_prompts(tokenizer, [row["question"]])[0]


def test_long_examples_are_dropped_and_counted_never_cut(tokenizer):
    rows = problems.split("train", 50)
    everything, _ = data.encode_examples(rows, tokenizer, 1000)
    limit = sorted(len(example.tokens) for example in everything)[25]
    kept, dropped = data.encode_examples(rows, tokenizer, limit)
    assert len(kept) + dropped == 50
    assert dropped > 0
    assert all(example.tokens[-1] == tokenizer.convert_tokens_to_ids("<|im_end|>") for example in kept)
    with pytest.raises(DataError, match="max-length"):
        data.encode_examples(rows, tokenizer, 3)


def examples(count: int = 103) -> list[Example]:
    rng = np.random.default_rng(0)
    return [
        Example(np.full(length, row, np.int32), int(rng.integers(1, length)))
        for row, length in enumerate(rng.integers(5, 200, count))
    ]


@pytest.mark.parametrize("accumulation", [1, 2])
def test_every_row_is_seen_once_an_epoch(accumulation):
    loader = Loader(examples(), 8, accumulation, seed=3)
    for epoch in range(2):
        seen = []
        for number in range(loader.batches_per_epoch):
            batch = loader[epoch * loader.batches_per_epoch + number]
            assert batch.tokens.shape[:2] == (accumulation, 8)
            labelled = (batch.labels != NO_LABEL).any(axis=2)
            seen += batch.tokens[..., 0][labelled].tolist()
        assert sorted(seen) == list(range(103))


def test_labels_are_the_tokens_after_their_positions():
    rows = [Example(np.arange(10, 10 + length, dtype=np.int32), prompt) for length, prompt in ((9, 4), (6, 1))]
    batch = Loader(rows, 2)[0]
    labelled = batch.labels != NO_LABEL
    rows_of = np.broadcast_to(np.arange(2)[:, None], labelled[0].shape)[labelled[0]]
    positions, labels = batch.positions[labelled], batch.labels[labelled]
    np.testing.assert_array_equal(batch.tokens[0][rows_of, positions + 1], labels)
    assert labelled.sum() == 5 + 5


def test_the_order_is_a_function_of_seed_and_number_alone():
    """What makes a resumed run see the same batches: no state from the batches before."""
    one, other = Loader(examples(), 8, seed=1), Loader(examples(), 8, seed=1)
    backwards = [other[number].tokens for number in reversed(range(20))][::-1]
    for number in range(20):
        np.testing.assert_array_equal(one[number].tokens, backwards[number])
    assert any(
        one[n].tokens.shape != Loader(examples(), 8, seed=2)[n].tokens.shape
        or (one[n].tokens != Loader(examples(), 8, seed=2)[n].tokens).any()
        for n in range(3)
    )


def test_buckets_are_the_best_division():
    """Compared with every possible division."""
    import itertools

    rows = examples(40)
    rounded = [-(-len(example.tokens) // data.LENGTH_STEP) for example in rows]
    lengths = sorted(set(rounded))

    def padded(edges):
        return sum(min(edge for edge in edges if edge >= length) for length in rounded)

    best = min(padded((*cut, lengths[-1])) for cut in itertools.combinations(lengths[:-1], 2))
    buckets = data.make_buckets(rows, max_buckets=3)
    assert sum(len(bucket.rows) * bucket.length for bucket in buckets) == best * data.LENGTH_STEP
    assert sorted(row for bucket in buckets for row in bucket.rows) == list(range(40))


def test_bad_sources_are_named(tmp_path):
    with pytest.raises(DataError, match="no data set 'nothing'"):
        data.load_rows("nothing", "train")
    path = tmp_path / "rows.jsonl"
    path.write_text('{"question": "a", "answer": "b"}\n{"question": "a"}\n')
    with pytest.raises(DataError, match="line 2"):
        data.load_rows(str(path), "train")
    path.write_text("")
    with pytest.raises(DataError, match="no rows"):
        data.load_rows(str(path), "train")


def test_demo_problems_are_right_disjoint_and_repeatable():
    test, train = problems.split("test"), problems.split("train")
    assert test == problems.split("test")
    assert not {row["question"] for row in test} & {row["question"] for row in train}
    for row in test:
        *lines, final = row["answer"].splitlines()
        assert len(lines) == 2
        for line in lines:
            sum_, result = line.split("<<")[1].split(">>")[0].split("=")
            assert eval(sum_) == int(result)
        assert final == f"#### {result}"


GSM8K = pathlib.Path(__file__).parents[2] / "shared" / "gsm8k"


@pytest.mark.skipif(not GSM8K.is_dir(), reason="the real GSM8K files are not beside the checkout")
def test_real_rows_parse(tokenizer):
    from trm_jax.answers import extract_answer, parse_number

    for name, count in (("train", 7473), ("test", 1319)):
        rows = data.load_rows(str(GSM8K / f"{name}.jsonl"), name)
        assert len(rows) == count
        for row in rows:
            solution = data.boxed_solution(row["answer"])
            assert "<<" not in solution
            assert parse_number(extract_answer(solution)) is not None


def test_the_tokenizer_comes_with_the_model_folder(demo_model_folder):
    tokenizer = checkpoint.load_tokenizer(demo_model_folder)
    assert json.loads((demo_model_folder / "config.json").read_text())["backbone"]["vocab_size"] == len(tokenizer)
