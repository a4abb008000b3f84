"""Front ==> a picture of it, SVG or PNG: loss over cost, the chosen answer and what was measured of it marked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fxpress_ir.errors import PassError

from .answer import Answer
from .figures import figure, prefixed
from .pareto import Front, undominated
from .problem import WHERE
from .remeasure import Measured

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_FORMATS = (".svg", ".png")
_LOGARITHMIC = 30
"""The largest loss over the least one from which on losses are shown on a logarithmic axis."""


def picture(front: Front, path: str | Path, *, chosen: Answer | None = None, measured: Measured | None = None, title: str = "") -> Path:
    """Write the picture; the same front gives the same bytes with the same matplotlib.

    Args:
        path: its suffix says which format, ``.svg`` or ``.png``.
        chosen: an answer to mark, with its budget.
        measured: of the chosen answer's resource; drawn with its interval.

    Raises:
        PassError: matplotlib is not installed, or the suffix is another.
    """
    path = Path(path)
    if path.suffix not in _FORMATS:
        raise PassError(f"{path.name} is no picture", where=WHERE, way_on=f"end its name with {' or '.join(_FORMATS)}")
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise PassError("pictures need matplotlib", where=WHERE, way_on="pip install 'fxpress[plots]'") from error
    with mpl.rc_context({"svg.hashsalt": "fxpress", "svg.fonttype": "path"}):
        drawn = Figure(figsize=(7.0, 4.2), layout="constrained")
        _draw(drawn.subplots(), front, chosen, measured, title)
        drawn.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else {"Software": None})
    return path


def _draw(axes: Axes, front: Front, chosen: Answer | None, measured: Measured | None, title: str) -> None:
    resource = front.resource
    known = undominated([*front.answers, *([chosen] if chosen else [])], resource)
    axes_of = [[(answer.costs[resource], answer.loss) for answer in answers] for answers in (known, front.answers)]
    (line, losses), (costs, best) = (zip(*points, strict=True) for points in axes_of)
    scale, unit = prefixed(resource, max(costs))
    axes.plot([cost / scale for cost in line], losses, drawstyle="steps-post", color="#9ab", linewidth=1, zorder=1)
    axes.plot([cost / scale for cost in costs], best, "o", color="#257", markersize=4.5, label="best under a budget", zorder=2)
    if chosen is not None:
        cost = chosen.costs[resource]
        label = f"chosen: {figure(resource, cost)}, loss {chosen.loss:.3g}"
        axes.plot([cost / scale], [chosen.loss], "D", color="#d50", markersize=8, label=label, zorder=4)
        if resource in chosen.budgets:
            limit = chosen.budgets[resource]
            axes.axvline(limit / scale, color="#d50", linestyle="--", linewidth=1, label=f"budget: {figure(resource, limit)}", zorder=0)
    if chosen is not None and measured is not None:
        ends = [[(measured.value - measured.low) / scale], [(measured.high - measured.value) / scale]]
        label = f"measured: {figure(resource, measured.value)}"
        axes.errorbar([measured.value / scale], [chosen.loss], xerr=ends, fmt="s", color="#0a6", capsize=4, label=label, zorder=3)
    if min(losses) > 0 and max(losses) > _LOGARITHMIC * min(losses):
        axes.set_yscale("log")
    axes.set_xlabel(f"{resource} ({unit})" if unit else resource)
    axes.set_ylabel("predicted loss")
    axes.set_title(title)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
