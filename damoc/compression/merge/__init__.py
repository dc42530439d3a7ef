"""Gives a pruned model back some of what its removed layers did, where that lowers the calibration loss."""

from damoc.compression.merge.build import Ingredients, base_weights, build_merge, recorded_merge
from damoc.compression.merge.scale import choose_scale
from damoc.compression.merge.weights import Merge

__all__ = ["Ingredients", "Merge", "base_weights", "build_merge", "choose_scale", "recorded_merge"]
