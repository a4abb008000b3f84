"""The plan of `factorize`: how each layer is decomposed, and at which ranks, <==> JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from fxpress_ir.errors import PassError

from ..low_rank.decompositions import DECOMPOSITIONS


@dataclass(frozen=True)
class Split:
    """One layer's: the name of its decomposition, its ranks, and the parameters of its weight before and after."""

    kind: str
    ranks: tuple[int, ...]
    before: int
    after: int


@dataclass(frozen=True)
class RankPlan:
    """Splits by layers' names; a layer that is not named stays whole. Layers that share a weight have the name of the first.

    Attributes:
        program_hash: `Program.hash` of the program whose layers are named.
    """

    program_hash: str
    splits: Mapping[str, Split] = field(default_factory=dict)

    def __str__(self) -> str:
        return "\n".join(
            f"{name}: {split.kind}, ranks {', '.join(map(str, split.ranks))}, {split.before} -> {split.after} parameters"
            for name, split in self.splits.items()
        )

    def to_json(self) -> str:
        """The plan as text; ``from_json`` reads it back."""
        splits = {name: vars(split) for name, split in self.splits.items()}
        return json.dumps({"program_hash": self.program_hash, "splits": splits}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> RankPlan:
        """The plan in a text.

        Raises:
            PassError: it is no JSON of a plan, or names a decomposition that there is not.
        """
        try:
            data = json.loads(text)
            program_hash, found = str(data["program_hash"]), {name: _split(**parts) for name, parts in data["splits"].items()}
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise PassError(f"is no plan: {error}", where="factorize", way_on="give what RankPlan.to_json wrote") from error
        for name, split in found.items():
            if split.kind not in DECOMPOSITIONS:
                known = ", ".join(DECOMPOSITIONS)
                raise PassError(f"{split.kind!r} is no decomposition", where=f"factorize, layer {name}", way_on=f"one of {known}")
        return cls(program_hash, found)


def _split(kind: str, ranks: list[int], before: int, after: int) -> Split:
    if not all(isinstance(value, int) for value in (*ranks, before, after)):
        raise TypeError("ranks and parameters are whole numbers")
    return Split(kind, tuple(ranks), before, after)
