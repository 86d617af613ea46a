"""A real Qwen2.5 against transformers. Needs a Hugging Face folder: QWEN_FOLDER=… pytest tests/test_real_model.py"""

import os
import pathlib

import pytest
import transformers

from trm_jax import generate, load_model, load_tokenizer
from trm_jax.conversion import convert
from trm_jax.data import encode_prompts

torch = pytest.importorskip("torch", reason="transformers computes with PyTorch")

FOLDER = os.environ.get("QWEN_FOLDER")
QUESTIONS = [
    "Natalia sold clips to 48 of her friends in April, and then she sold half as many in May. How many did she sell?",
    "A robe takes 2 bolts of blue fiber and half that much white fiber. How many bolts in total does it take?",
    "Weng earns $12 an hour for babysitting. Yesterday, she just did 50 minutes of it. How much did she earn?",
    "James writes a 3-page letter to 2 different friends twice a week. How many pages does he write a year?",
    "Ken had fifty pencils and gave ten to Manny. How many pencils does Ken keep?",
    "What is 17 times 23?",
    "A train travels 60 miles in 1.5 hours. What is its speed?",
    "Alexis has $200 and spends $30 on a shirt, $46 on pants and $38 on a coat. How much has she left?",
]


@pytest.mark.skipif(FOLDER is None, reason="QWEN_FOLDER does not name a Hugging Face folder of a Qwen2.5 model")
def test_greedy_tokens_of_a_real_model_are_those_of_transformers(tmp_path):
    source = pathlib.Path(FOLDER)
    convert(source, tmp_path / "model", "float32")
    prompts = encode_prompts(load_tokenizer(tmp_path / "model"), QUESTIONS)
    model = load_model(tmp_path / "model")
    ours = generate(model, prompts, 32, head="backbone", eos_token_ids=[])
    theirs = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    for prompt, tokens in zip(prompts, ours, strict=True):
        expected = theirs.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=32,
            do_sample=False,
            eos_token_id=None,
        )
        assert tokens == expected[0, len(prompt) :].tolist()
