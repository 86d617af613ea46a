"""Rows, templates, labels, buckets, order."""

import json

import pytest

from trm_jax import load_tokenizer
from trm_jax.data import DataError
from trm_jax.data import examples as data
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


def test_the_tokenizer_comes_with_the_model_folder(demo_model_folder):
    tokenizer = load_tokenizer(demo_model_folder)
    assert json.loads((demo_model_folder / "config.json").read_text())["backbone"]["vocab_size"] == len(tokenizer)


@pytest.mark.parametrize(
    ("solution", "expected"),
    [
        ("3 + 4 = <<3+4=7>>7\n#### 7", "3 + 4 = 7\n\\boxed{7}"),
        ("3 + 4 = 7\n#### 7\n\nNote: checked twice.", "3 + 4 = 7\n\\boxed{7}\n\nNote: checked twice."),
        ("3 + 4 = 7\n#### 7\nThe answer is: 7", "3 + 4 = 7\n\\boxed{7}"),
        ("So $x = \\boxed{7}$.\nThe answer is: 7", "So $x = \\boxed{7}$."),
        ("7", "\\boxed{7}"),
        ("#### 7\n\nNote: checked in 2017.", "\\boxed{7}\n\nNote: checked in 2017."),
        ("Thus.\n#### Answer: 12\n12 and \\frac{12}{5}", "Thus.\nAnswer: \\boxed{12}\n12 and \\frac{12}{5}"),
        ("The answer is 5. That is because 10+15=25.", "The answer is \\boxed{5}. That is because 10+15=25."),
        ("The value of $X$ is 5.\nThe answer is: 5", "The value of $X$ is 5.\nThe answer is: \\boxed{5}"),
        ("Step 1\nProblem: find x.\n#### 5", "Step 1\nProblem: find x.\n\\boxed{5}"),
        ("$1,234", "\\boxed{$1,234}"),
        ("So there are 7 left.", "So there are 7 left."),
    ],
)
def test_the_answer_is_in_one_box_wherever_it_was_stated(solution, expected):
    assert data.boxed_solution(solution) == expected
