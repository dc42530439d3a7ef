"""MEASURE held-out rows: tasks, their metrics, and generation. A file a task in ``tasks``."""

from damoc.evaluation.registry import Settings, Task, known_tasks, register_task, task_named, task_of
from damoc.evaluation.row_scores import RowScores

__all__ = ["RowScores", "Settings", "Task", "known_tasks", "register_task", "task_named", "task_of"]
