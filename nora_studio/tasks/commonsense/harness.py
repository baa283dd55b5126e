"""Evaluate with EleutherAI's lm-evaluation-harness, whose data must be available."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nora_studio.errors import StudioError
from nora_studio.tasks.commonsense.generation import Model


def evaluate_with_harness(
    model: Model,
    tasks: Sequence[str],
    batch_size: int,
    limit: int | None = None,
    include: Path | None = None,
) -> dict[str, dict[str, float]]:
    """Run the harness; return its metrics by task, such as {"piqa": {"acc,none": 0.79}}.

    Args:
        tasks: The harness's names of tasks ("arc_easy", "piqa", ...).
        limit: Maximum number of questions of each.
        include: Folder of task files (YAML) in addition to the harness's own.

    Raises:
        StudioError: lm-eval is not installed, or has no such task.
    """
    try:
        import lm_eval  # pyright: ignore[reportMissingImports]
        from lm_eval.models.huggingface import HFLM  # pyright: ignore[reportMissingImports]
        from lm_eval.tasks import TaskManager  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise StudioError(
            f"--lm-eval: needs lm-eval, which is not installed ({error}). Run `pip install "
            "'nora-studio[eval]'`, or leave the option out."
        ) from error
    manager = TaskManager(include_path=None if include is None else str(include))
    unknown = [task for task in tasks if task not in manager.all_tasks]
    if unknown:
        raise StudioError(
            f"--lm-eval: the harness has no task {unknown[0]!r}. Run `lm-eval ls tasks` for a list "
            "(before lm-eval 0.4.10: `lm-eval --tasks list`)."
        )
    begins = model.tokenizer("a").input_ids[0] == model.tokenizer.bos_token_id
    wrapped = HFLM(
        pretrained=model.decoder,
        tokenizer=model.tokenizer,
        batch_size=batch_size,
        add_bos_token=begins,
    )
    found: Any = lm_eval.simple_evaluate(
        model=wrapped, tasks=list(tasks), limit=limit, task_manager=manager
    )
    return {
        task: {name: float(value) for name, value in values.items() if _is_number(value)}
        for task, values in found["results"].items()
    }


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
