"""What Slurm, Open MPI and other launchers tell a process of its place among the others."""

import os

from trm_jax.processes.group import Place
from trm_jax.processes.meeting import ProcessesError


def found_place() -> Place:
    """The place of this process, as JAX reads it from the variables of a launcher. Raises ProcessesError without one.

    Example: `join(found_place())`.
    """
    from jax._src.clusters import ClusterEnv  # JAX reads them for itself only

    coordinator, count, number, devices = ClusterEnv.auto_detect_unset_distributed_params(
        None, None, None, None, cluster_detection_method=None, initialization_timeout=None
    )
    if None in (coordinator, count, number):
        raise ProcessesError(
            "--distributed: there are no variables of Slurm, Open MPI or another launcher that JAX knows; give "
            "--coordinator, --num-processes and --process-id"
        )
    host, _, port = coordinator.rpartition(":")
    # JAX reads its own variable, and it takes precedence.
    devices = None if devices is None or "JAX_LOCAL_DEVICE_IDS" in os.environ else tuple(devices)
    return Place(host, int(port), count, number, devices)
