"""Which atoms of which groups stay, and of which program: a value that can be printed, stored and replayed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..analysis.coupling import Groups, coupled_groups
from ..errors import ProgramError
from ..program import Program


@dataclass(frozen=True)
class Plan:
    """The atoms that stay, ascending, for each group that shrinks; other groups stay whole.

    Attributes:
        program_hash: `Program.hash` of the program whose groups are named.
        keep: group name ==> numbers of the atoms that stay.
    """

    program_hash: str
    keep: Mapping[str, tuple[int, ...]]

    @classmethod
    def of(cls, program: Program, keep: Mapping[str, Sequence[int]]) -> Plan:
        """A plan for `program`, checked.

        Raises:
            ProgramError: a group is unknown or cannot shrink, or its atoms are none, twice or out of range.
        """
        plan = cls(program.hash, {name: tuple(sorted(atoms)) for name, atoms in keep.items()})
        kept_atoms(program, plan)
        return plan

    def to_json(self) -> str:
        return json.dumps({"program_hash": self.program_hash, "keep": {name: list(atoms) for name, atoms in self.keep.items()}})

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """The plan that `to_json` wrote.

        Raises:
            ProgramError: the text is no plan.
        """
        try:
            data = json.loads(text)
            keep = {str(name): tuple(map(int, atoms)) for name, atoms in data["keep"].items()}
            return cls(str(data["program_hash"]), keep)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ProgramError("is not a plan", where="the text", way_on="pass what Plan.to_json wrote") from error

    def __str__(self) -> str:
        return "\n".join(f"{name}: {len(atoms)} stay" for name, atoms in self.keep.items())


def kept_atoms(program: Program, keep: Plan | Mapping[str, Sequence[int]]) -> tuple[Groups, NDArray[np.int64]]:
    """The program's groups, and the atoms that leave as the labels of the analysis.

    Raises:
        ProgramError: as `Plan.of`; or the plan is of another program.
    """
    groups = coupled_groups(program)
    if isinstance(keep, Plan):
        if keep.program_hash != groups.program_hash:
            raise ProgramError("was made for another program", where=f"plan of {keep.program_hash[:12]}", way_on="make it again")
        keep = keep.keep
    leaving: list[int] = []
    for name, atoms in keep.items():
        group = groups.group(name)
        _check(group.size, atoms, f"group {name!r}")
        if len(atoms) < group.size:
            if group.unprunable:
                raise ProgramError(f"cannot shrink: {group.unprunable}", where=f"group {name!r}", way_on="leave it out of the plan")
            leaving += [label for atom, label in enumerate(groups.labels(name)) if atom not in set(atoms)]
    return groups, np.array(leaving, np.int64)


def _check(size: int, atoms: Sequence[int], where: str) -> None:
    if not atoms:
        raise ProgramError("no atom stays", where=where, way_on="keep one at least, or remove the layer")
    if len(set(atoms)) != len(atoms):
        raise ProgramError("an atom is named twice", where=where, way_on="name each that stays once")
    if min(atoms) < 0 or max(atoms) >= size:
        raise ProgramError(f"has no atom {max(atoms) if min(atoms) >= 0 else min(atoms)}", where=where, way_on=f"it has {size}, from 0")
