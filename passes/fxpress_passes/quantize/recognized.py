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


@dataclass(frozen=True)
class Region:
    """A block of an average's results whose windows are equal, evenly spaced and share a divisor.

    `rows` and `columns` are start and end of the part of the image that it reads, `window` lies over that part.
    """

    rows: tuple[int, int]
    columns: tuple[int, int]
    window: Window
    divisor: int


ACCUMULATES = frozenset({"weighted", "add", "product", "matmul", "average", "interpolate"})
"""Kinds that make int32 accumulators: what bounds them costs nothing, it is the clamp of their result."""

PASSES_ON = frozenset({"move", "maximum", "split", "select"})
"""Kinds whose results are values of their operand, at its scale."""


@dataclass(frozen=True)
class Recognized:
    """What a node computes.

    Attributes:
        kind: ``weighted`` sum, ``add``, ``product``, ``average``, ``interpolate``, ``maximum``, ``move``, ``split``,
            ``select`` (rows and columns by index), ``pad``, ``concat``, ``table``, ``matmul`` (of two activations),
            ``softmax``, ``attention``, ``normalize``, ``rotary``, ``embedding`` or ``constant``.
        operands: the activations it reads.
        core: the node that does it, where this one only bounds its result.
        bounds: of the result, in real numbers.
        weight, bias: constants of a weighted sum, gain and shift of a normalisation, table of an embedding, additive constant
            of an attention's scores; `channel_axis` is a weight's axis of outputs.
        window: of a convolution, an average or a maximum; the largest of those that differ.
        spread: zeros are put between pixels first (a transposed convolution): the stride.
        divisor: of an average or an interpolation; the most frequent of those that differ.
        regions: of an average whose windows or divisors differ, in bands from the top, each from the left.
        kernel: integers of an interpolation along both axes.
        groups: of a convolution.
        sign: of an add's second operand.
        keeps_rank: False where an average drops the dimensions that it reduced.
        rows, columns: of a select.
        padding, fill: of a pad, (top, left, bottom, right) and the real number.
        axis: of a concatenation, or of a table's channels.
        part: dimension, start and end of a piece that is a move.
        parts: nodes that compute within it and have no value of their own; an attention's last one is its first product.
        scores, factor, masks: of an attention: the node whose value is quantised, the number that the first product is
            multiplied by, and booleans that are all true where a key is seen; `unseen`: what a query gives for which none is,
            ``zero``, ``mean`` or ``unmasked`` (`fxp::attention`).
        epsilon, centre: of a normalisation; one that does not centre divides by the root of the mean square.
        cosine, sine: tables of a rotation, moved constants.
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
    regions: tuple[tuple[Region, ...], ...] = ()
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
    parts: tuple[fx.Node, ...] = ()
    scores: fx.Node | None = None
    factor: float = 1.0
    masks: tuple[fx.Node, ...] = ()
    unseen: str = "zero"
    epsilon: float = 0.0
    centre: bool = True
    cosine: fx.Node | None = None
    sine: fx.Node | None = None

    @property
    def accumulates(self) -> bool:
        return self.kind in ACCUMULATES
