"""What people get wrong, and what other people's files hold: one line, exit status 2, and nothing left behind.

Every case is a script on its own command line, in a copy of a small world that the case spoils first.
"""

import dataclasses
import json
import pathlib
import shlex
import shutil
from collections.abc import Callable

import numpy as np
import pytest

from tests.support.command_line import run
from tests.support.damage import flip_bit, largest_data
from tests.support.world import (
    LEFT_OUT,
    World,
    another_backbone,
    another_model,
    answers_of_another_model,
    backbone_gone,
    config,
    cut,
    damage,
    edit_json,
    index_alone,
    index_of,
    names,
    no_end_token,
    no_template,
    put,
    rows,
    save_torch,
    shards,
    tensors,
    weights_gone,
    write,
)
from trm_jax import demo

TRAIN = "train.py --model {model} --output {out} --data {data} --max-length 96 --eval-limit 0 "
SMALL = (
    "--latent-updates 1 --recursions 1 --supervision-steps 1 --batch-size 4 --held-out 0 --save-every 1 --max-batches 2"
)
AGAIN = TRAIN.replace("{out}", "{run}").replace("{data}", "{rows}") + SMALL  # goes on with the run that is there
CONVERT = "convert_qwen.py --model {hf} --output {out}"
EVAL = "eval_gsm8k.py --checkpoint {run} --data {data} --output {answers} --max-new-tokens 48 "
PLAN = "plan.py train --model {model}"
BACKBONE = EVAL.replace("{run}", "{model}") + "--head backbone "


@dataclasses.dataclass(frozen=True)
class Case:
    name: str
    command: str
    says: str | list[str]
    spoil: Callable[[World], object] = lambda world: None


QUESTION = {"question": "1 + 1?", "answer": "#### 2"}
EMPTY_TRM = {"interface": {}, "engine": {}, "heads": {}}
NAN = np.full((64,), np.nan, np.float32)
NORM = "model.norm.weight"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"

CASES = [
    # convert_qwen.py: folders
    Case("no such folder", "convert_qwen.py --model {nothing} --output {out}", "neither a folder nor a hub id"),
    Case("empty folder", CONVERT, "no config.json", lambda w: (shutil.rmtree(w.hf), w.hf.mkdir())),
    Case("no weights", CONVERT, "has no weights", lambda w: (w.hf / "model.safetensors").unlink()),
    Case(
        "pickled weights only",
        CONVERT,
        "Pickled",
        lambda w: (w.hf / "model.safetensors").rename(w.hf / "pytorch_model.bin"),
    ),
    Case("hub id offline", "convert_qwen.py --model Qwen/Qwen2.5-0.5B --output {out}", "cannot be had from the hub"),
    # … config.json
    Case("config not JSON", CONVERT, ["config.json", "not JSON"], write("hf/config.json", "{")),
    Case("config not an object", CONVERT, "not a JSON object", write("hf/config.json", "[1]")),
    Case("config not UTF-8", CONVERT, "not UTF-8", write("hf/config.json", b"{\xff}")),
    Case("config nested too deep", CONVERT, "not JSON", write("hf/config.json", "[" * 100_000)),
    Case("Llama", CONVERT, ["'llama'", "only Qwen2"], config(model_type="llama")),
    Case("Qwen3", CONVERT, "'qwen3'", config(model_type="qwen3")),
    Case("vision Qwen", CONVERT, "'qwen2_5_vl'", config(model_type="qwen2_5_vl")),
    Case("AWQ", CONVERT, "quantised", config(quantization_config={"quant_method": "awq"})),
    Case("GPTQ", CONVERT, "quantised", config(quantization_config={"quant_method": "gptq", "bits": 4})),
    Case("sliding window", CONVERT, "sliding window", config(use_sliding_window=True, max_window_layers=1)),
    Case("sliding layers", CONVERT, "sliding window", config(layer_types=["sliding_attention"])),
    Case("rope scaling", CONVERT, "'yarn'", config(rope_scaling={"type": "yarn", "factor": 4.0})),
    Case("no rope theta", CONVERT, "rotary base", config(rope_theta=LEFT_OUT, rope_parameters=LEFT_OUT)),
    Case("activation", CONVERT, "'gelu'", config(hidden_act="gelu")),
    Case("no width", CONVERT, "lacks ['hidden_size']", config(hidden_size=LEFT_OUT)),
    Case("width a text", CONVERT, "width is '64'", config(hidden_size="64")),
    Case("width below zero", CONVERT, "above zero", config(hidden_size=-64)),
    Case("layers beyond reason", CONVERT, "above 1,024", config(num_hidden_layers=10**9)),
    Case("vocabulary beyond reason", CONVERT, "above 16,777,216", config(vocab_size=10**12)),
    Case("heads that do not fit", CONVERT, "do not fit", config(num_attention_heads=7)),
    Case("norm eps not a number", CONVERT, "norm_eps", config(rms_norm_eps=float("nan"))),
    Case("end token outside", CONVERT, "outside the vocabulary", config(eos_token_id=10**6)),
    # … weights
    Case("empty file", CONVERT, ["model.safetensors", "damaged"], write("hf/model.safetensors", b"")),
    Case("cut off", CONVERT, "damaged", cut(lambda w: w.hf / "model.safetensors", 100_000)),
    Case("pointer to weights", CONVERT, ["safetensors", "git lfs pull"], write("hf/model.safetensors", POINTER)),
    Case("pointer to a tokenizer", CONVERT, ["tokenizer.json", "git lfs pull"], write("hf/tokenizer.json", POINTER)),
    Case("weights of float64", CONVERT, ["F64", "save the model"], put(model__norm__weight=np.ones(64))),
    Case("not safetensors", CONVERT, "damaged", write("hf/model.safetensors", b"PK" * 1000)),
    Case("header beyond the file", CONVERT, "damaged", write("hf/model.safetensors", b"\xff" * 7 + b"\x00{}")),
    Case("tensor missing", CONVERT, f"missing: {NORM} [64]", tensors(lambda t: t.pop(NORM))),
    Case("tensor too many", CONVERT, "not used: extra [64]", put(extra=np.zeros(64, np.float32))),
    Case(
        "tensor of another shape", CONVERT, f"{NORM} is [65], expected [64]", put(model__norm__weight=np.ones(65, "f4"))
    ),
    Case("tensor of integers", CONVERT, ["I8", "quantised"], put(model__norm__weight=np.ones(64, np.int8))),
    Case("tensor with NaN", CONVERT, [NORM, "not finite"], put(model__norm__weight=NAN)),
    Case("another head", CONVERT, "two different ones", put(lm_head__weight=np.ones((3, 64), np.float32))),
    Case("index not JSON", CONVERT, ["index.json", "not JSON"], index_alone("no")),
    Case("index without a map", CONVERT, "no weight_map", index_alone("{}")),
    Case("index names a lost file", CONVERT, ["not there", "gone.safetensors"], index_of(x="gone.safetensors")),
    Case(
        "index names a lost tensor",
        CONVERT,
        ["not in their files", "x"],
        index_of(x="model-00001-of-00002.safetensors"),
    ),
    Case("index leaves the folder", CONVERT, "outside its folder", index_of(x="../data.jsonl")),
    Case("index with an absolute path", CONVERT, "outside its folder", index_of(x="/etc/passwd")),
    Case(
        "shard missing",
        CONVERT,
        "not there: model-00002",
        shards(lambda i, w: (w.hf / "model-00002-of-00002.safetensors").unlink()),
    ),
    Case(
        "shard cut off",
        CONVERT,
        ["model-00002", "damaged"],
        shards(lambda i, w: cut(lambda w: w.hf / "model-00002-of-00002.safetensors", 5000)(w)),
    ),
    # … tokenizer
    Case("no tokenizer", CONVERT, "has no tokenizer", lambda w: (w.hf / "tokenizer.json").unlink()),
    Case("tokenizer broken", CONVERT, "cannot be read", write("hf/tokenizer.json", "{}")),
    Case("no chat template", CONVERT, "chat template", no_template),
    Case("template broken", CONVERT, "chat template", write("hf/chat_template.jinja", "{% for %}")),
    Case("no end token", CONVERT, "there is no end token", no_end_token),
    Case("larger vocabulary", CONVERT, ["tokens", "another model"], config(vocab_size=400, eos_token_id=1)),
    # … output, and the original's checkpoint
    Case("output is a file", CONVERT, "something else", write("out", "mine")),
    Case("output holds other things", CONVERT, "something else", lambda w: (w.out.mkdir(), (w.out / "a").touch())),
    Case("output cannot be written", "convert_qwen.py --model {hf} --output /proc/nothing/model", "/proc/nothing"),
    Case("no original", CONVERT + " --trm-checkpoint {trm}", "No such file"),
    Case("original is no archive", CONVERT + " --trm-checkpoint {trm}", "damaged", write("trm_model.pt", "torch")),
    Case(
        "original is another", CONVERT + " --trm-checkpoint {trm}", "not a checkpoint of MathLLM", save_torch({"a": 1})
    ),
    Case("original without weights", CONVERT + " --trm-checkpoint {trm}", "missing", save_torch(EMPTY_TRM)),
    Case(
        "original with code",
        CONVERT + " --trm-checkpoint {trm}",
        "refused",
        save_torch(EMPTY_TRM | {"x": pathlib.Path}),
    ),
    # train.py: folders
    Case("model missing", TRAIN.replace("{model}", "{nothing}"), "no config.json"),
    Case("model not converted", TRAIN.replace("{model}", "{hf}"), "needs scripts/convert_qwen.py"),
    Case("model of another version", TRAIN, "format 99", lambda w: edit_json(w.model / "config.json", format=99)),
    Case("model config cut off", TRAIN, "not JSON", cut(lambda w: w.model / "config.json", 50)),
    Case("model config not whole", TRAIN, "lacks", lambda w: edit_json(w.model / "config.json", fingerprint=LEFT_OUT)),
    Case(
        "model damaged",
        TRAIN,
        ["damaged", "convert the model again"],
        lambda w: flip_bit(largest_data(w.model / "backbone")),
    ),
    Case("another backbone", AGAIN, "backbone", another_backbone),
    Case("another run", AGAIN + " --seed 5", "train.seed 0 there, 5 now"),
    Case(
        "other rows",
        AGAIN,
        "rows_fingerprint '0' there",
        lambda w: edit_json(w.run / "config.json", rows_fingerprint="0"),
    ),
    Case(
        "run folder of other things",
        TRAIN,
        "something else than a run (a)",
        lambda w: (w.out.mkdir(), (w.out / "a").touch()),
    ),
    Case("run folder is a file", TRAIN, "not a folder", write("out", "mine")),
    Case("run folder cannot be written", TRAIN.replace("{out}", "/proc/nothing/run"), "/proc/nothing"),
    Case("all checkpoints damaged", AGAIN, "all checkpoints", lambda w: damage(w.run / "checkpoints", 1, 2)),
    # … rows
    Case("no such file", TRAIN.replace("{data}", "{nothing}.jsonl"), "there is no file"),
    Case("set without a name", TRAIN + "--data ''", "--data is empty"),
    Case("questions without a name", BACKBONE + "--data ' '", "--data is empty"),
    Case("output without a name", "convert_qwen.py --output ''", "--output is empty"),
    Case("output without a name behind its sign", "train.py --output=", "--output is empty"),
    Case("column without a name", TRAIN + "--question-column '' --answer-column ''", "column is empty"),
    Case("no such set", TRAIN.replace("{data}", "gsm9k"), "no data set 'gsm9k'"),
    Case("set on the hub, offline", TRAIN.replace("{data}", "gsm8k"), ["'gsm8k'", ".jsonl file serves"]),
    Case("broken line", TRAIN, ["line 3", "not JSON"], rows('{"question": ')),
    Case("line without an object", TRAIN, ["line 3", "not a JSON object"], rows("[1, 2]")),
    Case("line not UTF-8", TRAIN, ["line 3", "not UTF-8"], rows(b'{"question": "\xff"}')),
    Case("no answer", TRAIN, ["line 3", "--answer-column"], rows('{"question": "2?"}')),
    Case("answer not a text", TRAIN, ["line 3", "must be a text"], rows('{"question": "2?", "answer": {"a": 2}}')),
    Case("half a character", TRAIN, ["line 3", "half a character"], rows('{"question": "\\ud83d?", "answer": "2"}')),
    Case("empty answer", TRAIN, ["line 3", "'answer' is empty"], rows('{"question": "2?", "answer": " "}')),
    Case("other columns", TRAIN, ["line 1", "--question-column"], write("data.jsonl", '{"q": "2?", "a": "2"}\n')),
    Case("no rows", TRAIN, "has no rows", write("data.jsonl", "\n")),
    Case("all rows too long", TRAIN + "--max-length 8", "raise --max-length"),
    # … options
    Case("option unknown", TRAIN + "--batchsize 4", "--batchsize"),
    Case("option not a number", TRAIN + "--batch-size many", "--batch-size"),
    Case("option outside its choices", TRAIN + "--preset tiny", "--preset"),
    Case("batch of none", TRAIN + "--batch-size 0", "batch_size"),
    Case("learning rate below zero", TRAIN + "--learning-rate -1", "learning_rate"),
    Case("learning rate not a number", TRAIN + "--learning-rate nan", "learning_rate"),
    Case("EMA above one", TRAIN + "--ema-decay 2", "ema_decay"),
    Case("no supervision steps", TRAIN + "--supervision-steps 0", "supervision_steps"),
    Case("no batches", TRAIN + "--max-batches 0", "--max-batches is 0"),
    Case("no samples", TRAIN + "--num-samples 0", "--num-samples is 0"),
    Case("saving never", TRAIN + "--save-every 0", "--save-every is 0"),
    Case("heads that do not divide", TRAIN + "--num-kv-heads 3", "do not divide"),
    Case("stream without an end", TRAIN + "--streaming", "--max-batches"),
    Case("epochs of a stream", TRAIN + "--streaming --max-batches 2 --epochs 2", "--epochs: a stream has no end"),
    Case("averaged weights of nothing", TRAIN + "--init-weights raw", "--init-weights is of --init-from"),
    Case("weights of another mixture", TRAIN + "--data-weights 1 2", "one share"),
    Case("weights that are none", TRAIN + "--data-weights nan", "one share"),
    Case("one column alone", TRAIN + "--question-column q", "go together"),
    Case("start from nothing", TRAIN + "--init-from {nothing}", "no config.json"),
    Case("start from an untrained model", TRAIN + "--init-from {model}", "not trained"),
    Case("start from a run and a preset", TRAIN + "--init-from {run} --preset residual", "--preset"),
    Case("start with other shapes", TRAIN + "--init-from {run} --num-kv-heads 1", "of another shape"),
    Case(
        "start from another backbone",
        TRAIN.replace("{model}", "{hf}") + "--init-from {run}",
        "another backbone than the one in",
        another_model,
    ),
    Case("no GPU", TRAIN + "--device cuda", "--device cuda"),
    Case("batch beyond the memory", TRAIN + "--batch-size 100000000", ["GiB are free", "--batch-size"]),
    Case(
        "rows beyond the backbone",
        TRAIN + "--max-length 4096",
        "lower --max-length",
        rows(json.dumps(QUESTION | {"answer": "3 " * 700 + "#### 3"})),
    ),
    # eval_gsm8k.py
    Case("checkpoint missing", EVAL.replace("{run}", "{nothing}"), "no config.json"),
    Case("checkpoint number missing", EVAL.replace("{run}", "{run}/checkpoints/7"), ["no checkpoint", "1, 2"]),
    Case(
        "checkpoint damaged",
        EVAL.replace("{run}", "{run}/checkpoints/2"),
        "damaged",
        lambda w: damage(w.run / "checkpoints", 2),
    ),
    Case("no checkpoint yet", EVAL, "no checkpoint yet", lambda w: shutil.rmtree(w.run / "checkpoints")),
    Case("no question fits", EVAL.replace("48", "512"), "none of 11 questions fits into the 0 tokens"),
    Case("evaluated with another backbone", EVAL, "another backbone", another_backbone),
    Case(
        "run of another version",
        EVAL,
        ["format 99", "train again"],
        lambda w: edit_json(w.run / "config.json", format=99),
    ),
    Case("backbone gone", EVAL, "not there any more", backbone_gone),
    Case("weights gone", "export.py --checkpoint {run} --output {out}", "convert the model again", weights_gone),
    Case("no questions", BACKBONE + "--limit 0", "--limit is 0"),
    Case("questions not UTF-8", BACKBONE, "line 3", rows(b"\xff")),
    Case("no tokens", BACKBONE + "--max-new-tokens 0", "--max-new-tokens is 0"),
    Case("temperature below zero", BACKBONE + "--temperature -1", "temperature -1"),
    Case("seed below zero", BACKBONE + "--temperature 1 --seed -5", "--seed is -5"),
    Case("answers where none can be written", BACKBONE.replace("{answers}", "/proc/a.jsonl"), "/proc/.a.jsonl.lock: "),
    Case("top-p above one", BACKBONE + "--temperature 1 --top-p 2", "top_p 2"),
    Case("seed of no draws", BACKBONE + "--seed 3", "need a --temperature above zero"),
    Case("top-p of no draws", BACKBONE + "--top-p 0.5", "need a --temperature above zero"),
    Case("samples all alike", BACKBONE + "--samples 4", "--temperature"),
    Case("exit from nothing", BACKBONE + "--early-exit 0.1", "--early-exit is of the recursion"),
    Case("steps of the backbone alone", BACKBONE + "--supervision-steps 2", "--supervision-steps is of the recursion"),
    Case("steps of the backbone asked", "ask.py --head backbone --kv-cache per_pass Why?", "--kv-cache is of the"),
    Case("seed of a likeliest answer", "ask.py --seed 3 Why?", "--seed is of draws"),
    Case("steps of the backbone's tasks", "lm_eval.py --head backbone --weights raw", "--weights is of the recursion"),
    Case("exit below zero", EVAL + "--early-exit -1", "early exit"),
    Case(
        "answer that nobody can read",
        BACKBONE,
        ["row 3", "--skip-unreadable"],
        rows('{"question": "a", "answer": "It is so."}'),
    ),
    Case("cache beyond the memory", EVAL + "--batch-size 100000000 --samples 50000000 --temperature 1", "GiB are free"),
    Case(
        "answers of another evaluation",
        BACKBONE,
        "another evaluation",
        lambda w: [write("answers.jsonl", "")(w), write("answers.json", '{"data": "others"}')(w)],
    ),
    Case("answers of another model", BACKBONE, "fingerprint 'other' there", answers_of_another_model),
    Case("answers in a summary", BACKBONE.replace("{answers}", "{out}.json"), "must end in .jsonl"),
    Case(
        "answers alone", BACKBONE, "answers.json beside it", write("answers.jsonl", '{"index": 0, "question": "3?"}\n')
    ),
    Case(
        "answers over the questions",
        BACKBONE.replace("{answers}", "{data}"),
        "data.json beside it",
        write("data.jsonl", json.dumps(QUESTION) + "\n" + json.dumps(QUESTION)),  # the last line is not cut short
    ),
    Case(
        "a summary over the questions",
        BACKBONE.replace("{data}", "{root}/answers.json"),
        "answers.json is not a JSON object",
        write("answers.json", json.dumps([QUESTION])),
    ),
    Case("a summary over other things", BACKBONE, "another evaluation", write("answers.json", '{"data": "others"}')),
    # the others
    Case("one evaluation", "compare.py {answers}", "two files", write("answers.jsonl", "")),
    Case("no evaluation", "compare.py {answers} {nothing}", "answers.jsonl"),
    Case("an empty evaluation", "compare.py {answers} {answers}", "holds no answers", write("answers.jsonl", "")),
    Case("another kind of file", "compare.py {data} {data}", ["line 1", "lacks"]),
    Case("sweep of nothing", "sweep.py depth --checkpoint {nothing}", "no config.json"),
    Case("depths below one", "sweep.py depth --checkpoint {run} --depths 0 1", "--depths"),
    Case(
        "threshold not a number",
        "sweep.py early_exit --checkpoint {run} --data {data} --max-new-tokens 9 --thresholds nan",
        "nan",
    ),
    Case("depths of caches", "sweep.py kv_cache --checkpoint {run} --depths 2", "--depths is of the sweep over depth"),
    Case("thresholds of depths", "sweep.py depth --checkpoint {run} --thresholds 1", "--thresholds is of the sweep"),
    Case("questions longer than the backbone reads", "benchmark.py decode --questions 1319", "lower --questions"),
    Case("clients without a question", "load.py --model any --requests 4 --clients 1 8", "--clients"),
    Case("prompts of no tokens", "benchmark.py decode --prompt-length 0", "--prompt-length is 0"),
    Case(
        "solutions in a summary",
        "sample_solutions.py --model {model} --data {data} --output {out}.json",
        "must end in .jsonl",
    ),
    Case(
        "solutions over the questions",
        "sample_solutions.py --model {model} --data {data} --output {data}",
        "something else",
    ),
    Case(
        "plan of a model of another version", PLAN, "format 99", lambda w: edit_json(w.model / "config.json", format=99)
    ),
    Case("plan of a run whose model is gone", PLAN.replace("{model}", "{run}"), "not there any more", backbone_gone),
    Case("plan of no cards", "plan.py train --gpus 0", "--gpus is 0"),
    Case(
        "solutions' counts over the questions",
        "sample_solutions.py --model {model} --data {root}/out.json --output {out}.jsonl",
        "out.json holds something else",
        write("out.json", json.dumps([QUESTION])),
    ),
    Case(
        "seed of the likeliest solution",
        "sample_solutions.py --model {model} --samples 1 --temperature 0 --seed 3 --output {out}.jsonl",
        "--seed is of draws",
    ),
    Case("plan of a link unasked", "plan.py train --link 50", "--link needs --compile"),
    Case("plan beyond the backbone", "plan.py decode --config demo --max-new-tokens 512", "this backbone reads 512"),
    Case("plan of no tokens", "plan.py decode --max-new-tokens -400", "--max-new-tokens is -400"),
    Case("plan without a row", "plan.py train --max-length 20", "no row of GSM8K has only 20 tokens"),
    Case("variants not TOML", "ablate.py --variants {data} --output {out}", "not TOML"),
    Case(
        "variants nested",
        "ablate.py --variants {data} --output {out}",
        "quotes",
        write("data.jsonl", "[a-0.5]\nseed = 1\n"),
    ),
    Case(
        "variants with a seed",
        "ablate.py --variants {data} --output {out}",
        "single sets seed",
        write("data.jsonl", "[single]\nseed = 1\n"),
    ),
    Case("ablation graded on its training rows", "ablate.py --data {data} --output {out}", "--eval-data"),
    Case("variants missing", "ablate.py --variants {nothing} --output {out}", "No such file"),
    Case("control missing", "ablate.py --against nothing --output {out}", "none of the variants"),
    Case("drawn without chance", "sample_solutions.py --model {model} --temperature 0 --output {out}", "--temperature"),
]


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> World:
    """The world before anything is spoilt."""
    world = World(tmp_path_factory.mktemp("world"))
    shutil.copytree(demo.MODEL, world.hf)
    rows(*[json.dumps({"question": f"{i} + {i}?", "answer": f"{i} + {i} = {2 * i}\n#### {2 * i}"}) for i in range(9)])(
        world
    )
    for command in (CONVERT.replace("{out}", "{model}"), AGAIN):
        done = run(*command.format(**names(world, world)).split())
        assert done.returncode == 0, done.stderr
    return world


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.replace(" ", "_"))
def test_bad_input_ends_in_one_line_and_leaves_nothing_behind(case, template, tmp_path):
    world = World(tmp_path / "world")
    shutil.copytree(template.root, world.root)
    case.spoil(world)
    before = world.snapshot()
    script, *options = shlex.split(case.command.format(**names(world, template)))
    done = run(script, *options)
    assert done.returncode == 2, (done.stdout, done.stderr)
    *warnings, line = done.stderr.splitlines()
    assert all(words in line for words in ([case.says] if isinstance(case.says, str) else case.says)), line
    assert line.startswith(f"{script}: ")
    assert all("damaged" in warning for warning in warnings), warnings
    assert world.snapshot() == before


def test_there_are_enough_cases():
    assert len({case.name for case in CASES}) == len(CASES) >= 60


def test_debug_shows_where_the_error_arose(template):
    done = run("train.py", "--model", template.nothing, "--debug")
    assert done.returncode == 2
    assert "Traceback" in done.stderr
    assert "in read_config" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("train.py: ")
