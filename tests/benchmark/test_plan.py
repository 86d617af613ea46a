"""Plans without a device: their arithmetic against the program's, what fits on a card, and the script."""

import dataclasses
import runpy
from typing import get_args

import pytest

from tests.support.command_line import ROOT, run
from tests.support.models import PRESETS
from tests.support.real_sizes import ANSWER, LENGTH, ROWS, abstract_model, train_batch, trm_config
from trm_jax.benchmark import SIZES, DecodingPlan, TrainingPlan
from trm_jax.benchmark.exchange import describe_exchange
from trm_jax.benchmark.lengths import gsm8k_lengths
from trm_jax.benchmark.work import Work
from trm_jax.config import TrainConfig, TRMConfig
from trm_jax.decoding import DecodeConfig
from trm_jax.errors import UserError
from trm_jax.hardware import CARDS, Hlo, MeshError, count_bytes, count_flops, find_card, largest

SIZE = "qwen2.5-math-1.5b"


def training(preset: str = "residual", card: str = "h100", size: str = SIZE, **train) -> TrainingPlan:
    return TrainingPlan(SIZES[size], trm_config(preset), TrainConfig(**train), CARDS[card])


def decoding(card: str, size: str = SIZE, preset: str = "residual", **others) -> DecodingPlan:
    trm = trm_config(preset)
    config = DecodeConfig(trm.supervision_steps, trm.recursions, trm.kv_cache, "trm", ())
    return DecodingPlan(SIZES[size], trm, config, CARDS[card], **others)


@pytest.mark.parametrize("preset", PRESETS)
def test_the_arithmetic_is_that_of_the_program(preset):
    """A loop forgotten, or a gradient counted twice, would be off by far more."""
    found = training(preset, batch_size=ROWS).batch(LENGTH, ANSWER).flops
    assert found == pytest.approx(count_flops(*train_batch(SIZE, preset)), rel=0.05)


def test_what_binds_depends_on_the_card_and_the_work():
    work = Work(flops=CARDS["h100"].flops, bytes=2 * CARDS["h100"].bandwidth, kernels=0)
    assert work.seconds(CARDS["h100"]) == {"arithmetic": 1, "memory": 2, "launches": 0}
    assert "1 s, memory 2 s" in work.describe(CARDS["h100"])
    assert work.describe(CARDS["h100"]).endswith("memory binds")
    assert training().epoch().describe(CARDS["h100"]).endswith("arithmetic binds")
    assert decoding("rtx4090").step().describe(CARDS["rtx4090"]).endswith("memory binds")
    assert decoding("h100").step().describe(CARDS["h100"]).endswith("launches binds")


def test_a_decoded_token_reads_each_weight_and_cache_as_often_as_it_is_needed():
    plan = decoding("h100", batch_size=1)
    model = abstract_model(SIZE, "residual")
    calls = 48 * 7
    weights = count_bytes(model.backbone) + calls * count_bytes(model.trm.block)
    assert weights < plan.step().bytes < 1.1 * weights  # one short row's caches are little beside them
    assert decoding("h100", batch_size=64).step().flops == pytest.approx(64 * plan.step().flops)


def test_the_largest_batch_fits_and_the_next_does_not(monkeypatch):
    monkeypatch.delenv("XLA_PYTHON_CLIENT_MEM_FRACTION", raising=False)
    assert [largest(lambda rows, most=most: rows <= most, 100) for most in (0, 1, 37, 100, 200)] == [0, 1, 37, 100, 100]
    plan = training(card="rtx4090")
    most = int(plan.describe().partition("--batch-size ")[2].split()[0])
    usable = CARDS["rtx4090"].memory * 3 // 4
    assert sum(plan.memory(most).values()) <= usable < sum(plan.memory(most + 1).values())


def test_several_gpus_hold_a_part_each():
    """Rows over data, and the weights of which nothing is whole over fsdp."""
    train = TrainConfig(batch_size=64)
    alone = TrainingPlan(SIZES[SIZE], TRMConfig.residual(), train, CARDS["h100"]).memory()
    rows = TrainingPlan(SIZES[SIZE], TRMConfig.residual(), train, CARDS["h100"], 8).memory()
    weights = TrainingPlan(SIZES[SIZE], TRMConfig.residual(), train, CARDS["h100"], 8, "fsdp=8").memory()
    assert rows["activations"] == weights["activations"] == alone["activations"] // 8
    assert rows["backbone"] == alone["backbone"] == 8 * weights["backbone"]
    assert rows["moments"] == alone["moments"] == 8 * weights["moments"]
    with pytest.raises(MeshError, match="cannot be split over 8 GPUs"):
        TrainingPlan(SIZES[SIZE], TRMConfig.residual(), TrainConfig(batch_size=12), CARDS["h100"], 8)


def test_the_time_of_an_exchange_is_that_of_a_ring():
    text = """ENTRY %main (x: f32[8,4]) -> f32[8,4] {
  %x = f32[1000000]{0} parameter(0)
  %a = f32[1000000]{0} all-reduce(%x)
  ROOT %b = f32[4000000]{0} all-gather(%a), dimensions={0}
}
"""
    said = describe_exchange(Hlo(text), 4, 1e9)
    assert "1 all-gather of 0.0149 GiB; 1 all-reduce of 0.00373 GiB" in said
    assert f"{(2 * 0.75 * 4e6 + 0.75 * 16e6) / 1e9:.3g} s at 1 GB/s" in said


def test_the_share_of_the_card_that_is_needed_is_named(monkeypatch):
    monkeypatch.delenv("XLA_PYTHON_CLIENT_MEM_FRACTION", raising=False)
    plan = training(card="rtx4090", size="qwen2.5-math-7b")
    text = plan.describe()
    share = text.partition("XLA_PYTHON_CLIENT_MEM_FRACTION=")[2].split()[0]
    assert "does not fit" in text
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", share)
    assert "  fits: JAX takes" in plan.describe()
    assert "does not fit" in training("mathllm", card="rtx4090", size="qwen2.5-math-7b").describe()


@pytest.mark.parametrize("script", ["plan.py", "benchmark.py"])
def test_the_scripts_offer_what_there_is(script):
    """The names are written out there, so that --help need not wait for JAX."""
    names = runpy.run_path(str(ROOT / "scripts" / script))
    assert list(get_args(names["Size"])) == list(SIZES)
    if "Gpu" in names:
        assert list(get_args(names["Gpu"])) == list(CARDS)


def test_cards_are_found_by_name():
    assert find_card("a100-40").memory == 40_960 * 2**20
    with pytest.raises(UserError, match="rtx4090"):
        find_card("v100")


def test_micro_batches_share_one_update():
    """A batch of four of them has four times the arithmetic, and an epoch a quarter of the updates."""
    one, four = training(batch_size=8), training(batch_size=8, accumulation=4)
    assert four.batch(LENGTH, ANSWER).flops == 4 * one.batch(LENGTH, ANSWER).flops
    assert (
        one.batch(LENGTH, ANSWER).kernels < four.batch(LENGTH, ANSWER).kernels < 4 * one.batch(LENGTH, ANSWER).kernels
    )
    assert one.batch(LENGTH, ANSWER).bytes < four.batch(LENGTH, ANSWER).bytes < 4 * one.batch(LENGTH, ANSWER).bytes
    batches = [sum(plan.shapes.values()) for plan in (one, four)]
    assert batches[1] == pytest.approx(batches[0] / 4, abs=2)
    assert "batches of 4 x 8" in four.describe()


def test_hidden_states_that_are_computed_ahead_are_counted():
    """Those of the next batch are there while one is trained; of several micro-batches twice, where they are joined."""
    size = SIZES["qwen2.5-0.5b"]
    for trm, accumulation, cached, ahead in (
        (TRMConfig.residual(), 1, False, 5),
        (TRMConfig.residual(), 2, False, 10),
        (TRMConfig.residual(), 2, True, 5),
        (TRMConfig.mathllm(), 1, False, 5),  # the four levels are computed, and not used
        (TRMConfig.mathllm(), 4, False, 3),  # twice the last states of all, and the levels of one of four
        (TRMConfig.mathllm(), 1, True, 1),
    ):
        plan = TrainingPlan(size, trm, TrainConfig(accumulation=accumulation), CARDS["h100"], cache_hidden=cached)
        tokens = 8 * max(length for length, _ in plan.shapes) * accumulation
        assert plan.memory()["hidden states"] == tokens * size.width * 2 * (8 + ahead)


def test_without_the_layers_a_training_needs_less_memory_and_a_disk():
    size, tokens = SIZES["qwen2.5-math-7b"], int(gsm8k_lengths("train").sum())
    for trm, states in ((TRMConfig.residual(), 5), (TRMConfig.mathllm(), 1)):
        whole = TrainingPlan(size, trm, TrainConfig(), CARDS["h100"])
        plan = dataclasses.replace(whole, cache_hidden=True)
        assert plan.memory()["backbone"] == 2 * size.vocab_size * size.width  # the output head
        assert sum(plan.memory().values()) < sum(whole.memory().values()) - 10e9
        assert plan.disk == tokens * states * size.width * 2
        assert plan.epoch().flops < whole.epoch().flops
        assert "GB of hidden states" in plan.describe()


@pytest.mark.parametrize("options", [("train",), ("decode", "--gpu", "rtx4090"), ("train", "--model", "MODEL")])
def test_the_script_prints_a_plan(options, demo_model_folder):
    done = run("plan.py", *(demo_model_folder if option == "MODEL" else option for option in options))
    assert done.returncode == 0, done.stderr
    for word in ("memory", "worked out", "fits: JAX takes", "arithmetic", "launches", "binds"):
        assert word in done.stdout, word
