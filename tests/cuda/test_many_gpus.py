"""Training on eight H100s that are not there: what each of them holds, and what they exchange."""

import pytest

from tests.support.real_sizes import trm_config
from trm_jax.benchmark import SIZES, DecodingPlan, TrainingPlan
from trm_jax.config import QwenConfig, TrainConfig
from trm_jax.decoding import DecodeConfig
from trm_jax.hardware import CARDS, Hlo, count_weights

# Qwen2.5-Math-72B: https://huggingface.co/Qwen/Qwen2.5-Math-72B/blob/main/config.json
QWEN_72B = QwenConfig(
    vocab_size=152_064,
    width=8192,
    mlp_width=29_568,
    num_layers=80,
    num_heads=64,
    num_kv_heads=8,
    rope_theta=10_000.0,
    norm_eps=1e-6,
    tied_head=False,
    max_length=4096,
    end_tokens=(151_645,),
)


def compiled(backbone: QwenConfig, mesh: str):
    plan = TrainingPlan(backbone, trm_config("residual"), TrainConfig(batch_size=64), CARDS["h100"], 8, mesh)
    program = plan.program()
    return plan, program.memory_analysis().peak_memory_in_bytes, Hlo(program.as_text())


@pytest.mark.xdist_group("many")
def test_with_rows_split_the_gradients_meet_once_a_step():
    plan, peak, program = compiled(SIZES["qwen2.5-math-1.5b"], "data=8")
    sums = [one for one in program.collectives if one.bytes > 64]
    assert {(one.kind, one.path) for one in sums} == {("all-reduce", (16,))}
    trained = 4 * count_weights(plan._weights[1])
    assert trained * 0.999 < sum(one.bytes for one in sums) < trained * 1.001
    assert peak < 1.02 * sum(plan.memory().values())


@pytest.mark.xdist_group("many")
def test_72b_fits_where_its_weights_are_split():
    """Each H100 has 80 GB. A layer is gathered at a time, and the recursion once a step."""
    plan, peak, program = compiled(QWEN_72B, "fsdp=8")
    assert peak < 40 * 2**30
    large = [one for one in program.collectives if one.bytes > 2**20]
    assert {one.kind for one in large} == {"all-gather", "reduce-scatter"}
    assert {one.path for one in large} == {(), (80,), (16,)}  # embedding and head, layers, supervision steps
    print(f"72B, fsdp=8, 64 rows: {peak / 2**30:.3g} GiB each, {sum(plan.memory().values()) / 2**30:.3g} worked out")


def decoding(backbone: QwenConfig, mesh: str | None, rows: int):
    """Of an evaluation on eight H100s, or on one without a mesh: the plan, the peak memory, and a decoded token."""
    trm = trm_config("residual")
    config = DecodeConfig(trm.supervision_steps, trm.recursions, "last_pass", "trm", ())
    sizes = dict(batch_size=rows, gpus=8 if mesh else 1, mesh=mesh)
    plan = DecodingPlan(backbone, trm, config, CARDS["h100"], **sizes)
    program = plan.program()
    return plan, program.memory_analysis().peak_memory_in_bytes, Hlo(program.as_text())


@pytest.mark.xdist_group("many")
def test_with_rows_split_each_device_decodes_as_one_alone():
    """The kernels for the cache are among those that each device launches for its own rows."""
    _, peak, program = decoding(SIZES["qwen2.5-math-7b"], "data=8", rows=64)
    _, alone, one = decoding(SIZES["qwen2.5-math-7b"], None, rows=8)
    assert program.collectives == []
    assert program.launches() == one.launches()
    assert peak == pytest.approx(alone, rel=0.01)


@pytest.mark.xdist_group("many")
def test_with_heads_split_hidden_states_are_summed_and_nothing_else_moves():
    backbone = SIZES["qwen2.5-math-7b"]
    plan, peak, program = decoding(backbone, "data=2,tensor=4", rows=64)
    calls = backbone.num_layers + plan.trm_config.calls * len(plan.config.passes)
    large = [one for one in program.collectives if one.bytes > 1024]
    assert {one.kind for one in large} == {"all-reduce"}
    assert sum(one.times for one in large) == 2 * calls + 1  # attention and MLP, and the embedding
    assert max(one.bytes for one in large) == 2 * 64 // 2 * backbone.width
    assert peak < 1.1 * sum(plan.memory().values())


@pytest.mark.xdist_group("many")
def test_72b_decodes_on_eight_cards():
    """With one key/value head on each."""
    plan, peak, program = decoding(QWEN_72B, "tensor=8", rows=16)
    assert peak < 40 * 2**30
    assert max(one.bytes for one in program.collectives) <= 2 * 16 * QWEN_72B.width
    print(f"72B, tensor=8, 16 rows: {peak / 2**30:.3g} GiB each, {sum(plan.memory().values()) / 2**30:.3g} worked out")
