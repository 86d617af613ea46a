"""Looks at what trm_jax depends on, packages, GPU, JAX, memory, caches, disk, hub, and says for each trouble what helps."""

import argparse
import pathlib
import sys

# Unlike the other scripts it must also run where the package, or what the others' command line needs, is not installed.
sys.path.append(str(pathlib.Path(__file__).resolve().parents[1]))

from trm_jax import doctor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--report", action="store_true", help="leave paths and the names of user and host out, for others"
    )
    options = parser.parse_args()  # before the examination, which takes its time
    print(doctor.describe(doctor.examine(), options.report))


if __name__ == "__main__":
    main()
