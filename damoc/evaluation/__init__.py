"""MEASURE held-out rows: tasks, their metrics, and generation. A file a task in ``tasks``."""

from damoc.evaluation.registry import RowScores, Task, register_task, task_named, tasks

__all__ = ["RowScores", "Task", "register_task", "task_named", "tasks"]
