"""rows x of a layer's input, batch by batch ==> sum of x x^T, sum of x and their number, which two runs can merge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True, eq=False)
class SecondMoment:
    """How many rows there were, their sum, float64 [columns], and the sum of their outer products, float64 [columns, columns]."""

    count: int
    sums: NDArray[np.float64]
    products: NDArray[np.float64]

    @classmethod
    def of(cls, rows: Tensor) -> SecondMoment:
        """The moment of rows [n, columns], multiplied in float32 or wider; batches are added up in float64."""
        rows = rows.detach().to(torch.promote_types(rows.dtype, torch.float32))
        products = (rows.T @ rows).double().cpu().numpy()
        return cls(len(rows), rows.double().sum(0).cpu().numpy(), products)

    @property
    def mean(self) -> NDArray[np.float64]:
        """E[x], float64 [columns]."""
        return self.sums / max(self.count, 1)

    @property
    def moment(self) -> NDArray[np.float64]:
        """E[x x^T], float64 [columns, columns]."""
        return self.products / max(self.count, 1)

    @property
    def covariance(self) -> NDArray[np.float64]:
        """E[(x - E[x]) (x - E[x])^T], float64 [columns, columns]."""
        return self.moment - np.outer(self.mean, self.mean)

    def merge(self, other: SecondMoment) -> SecondMoment:
        """The moment of both sets of rows; equal to that of one run but for rounding."""
        return SecondMoment(self.count + other.count, self.sums + other.sums, self.products + other.products)


def moments_to_arrays(facts: Sequence[SecondMoment]) -> dict[str, NDArray[Any]]:
    """All moments, one after the other, as a state's file holds them."""
    empty = np.empty(0, np.float64)
    return {
        "count": np.array([fact.count for fact in facts], np.int64),
        "columns": np.array([len(fact.sums) for fact in facts], np.int64),
        "sums": np.concatenate([empty, *(fact.sums for fact in facts)]),
        "products": np.concatenate([empty, *(fact.products.reshape(-1) for fact in facts)]),
    }


def moments_from_arrays(names: Sequence[str], arrays: Mapping[str, NDArray[Any]]) -> dict[str, SecondMoment]:
    """The inverse of `moments_to_arrays`; a ValueError where the arrays are none of theirs."""
    columns = arrays["columns"]
    wanted = {
        **dict.fromkeys(("count", "columns"), (np.dtype(np.int64), (len(names),))),
        "sums": (np.dtype(np.float64), (int(columns.sum()),)),
        "products": (np.dtype(np.float64), (int((columns**2).sum()),)),
    }
    if {name: (array.dtype, array.shape) for name, array in arrays.items()} != wanted:
        raise ValueError("arrays of other types or shapes")
    sums = np.split(arrays["sums"], np.cumsum(columns))[:-1]
    products = np.split(arrays["products"], np.cumsum(columns**2))[:-1]
    parts = zip(names, arrays["count"].tolist(), columns.tolist(), sums, products, strict=True)
    return {name: SecondMoment(count, total, square.reshape(size, size)) for name, count, size, total, square in parts}
