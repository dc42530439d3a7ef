"""DECIDE: which retained layer absorbs which removed ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

Side = Literal["before", "after", "nearest"]


def anchors(keep: Sequence[int], remove: Sequence[int], side: Side = "before") -> dict[int, tuple[int, ...]]:
    """Which retained layer absorbs which removed ones.

    Args:
        keep: layers that stay, at least one.
        remove: layers that go, ascending.
        side: where the anchor is looked for first: ``before`` the removed layer, as in LaCo (arXiv 2402.11187), or
            ``after`` it; where there is none, on the other side. ``nearest`` takes the closer one, ties the one
            before.

    Returns:
        Removed layers, ascending, by their anchor.
    """
    groups: dict[int, tuple[int, ...]] = {}
    for removed in remove:
        before = max((index for index in keep if index < removed), default=None)
        after = min((index for index in keep if index > removed), default=None)
        anchor = _choose(removed, before, after, side)
        groups[anchor] = (*groups.get(anchor, ()), removed)
    return dict(sorted(groups.items()))


def _choose(removed: int, before: int | None, after: int | None, side: Side) -> int:
    if before is None or after is None:
        found = after if before is None else before
        assert found is not None, "no layer is kept"
        return found
    if side == "nearest":
        return before if removed - before <= after - removed else after
    return before if side == "before" else after
