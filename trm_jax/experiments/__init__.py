"""Studies made of many trainings and evaluations."""

from trm_jax.experiments.ablation import Ablation, read_variants
from trm_jax.experiments.demo_model import make_demo
from trm_jax.experiments.difficulty import accuracy_by_difficulty, difficulty_table, plot_difficulty
from trm_jax.experiments.kills import JobError, kill_runs
from trm_jax.experiments.solutions import samples_file, write_solutions
from trm_jax.experiments.sweep import depths, early_exits, kv_caches, sweep, sweep_table, write_sweep
from trm_jax.experiments.tasks import task_rows, write_task
