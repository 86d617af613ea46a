"""What is checked: results against the CPU's, attention, training, decoding, the loop on the device, and a killed run."""

import dataclasses
import functools
import pathlib
from collections.abc import Iterator

from trm_jax.config import TRMConfig
from trm_jax.gpu_check import attention, results, speed
from trm_jax.gpu_check.runner import Finding, Part


@dataclasses.dataclass(frozen=True)
class Scale:
    """How large a check is."""

    compared: str  # backbone whose results are compared with the CPU's
    heads: tuple[str, ...]  # backbones with whose heads attention is tried by itself
    sizes: tuple[str, ...]  # backbones whose speed is measured
    loops: tuple[int, int, int]  # n, T, N_sup
    batch_sizes: tuple[int, ...]  # of decoding
    training_rows: int  # rows in a batch
    new_tokens: int
    length: int  # tokens of a sequence in attention alone
    killed_batches: int  # of the training that is killed


MEASURED = ("qwen2.5-math-1.5b", "qwen2.5-math-7b")
OURS = TRMConfig.residual()  # whose loop counts are measured, because they are what train.py trains
LOOPS = OURS.latent_updates, OURS.recursions, OURS.supervision_steps
FULL = Scale("qwen2.5-0.5b", ("qwen2.5-0.5b", *MEASURED), MEASURED, LOOPS, (1, 8, 32), 8, 64, 512, 60)
TINY = Scale("demo", ("demo",), ("demo",), (1, 2, 2), (1, 2), 1, 4, 64, 4)
ALL_RECORDED = "FUSION,CUBLAS,CUBLASLT,CUSTOM_CALL,CUDNN,DYNAMIC_SLICE_FUSION,CONDITIONAL,WHILE"


def make_parts(scripts: pathlib.Path, tiny: bool = False) -> list[Part]:
    """The parts, those that matter most first; their times together are half an hour, most of which is compilation.

    Args:
        scripts: the folder of train.py and its neighbours.
        tiny: everything at the size of the demo, which a CPU does in two minutes.

    Example: `make_parts(pathlib.Path("scripts"), tiny=True)`.
    """
    scale = TINY if tiny else FULL
    decode = functools.partial(speed.decoding, new_tokens=scale.new_tokens, loops=scale.loops)
    smallest = functools.partial(decode, scale.sizes[0], batch_sizes=scale.batch_sizes[:1])
    recorded = "--xla_gpu_graph_min_graph_size=1 --xla_gpu_enable_command_buffer"
    parts = [
        Part("machine", 30, describe_machine),
        Part("results", 240, functools.partial(results.against_cpu, scale.compared, scale.new_tokens)),
        Part(
            "losses",
            240,
            functools.partial(results.finite_losses, scale.compared, ("single", "residual"), scale.training_rows),
        ),
        Part("attention", 180, functools.partial(attention.against_xla, scale.heads, scale.length)),
        *(
            Part(
                f"training {size}",
                180,
                functools.partial(speed.training, size, scale.loops, batch_size=scale.training_rows),
            )
            for size in scale.sizes
        ),
        *(
            Part(f"decoding {size}", 180, functools.partial(decode, size, batch_sizes=scale.batch_sizes))
            for size in scale.sizes
        ),
        Part("no command buffers", 90, smallest, f"{recorded}="),
        Part("the loop in command buffers", 90, smallest, f"{recorded}={ALL_RECORDED}"),
        Part(
            "killed and resumed",
            180,
            functools.partial(results.killed_and_resumed, scripts, scale.killed_batches),
            "--xla_gpu_deterministic_ops=true",
        ),
    ]
    # The times are of a GPU; a CPU may be busy with other things.
    return [dataclasses.replace(part, seconds=10 * part.seconds) for part in parts] if tiny else parts


def describe_machine() -> Iterator[Finding]:
    """The device, the packages, and whether fused attention works."""
    import flax
    import jax
    import jaxlib

    from trm_jax.hardware import choose_device, describe_device
    from trm_jax.model import choose_attention, is_fused

    dtype = choose_device()
    yield Finding("device", f"{describe_device()}, computing in {dtype}")
    yield Finding("packages", f"jax {jax.__version__}, jaxlib {jaxlib.__version__}, flax {flax.__version__}")
    if jax.default_backend() != "gpu":
        yield Finding("fused attention", "not tried, there is no GPU")
        return
    choose_attention()
    yield Finding("fused attention", "works" if is_fused() else "does not work", is_fused())
