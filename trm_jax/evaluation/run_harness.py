"""Runs lm-evaluation-harness, which is an extra, on a model; without it everything else of the package works."""

import importlib.util
import pathlib
from typing import Any

from trm_jax.evaluation.records import EvaluationError

TASKS = pathlib.Path(__file__).parent / "tasks"  # task files for rows with a question and a worked solution


def run_harness(
    model_arguments: dict[str, Any],
    tasks: list[str],
    data: str = "gsm8k",
    columns: tuple[str, str] | None = None,
    **options,
) -> dict[str, Any]:
    """The results of `lm_eval.simple_evaluate`, with the tasks of this package beside its own.

    Args:
        model_arguments: those of `TRMHarness`.
        data, columns: questions of this package's tasks, as `question_rows` takes them.
        options: of `simple_evaluate`.

    Raises EvaluationError if lm_eval is not installed or does not know a task, or if there are too few rows for examples.

    Example: `run_harness({"checkpoint": "runs/train"}, ["trm_gsm8k_chat"], "demo", limit=8)["results"]`.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise EvaluationError("lm-evaluation-harness is not installed: pip install -e '.[lm-eval]'")
    import lm_eval
    from lm_eval.tasks import TaskManager

    from trm_jax.evaluation.harness import TRMHarness

    manager = TaskManager(include_path=str(TASKS), metadata={"data": data, "columns": columns})
    if unknown := [task for task in tasks if not manager.match_tasks([task]) and not pathlib.Path(task).is_file()]:
        raise EvaluationError(f"lm-eval knows no task {', '.join(unknown)}; `lm_eval ls tasks` lists its own")
    model = TRMHarness(**model_arguments)
    # Without a seed for PyTorch lm-eval does not import it where it is installed; nothing here draws from it.
    try:
        return lm_eval.simple_evaluate(
            model=model, tasks=tasks, task_manager=manager, torch_random_seed=None, **options
        )
    except ValueError as error:
        if "larger than population" not in str(error):  # Python's own words, of a draw from too few
            raise
        raise EvaluationError(
            f"too few rows for the worked examples before each question of {', '.join(tasks)}: there must be one more than "
            "examples; lower --num-fewshot"
        ) from None
