"""What a compression did: the evidence that the report shows and from which the proxy can be rebuilt."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from damoc.compression.decision import LayerDecision
from damoc.compression.importance import DECIMALS

if TYPE_CHECKING:
    import torch

PATCHES = "patches.safetensors"
"""File beside the record that holds the maps of an accepted linear patch."""


@dataclass(frozen=True)
class CompressionOutcome:
    """A proxy's history. Losses are mean nats per answer token on the calibration rows.

    Args:
        layers: which layers stay, and what that was decided on.
        method: of the merge.
        scale: of the merge; 0 when it was not accepted.
        scale_losses: by scale; 0 is plain removal.
        original_parameters: count of the whole model, shared ones once.
        proxy_parameters: count of the proxy.
        patches: what an accepted linear patch consists of, by anchor; kept beside the record.
    """

    layers: LayerDecision
    method: str
    scale: float
    scale_losses: Mapping[float, float]
    original_parameters: int
    proxy_parameters: int
    patches: Mapping[str, torch.Tensor] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """A JSON object, rounded to 6 decimals; a loss that is not finite is null."""
        layers = self.layers.to_json()
        return {
            **layers,
            "losses": {**layers["losses"], "merged": _rounded(self.scale_losses[self.scale])},
            "merge": {
                "method": self.method,
                "scale": self.scale,
                "accepted": self.scale != 0,
                "losses": {str(scale): _rounded(loss) for scale, loss in sorted(self.scale_losses.items())},
            },
            "parameters": {"original": self.original_parameters, "proxy": self.proxy_parameters},
        }


def _rounded(value: float) -> float | None:
    return round(float(value), DECIMALS) if math.isfinite(value) else None
