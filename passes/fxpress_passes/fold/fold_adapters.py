"""layer(x) + branch(x), branch(layer(x)), layer(branch(x)) with linear branches ==> layer(x), its weight and bias changed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from fxpress_ir import Program

from ..contract import ANOTHER, Close, Context, Pass, Promise
from .adapters import fold_folder
from .branches.fold import Fold
from .branches.materialize import materialize
from .branches.refusals import refuse_branches
from .observed import Observed

_RTOL = 1e-4


@dataclass(frozen=True)
class FoldAdapters(Pass):
    """Fold adapters into the layers that they adapt, from the graph or from folders of adapters.

    In the graph they are known by their algebra, not by their names: whatever is linear in the same input, beside a linear layer, a
    convolution or an embedding, before it or after it, becomes part of its weight and bias; so do constant factors and shifts after a
    normalisation, and branches through the function of the layers that they stand beside become more of its neurons. Composed in
    float64, stored in the weight's dtype; a weight that others read too is copied. Each fold is run against what it replaces, on the first
    calibration batch or, without one, on random inputs, and certified in the report. What depends on the input in another way is refused
    with the operator that does. Into simulated programs only folders are folded.

    Options:
        path: folders of adapters to fold first.
        weights: of each folder; 1 where none are given.
        combination: how several folders are combined.
        ignore: modules that a folder adapts and the program does not compute.
        rank: that a combination keeps; 0 for the largest of the adapters.
    """

    name: ClassVar[str] = "fold-adapters"
    promise: ClassVar[Promise] = Close(_RTOL, "one rounding of each weight to its dtype replaces the branch's own roundings")
    takes: ClassVar[tuple[str, ...]] = ("float", "simulated")
    path: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()
    combination: str = "linear"
    ignore: tuple[str, ...] = ()
    rank: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.path, str):
            object.__setattr__(self, "path", (self.path,))
        if self.path:  # a folder brings another function than the base's; what holds then are the layers' certificates
            object.__setattr__(self, "promise", ANOTHER)

    def apply(self, program: Program, context: Context) -> Program:
        if self.path:
            folders = [Path(folder) for folder in self.path]
            program = fold_folder(
                program, folders, context, weights=self.weights or None, combination=self.combination, ignore=self.ignore, rank=self.rank
            )
        if program.stage != "float":
            return program
        edit = program.edit()
        fold = Fold(edit, Observed(program, context), _RTOL)
        fold.run()
        refuse_branches(edit, context)
        changed = materialize(edit) or fold.changed
        return edit.finish() if changed else program
