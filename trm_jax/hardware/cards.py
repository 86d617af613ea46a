"""The GPUs that people have, as data."""

import dataclasses

from trm_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Card:
    """What one GPU has.

    Sources: NVIDIA's data sheets for bandwidth, rates (bfloat16 with float32 accumulation, without sparsity) and
    multiprocessors; `nvidia-smi` as publicly quoted for the memory, which is a little less than the data sheets say.
    """

    name: str  # as JAX names the device
    mebibytes: int  # of memory
    gigabytes_per_second: int  # of memory
    teraflops: float  # of matrix products
    capability: tuple[int, int]  # CUDA's compute capability
    multiprocessors: int
    clock_ghz: float
    l2_mebibytes: int

    @property
    def memory(self) -> int:
        """Bytes of memory."""
        return self.mebibytes * 2**20

    @property
    def bandwidth(self) -> float:
        """Bytes a second between the memory and the chip, at best."""
        return self.gigabytes_per_second * 1e9

    @property
    def flops(self) -> float:
        """Floating-point operations a second of matrix products in bfloat16, at best."""
        return self.teraflops * 1e12


CARDS = {
    "h200": Card("NVIDIA H200", 143_771, 4_800, 989.4, (9, 0), 132, 1.98, 50),
    "h100": Card("NVIDIA H100 80GB HBM3", 81_559, 3_352, 989.4, (9, 0), 132, 1.98, 50),
    "a100-80": Card("NVIDIA A100-SXM4-80GB", 81_920, 2_039, 312, (8, 0), 108, 1.41, 40),
    "a100-40": Card("NVIDIA A100-SXM4-40GB", 40_960, 1_555, 312, (8, 0), 108, 1.41, 40),
    "l40s": Card("NVIDIA L40S", 46_068, 864, 362, (8, 9), 142, 2.52, 96),
    "rtx4090": Card("NVIDIA GeForce RTX 4090", 24_564, 1_008, 165.2, (8, 9), 128, 2.52, 72),
    "rtx3090": Card("NVIDIA GeForce RTX 3090", 24_576, 936, 71, (8, 6), 82, 1.695, 6),
    "a10": Card("NVIDIA A10", 23_028, 600, 125, (8, 6), 72, 1.695, 6),
    "l4": Card("NVIDIA L4", 23_034, 300, 121, (8, 9), 58, 2.04, 48),
}


def find_card(name: str) -> Card:
    """The card of that short name. Raises UserError. Example: `find_card("h100").memory`."""
    if name not in CARDS:
        raise UserError(f"unknown card {name!r}, one of {', '.join(CARDS)}")
    return CARDS[name]
