"""What a method is given about one layer, and what it gives back: integers, and the scales that they count in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ..matrix import Matrix
from ..quadratic import Quadratic


@dataclass(frozen=True)
class How:
    """Options that methods have in common; `Reconstruct` says what each means."""

    steps: int = 200
    rate: float = 0.0
    damping: float = 0.01
    order: str = "activations"
    step_sizes: bool = True


@dataclass(frozen=True, eq=False)
class Task:
    """One layer.

    Attributes:
        error: what the weight is to leave little of.
        matrix: the layer's shapes.
        codes: the integers that the weight has now, float64 [G, R, K].
        scales: float64, one number a scale.
        most: integers are -most to most.
        kept: False where a weight is zero and stays it, [G, R, K].
        free: the scales may change.
        done: told the share of the steps that are done.
    """

    error: Quadratic
    matrix: Matrix
    codes: Tensor
    scales: Tensor
    most: int
    kept: Tensor
    free: bool
    how: How
    done: Callable[[float], None] = lambda share: None

    @property
    def steps(self) -> Tensor:
        """The scale of each row, [G, R, 1]."""
        return self.matrix.expand(self.scales)

    @property
    def learns_scales(self) -> bool:
        """They may change, and are to."""
        return self.free and self.how.step_sizes

    @property
    def has_one_scale(self) -> bool:
        """All its channels have the same scale, and keep one."""
        return bool((self.scales == self.scales[0]).all())


@dataclass(frozen=True, eq=False)
class Learnt:
    """Integers, float64 [G, R, K], and scales as in a `Task`; those are snapped to dyadics afterwards."""

    codes: Tensor
    scales: Tensor


class Method(Protocol):
    """A way to choose a layer's integers.

    Attributes:
        name: as users write it.
        falls: its aim is the squared error, so that a result with more of it than there was is not taken.
        moves: it changes integers or scales; one that does not leaves the weight as it is.
    """

    name: str
    falls: bool
    moves: bool

    def learn(self, task: Task) -> Learnt:
        """The integers of one layer.

        Raises:
            ValueError: it cannot; the message says why.
        """
