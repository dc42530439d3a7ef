"""APPLY: where a training stands, kept so that a killed one goes on to the same weights.

A checkpoint is a file of tensors a process (its part of the trained weights and of the optimiser, its random numbers)
and ``checkpoint.json``, which names these files with their SHA-256 and is renamed into place last. What is damaged,
half-written or of another training is ignored.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from damoc.hashing import canonical_json, sha256_file
from damoc.tracking.storage import write_bytes
from damoc.tuning.processes import OneProcess, own_part, part_of
from damoc.tuning.rng import random_state, set_random_state

if TYPE_CHECKING:
    import torch

_MARKER = "checkpoint.json"
_WEIGHT, _OPTIMISER, _RANDOM = "weight/", "optimiser/", "random/"


@dataclass
class TrainingState:
    """Where a training stands, beside its tensors.

    Args:
        step: steps done.
        tokens: tokens read, padding not counted.
        history: points logged so far.
        losses: training losses since the last of them.
        start_loss: training loss of the first step.
        valid_before: validation loss before the first step, None without validation rows.
        micro_batch_tokens: padded tokens of a micro-batch at most.
        seconds: time spent.
    """

    step: int = 0
    tokens: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    start_loss: float | None = None
    valid_before: float | None = None
    micro_batch_tokens: int = 1 << 30
    seconds: float = 0.0


class Checkpoints:
    """The last checkpoint of one training, in a folder of its own.

    Args:
        folder: where it lies; made when it is needed.
        identity: of the training: all that decides its outcome, hashed.
        minutes: between two checkpoints.
    """

    def __init__(self, folder: Path, identity: str, minutes: float) -> None:
        self._folder = folder
        self._identity = identity
        self._every = minutes * 60
        self._saved = time.monotonic()

    def due(self) -> bool:
        """Whether it is time for the next one."""
        return time.monotonic() - self._saved >= self._every

    def save(
        self,
        state: TrainingState,
        weights: Mapping[str, torch.Tensor],
        optimizer: torch.optim.Optimizer,
        processes: OneProcess,
    ) -> None:
        """Writes a checkpoint and removes the one before; all processes of a training have to call it."""
        from safetensors.torch import save_file

        tensors = {_WEIGHT + name: own_part(weight.detach()) for name, weight in weights.items()}
        names = list(weights)
        for index, values in optimizer.state_dict()["state"].items():
            tensors |= {f"{_OPTIMISER}{names[index]}/{key}": own_part(value) for key, value in values.items()}
        tensors |= {_RANDOM + device: value for device, value in random_state().items()}
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"step-{state.step}-{processes.rank}-{os.getpid()}.safetensors"
        save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, path)
        files = processes.collect({"file": path.name, "sha256": sha256_file(path)})
        if processes.rank == 0:
            marker = {"identity": self._identity, "files": files, "state": asdict(state)}
            write_bytes(str(self._folder / _MARKER), canonical_json(marker).encode("utf-8"))
            for other in self._folder.glob("step-*"):
                if other.name not in {entry["file"] for entry in files}:
                    other.unlink(missing_ok=True)
        self._saved = time.monotonic()

    def load(
        self, weights: Mapping[str, torch.Tensor], optimizer: torch.optim.Optimizer, processes: OneProcess
    ) -> TrainingState | None:
        """Puts a training back to its last checkpoint; without a whole one of the same training nothing is touched.

        Args:
            weights: trained weights, by name.
            optimizer: over these weights, in their order.
            processes: those of the training, as many as wrote the checkpoint; all have to call it.

        Returns:
            Where the training stood, or None.
        """
        import torch
        from safetensors.torch import load_file

        found = self._read(processes)
        if not all(processes.collect(found is not None)) or found is None:
            return None
        state, path = found
        tensors = load_file(path)
        saved: dict[int, dict[str, torch.Tensor]] = {}
        with torch.no_grad():
            for index, (name, weight) in enumerate(weights.items()):
                own_part(weight).copy_(tensors[_WEIGHT + name])
                prefix = f"{_OPTIMISER}{name}/"
                own = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
                if own:
                    saved[index] = {key: part_of(weight, value.to(weight.device)) for key, value in own.items()}
        optimizer.load_state_dict({"state": saved, "param_groups": optimizer.state_dict()["param_groups"]})
        set_random_state({key.removeprefix(_RANDOM): tensors[key] for key in tensors if key.startswith(_RANDOM)})
        return TrainingState(**state)

    def _read(self, processes: OneProcess) -> tuple[dict[str, Any], Path] | None:
        """The state in a whole checkpoint of this training and the own file of this process."""
        try:
            marker: dict[str, Any] = json.loads((self._folder / _MARKER).read_text(encoding="utf-8"))
            own = marker["files"][processes.rank]
            path = self._folder / Path(own["file"]).name
            ours = marker["identity"] == self._identity and len(marker["files"]) == processes.size
            whole = ours and sha256_file(path) == own["sha256"]
        except (OSError, ValueError, KeyError, IndexError, TypeError):
            return None
        return (marker["state"], path) if whole else None
