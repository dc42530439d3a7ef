"""DECIDE: a metric over any set of rows, from what each row adds to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


def _ratio(totals: NDArray[Any]) -> NDArray[Any]:
    """Sum of numerators over sum of denominators; 0 where there is nothing to divide by."""
    above, below = totals[..., 0], totals[..., 1]
    return np.asarray(np.divide(above, below, out=np.zeros_like(above), where=below != 0))


def _exp_ratio(totals: NDArray[Any]) -> NDArray[Any]:
    """A perplexity: the exponential of nats over units."""
    return np.asarray(np.exp(_ratio(totals)))


def _macro_f1(totals: NDArray[Any]) -> NDArray[Any]:
    """Mean over the classes that occur, as answer or as prediction, of 2 hits / (answers + predictions)."""
    hits, answers, predictions = np.moveaxis(totals.reshape(*totals.shape[:-1], -1, 3), -1, 0)
    seen = answers + predictions
    f1 = np.divide(2 * hits, seen, out=np.zeros_like(hits), where=seen > 0)
    return np.asarray(f1.sum(axis=-1) / np.maximum((seen > 0).sum(axis=-1), 1))


STATISTICS: Mapping[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
    "ratio": _ratio,
    "exp_ratio": _exp_ratio,
    "macro_f1": _macro_f1,
}
"""Metrics as functions of summed records: float64 (..., fields) to float64 (...)."""


@dataclass(frozen=True)
class RowScores:
    """A metric row by row: over any set of rows it is one function of the sum of their records.

    That holds of a mean, of bits per byte and of macro-F1 alike, so that a resample of the rows is a weighted sum of
    records and needs no model.

    Args:
        records: float64 (rows, fields), what each row adds: e.g. bits and bytes of its answer, or its cells of the
            confusion matrix.
        statistic: name in :data:`STATISTICS` of the function.
    """

    records: NDArray[Any]
    statistic: str = "ratio"

    @classmethod
    def ratio(cls, numerators: ArrayLike, denominators: ArrayLike) -> RowScores:
        """Sum of numerators (rows,) over sum of denominators (rows,)."""
        return cls(np.stack([np.asarray(numerators, dtype=float), np.asarray(denominators, dtype=float)], axis=1))

    @classmethod
    def mean(cls, values: ArrayLike) -> RowScores:
        """Mean of values (rows,)."""
        return cls.ratio(values, np.ones(np.shape(values)))

    @classmethod
    def macro_f1(cls, answers: Sequence[str], predictions: Sequence[str]) -> RowScores:
        """Unweighted mean of the F1 of every class that occurs (``average="macro"`` of scikit-learn).

        Args:
            answers: right class of each row.
            predictions: predicted class of each row.
        """
        classes = sorted({*answers, *predictions})
        right, found = (
            np.array([[name == own for name in classes] for own in side]) for side in (answers, predictions)
        )
        return cls(np.stack([right & found, right, found], axis=-1).astype(float).reshape(len(answers), -1), "macro_f1")

    def score(self) -> float:
        """The metric over all rows."""
        return float(self.over(self.records.sum(axis=0)))

    def over(self, totals: NDArray[Any]) -> NDArray[Any]:
        """The metric from summed records.

        Args:
            totals: float64 (..., fields).

        Returns:
            float64 (...).
        """
        return STATISTICS[self.statistic](totals)

    def to_json(self) -> dict[str, Any]:
        """A JSON object, rounded to six decimals; :meth:`from_json` reads it back."""
        return {"statistic": self.statistic, "records": np.round(self.records, 6).tolist()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> RowScores:
        """Reads what :meth:`to_json` wrote."""
        return cls(np.asarray(value["records"], dtype=float), value["statistic"])
