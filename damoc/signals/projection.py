"""MEASURE: long vectors made short by seeded random signs and buckets, so that their angles survive."""

from __future__ import annotations

from typing import TYPE_CHECKING

from damoc.hashing import derive_seed

if TYPE_CHECKING:
    import torch


class CountSketch:
    """A random projection of named blocks of coordinates to a few dimensions.

    Count-Sketch (Charikar, Chen, Farach-Colton, 2002; as a sparse Johnson-Lindenstrauss transform: Weinberger et al.,
    "Feature Hashing for Large Scale Multitask Learning", ICML 2009): every coordinate gets a random sign and falls into
    a random bucket. Buckets are balanced here (each takes as many coordinates of a block as any other, give or take
    one), which lowers the number of collisions a little and makes the sum the same on every run, also on GPUs. The
    error of a cosine has a standard deviation of at most ``sqrt((1 + cosine**2) / dimensions)`` in expectation.

    Args:
        dimensions: buckets.
        seed: of signs and buckets.
    """

    def __init__(self, dimensions: int, seed: int) -> None:
        self.dimensions = dimensions
        self.seed = seed
        self._placed: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def __call__(self, name: str, values: torch.Tensor) -> torch.Tensor:
        """Projects one block; the projections of all blocks of a vector add up to that of the vector.

        Args:
            name: of the block, which says with the seed where its coordinates go.
            values: float (rows, coordinates).

        Returns:
            float (rows, dimensions).
        """
        from torch.nn import functional

        rows, width = values.shape
        order, signs = self._place(name, width, values)
        padded = functional.pad(values, (0, len(order) - width))
        return (padded.index_select(1, order) * signs).view(rows, -1, self.dimensions).sum(dim=1)

    def _place(self, name: str, width: int, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        if name not in self._placed:
            generator = torch.Generator().manual_seed(derive_seed(self.seed, name))
            slots = -(-width // self.dimensions) * self.dimensions
            order = torch.randperm(slots, generator=generator, dtype=torch.int32)
            signs = torch.randint(0, 2, (slots,), generator=generator, dtype=torch.int8) * 2 - 1
            self._placed[name] = order.to(like.device), signs.to(like)
        return self._placed[name]
