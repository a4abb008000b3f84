"""What every decomposition gives: what each choice of ranks costs, and the weights at one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

from torch import Size, Tensor

from ..lens import Lens


@dataclass(frozen=True)
class Rung:
    """A choice of ranks: how many parameters it has, and the share of the weight's energy that it loses, 0 to 1."""

    ranks: tuple[int, ...]
    parameters: int
    lost: float


@dataclass(frozen=True, eq=False)
class Piece:
    """One of the layers that replace a layer, in order.

    Attributes:
        weight: float64; as of the layer, [outputs, inputs] or [outputs, inputs, height, width].
        windowed: whether the layer's stride, padding and dilation along height and along width are those of this piece.
    """

    weight: Tensor
    windowed: tuple[bool, bool] = (False, False)


class Decomposition(Protocol):
    """A weight through a lens, decomposed.

    Class attributes:
        name: as plans and options name it.
        refused: takes a weight's shape; why it cannot be decomposed so, None where it can.

    Attributes:
        rungs: choices of ranks, by falling `parameters` and rising `lost`.
    """

    name: ClassVar[str]
    rungs: tuple[Rung, ...]

    def __init__(self, weight: Tensor, lens: Lens) -> None: ...

    @staticmethod
    def refused(shape: Size) -> str | None: ...

    def pieces(self, ranks: tuple[int, ...]) -> tuple[Piece, ...]:
        """The layers at these ranks.

        Raises:
            PassError: other than the decomposition's number of ranks, or one outside 1 to the full rank.
        """
        ...
