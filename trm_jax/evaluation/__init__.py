"""Grades answers, and compares evaluations by statistics."""

from trm_jax.evaluation.against_backbone import compare_with_backbone
from trm_jax.evaluation.compare import (
    Evaluation,
    compare,
    comparison_table,
    cross_check,
    read_evaluation,
    shared_questions,
    show_flips,
    write_comparison,
)
from trm_jax.evaluation.evaluate import evaluate, show_summary, summarize
from trm_jax.evaluation.likelihood import score_continuations, score_solutions
from trm_jax.evaluation.plots import error_bars
from trm_jax.evaluation.published import flexible_extract, is_exact_match, strict_match
from trm_jax.evaluation.records import EvaluationError, GradedAnswer, GradedText
from trm_jax.evaluation.run_harness import run_harness
from trm_jax.evaluation.settings import file_name, require_jsonl, settings_of
from trm_jax.evaluation.solution_loss import (
    SolutionLoss,
    compare_losses,
    holds_losses,
    loss_table,
    measure_solutions,
    read_losses,
    show_losses,
    summarize_losses,
    write_losses,
)
from trm_jax.evaluation.statistics import Interval, accuracy, accuracy_of_runs, difference_of_runs, paired_difference
