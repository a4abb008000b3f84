"""What a node is in integers, as data."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx


@dataclass(frozen=True)
class Window:
    """Sizes in (height, width); padding as (top, left, bottom, right)."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)


ACCUMULATES = frozenset({"weighted", "add", "product", "average", "interpolate"})
"""Kinds that make int32 accumulators: what bounds them costs nothing, it is the clamp of their result."""

PASSES_ON = frozenset({"move", "maximum", "split", "select"})
"""Kinds whose results are values of their operand, at its scale."""


@dataclass(frozen=True)
class Recognized:
    """What a node computes.

    Attributes:
        kind: ``weighted`` sum, ``add``, ``product``, ``average``, ``interpolate``, ``maximum``, ``move``, ``split``,
            ``select`` (rows and columns by index), ``pad``, ``concat`` or ``table``.
        operands: the activations it reads.
        core: the node that does it, where this one only bounds its result.
        bounds: of the result, in real numbers.
        weight, bias: constants of a weighted sum; `channel_axis` is the weight's axis of outputs.
        window: of a convolution, an average or a maximum.
        spread: zeros are put between pixels first (a transposed convolution): the stride.
        divisor: of an average or an interpolation.
        kernel: integers of an interpolation along both axes.
        groups: of a convolution.
        sign: of an add's second operand.
        keeps_rank: False where an average drops the dimensions that it reduced.
        rows, columns: of a select.
        padding, fill: of a pad, (top, left, bottom, right) and the real number.
        axis: of a concatenation, or of a table's channels.
        part: dimension, start and end of a piece that is a move.
    """

    kind: str
    operands: tuple[fx.Node, ...]
    core: fx.Node | None = None
    bounds: tuple[float, float] = (float("-inf"), float("inf"))
    weight: fx.Node | None = None
    bias: fx.Node | None = None
    channel_axis: int = 0
    window: Window | None = None
    spread: tuple[int, int] | None = None
    divisor: int = 1
    kernel: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
    groups: int = 1
    sign: int = 1
    keeps_rank: bool = True
    rows: tuple[int, ...] = ()
    columns: tuple[int, ...] = ()
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    fill: float = 0.0
    axis: int = 1
    part: tuple[int, int, int] | None = None
    squeezes: bool = False

    @property
    def accumulates(self) -> bool:
        return self.kind in ACCUMULATES
