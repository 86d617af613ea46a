"""Whether trm_jax is right and how fast it is on this machine's CUDA GPU, in half an hour at most.

Checks results against the CPU's, attention, training and decoding at 1.5B and 7B, the loop on the device, and a killed run.
What has been found is kept if it is cut. Exit status 1 if something does not hold.
"""

import dataclasses
import pathlib
import sys

from trm_jax import cli
from trm_jax.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(cli.CommonOptions):
    output: pathlib.Path = pathlib.Path("runs/gpu_check.md")
    """Where the table goes, after each finding."""
    minutes: float = 30
    """Parts that have not begun by then are left out."""
    tiny: bool = False
    """Everything at the size of the demo, which a CPU does in two minutes."""


def main(options: Options) -> None:
    from trm_jax.files import write_whole
    from trm_jax.gpu_check import make_parts, run_parts, table
    from trm_jax.hardware import has_nvidia_gpu

    if not options.tiny and not has_nvidia_gpu():
        raise UserError("this machine has no NVIDIA GPU; --tiny does the same, at the size of the demo, on a CPU")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    found = []
    for part, finding in run_parts(make_parts(pathlib.Path(__file__).parent, options.tiny), 60 * options.minutes):
        found.append((part, finding))
        holds = {True: "  holds", False: "  DOES NOT HOLD", None: ""}[finding.holds]
        print(f"{part.name}: {finding.what}: {finding.found}{holds}", flush=True)
        write_whole(options.output, table(found) + "\n")
    failed = sum(finding.holds is False for _, finding in found)
    print(f"{len(found)} findings, {failed} do not hold; {options.output}")
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    cli.run(main, Options, __doc__)
