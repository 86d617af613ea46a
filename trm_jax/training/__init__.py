"""Deep supervision: the step, the loop, and the run in its folder."""

from trm_jax.training.hidden_cache import HiddenCache
from trm_jax.training.hidden_states import Computed, early_states
from trm_jax.training.loss import CHUNK, cross_entropy
from trm_jax.training.metrics import METRICS, TIMINGS, read_metrics
from trm_jax.training.optimizer import make_optimizer, supervision_depths
from trm_jax.training.run import hold_run, make_run
from trm_jax.training.step import LEVELS_ROWS_AT, ROWS_AT, make_train_batch, new_state
