"""what layers and groups cannot be chosen, and why ==> one line a reason."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

_NAMES, _LINES = 4, 12


@dataclass(frozen=True, order=True)
class Refusal:
    """Why there is no choice of a family for one layer or group.

    Attributes:
        family: one of `FAMILIES`.
        reason: as the pass of that family gives it.
        name: of the layer's node, or of the group.
    """

    family: str
    reason: str
    name: str


def lines(refusals: Iterable[Refusal]) -> list[str]:
    """Sorted, those of one family and reason in one line; names and lines that are too many are counted."""
    found: Mapping[tuple[str, str], list[str]] = defaultdict(list)
    for refusal in sorted(set(refusals)):
        found[refusal.family, refusal.reason].append(refusal.name)
    said = [f"no choice of {family}: {_names(names)}: {reason}" for (family, reason), names in found.items()]
    if len(said) > _LINES:
        more = sum(len(names) for names in list(found.values())[_LINES:])
        said[_LINES:] = [f"and {more} more; --json has them all"]
    return said


def _names(names: list[str]) -> str:
    if len(names) <= _NAMES:
        return ", ".join(names)
    return f"{', '.join(names[:_NAMES])} and {len(names) - _NAMES} more"
