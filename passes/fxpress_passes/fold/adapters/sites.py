"""Module path ==> the calls of the captured graph that use its weight, and how; new values go to those calls alone."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import torch
from fxpress_ir import Edit, Program
from fxpress_ir.errors import PassError
from fxpress_ir.ops import arguments
from torch import Tensor, fx

_aten, _fxp = torch.ops.aten, torch.ops.fxp
ROLES: dict[Any, tuple[str, str, str | None]] = {
    _aten.linear.default: ("linear", "weight", "bias"),
    _aten.addmm.default: ("linear", "mat2", "self"),
    _aten.mm.default: ("linear", "mat2", None),
    _aten.matmul.default: ("linear", "other", None),
    _aten.embedding.default: ("embedding", "weight", None),
    _aten.layer_norm.default: ("scale", "weight", "bias"),
    _aten.group_norm.default: ("scale", "weight", "bias"),
    _aten.batch_norm.default: ("scale", "weight", "bias"),
}
ROLES |= {getattr(_aten, f"conv{d}d").default: ("conv", "weight", "bias") for d in (1, 2, 3)}
ROLES |= {getattr(_aten, f"conv{d}d").padding: ("conv", "weight", "bias") for d in (1, 2, 3)}
"""operator ==> what its layer is, and the names of the weight's and the bias's arguments."""
_TRANSPOSED = {_aten.addmm.default, _aten.mm.default, _aten.matmul.default}
_QUANTIZERS = {_fxp.fake_quantize.default, _fxp.fake_quantize_channels.default}


@dataclass(frozen=True)
class Site:
    """Where a module's weight is used.

    Attributes:
        module: its path.
        calls: of one role, with the same weight and bias.
        weight, bias: names of tensors; no bias where the calls have none.
        transposed: the weight is stored as [in, out].
        quantizer: the node behind the weight in a simulated program.
    """

    module: str
    role: str
    calls: tuple[fx.Node, ...]
    weight: str
    bias: str | None
    transposed: bool = False
    quantizer: fx.Node | None = None

    @property
    def groups(self) -> int:
        return int(arguments(self.calls[0]).get("groups", 1)) if self.role == "conv" else 1

    @property
    def dilated(self) -> bool:
        dilation = arguments(self.calls[0]).get("dilation", 1) if self.role == "conv" else 1
        return any(step != 1 for step in (dilation if isinstance(dilation, (list, tuple)) else [dilation]))


class Sites:
    """The weights of a program by module and by tensor."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._by_module: dict[str, list[fx.Node]] = defaultdict(list)
        self._by_tensor: dict[str, list[fx.Node]] = defaultdict(list)
        for node in program.graph.nodes:
            if node.op == "call_function" and node.target not in _QUANTIZERS:
                for name in {_tensor(used)[0] for used in node.all_input_nodes} - {None}:
                    self._by_tensor[str(name)].append(node)
                if node.target in ROLES and _weight(node)[0] is not None:
                    self._by_module[node.meta.get("module", "")].append(node)

    @property
    def modules(self) -> set[str]:
        stems = {name.rpartition(".")[0] for name in self._program.tensors}
        return (stems | set(self._by_module)) - {""}

    def site(self, module: str, where: str) -> Site:
        """Of a module with one weight.

        Raises:
            PassError: it has none, or uses it in a way that is no layer's.
        """
        if f"{module}.in_proj_weight" in self._program.tensors:
            # MultiheadAttention.merge, which its forward calls, adds the change of out_proj twice (huggingface/peft#3774).
            what = "PEFT up to 0.21 runs the output projection of nn.MultiheadAttention with twice its change"
            raise PassError(what, where=f"{where}: {module}", way_on="merge it with the PEFT that it was trained with")
        calls = self._own(f"{module}.weight", module) or self._by_module.get(module, [])
        if not calls:
            raise PassError("the module uses no weight in the captured graph", where=where, way_on="ignore=[...] leaves it out")
        if any(call.target not in ROLES or _weight(call)[0] is None for call in calls):
            names = ", ".join(sorted(call.name for call in calls))
            raise PassError(f"its weight is used by {names}, which is no layer", where=where, way_on="fold before other passes")
        sites = {self._of(module, call) for call in calls}
        if len({(site.role, site.weight, site.bias, site.transposed) for site in sites}) != 1:
            raise PassError("the module uses several weights", where=where, way_on="adapt its parts by their own names")
        (first, *_) = sites
        return Site(module, first.role, tuple(calls), first.weight, first.bias, first.transposed, first.quantizer)

    def _own(self, tensor: str, module: str) -> list[fx.Node]:
        """The calls that read a tensor; only the module's own where other modules read it too."""
        calls = self._by_tensor.get(tensor, [])
        own = [call for call in calls if call.meta.get("module") == module]
        return own or calls

    def _of(self, module: str, call: fx.Node) -> Site:
        role, _, bias = ROLES[call.target]
        name, quantizer = _weight(call)
        given = arguments(call)[bias] if bias else None
        held = None if given is None else _tensor(given)[0]
        if given is not None and held is None:
            raise PassError("its bias is computed", where=call.name, way_on="run fold-constants first")
        return Site(module, role, (call,), str(name), held, call.target in _TRANSPOSED, quantizer)

    def parameter(self, name: str, module: str) -> tuple[str, tuple[fx.Node, ...]] | None:
        """The tensor behind a parameter's name and the calls that read it as this module's; None where there is none."""
        if name in self._program.tensors:
            return name, tuple(self._own(name, module))
        if name == f"{module}.weight" and module in self._by_module:
            site = self.site(module, module)
            return site.weight, site.calls
        return None

    def readers(self, tensor: str) -> tuple[fx.Node, ...]:
        return tuple(self._by_tensor.get(tensor, []))

    def put(self, edit: Edit, tensor: str, value: Tensor, calls: tuple[fx.Node, ...], hint: str) -> bool:
        """`value` for `tensor` in these calls, in its place where no other call reads it; whether it is a copy."""
        if set(self.readers(tensor)) <= set(calls):
            edit.tensors[tensor] = value
            return False
        here = [edit.here(call) for call in calls]
        with edit.graph.inserting_before(here[0]):
            fresh = edit.add_tensor(hint, value)
        for call in here:
            read = [used for used in call.all_input_nodes if used.op == "get_attr" and used.target == tensor]
            if not read:
                raise PassError("a quantised weight is shared", where=call.name, way_on="fold before place-quantizers")
            for used in read:
                call.replace_input_with(used, fresh)
        return True

    def put_bias(self, edit: Edit, site: Site, value: Tensor) -> None:
        """The bias of calls that had none."""
        here = [edit.here(call) for call in site.calls]
        _, _, name = ROLES[here[0].target]
        if name is None:
            raise PassError("a product has no place for a bias", where=here[0].name, way_on="run compose-linear first")
        with edit.graph.inserting_before(here[0]):
            fresh = edit.add_tensor(f"{site.module}.bias", value)
        for call in here:
            at = list(arguments(call)).index(name)
            if at < len(call.args):
                call.update_arg(at, fresh)
            else:
                call.kwargs = {**call.kwargs, name: fresh}


def _tensor(node: fx.Node) -> tuple[str | None, fx.Node | None]:
    """The tensor that a node names, itself or through a quantiser."""
    if node.op == "get_attr":
        return str(node.target), None
    if node.target in _QUANTIZERS:
        inner = arguments(node)["x"]
        return (str(inner.target), node) if inner.op == "get_attr" else (None, None)
    return None, None


def _weight(call: fx.Node) -> tuple[str | None, fx.Node | None]:
    value = arguments(call)[ROLES[call.target][1]]
    return _tensor(value) if isinstance(value, fx.Node) else (None, None)
