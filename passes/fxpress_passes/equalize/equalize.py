"""y = W x + b ==> y = (W s) ((x - z) / s) + (b + W z), with (x - z) / s computed by what computes x."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from fxpress_ir import Edit, Program
from fxpress_ir.errors import PassError
from fxpress_ir.ops import arguments
from torch import Tensor, fx

from ..contract import Close, Context, Pass, Promise
from .factors import Channels, Factors, Observer, best, centred
from .sites import Site, sites

_aten = torch.ops.aten


@dataclass(frozen=True)
class Equalize(Pass):
    """Divide wide input channels of linear layers by factors and multiply their weights by them (SmoothQuant, Xiao et al. 2023).

    The variant with a shift of each channel to its centre (MPTQ-ViT's SQ-b, M184), and with the factors of each value chosen
    among several strengths and none by the error of the layers that read it, quantised alone, on rows of calibration data.
    Factors go where they cost nothing: into a normalisation's gain and shift (a second one where the normalised value is read
    by others too), into the rows of a linear layer before (through attention, a gate, ReLU and moves), or into the table of an
    elementwise function, which then differs by channel and takes its input equalised too.

    Options:
        alphas: the strengths that are tried; one alone is still compared with none.
        tables: give each channel of an elementwise function a table of its own (256 bytes each, looked up more slowly); where
            not, its input and its result are moved to their middle as wholes, and the table stays one.
        bits: of inputs and weights in that comparison.
        percentile: of a channel's values that its factor is made for; below 100 rare outliers do not set it, and
            place-quantizers{ranges=percentile} clips them (LRP-QViT's clipped ranges by channel, M190, with alphas=[1]).
    """

    name: ClassVar[str] = "equalize"
    promise: ClassVar[Promise] = Close(1e-4, "factors that cancel are rounded")
    after: ClassVar[tuple[str, ...]] = ("fold-batch-norm", "fold-constants")
    needs: ClassVar[tuple[str, ...]] = (
        *("remove-noops", "fold-constants", "fold-positions", "compose-linear", "compose-rms-norm"),
        *("decompose-unflatten", "decompose-attention"),
    )
    alphas: tuple[float, ...] = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    tables: bool = True
    bits: int = 8
    percentile: float = 100.0

    def __post_init__(self) -> None:
        if not self.alphas or not all(0 <= alpha <= 1 for alpha in self.alphas):
            raise PassError(f"alphas={list(self.alphas)} are not strengths", where=self.name, way_on="at least one, 0 to 1 each")
        if not 2 <= self.bits <= 16:
            raise PassError(f"bits={self.bits}", where=self.name, way_on="2 to 16")
        if not 50 < self.percentile <= 100:
            raise PassError(f"percentile={self.percentile:g}", where=self.name, way_on="above 50, 100 at most")

    def apply(self, program: Program, context: Context) -> Program:
        found: list[Site] = []
        for site in sites(program):
            if isinstance(site, tuple):
                context.refuse(site[0], site[1])
            else:
                found.append(site)
        if not found:
            return program
        wanted = {site.value.name for site in found} | {site.before[0].name for site in found if site.before}
        observer = Observer(program, frozenset(wanted), batches=context.evidence.calibration.known)
        for batch in context.evidence.calibration.batches(program):
            observer.observe(batch)
        edit, changed = program.edit(), False
        for site in found:
            weights = [program.tensors[str(arguments(reader)["weight"].target)] for reader in site.readers]
            seen = observer.found[site.value.name].clipped(self.percentile)
            one = site.kind == "table" and not self.tables
            factors = centred(seen, weights, self.bits) if one else best(seen, weights, self.alphas, site.shifts, site.rows, self.bits)
            if factors is not None:
                before = None if site.before is None else observer.found[site.before[0].name]
                _rewrite(edit, site, factors, before.whole() if one and before is not None else before)
                changed = True
        return edit.finish() if changed else program


def _rewrite(edit: Edit, site: Site, factors: Factors, before: Channels | None) -> None:
    scale, shift = factors.scale.double(), factors.shift.double()
    value = edit.here(site.value)
    for reader in site.readers:
        _rescale(edit, edit.here(reader), lambda w, b: (w * scale, b + w @ shift))
    if site.kind == "rows":
        assert site.rows is not None
        rows = torch.unique(site.rows)
        # every channel of a row has the row's factors
        place = torch.zeros(len(rows), dtype=torch.int64).scatter(0, torch.searchsorted(rows, site.rows), torch.arange(len(site.rows)))
        by, off = scale[place], shift[place]
        _rescale(edit, edit.here(site.producer), lambda w, b: (w / by[:, None], (b - off) / by))
    elif site.kind == "norm":
        _readdress(edit, site, value, _norm(edit, value, scale, shift))
    else:
        if site.before is not None and before is not None:
            _equalize_input(edit, site.before, before)
        changed = _then(edit, value, _aten.sub.Tensor, value, "shift", shift)
        _readdress(
            edit, site, value, changed if bool((scale == 1).all()) else _then(edit, changed, _aten.mul.Tensor, value, "factor", 1 / scale)
        )


def _norm(edit: Edit, value: fx.Node, scale: Tensor, shift: Tensor) -> fx.Node:
    """The normalisation with another gain and shift, beside the old one."""
    named = arguments(value)
    old = [None if named.get(part) is None else edit.tensor(named[part]).detach().double() for part in ("weight", "bias")]
    gain = (torch.ones_like(scale) if old[0] is None else old[0]) / scale
    parts: list[object] = [named["input"], named["normalized_shape"], _constant(edit, value, "gain", gain)]
    if value.target is _aten.layer_norm.default:
        parts.append(_constant(edit, value, "shift", ((torch.zeros_like(shift) if old[1] is None else old[1]) - shift) / scale))
    with edit.graph.inserting_after(value):
        return edit.call(value.target, *parts, named["eps"], like=value)  # type: ignore[arg-type]


def _equalize_input(edit: Edit, before: tuple[fx.Node, tuple[fx.Node, ...]], seen: Channels) -> None:
    """f(W x + b) ==> f(t (W x + b - z) / t + z): a linear layer's channels as wide as each other before a table undoes it."""
    layer, users = edit.here(before[0]), [edit.here(user) for user in before[1]]
    middle = (seen.high.double() + seen.low.double()) / 2
    reach = (seen.high.double() - seen.low.double()) / 2
    reach = reach.clamp_min(1e-3 * float(reach.max()))
    _rescale(edit, layer, lambda w, b: (w / reach[:, None], (b - middle) / reach))
    wide = _then(edit, layer, _aten.mul.Tensor, layer, "reach", reach)
    whole = _then(edit, wide, _aten.add.Tensor, layer, "middle", middle)
    for user in users:
        user.replace_input_with(layer, whole)


def _rescale(edit: Edit, layer: fx.Node, change: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> None:
    """Another weight and bias for a linear layer; `change` gets and gives them in float64."""
    named = arguments(layer)
    old = edit.tensor(named["weight"]).detach().double()
    bias = old.new_zeros(len(old)) if named["bias"] is None else edit.tensor(named["bias"]).detach().double()
    weight, added = change(old, bias)
    parts = [_named(edit, layer, str(named["weight"].target), weight)]
    if named["bias"] is not None or bool(added.any()):
        parts.append(_named(edit, layer, f"{layer.name}.bias" if named["bias"] is None else str(named["bias"].target), added))
    layer.args, layer.kwargs = (named["input"], *parts), {}


def _then(edit: Edit, value: fx.Node, target: Any, like: fx.Node, part: str, constant: Tensor) -> fx.Node:
    """`target` of a value and a constant; one number for all channels is one element, so that a table stays one."""
    held = constant[:1] if bool((constant == constant[0]).all()) else constant
    with edit.graph.inserting_after(value):
        return edit.call(target, value, _constant(edit, like, part, held), like=like)


def _constant(edit: Edit, node: fx.Node, part: str, value: Tensor) -> fx.Node:
    return _named(edit, node, f"{node.name}.{part}", value)


def _named(edit: Edit, node: fx.Node, name: str, value: Tensor) -> fx.Node:
    with edit.graph.inserting_before(node):
        return edit.add_tensor(name, value.float())


def _readdress(edit: Edit, site: Site, value: fx.Node, changed: fx.Node) -> None:
    for reader in site.readers:
        edit.here(reader).replace_input_with(value, changed)
