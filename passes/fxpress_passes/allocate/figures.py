"""resource, number ==> the number with its unit; rows ==> a table in plain text."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import ROUND_CEILING, ROUND_HALF_EVEN, Context

UNITS = {"size": "B", "latency": "s", "energy": "J", "macs": "MAC", "bops": "BOP", "parameters": ""}
"""Units of the resources that have a usual one; any other name is a resource without a unit."""

_DIGITS = 4
_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""), (1e-3, "m"), (1e-6, "u"), (1e-9, "n"))


def figure(resource: str, value: float, *, up: bool = False) -> str:
    """Four digits, a decimal prefix and the unit: ``3.149 ms``; never below the value where `up`."""
    scale, unit = prefixed(resource, value)
    digits = Context(prec=_DIGITS, rounding=ROUND_CEILING if up else ROUND_HALF_EVEN)
    return f"{float(digits.create_decimal_from_float(value / scale)):.{_DIGITS}g} {unit}".rstrip()


def prefixed(resource: str, value: float) -> tuple[float, str]:
    """What to divide by, and the unit of the quotient; quotients of what has no unit are 1 at least, or as they are."""
    unit = UNITS.get(resource, "")
    fitting = (pair for pair in _PREFIXES if abs(value) >= pair[0] and (unit or pair[0] >= 1))
    scale, prefix = next(fitting, (1.0, ""))
    return scale, f"{prefix}{unit}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns under their names; the first two to the left, figures to the right."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if place < 2 else cell.rjust(width) for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in (head, *rows)
    ]
    return "\n".join(line.rstrip() for line in lines)
