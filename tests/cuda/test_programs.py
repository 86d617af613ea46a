"""What XLA makes of our programs for a GPU: kernels, copies, memory; what a GPU is asked to do, not how long it takes."""

import os

import pytest

from tests.cuda.conftest import CAPACITY, PROMPT, ROWS, decoding, inserting, reading, training
from tests.support.models import PRESETS
from tests.support.real_sizes import LENGTH, abstract_model, trm_config
from trm_jax.benchmark.sizes import SIZES
from trm_jax.config import TrainConfig
from trm_jax.decoding import decode_config
from trm_jax.hardware import count_bytes, decoding_memory, training_memory
from trm_jax.hardware.hlo import Hlo, Instruction
from trm_jax.model import abstract_trm
from trm_jax.training.loss import CHUNK

FLASH = "__cudnn$fmha"
TRITON = "__gpu$xla.gpu.triton"
CALLS, PASSES = 7, 48  # block calls in a pass, passes of a token: n=6, T=3, N_sup=16
LARGE = 4e6  # bytes
LARGEST = "qwen2.5-math-7b"  # where XLA splits more products, and adds their parts in kernels of their own

SMALL_SIZES = ["qwen2.5-0.5b", "qwen2.5-math-1.5b"]
ALL_SIZES = [*SMALL_SIZES, LARGEST] if os.environ.get("CHECK_CUDA") == "all" else SMALL_SIZES

pytestmark = [
    pytest.mark.parametrize("preset", PRESETS),
    pytest.mark.parametrize("size", ALL_SIZES),
    pytest.mark.parametrize("card", ["h100", "rtx4090"]),
]


def custom_calls(program: Hlo, body: str, target: str) -> int:
    return sum((kernel.target or "").startswith(target) for kernel in program.kernels(body))


def test_training_launches_few_kernels_a_block_call(card, size, preset):
    """Attention in pieces, a rotation that does not fuse: today's 12, 20 and 43 would be 58, 71 and 180."""
    program = training(card, size, preset).text
    without_gradient = program.loop(16, 2).body
    forward, backward = (loop.body for loop in program.loops if loop.path == (16, CALLS - 1))
    assert len(program.kernels(without_gradient)) <= 13 * CALLS
    assert len(program.kernels(forward)) <= (26 if size == LARGEST else {"h100": 20, "rtx4090": 21}[card])
    assert len(program.kernels(backward)) <= (53 if size == LARGEST else 45)
    assert custom_calls(program, without_gradient, FLASH) == CALLS
    assert custom_calls(program, forward, FLASH) == 1
    assert custom_calls(program, backward, FLASH) == 2  # computed again, and differentiated
    assert custom_calls(program, program.loop(SIZES[size].num_layers).body, FLASH) == 1


def test_decoding_launches_few_kernels(card, size, preset):
    """Attention over the cache is one kernel, which XLA makes seven of, and so is writing into all layers."""
    program = decoding(card, size, preset).text
    of_pass, outside = program.loop(None, PASSES).body, program.loop(None).body
    assert len(program.kernels(of_pass)) <= (13 if size == LARGEST else 11) * CALLS
    assert custom_calls(program, of_pass, TRITON) == CALLS
    assert custom_calls(program, outside, TRITON) == SIZES[size].num_layers + 2
    assert len(program.kernels(outside)) <= (12 if size == LARGEST else 10) * SIZES[size].num_layers + 21


@pytest.mark.parametrize("kind", [training, reading, decoding])
def test_nothing_large_is_copied_in_a_loop(card, size, preset, kind):
    """Weights, moments, caches and states stay where they are. XLA also calls a copy what sets an array to zero."""
    program, copies = kind(card, size, preset).text, []
    for loop in program.loops:
        zeros = {i.name for i in program.computations[loop.body] if only_zeros(program, i)}
        for kernel in program.kernels(loop.body):
            source = kernel.rest.split(")")[0].split("%")[-1]
            if kernel.opcode in ("copy", "copy-start") and source not in zeros and kernel.bytes > LARGE:
                copies.append((loop.path, kernel.shape.partition("{")[0]))
    states = {f"bf16[{ROWS},{length},{SIZES[size].width}]" for length in (LENGTH, PROMPT)}
    if card == "rtx4090":  # where XLA copies one state at the end of a loop's body
        copies = [found for number, found in enumerate(copies) if found[1] not in states or found in copies[:number]]
    assert not copies


def only_zeros(program: Hlo, instruction: Instruction) -> bool:
    inner = {inner.opcode for inner in program.inside(instruction)}
    return instruction.opcode in ("broadcast", "fusion") and inner <= {
        "fusion",
        "broadcast",
        "constant",
        "bitcast",
        "tuple",
    }


def test_products_are_in_bfloat16(card, size, preset):
    """With float32 accumulation; only the mixing of four hidden states has float32 weights, of which there are four."""
    for kind in (training, reading, decoding):
        program = kind(card, size, preset).text
        for name, instructions in program.computations.items():
            shapes = {i.name: i.shape for i in instructions}
            for dot in (i for i in instructions if i.opcode == "dot"):
                operands = [part.split("%")[-1].strip() for part in dot.rest.split(")")[0].split(",")]
                types = {shapes[operand].split("[")[0] for operand in operands if operand in shapes}
                assert types == {"bf16"}, (name, dot.name, dot.shape, types)


def test_training_state_and_caches_are_updated_in_place(card, size, preset):
    model = abstract_model(size, preset)
    trm = abstract_trm(model.backbone, trm_config(preset))
    assert training(card, size, preset).aliased >= 4 * count_bytes(trm)  # masters, moving average and two moments
    config = decode_config(model)
    caches = decoding_memory(
        model.backbone.config, model.trm.config, "bfloat16", config.kept_passes, ROWS, CAPACITY, 1, 64
    )
    assert decoding(card, size, preset).aliased >= caches["caches"]


def test_memory_is_what_we_say_and_at_most_a_third_less(card, size, preset):
    """A run that is let start must not die of memory; one that would fit must not be refused."""
    model, qwen = abstract_model(size, preset), SIZES[size]
    config, weights = trm_config(preset), count_bytes(model)
    trm = abstract_trm(model.backbone, config)
    passes = decode_config(model).kept_passes
    beside = {"weights": weights}  # which inserting leaves alone, but which are there
    said = {
        training: training_memory(model.backbone, trm, qwen, config, TrainConfig(), LENGTH, CHUNK),
        decoding: decoding_memory(qwen, config, "bfloat16", passes, ROWS, CAPACITY, 0, 0) | beside,
        inserting: decoding_memory(qwen, config, "bfloat16", passes, ROWS, CAPACITY, ROWS, PROMPT) | beside,
        reading: decoding_memory(qwen, config, "bfloat16", passes, 0, 0, ROWS, PROMPT) | beside,
    }
    for kind, parts in said.items():
        peak = kind(card, size, preset).peak + (weights if kind is inserting else 0)
        print(
            f"{card} {size} {preset} {kind.__name__}: {sum(parts.values()) / 2**30:.2f} GiB said, {peak / 2**30:.2f} planned"
        )
        assert peak <= sum(parts.values()) <= 1.3 * peak, (kind.__name__, parts, peak)
