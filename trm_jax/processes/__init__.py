"""Several processes that train together: how they meet, what process 0 does for all of them, and how they end."""

from trm_jax.processes.group import (
    Place,
    end_all,
    end_by_fault,
    first_only,
    first_says,
    is_first,
    join,
    number,
    of_all,
    part,
    several,
    stop_at,
)
from trm_jax.processes.launcher import found_place
from trm_jax.processes.meeting import ProcessesError
