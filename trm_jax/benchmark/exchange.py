"""What several GPUs exchange in a run of a program, and the time that takes at best."""

from trm_jax.hardware import Hlo

NVLINK = 450e9  # bytes/s that an H100 can send: NVIDIA H100 data sheet, 900 GB/s in both directions


def describe_exchange(program: Hlo, gpus: int, link: float) -> str:
    """What several GPUs exchange in a run of a program, by kind, and the time that takes over a link of so many bytes/s.

    Of a sum a ring sends each number twice to all others but one's share, of a gathering once.
    """
    kinds: dict[str, list[float]] = {}
    for one in program.collectives:
        found = kinds.setdefault(one.kind, [0, 0.0])
        found[0] += one.times
        found[1] += one.times * one.bytes
    factors = {"all-reduce": 2 * (gpus - 1) / gpus, "reduce-scatter": gpus - 1}
    sent = sum(factors.get(kind, (gpus - 1) / gpus) * size for kind, (_, size) in kinds.items())
    listed = "; ".join(f"{times:,} {kind} of {size / 2**30:.3g} GiB" for kind, (times, size) in sorted(kinds.items()))
    return f"exchanged    {listed or 'nothing'}; {sent / link:.3g} s at {link / 1e9:.0f} GB/s from each"
