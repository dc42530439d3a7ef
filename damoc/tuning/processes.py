"""APPLY: what a training has to know about the processes that share it.

One process holds the whole model. Several hold a part of every weight, of its gradient and of its optimiser state
(FSDP2: ``torch.distributed.fsdp.fully_shard``, a unit a decoder layer) and read a part of every batch. The loop is the
same; what differs is here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from damoc.compression.architecture import find_layers
from damoc.config import TuningConfig
from damoc.hashing import derive_seed
from damoc.tuning.methods import precision

if TYPE_CHECKING:
    import torch


class OneProcess:
    """A process that trains alone.

    Attributes:
        rank: number of this process, 0 for the one that reports and writes.
        size: processes.
    """

    rank = 0
    size = 1

    def in_turn(self) -> AbstractContextManager[None]:
        """A block that the processes of a machine run one after another, in which whole models may be loaded."""
        return _nothing()

    def shard(self, tuned: Any, settings: TuningConfig, seed: int) -> Any:
        """A model whose trained weights are marked, as this process trains it.

        Args:
            tuned: what :func:`damoc.tuning.methods.make_trainable` returned.
            settings: of the tuning.
            seed: of the random numbers from here on, which are each process's own.
        """
        return tuned

    def precision(self, settings: TuningConfig, device: str) -> AbstractContextManager[Any]:
        """Context of every forward pass."""
        return precision(settings, device)

    def total(self, value: float) -> float:
        """Sum of a number over the processes."""
        return value

    def first(self, value: Any) -> Any:
        """The value of the first process."""
        return value

    def collect(self, value: Any) -> list[Any]:
        """The value of every process, in their order."""
        return [value]

    def trained(self, model: Any) -> dict[str, torch.Tensor] | None:
        """Trained weights put together in the memory of the first process; None where the model itself has them."""
        return None


class ShardedProcesses(OneProcess):
    """One of the processes that torchrun started, each with a GPU of its own, or on CPUs.

    Args:
        patience: how long one of them waits for the others.
    """

    def __init__(self, patience: timedelta) -> None:
        import torch
        from torch import distributed
        from torch.distributed.device_mesh import init_device_mesh

        gpu = torch.cuda.is_available()
        self._local_rank = int(os.environ["LOCAL_RANK"])
        self._local_size = int(os.environ["LOCAL_WORLD_SIZE"])
        if gpu:
            torch.cuda.set_device(self._local_rank)
        distributed.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo", timeout=patience)
        self.rank, self.size = distributed.get_rank(), distributed.get_world_size()
        self._mesh = init_device_mesh("cuda" if gpu else "cpu", (self.size,))

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """See :meth:`OneProcess.in_turn`."""
        for turn in range(self._local_size):
            if turn == self._local_rank:
                yield
            self.total(0.0)

    def shard(self, tuned: Any, settings: TuningConfig, seed: int) -> Any:
        """See :meth:`OneProcess.shard`; where all weights are trained in bfloat16, they are gathered in it."""
        import torch
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        base = tuned if settings.method == "full" else tuned.get_base_model()
        half = settings.method == "full" and settings.dtype == "bfloat16"
        policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32) if half else MixedPrecisionPolicy()
        for module in (*base.get_submodule(find_layers(base)), tuned):
            unit: Any = fully_shard(module, mesh=self._mesh, mp_policy=policy)
            unit.set_gradient_divide_factor(1.0)
            unit.set_force_sum_reduction_for_comms(True)
        torch.manual_seed(derive_seed(seed, "process", str(self.rank)))
        return tuned

    def precision(self, settings: TuningConfig, device: str) -> AbstractContextManager[Any]:
        """See :meth:`OneProcess.precision`; what the weights are gathered in decides."""
        return _nothing()

    def total(self, value: float) -> float:
        """See :meth:`OneProcess.total`."""
        import torch
        from torch import distributed

        number = torch.tensor(value, dtype=torch.float64)
        distributed.all_reduce(number)
        return float(number)

    def first(self, value: Any) -> Any:
        """See :meth:`OneProcess.first`."""
        from torch import distributed

        values = [value]
        distributed.broadcast_object_list(values)
        return values[0]

    def collect(self, value: Any) -> list[Any]:
        """See :meth:`OneProcess.collect`."""
        from torch import distributed

        values = [None] * self.size
        distributed.all_gather_object(values, value)
        return values

    def trained(self, model: Any) -> dict[str, torch.Tensor] | None:
        """See :meth:`OneProcess.trained`; all processes have to call it, and it is empty but in the first."""
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
        weights = dict[str, Any](get_model_state_dict(model, options=options))
        named = {name for name, _ in model.named_parameters()}  # without the second name of tied weights
        tied = {name for name, _ in model.named_parameters(remove_duplicate=False)} - named
        return {name: weight for name, weight in weights.items() if name not in tied}

    def leave(self) -> None:
        """Ends the group; not for a process that failed, which the others would wait for."""
        from torch import distributed

        distributed.destroy_process_group()


def own_part(tensor: torch.Tensor) -> torch.Tensor:
    """What this process holds of a tensor, all of one that is not sharded."""
    from torch.distributed.tensor import DTensor

    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def part_of(weight: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    """A tensor that :func:`own_part` gave for a weight or a thing of its shape, as a part again."""
    from torch.distributed.tensor import DTensor

    if not isinstance(weight, DTensor) or tensor.shape != weight.to_local().shape:
        return tensor
    return DTensor.from_local(
        tensor, weight.device_mesh, weight.placements, run_check=False, shape=weight.shape, stride=weight.stride()
    )


@contextmanager
def _nothing() -> Iterator[None]:
    yield
