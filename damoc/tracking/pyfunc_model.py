"""The registered winner as MLflow loads it: this file is stored beside the weights as code, never as a pickle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext

MAX_NEW_TOKENS = 64


class SelectedModel(PythonModel):
    """Answers rows with the model that the selection tuned."""

    def load_context(self, context: PythonModelContext) -> None:
        """Loads ``model/``, or ``adapter/`` on ``base/``, which ``recipe.json`` rebuilds where it is not there."""
        from damoc.stages.winner import load_winner

        loaded = load_winner(Path(context.artifacts["model"]))
        self._model = loaded.model
        self._tokenizer = loaded.tokenizer
        self._max_length = loaded.max_length

    def predict(
        self, context: PythonModelContext | None, model_input: pandas.DataFrame, params: dict[str, Any] | None = None
    ) -> list[str]:
        """Greedy answers, one a row.

        Args:
            context: as MLflow gives it; not used.
            model_input: table with ``instruction`` and/or ``input`` and optional ``choices`` (a list, or one a line).
                MLflow makes one of a mapping or a list of mappings; a direct call may also pass those, or a list of
                instructions.
            params: ``max_new_tokens`` (default 64).
        """
        from damoc.data.prompts import render_prompt
        from damoc.evaluation.generation import generate

        limit = int((params or {}).get("max_new_tokens", MAX_NEW_TOKENS))
        if not 0 < limit < self._max_length:
            raise MlflowException.invalid_parameter_value(
                f"max_new_tokens is {limit}; this model takes 1 to {self._max_length - 1}"
            )
        rows = [_row(index, row) for index, row in enumerate(_rows(model_input))]
        prompts = [render_prompt(*row) for row in rows]
        return generate(self._model, self._tokenizer, prompts, limit)


def _rows(value: Any) -> Sequence[Any]:
    if isinstance(value, pandas.DataFrame):
        if not {"instruction", "input"} & set(value.columns):
            raise MlflowException.invalid_parameter_value(
                "the table has neither a column 'instruction' nor 'input'; pass [{'instruction': '...'}, ...]"
            )
        records: list[Any] = value.to_dict("records")
        return records
    return [value] if isinstance(value, str | Mapping) else list(value)


def _row(index: int, row: Any) -> tuple[str, str, list[str]]:
    """Instruction, input and choices of a row."""
    fields: Mapping[str, Any] = {"instruction": row} if isinstance(row, str) else row
    instruction, text = _text(fields.get("instruction")), _text(fields.get("input"))
    if not (instruction.strip() or text.strip()):
        raise MlflowException.invalid_parameter_value(f"row {index} has neither 'instruction' nor 'input'")
    choices = fields.get("choices")
    if choices is None or isinstance(choices, str | float):
        choices = _text(choices).splitlines()
    return instruction, text, [str(choice).strip() for choice in choices if str(choice).strip()]


def _text(value: Any) -> str:
    """The text of a cell; an empty cell of a table (None, NaN) has none."""
    return value if isinstance(value, str) else ""


set_model(SelectedModel())
