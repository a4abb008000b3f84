"""Program: an immutable graph of ATen and fxp operators, its tensors, its inputs' signature, its stage and its history."""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx

from .analysis.cost import Cost, cost
from .digest import digest, version
from .errors import InputError, ProgramError
from .signature import Dimension, InputSpec

if TYPE_CHECKING:
    from .edit import Edit

STAGES = ("float", "simulated", "mixed", "integer")


@dataclass(frozen=True, eq=False)
class Program:
    """The value that flows through passes and into backends. Never changed; `edit` makes the next one.

    Attributes:
        graph: an ``fx.Graph`` of ``placeholder``, ``get_attr``, ``call_function`` and one ``output`` node that returns a
            flat tuple; every node carries its fake value in ``meta["val"]``. Read only.
        tensors: what ``get_attr`` targets name; shared between programs wherever a pass left them alone.
        inputs: the signature.
        stage: ``float``, ``simulated``, ``mixed`` or ``integer``.
        history: the passes that made it, as text.
        islands: names of the nodes that compute in floats in a mixed program.
        output_scales: for each output, where its integers stand for real numbers, the real number that one step is; empty
            where none does. An input's is in its signature.
    """

    graph: fx.Graph
    tensors: Mapping[str, Tensor]
    inputs: tuple[InputSpec, ...]
    stage: str = "float"
    history: tuple[str, ...] = ()
    islands: tuple[str, ...] = ()
    output_scales: tuple[float | None, ...] = ()
    _versions: Mapping[str, int] = field(init=False, repr=False)
    _cache: dict[str, Any] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        if self.stage not in STAGES:
            raise ProgramError(f"unknown stage {self.stage!r}", way_on=f"one of {', '.join(STAGES)}")
        object.__setattr__(self, "tensors", MappingProxyType(dict(self.tensors)))
        object.__setattr__(self, "_versions", {name: version(tensor) for name, tensor in self.tensors.items()})

    def __str__(self) -> str:
        from .printer import text

        return text(self)

    def check_unchanged(self) -> None:
        """Raises ProgramError where a tensor was changed in place (training goes on in the source module)."""
        for name, tensor in self.tensors.items():
            if version(tensor) != self._versions[name]:
                raise ProgramError("tensor was changed in place under the program", where=name, way_on="capture the model again")

    @property
    def module(self) -> fx.GraphModule:
        """The program as a module; its tensors are the program's own, so train a copy."""
        if "module" not in self._cache:
            self._cache["module"] = fx.GraphModule(dict(self.tensors), copy.deepcopy(self.graph), class_name="Program")
        module: fx.GraphModule = self._cache["module"]
        return module

    @property
    def hash(self) -> str:
        """Merkle hash: SHA-256 over signature, stage, graph text and the digest of every tensor."""
        self.check_unchanged()
        if "hash" not in self._cache:
            lines = [repr(self.inputs), str(self), *(f"{name} {digest(tensor)}" for name, tensor in sorted(self.tensors.items()))]
            self._cache["hash"] = hashlib.sha256("\n".join(lines).encode()).hexdigest()
        result: str = self._cache["hash"]
        return result

    def check_inputs(self, values: Sequence[Any]) -> tuple[Tensor, ...]:
        """`values` as tensors that fit the signature.

        Raises:
            InputError: wrong count, shape or dtype; a non-finite value where floats enter an integer program.
        """
        if len(values) != len(self.inputs):
            names = ", ".join(map(str, self.inputs))
            raise InputError(f"{len(values)} inputs given, {len(self.inputs)} expected", way_on=f"pass {names}")
        sizes: dict[str, int] = {}
        tensors = tuple(map(_as_tensor, self.inputs, values))
        for spec, tensor in zip(self.inputs, tensors, strict=True):
            spec.check(tensor.shape, tensor.dtype, sizes)
            if self.stage in ("integer", "mixed") and tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise InputError("holds NaN or infinity", where=f"input {spec.name!r}", way_on="an integer has no such value")
        return tensors

    def run(self, *values: Any) -> tuple[Tensor, ...]:
        """Execute in PyTorch, without gradients, at any stage; inputs as in `inputs`, outputs as a flat tuple."""
        self.check_unchanged()
        tensors = self.check_inputs(values)
        with torch.no_grad():
            result: tuple[Tensor, ...] = self.module(*tensors)
        return result

    def cost(self, **sizes: int) -> Cost:
        """MACs, parameters, bytes and peak memory; named dimensions are 1 unless given (``batch=8``).

        Raises:
            ProgramError: `sizes` names a dimension that the program does not have.
        """
        asked = {symbol: sizes.get(name, 1) for symbol, name in self._named(sizes).items()}
        key = f"cost {sorted(asked.items())}"
        if key not in self._cache:
            self._cache[key] = cost(self.graph, self.tensors, asked)
        result: Cost = self._cache[key]
        return result

    def symbols(self) -> dict[str, str]:
        """The dimension's name behind each symbol of the fake values."""
        found = {}
        for spec, node in zip(self.inputs, self.placeholders(), strict=True):
            for wanted, size in zip(spec.shape, node.meta["val"].shape, strict=True):
                if isinstance(wanted, Dimension):
                    found[str(size.node.expr)] = wanted.name
        return found

    def _named(self, sizes: Mapping[str, int]) -> dict[str, str]:
        """`symbols`, after a check that `sizes` names no other dimension."""
        symbols = self.symbols()
        for name in sizes.keys() - set(symbols.values()):
            known = ", ".join(symbols.values()) or "none"
            raise ProgramError(f"no dimension is named {name!r}", way_on=f"the program's dynamic dimensions: {known}")
        return symbols

    def shape_of(self, node: fx.Node) -> tuple[int | str, ...]:
        """The node's shape, symbolic sizes in the dimensions' names."""
        names = self.symbols()
        return tuple(named_size(size, names) for size in node.meta["val"].shape)

    def placeholders(self) -> tuple[fx.Node, ...]:
        return tuple(self.graph.find_nodes(op="placeholder"))

    def outputs(self) -> tuple[fx.Node, ...]:
        """The nodes that the program returns, in order."""
        returned: tuple[fx.Node, ...] = tuple(self.graph.output_node().args[0])  # type: ignore[arg-type]
        return returned

    def output_steps(self) -> tuple[float | None, ...]:
        """`output_scales`, None for each output where they are empty."""
        return self.output_scales or (None,) * len(self.outputs())

    def example(self, **sizes: int) -> tuple[Tensor, ...]:
        """Zeros of the signature's shapes; named dimensions are 2, or the nearest that their range allows, unless given."""
        self._named(sizes)

        def size(dimension: int | Dimension) -> int:
            if isinstance(dimension, int):
                return dimension
            return sizes.get(dimension.name, max(dimension.minimum, min(2, dimension.maximum or 2)))

        return tuple(torch.zeros([size(d) for d in spec.shape], dtype=spec.dtype) for spec in self.inputs)

    def noted(self, entry: str) -> Program:
        """The same program with one more line of history."""
        self.check_unchanged()
        return Program(self.graph, self.tensors, self.inputs, self.stage, (*self.history, entry), self.islands, self.output_scales)

    def edit(self) -> Edit:
        """Begin the next program: the graph is copied, tensors are shared."""
        from .edit import Edit

        self.check_unchanged()
        return Edit(self)


def named_size(size: Any, names: Mapping[str, str]) -> int | str:
    """A size as a number, or as text in the dimensions' names."""
    if isinstance(size, int):
        return size
    text = str(size.node.expr)
    return names.get(text) or re.sub(r"\bs\d+\b", lambda symbol: names.get(symbol[0], symbol[0]), text)


def _as_tensor(spec: InputSpec, value: Any) -> Tensor:
    try:
        return value if isinstance(value, Tensor) else torch.as_tensor(value)
    except (RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"is a {type(value).__name__}", where=f"input {spec.name!r}", way_on=f"pass a tensor {spec}") from error
