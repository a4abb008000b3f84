"""Region ==> one layer: its parameters written, run against what they replace, and certified."""

from __future__ import annotations

from collections.abc import Sequence

from fxpress_ir import Edit
from torch import Tensor, fx
from torch.fx.node import map_arg

from ..certificate import Certificate, residual, zeros
from ..observed import Observed
from .composition import is_value
from .constants import Constants
from .layers import Layer, call
from .region import Region, Unfit, norm_region, region_at
from .replay import drawn, replayed
from .terms import gather
from .widening import Widening, widening_at

Parameters = tuple[Tensor, Tensor | None]


class Fold:
    """The folds of one edit.

    Attributes:
        changed: something was folded.
    """

    def __init__(self, edit: Edit, observed: Observed, rtol: float) -> None:
        self._edit, self._observed, self._context, self._rtol = edit, observed, observed.context, rtol
        self._constants = Constants(edit)
        self._unfit: dict[fx.Node, Unfit] = {}
        self._kept: set[fx.Node] = set()
        self.changed = False

    def run(self) -> None:
        """Fold what follows normalisations, then all regions from the last to the first, then branches of one function."""
        for node in list(self._edit.graph.nodes):
            region = norm_region(node, self._constants) if not node._erased else None
            if region is not None:
                self._take(region)
        gather(self._edit, lambda pair, leaving: isinstance(region_at(pair, self._constants, leaving), Region))
        for node in reversed(list(self._edit.graph.nodes)):
            self._end(node)
        gather(self._edit, lambda pair, leaving: isinstance(widening_at(pair, self._constants, leaving), Widening))
        for node in reversed(list(self._edit.graph.nodes)):
            found = widening_at(node, self._constants) if not node._erased else None
            if isinstance(found, Widening):
                self._widen(found)
            elif found is not None:
                self._unfit.setdefault(found.layer.node, found)
        for unfit in self._unfit.values():
            if not unfit.end._erased:
                self._context.refuse(unfit.end, unfit.reason, unfit.way_on)

    def _end(self, node: fx.Node) -> None:
        """Fold all that `node` ends, what then ends in the new layer included."""
        while not node._erased and is_value(node) and node not in self._kept:
            found = region_at(node, self._constants)
            if isinstance(found, Unfit):
                self._unfit.setdefault(found.layer.node, found)
            taken = self._take(found) if isinstance(found, Region) else None
            if taken is None:
                return
            node = taken

    def _take(self, region: Region) -> fx.Node | None:
        """The layer in the region's place, None where it would compute something else."""
        layer, parts = region.layer, region.parts
        parameters = self._rounded(layer, region.weight, region.bias, region.end)
        rows = layer.shape[0] if layer.kind == "embedding" else 0
        inputs, source, expected = self._held(region.source, parts, rows)
        if not self._certified(layer, region.end, parameters[0], residual(expected, self._ran(layer, source, parameters)), inputs):
            self._kept |= {*parts}
            return None
        new = self._written(layer, region.source, parameters, region.end)
        self._replace(region.end, new, parts)
        self._note_copy(layer)
        self._unfit.pop(layer.node, None)
        return new

    def _widen(self, found: Widening) -> None:
        """The first layer, the function and the last layer in the place of all branches."""
        layers = (found.first, found.last)
        first, last = (self._rounded(layer, *given, found.end) for layer, given in zip(layers, found.parameters, strict=True))
        inputs, source, expected = self._held(found.source, found.parts)
        function, args = found.function.target, found.function.args[1:]
        assert callable(function)
        hidden = function(self._ran(found.first, source, first), *args, **found.function.kwargs)
        if not self._certified(found.last, found.end, last[0], residual(expected, self._ran(found.last, hidden, last)), inputs):
            return
        new = self._written(found.first, found.source, first, found.end)
        with self._edit.graph.inserting_before(found.end):
            neurons = self._edit.call(function, new, *args, like=found.function)
        neurons.kwargs = found.function.kwargs
        value = found.end.meta["val"]
        new.meta["val"] = neurons.meta["val"] = value.new_empty((*value.shape[:-1], len(first[0])))
        self._replace(found.end, self._written(found.last, neurons, last, found.end), found.parts)
        self._note_copy(found.first)
        self._note_copy(found.last)

    def _held(self, source: fx.Node, parts: Sequence[fx.Node], rows: int = 0) -> tuple[str, Tensor, Tensor]:
        """Where the source's values are from, those values, and what the graph gives for them."""
        seen, (value, sizes) = self._observed.of(source), drawn(source, parts, self._context.seed, rows)
        known = seen is not None and sizes.keys() <= self._observed.sizes.keys()
        if seen is not None and known:
            value, sizes = seen, dict(self._observed.sizes)
        return "calibration" if known else "random", value, replayed(source, value, parts, self._constants, sizes)

    def _rounded(self, layer: Layer, weight: Tensor, bias: Tensor, end: fx.Node) -> Parameters:
        """Parameters in the dtype of what they replace; no bias where there was none and there is nothing to add."""
        dtype = end.meta["val"].dtype
        return weight.to(dtype).contiguous(), bias.to(dtype) if layer.bias is not None or bool(bias.any()) else None

    def _ran(self, layer: Layer, source: Tensor, parameters: Parameters) -> Tensor:
        target, args = call(layer, source, *parameters)
        result: Tensor = target(*map_arg(args, self._constants.value))
        return result

    def _certified(self, layer: Layer, end: fx.Node, weight: Tensor, moved: float, inputs: str) -> bool:
        if not moved <= self._rtol:
            reason = f"the folded layer differs from it by {moved:.1e} of its largest value"
            self._context.refuse(end, reason, "its terms cancel too far for its dtype: it stays")
            return False
        before = 0 if layer.weight is None else zeros(self._constants.value(layer.weight))
        self._context.note(Certificate(layer.name, end.name, moved, inputs, (before, zeros(weight))))
        return True

    def _note_copy(self, layer: Layer) -> None:
        """Say so where another keeps the weight that was, which costs its bytes once more."""
        if any(node.target == layer.name and node.users for node in self._edit.graph.find_nodes(op="get_attr")):
            value = self._edit.tensors[layer.name]
            self._context.note(f"{layer.name} is read by other layers too: copied, {value.numel() * value.element_size()} bytes more")

    def _written(self, layer: Layer, source: fx.Node, parameters: Parameters, end: fx.Node) -> fx.Node:
        """The layer with new parameters on `source`, in front of `end`; whoever else reads the old ones keeps them."""
        edit, stem = self._edit, layer.name.removesuffix(".weight").removesuffix(".folded")
        with edit.graph.inserting_before(end):
            weight, bias = parameters
            added = self._add(f"{stem}.folded.weight", weight), None if bias is None else self._add(f"{stem}.folded.bias", bias)
            target, args = call(layer, source, *added)
            new = edit.call(target, *args, like=layer.node, name=f"{layer.node.name.removesuffix('_folded')}_folded")
        new.meta["val"] = end.meta["val"]
        return new

    def _add(self, name: str, value: Tensor) -> fx.Node:
        node = self._edit.add_tensor(name, value)
        node.meta["val"] = value
        return node

    def _replace(self, end: fx.Node, new: fx.Node, parts: tuple[fx.Node, ...]) -> None:
        """Use `new` for `end`, and erase what nothing reads any more, so that it counts as no reader of anything else."""
        self._edit.replace(end, new)
        todo = [part for part in parts if part is not end]
        while todo:
            node = todo.pop()
            if node.op != "placeholder" and not node.users and not node._erased:
                todo += node.all_input_nodes
                self._edit.graph.erase_node(node)
        self._constants.forget()
        self.changed = True
