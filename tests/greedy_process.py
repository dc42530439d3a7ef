"""A process of a tuning job; the second one has no memory for more than one row at a time."""

import os
import sys
from pathlib import Path
from typing import Any

import torch

from damoc.stages.tuning_job import main
from damoc.tuning import gradients

token_losses = gradients.token_losses


def greedy(model: Any, padded: dict[str, torch.Tensor]) -> torch.Tensor:
    """Asks for more memory than there is."""
    if os.environ["RANK"] == "1" and len(padded["input_ids"]) > 1:
        torch.empty(1 << 58)
    return token_losses(model, padded)


if __name__ == "__main__":
    gradients.token_losses = greedy
    main(Path(sys.argv[1]))
