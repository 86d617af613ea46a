"""lm-evaluation-harness with our models: the same answers and figures as eval_gsm8k.py, the same log-likelihoods."""

import dataclasses
import json
import os
import runpy
import subprocess
import sys

import jax
import numpy as np
import pytest

import trm_jax
from tests.support.command_line import ROOT, run
from tests.support.models import random_tokens, tiny_model
from trm_jax import evaluation, hardware
from trm_jax.evaluation import likelihood, score_continuations
from trm_jax.evaluation.records import EvaluationError
from trm_jax.model import project

HEADS = ("trm", "backbone")


@pytest.fixture(scope="module")
def harness(folders):
    pytest.importorskip("lm_eval", reason="lm_eval is not installed")
    from trm_jax.evaluation.harness import TRMHarness

    return lambda **options: TRMHarness(str(folders[0] / "train"), dtype="float32", device="cpu", **options)


def request(kind: str, *arguments):
    from lm_eval.api.instance import Instance

    return Instance(request_type=kind, doc={}, arguments=arguments, idx=0)


@pytest.mark.parametrize("preset", ["mathllm", "residual"])
@pytest.mark.parametrize("head", HEADS)
def test_scores_are_those_of_the_logits(preset, head):
    """Contexts and continuations of several lengths, more than a batch holds, whole texts and one that is empty."""
    model = tiny_model(preset)
    texts = [random_tokens(length, seed=length).tolist() for length in (2, 5, 9, 70, 71, 71)]
    pairs = [(text[:split], text[split:]) for text, split in zip(texts, (1, 4, 9, 1, 50, 70), strict=True)]
    found = score_continuations(model, pairs, head, batch_size=2)
    for text, (context, continuation), (scores, greedy) in zip(texts, pairs, found, strict=True):
        if head == "trm":
            logits = trm_jax.supervision_logits(model, [text])[-1, 0]
        else:
            logits = project(model.backbone(np.array([text]))[0].last[0], model.backbone.head)
        behind = logits[len(context) - 1 : -1]
        expected = jax.nn.log_softmax(behind)[np.arange(len(continuation)), continuation]
        np.testing.assert_allclose(scores, expected, atol=1e-4)
        np.testing.assert_array_equal(greedy, np.argmax(behind, axis=-1) == np.array(continuation))


def test_a_question_is_read_once_for_all_answers_of_one_token(monkeypatch):
    """Beside it a longer answer, for which the question is read again, and another question of the same answers."""
    model, read = tiny_model("residual"), []
    questions = [random_tokens(9, seed=seed).tolist() for seed in (0, 1)]
    pairs = [(question, answer) for question in questions for answer in ([7], [3], [7, 3], [7])]
    alone = [score_continuations(model, [pair], batch_size=4)[0] for pair in pairs]
    batches = likelihood._batches
    monkeypatch.setattr(likelihood, "_batches", lambda readings, size: read.extend(readings) or batches(readings, size))
    together = score_continuations(model, pairs, batch_size=4)
    assert sorted(reading.tokens for reading in read) == sorted(
        (*question, *longer) for question in questions for longer in ([], [7])
    )
    for found, expected in zip(together, alone, strict=True):
        np.testing.assert_array_equal(found, expected)
    assert together[0][0] != together[1][0]  # each answer has its own number


def test_logits_are_computed_up_to_the_last_label_alone(monkeypatch):
    """The batch of 5 and 20 labels takes two chunks of 16 positions, though the one of 40 has room for three."""
    model, computed = tiny_model("residual"), []

    def counted(features, head):
        jax.debug.callback(lambda: computed.append(features.shape))
        return project(features, head)

    monkeypatch.setattr(likelihood, "project", counted)
    texts = [random_tokens(60, seed=seed).tolist() for seed in range(3)]
    pairs = [(text[:split], text[split:]) for text, split in zip(texts, (55, 20, 40), strict=True)]
    score_continuations(model, pairs, "backbone", supervision_steps=97, batch_size=2)  # a number that no other test has
    jax.effects_barrier()
    assert [shape[:2] for shape in computed] == [(2, likelihood.CHUNK)] * (2 + 3)


def test_log_likelihoods_of_texts_are_sums_of_supervision_logits(harness, folders):
    model, lm = trm_jax.load_model(folders[0] / "train", "float32"), harness()
    pairs = [("Tom has 3 apples.", " He buys 4"), ("", "Tom has 3 apples."), ("Tom has ", "3"), ("A", " b c")]
    found = lm.loglikelihood([request("loglikelihood", *pair) for pair in pairs], disable_tqdm=True)
    for (context, continuation), (score, _) in zip(pairs, found, strict=True):
        prompt = lm.tok_encode(context.rstrip()) or [lm.prefix_token_id]
        whole = lm.tok_encode(context + continuation) if context else prompt + lm.tok_encode(continuation)
        logs = jax.nn.log_softmax(trm_jax.supervision_logits(model, [whole])[-1, 0])
        places = range(len(prompt), len(whole))
        assert abs(score - sum(float(logs[place - 1, whole[place]]) for place in places)) < 1e-4
    (rolling,) = lm.loglikelihood_rolling([request("loglikelihood_rolling", pairs[1][1])])
    assert abs(rolling - found[1][0]) < 1e-4


def test_a_long_text_is_read_in_windows(harness):
    """Each token counts once: what the second window adds is read behind as much as the backbone's length holds."""
    lm = harness(head="backbone")
    text = " ".join(f"Tom has {number} apples." for number in range(80))
    tokens = lm.tok_encode(text)
    assert lm.max_length < len(tokens) < 2 * lm.max_length
    (total,) = lm.loglikelihood_rolling([request("loglikelihood_rolling", text)])
    second = tokens[-lm.max_length - 1 :]
    pairs = [([lm.prefix_token_id], tokens[: lm.max_length]), (second[:1], second[1:])]
    (first, _), (second, _) = score_continuations(lm._model, pairs, "backbone")
    assert total == pytest.approx(float(first.sum() + second[lm.max_length - len(tokens) :].sum()), abs=1e-3)


@pytest.mark.parametrize("head", HEADS)
def test_the_order_of_the_requests_makes_no_difference(harness, head):
    lm = harness(head=head, max_gen_toks=24)
    contexts = [f"Question: {a} + {a + b} is\nAnswer:" for a in range(4) for b in range(3)]
    wishes = [{"until": ["\n"]}, {"until": [], "do_sample": True, "temperature": 1.0}, {"max_gen_toks": 5}]
    requests = [request("generate_until", text, wishes[i % 3]) for i, text in enumerate(contexts * 2)]
    straight = lm.generate_until(requests)
    assert straight[1:12:3] != straight[13::3]  # requests that are alike get draws of their own
    backwards = lm.generate_until(requests[::-1])[::-1]
    assert backwards == straight[12:] + straight[:12]  # the second of two that are alike comes first now
    pairs = [request("loglikelihood", text, " 7") for text in contexts]
    assert lm.loglikelihood(pairs[::-1], disable_tqdm=True) == lm.loglikelihood(pairs, disable_tqdm=True)[::-1]


@pytest.mark.parametrize("wish", [{"top_k": 1, "temperature": 1.0, "do_sample": True}, {"repetition_penalty": 1.1}])
def test_what_our_generation_does_not_have_is_refused(harness, wish):
    """And not left out in silence; what wishes for nothing is taken."""
    lm = harness(max_gen_toks=4)
    with pytest.raises(EvaluationError, match=f"a task wants {next(iter(wish))} "):
        lm.generate_until([request("generate_until", "1 + 1 =", wish)])
    with pytest.raises(EvaluationError, match="a task wants top_k "):  # it draws, at transformers' temperature
        lm.generate_until([request("generate_until", "1 + 1 =", {"top_k": 5, "do_sample": True})])
    nothing = {"top_k": 5, "do_sample": False, "repetition_penalty": 1.0, "min_p": None, "num_beams": 1}
    assert lm.generate_until([request("generate_until", "1 + 1 =", nothing)])


def test_a_stop_string_may_straddle_tokens(harness):
    """Whatever four characters of a completion are the stop string, the text ends before their first occurrence."""
    lm = harness(max_gen_toks=24)
    context = "Question: Tom has 3 apples.\nAnswer:"
    whole, straddling = lm.generate_until([request("generate_until", context, {})])[0], 0
    assert len(whole) > 8
    stops = {whole[start : start + 4] for start in range(len(whole) - 4)}
    found = lm.generate_until([request("generate_until", context, {"until": [stop]}) for stop in sorted(stops)])
    for stop, text in zip(sorted(stops), found, strict=True):
        assert text == whole[: whole.index(stop)]
        straddling += len(lm.tok_encode(stop)) > 1
    assert straddling > 0


def test_a_row_ends_soon_behind_its_stop_string(harness, monkeypatch):
    """And not at its limit, which for a model that goes on asking questions costs ten times as much."""
    lm, made = harness(max_gen_toks=200), []
    module = sys.modules["trm_jax.evaluation.harness"]
    plain = module.generate_each
    endless = lambda model, prompts, limit, config, *others, **options: plain(  # noqa: E731
        model, prompts, limit, dataclasses.replace(config, end_tokens=()), *others, **options
    )
    monkeypatch.setattr(module, "generate_each", lambda *given, **options: record(endless(*given, **options)))

    def record(completions):
        for completion in completions:
            made.append(len(completion.tokens))
            yield completion

    context = "Question: Tom has 3 apples.\nAnswer:"
    (whole,) = lm.generate_until([request("generate_until", context, {})])
    stop = whole[4:8]
    found = lm.generate_until([request("generate_until", context, {"until": [stop]})])
    assert found == [whole[: whole.index(stop)]]
    assert made[0] == 200
    assert made[1] <= 8 + 32


@pytest.mark.parametrize("head", HEADS)
def test_the_script_agrees_with_eval_gsm8k(folders, tmp_path, head):
    """Text by text and figure by figure, from a local file, without a network as far as the libraries know."""
    pytest.importorskip("lm_eval", reason="lm_eval is not installed")
    from trm_jax.data import load_rows

    file = tmp_path / "questions.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in load_rows("demo", "test")[:24]))
    common = ["--checkpoint", folders[0] / "train", "--data", file, "--head", head, "--max-new-tokens", 48]
    ours = run("eval_gsm8k.py", *common, "--output", tmp_path / "ours.jsonl", HF_DATASETS_OFFLINE="1")
    theirs = run("lm_eval.py", *common, "--output", tmp_path / "theirs.json", HF_DATASETS_OFFLINE="1")
    assert (ours.returncode, theirs.returncode) == (0, 0), ours.stderr + theirs.stderr
    records = sorted(map(json.loads, (tmp_path / "ours.jsonl").read_text().splitlines()), key=lambda one: one["index"])
    found = json.loads((tmp_path / "theirs.json").read_text())
    texts = {sample["doc_id"]: sample["resps"][0][0] for sample in found["samples"]["trm_gsm8k_chat"]}
    assert [record["text"] for record in records] == [texts[index] for index in range(24)]
    summary, metrics = json.loads((tmp_path / "ours.json").read_text()), found["results"]["trm_gsm8k_chat"]
    for name in ("strict-match", "flexible-extract"):
        assert metrics[f"exact_match,{name}"] * 24 == pytest.approx(summary[name])
    assert metrics["exact_match,graded"] == pytest.approx(summary["accuracy"])


@pytest.mark.parametrize(("tasks", "longest"), [(("trm_gsm8k_chat",), 48), (("gsm8k", "trm_gsm8k_chat"), 1024)])
def test_tasks_of_others_are_not_answered_as_shortly_as_the_demo(folders, monkeypatch, tasks, longest):
    script, found = runpy.run_path(str(ROOT / "scripts/lm_eval.py")), []

    def run_harness(arguments, *others, **options):
        found.append(arguments["max_gen_toks"])
        return {"results": {}}

    monkeypatch.setattr(evaluation, "run_harness", run_harness)
    monkeypatch.setattr(hardware, "choose_mesh", lambda *sizes: None)  # of this process, in which other tests run
    script["main"](script["Options"](checkpoint=str(folders[0] / "train"), tasks=tasks, device="cpu"))
    assert found == [longest]


def test_few_shot_examples_are_never_the_question_itself(folders, tmp_path):
    pytest.importorskip("lm_eval", reason="lm_eval is not installed")
    options = ["--tasks", "trm_gsm8k_fewshot", "--num-fewshot", 2, "--limit", 6, "--max-new-tokens", 8]
    common = ["--checkpoint", folders[0] / "train", "--data", "demo", "--head", "backbone"]
    done = run("lm_eval.py", *common, *options, "--output", tmp_path / "out.json")
    assert done.returncode == 0, done.stderr
    for sample in json.loads((tmp_path / "out.json").read_text())["samples"]["trm_gsm8k_fewshot"]:
        prompt = sample["arguments"][0][0]
        assert prompt.count("Question: ") == 3
        assert prompt.count(f"Question: {sample['doc']['question']}\n") == 1


@pytest.mark.parametrize(("count", "options"), [(5, []), (3, ["--num-fewshot", 3])], ids=["the task's own", "as asked"])
def test_too_few_rows_for_the_examples_are_one_sentence(folders, tmp_path, count, options):
    pytest.importorskip("lm_eval", reason="lm_eval is not installed")
    (tmp_path / "a.jsonl").write_text(
        "".join(json.dumps({"question": f"{i} + 1?", "answer": f"#### {i + 1}"}) + "\n" for i in range(count))
    )
    common = ["--checkpoint", folders[0] / "train", "--data", tmp_path / "a.jsonl", "--head", "backbone"]
    done = run("lm_eval.py", *common, "--tasks", "trm_gsm8k_fewshot", "--max-new-tokens", 4, *options)
    assert done.returncode == 2, done.stderr
    assert "too few rows for the worked examples" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_torch_is_not_imported_even_where_it_is_installed(folders, tmp_path):
    """A module of that name stands for it, which refuses to be imported.

    transformers alone imports PyTorch wherever it finds it, for our other scripts too; it is told that there is none.
    """
    pytest.importorskip("lm_eval", reason="lm_eval is not installed")
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch/__init__.py").write_text("raise RuntimeError('torch is imported')\n")
    code = (
        "import importlib.util, sys, runpy\nreal = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if name == 'torch' else real(name, *rest)\n"
        f"from transformers import AutoTokenizer\nsys.path.insert(0, {str(tmp_path)!r})\n"
        f"sys.argv = ['lm_eval.py', '--checkpoint', {str(folders[0] / 'train')!r}, '--data', 'demo', "
        "'--limit', '2', '--device', 'cpu']\n"
        f"runpy.run_path({str(ROOT / 'scripts/lm_eval.py')!r}, run_name='__main__')\n"
        "assert 'torch' not in sys.modules\nprint('no torch')"
    )
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment)
    assert "no torch" in done.stdout, done.stderr[-3000:]


def test_the_package_does_not_import_lm_eval():
    code = "import sys, trm_jax.evaluation; print(sorted({'lm_eval', 'torch'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[]", done.stderr


def test_without_lm_eval_the_script_says_what_to_install(folders, tmp_path):
    (tmp_path / "none.py").write_text(
        "import importlib.util, sys, runpy\nreal = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if name == 'lm_eval' else real(name, *rest)\n"
        f"sys.argv = ['lm_eval.py', '--checkpoint', {str(folders[0] / 'train')!r}, '--device', 'cpu']\n"
        f"runpy.run_path({str(ROOT / 'scripts/lm_eval.py')!r}, run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, tmp_path / "none.py"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "lm_eval.py: lm-evaluation-harness is not installed: pip install -e '.[lm-eval]'"
    ]
