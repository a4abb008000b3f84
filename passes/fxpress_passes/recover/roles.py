"""program ==> which of its tensors are weights, biases, factors of norms, the head, or other parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from fxpress_ir import Program
from fxpress_ir.ops import arguments
from torch import fx, nn

_fxp = torch.ops.fxp
_QUANTIZERS = (_fxp.fake_quantize.default, _fxp.fake_quantize_channels.default)
_LAYERS = {"linear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"}
_NORMS = {"batch_norm", "layer_norm", "rms_norm", "group_norm"}


@dataclass(frozen=True)
class Roles:
    """Names of floating-point tensors, each in the first of these where it belongs, in the order in which they are read.

    Attributes:
        weights: of linear layers and convolutions, quantised or not.
        biases: theirs.
        norms: gains and shifts of normalisations.
        tables: of embeddings that are no layer's weight.
        others: parameters of the captured model that are read otherwise, such as positions.
        head: weight and bias of the last layer; they are among the weights and biases, too.
        first, last: the weights of the first and the last layer, "" where they are computed.
        tied: weights that an embedding reads, too.
        fans: for each weight, how many inputs an output reads.
    """

    weights: tuple[str, ...]
    biases: tuple[str, ...]
    norms: tuple[str, ...]
    tables: tuple[str, ...]
    others: tuple[str, ...]
    head: tuple[str, ...]
    first: str
    last: str
    tied: tuple[str, ...]
    fans: dict[str, int]

    @property
    def everything(self) -> tuple[str, ...]:
        return (*self.weights, *self.biases, *self.norms, *self.tables, *self.others)


def roles(program: Program) -> Roles:
    """Read off the graph; a tensor behind a quantiser counts as itself."""
    found: dict[str, dict[str, None]] = {part: {} for part in ("weights", "biases", "norms", "tables", "others")}
    layers, fans = [], dict[str, int]()
    for node in program.graph.nodes:
        operator = getattr(node.target, "_opname", "")
        if operator in _LAYERS:
            named = arguments(node)
            weight, bias = _constant(named["weight"]), _constant(named["bias"])
            layers.append((weight, bias))
            if weight:
                shape = program.tensors[weight].shape
                fans[weight] = shape[0 if "transpose" in operator else 1] * shape[2:].numel()
            found["weights"][weight] = found["biases"][bias] = None
        elif operator in _NORMS:
            named = arguments(node)
            found["norms"].update(dict.fromkeys(_constant(named.get(part)) for part in ("weight", "bias")))
        elif operator == "embedding":
            found["tables"][_constant(arguments(node)["weight"])] = None
    read = [str(node.target) for node in program.graph.find_nodes(op="get_attr")]
    found["others"] = dict.fromkeys(name for name in read if isinstance(program.tensors[name], nn.Parameter))
    taken: set[str] = {""}
    parts: dict[str, tuple[str, ...]] = {}
    for part, names in found.items():
        parts[part] = tuple(name for name in names if name not in taken and program.tensors[name].is_floating_point())
        taken.update(names)
    first, last = (layers[0], layers[-1]) if layers else (("", ""), ("", ""))
    tied = tuple(name for name in parts["weights"] if name in found["tables"])
    return Roles(**parts, head=tuple(filter(None, last)), first=first[0], last=last[0], tied=tied, fans=fans)


def _constant(value: Any) -> str:
    """The tensor that an argument is, plain or quantised; "" where it is missing or computed."""
    if isinstance(value, fx.Node) and value.target in _QUANTIZERS:
        value = value.args[0]
    return str(value.target) if isinstance(value, fx.Node) and value.op == "get_attr" else ""
