"""A sparse table of similarities: every row and its nearest neighbours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from damoc.filters.distribution.fixed_point import FixedPoint

if TYPE_CHECKING:
    from scipy.sparse import csc_array

_FLAT_ROWS = 20_000


def nearest_pairs(points: FixedPoint, neighbours: int) -> csc_array:
    """Products of every row with its nearest neighbours (faiss), itself among them.

    The search is exhaustive up to 20,000 rows; above, it visits a part of an inverted file.

    Args:
        points: unit rows on a grid.
        neighbours: of each row.

    Returns:
        Sparse (N, N) of products: a column holds the rows of which its row is a neighbour.
    """
    import faiss
    from scipy.sparse import csc_array

    rows = (points.rows * points.unit).astype(np.float32)
    count, dimensions = rows.shape
    index: Any = faiss.IndexFlatIP(dimensions)
    if count > _FLAT_ROWS:
        cells = int(np.sqrt(count))
        index = faiss.IndexIVFFlat(index, dimensions, cells, faiss.METRIC_INNER_PRODUCT)
        index.train(rows)
        index.nprobe = max(1, cells // 16)
    index.add(rows)
    cosines, members = index.search(rows, min(neighbours, count))
    owners = np.repeat(np.arange(count, dtype=np.int32), members.shape[1])
    found = members.ravel() >= 0
    products = np.rint(cosines.ravel()[found].astype(np.float64) / points.unit**2)
    return csc_array((products, (owners[found], members.ravel()[found])), shape=(count, count))
