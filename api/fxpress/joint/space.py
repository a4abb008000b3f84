"""prepared program, families ==> units with the names of their choices; one choice of each ==> the plan and the float program."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

from fxpress_ir import Program
from fxpress_ir.analysis.blocks import residual_blocks
from fxpress_ir.errors import PassError, PipelineError
from fxpress_passes import Context, PruneChannels, PruneHeads, PruneWidth
from fxpress_passes.evidence import Evidence
from fxpress_passes.factorize.layers import float_layers
from fxpress_passes.factorize.metrics import METRICS
from fxpress_passes.quantize.layer_choices import Layer, layers_of
from fxpress_passes.quantize.precision import precision_of

from .plan import JointPlan, digest_of
from .refusals import Refusal

FAMILIES = ("bits", "ranks", "channels", "blocks")
BITS = ("w8", "w6", "w5", "w4", "w3", "w2")
SHARES = (0.75, 0.5, 0.25)
"""Of the parameters of a layer's weight that its two factors have, and of a group's atoms that stay."""
WHOLE, STAYS, LEAVES = "keep 1", "stays", "leaves"
_RANK = re.compile(r"r(?P<share>[0-9.]+) (?P<bits>w[0-9]+)")
_FACTOR = re.compile(r"\.factor_[01]$")


@dataclass(frozen=True)
class Space:
    """What can be chosen for one program.

    Attributes:
        layers: that are quantised, by the units' names.
        ranked: names of those among them that can be two layers.
        atoms: of each group, by share, those that stay.
        blocks: by the units' names, those of input's and output's node; the first one stays.
        bits, families: what there is to choose.
        align: ranks are multiples of it, and so are the channels that stay.
        data: `digest_of` the calibration data.
        refusals: layers without ranks and groups that stay whole, and why; sorted, each once.
    """

    program: Program
    context: Context
    layers: Mapping[str, Layer]
    ranked: frozenset[str]
    atoms: Mapping[str, Mapping[float, tuple[int, ...]]]
    blocks: Mapping[str, tuple[str, str]]
    bits: tuple[str, ...]
    families: tuple[str, ...]
    align: int
    data: str
    refusals: tuple[Refusal, ...]

    @classmethod
    def of(
        cls,
        program: Program,
        context: Context,
        families: Sequence[str] = FAMILIES,
        *,
        bits: Sequence[str] = BITS,
        score: str = "taylor",
        align: int = 8,
    ) -> Space:
        """Read the choices off a prepared program.

        Args:
            score: of atoms, as of `prune-channels`; the best stay.

        Raises:
            PipelineError: an unknown family, or one named twice.
            CalibrationError: no usable calibration data.
        """
        if not families or set(families) - set(FAMILIES) or len(set(families)) < len(families):
            raise PipelineError(f"families {', '.join(families) or 'none'}", where="budget", way_on=f"of {', '.join(FAMILIES)}, each once")
        for text in bits:
            precision_of(text, "budget")
        layers = {layer.names[0]: layer for layer in layers_of(program)}
        if not layers:
            raise PassError("has no layer with weights to choose for", where="budget", way_on="give a model with some")
        refusals = set[Refusal]()
        ranked = frozenset(_ranked(program, layers, context, align, refusals)) if "ranks" in families else frozenset[str]()
        atoms = _atoms(program, context, score, align, refusals) if "channels" in families else {}
        found = residual_blocks(program)[1:] if "blocks" in families else []
        blocks = {f"block {start} ==> {end}": (start, end) for start, end in (block.names for block in found)}
        own = tuple(bits) if "bits" in families else ("w8",)
        data = digest_of(context.evidence.calibration, program)
        return cls(program, context, layers, ranked, atoms, blocks, own, tuple(families), align, data, tuple(sorted(refusals)))

    def only(self, families: Sequence[str]) -> Space:
        """The same with fewer families; what stays keeps its names, so that losses and costs hold for it."""
        return replace(
            self,
            ranked=self.ranked if "ranks" in families else frozenset(),
            atoms=self.atoms if "channels" in families else {},
            blocks=self.blocks if "blocks" in families else {},
            bits=self.bits if "bits" in families else self.bits[:1],
            families=tuple(families),
            refusals=tuple(refusal for refusal in self.refusals if refusal.family in families),
        )

    @property
    def units(self) -> dict[str, tuple[str, ...]]:
        """The choices of each unit, what changes least first."""
        shares = [f"r{share:g} " for share in SHARES]
        layers = {
            name: tuple(f"{rank}{bits}" for rank in ("", *(shares if name in self.ranked else ())) for bits in self.bits)
            for name in self.layers
        }
        groups = {group_unit(name): (WHOLE, *(f"keep {share:g}" for share in levels)) for name, levels in self.atoms.items()}
        return {**layers, **groups, **dict.fromkeys(self.blocks, (STAYS, LEAVES))}

    @property
    def cuts(self) -> int:
        """How many single choices change the structure."""
        return len(SHARES) * len(self.ranked) + sum(len(levels) for levels in self.atoms.values()) + len(self.blocks)

    @property
    def nothing(self) -> dict[str, str]:
        """The first choice of each."""
        return {name: choices[0] for name, choices in self.units.items()}

    def kept(self, group: str, choice: str) -> tuple[int, ...] | None:
        """The atoms that stay; None for all."""
        return None if choice == WHOLE else self.atoms[group][float(choice.removeprefix("keep "))]

    def built(self, chosen: Mapping[str, str]) -> tuple[JointPlan, Program]:
        """The plan of these choices, units not named at their first, and the float program cut by it."""
        taken = {**self.nothing, **chosen}
        keep = {name: atoms for name in self.atoms if (atoms := self.kept(name, taken[group_unit(name)])) is not None}
        remove = tuple(pair for name, pair in self.blocks.items() if taken[name] == LEAVES)
        plan = JointPlan(self.program.hash, self.context.seed, self.data, keep, remove)
        sliced = plan.sliced(self.program)
        shapes = {layer.weight: sliced.tensors[layer.weight].shape for layer in layers_of(sliced)}
        ranks = {}
        for name, layer in self.layers.items():
            share, _ = parts(taken[name])
            if share < 1 and layer.weight in shapes and (rank := self.rank(shapes[layer.weight], share)):
                ranks[_present(layer, sliced)] = rank
        plan = replace(plan, ranks=ranks)
        # moments of inputs are kept of the whole program alone, not of every slice that is tried
        own = self.context if sliced is self.program else replace(self.context, calibrated=Evidence(self.context.evidence.calibration))
        cut = plan.factorized(sliced, own)
        precisions = {name: precision_of(parts(taken[unit])[1], "budget") for name, unit in self.units_in(cut).items()}
        return replace(plan, bits={name: str(precision) for name, precision in precisions.items()}), cut

    def units_in(self, cut: Program) -> dict[str, str]:
        """The unit of each layer of a program that `built` gave, by the layer's name; both factors belong to one."""
        units = {layer.weight.removesuffix(".weight"): name for name, layer in self.layers.items()}
        found = {}
        for layer in layers_of(cut):
            stem = layer.weight.removesuffix(".weight")
            unit = units[stem if stem in units else _FACTOR.sub("", stem)]
            found.update(dict.fromkeys(layer.names, unit))
        return found

    def rank(self, shape: Sequence[int], share: float) -> int:
        """The aligned rank whose factors have this share of a weight's elements; 0 where none has fewer than the weight."""
        return _rank(shape, share, self.align)


def group_unit(name: str) -> str:
    """A group's unit; layers and groups may have one name."""
    return f"group {name}"


def parts(choice: str) -> tuple[float, str]:
    """``r0.5 w4`` ==> the share of parameters that two factors have, and the bits; 1 for a layer that stays one."""
    match = _RANK.fullmatch(choice)
    return (float(match["share"]), match["bits"]) if match else (1.0, choice)


def _present(layer: Layer, program: Program) -> str:
    """The name by which `factorize` knows a layer: of the first node that computes with its weight."""
    names = {node.name for node in program.graph.nodes}
    return next(name for name in layer.names if name in names)


def _rank(shape: Sequence[int], share: float, align: int) -> int:
    rows, columns = shape[0], prod(shape[1:])
    wanted = share * rows * columns / (rows + columns)
    rank = max(round(wanted / align) * align, min(align, round(wanted)), 1)
    return rank if rank * (rows + columns) < rows * columns else 0


def _ranked(program: Program, layers: Mapping[str, Layer], context: Context, align: int, refusals: set[Refusal]) -> list[str]:
    """Layers that `factorize` takes, whose inputs calibration can tell and that some rank makes smaller."""
    quiet = replace(context, refusals=[], notes=[])
    own = [layer for layer in float_layers(program, quiet) if layer.name in layers]
    seen = METRICS["activations"](program, own, quiet, None) if own else {}
    found = []
    for layer in own:
        if layer.name not in seen:
            continue
        if any(_rank(layer.weight.shape, share, align) for share in SHARES):
            found.append(layer.name)
        else:
            quiet.refuse(layer.nodes[0], "no rank makes it smaller")
    refusals.update(Refusal("ranks", refused.reason, refused.node) for refused in quiet.refusals)
    return found


def _atoms(program: Program, context: Context, score: str, align: int, refusals: set[Refusal]) -> dict[str, dict[float, tuple[int, ...]]]:
    quiet, found = replace(context, refusals=[], notes=[]), dict[str, dict[float, tuple[int, ...]]]()
    for share in SHARES:
        for kind, unit in ((PruneChannels, align), (PruneHeads, 1), (PruneWidth, align)):
            plan = kind(ratio=1 - share, align=unit, score=score).decide(program, quiet)
            for name, atoms in plan.keep.items():
                levels = found.setdefault(name, {})
                if atoms not in levels.values():
                    levels[share] = atoms
    # what one kind of pass leaves alone another may take
    refusals.update(Refusal("channels", refused.reason, refused.node) for refused in quiet.refusals if refused.node not in found)
    return found
