"""Program: an immutable graph of ATen and fxp operators, its tensors, its inputs' signature, its stage and its history."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, fx
from torch._guards import detect_fake_mode
from torch._subclasses import FakeTensorMode
from torch.fx.node import map_arg

from .analysis.cost import Cost, cost
from .analysis.sizes import concrete_size
from .errors import InputError, ProgramError

STAGES = ("float", "simulated", "integer")


@dataclass(frozen=True)
class Dimension:
    """A dimension that stays symbolic: its name and its inclusive range (maximum None: unbounded)."""

    name: str
    minimum: int = 1
    maximum: int | None = None

    def __str__(self) -> str:
        return self.name

    def admits(self, size: int) -> bool:
        return self.minimum <= size and (self.maximum is None or size <= self.maximum)


@dataclass(frozen=True)
class InputSpec:
    """Name, shape and dtype of one input."""

    name: str
    shape: tuple[int | Dimension, ...]
    dtype: torch.dtype

    def __str__(self) -> str:
        return f"{self.name}: {str(self.dtype).removeprefix('torch.')}[{', '.join(map(str, self.shape))}]"

    def check(self, value: Tensor, sizes: dict[str, int]) -> None:
        """Hold `value` to this spec; `sizes` collects what each named dimension is bound to.

        Raises:
            InputError: dtype, rank, a static size or a named dimension differs.
        """
        where, expected = f"input {self.name!r}", f"pass a tensor {self}"
        if value.dtype != self.dtype:
            raise InputError(f"dtype is {value.dtype}, expected {self.dtype}", where=where, way_on=expected)
        if value.dim() != len(self.shape):
            raise InputError(f"shape {list(value.shape)} has {value.dim()} dimensions", where=where, way_on=expected)
        for position, (size, wanted) in enumerate(zip(value.shape, self.shape, strict=True)):
            if isinstance(wanted, int):
                if size != wanted:
                    raise InputError(f"dimension {position} is {size}, expected {wanted}", where=where, way_on=expected)
            elif sizes.setdefault(wanted.name, size) != size:
                message = f"dimension {wanted.name!r} is {size} here and {sizes[wanted.name]} before"
                raise InputError(message, where=where, way_on=expected)
            elif not wanted.admits(size):
                bounds = f"[{wanted.minimum}, {'unbounded' if wanted.maximum is None else wanted.maximum}]"
                raise InputError(f"dimension {wanted.name!r} is {size}, outside {bounds}", where=where, way_on=expected)


_DIGESTS: dict[int, tuple[Any, int, str]] = {}


def _version(tensor: Tensor) -> int:
    return -1 if tensor.is_inference() else tensor._version


def _digest(tensor: Tensor) -> str:
    """SHA-256 of dtype, shape and bytes; cached for as long as the tensor lives unchanged."""
    import weakref

    known = _DIGESTS.get(id(tensor))
    if known is not None and known[0]() is tensor and known[1] == _version(tensor):
        return known[2]
    state = hashlib.sha256(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
    state.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    _DIGESTS[id(tensor)] = (weakref.ref(tensor), _version(tensor), state.hexdigest())
    weakref.finalize(tensor, _DIGESTS.pop, id(tensor), None)
    return state.hexdigest()


@dataclass(frozen=True, eq=False)
class Program:
    """The value that flows through passes and into backends. Never changed; `edit` makes the next one.

    Attributes:
        graph: an ``fx.Graph`` of ``placeholder``, ``get_attr``, ``call_function`` and one ``output`` node that returns a
            flat tuple; every node carries its fake value in ``meta["val"]``. Read only.
        tensors: what ``get_attr`` targets name; shared between programs wherever a pass left them alone.
        inputs: the signature.
        stage: ``float``, ``simulated`` or ``integer``.
        history: the passes that made it, as text.
    """

    graph: fx.Graph
    tensors: Mapping[str, Tensor]
    inputs: tuple[InputSpec, ...]
    stage: str = "float"
    history: tuple[str, ...] = ()
    _versions: Mapping[str, int] = field(init=False, repr=False)
    _cache: dict[str, Any] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        if self.stage not in STAGES:
            raise ProgramError(f"unknown stage {self.stage!r}", way_on=f"one of {', '.join(STAGES)}")
        object.__setattr__(self, "tensors", MappingProxyType(dict(self.tensors)))
        object.__setattr__(self, "_versions", {name: _version(tensor) for name, tensor in self.tensors.items()})

    def __str__(self) -> str:
        from .printer import text

        return text(self)

    def check_unchanged(self) -> None:
        """Raises ProgramError where a tensor was changed in place (training goes on in the source module)."""
        for name, tensor in self.tensors.items():
            if _version(tensor) != self._versions[name]:
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
            lines = [str(self), *(f"{name} {_digest(tensor)}" for name, tensor in sorted(self.tensors.items()))]
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
        tensors = tuple(value if isinstance(value, Tensor) else torch.as_tensor(value) for value in values)
        for spec, tensor in zip(self.inputs, tensors, strict=True):
            spec.check(tensor, sizes)
            if self.stage == "integer" and tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
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
        """MACs, parameters, bytes and peak memory; named dimensions are 1 unless given (``batch=8``)."""
        return cost(self.graph, self.tensors, {symbol: sizes.get(name, 1) for symbol, name in self.symbols().items()})

    def symbols(self) -> dict[str, str]:
        """The dimension's name behind each symbol of the fake values."""
        found = {}
        for spec, node in zip(self.inputs, self.placeholders(), strict=True):
            for wanted, size in zip(spec.shape, node.meta["val"].shape, strict=True):
                if isinstance(wanted, Dimension):
                    found[str(size.node.expr)] = wanted.name
        return found

    def shape_of(self, node: fx.Node) -> tuple[int | str, ...]:
        """The node's shape, symbolic sizes in the dimensions' names."""
        names = self.symbols()
        return tuple(size if isinstance(size, int) else _renamed(size, names) for size in node.meta["val"].shape)

    def placeholders(self) -> tuple[fx.Node, ...]:
        return tuple(self.graph.find_nodes(op="placeholder"))

    def outputs(self) -> tuple[fx.Node, ...]:
        """The nodes that the program returns, in order."""
        returned: tuple[fx.Node, ...] = tuple(self.graph.output_node().args[0])  # type: ignore[arg-type]
        return returned

    def example(self, **sizes: int) -> tuple[Tensor, ...]:
        """Zeros of the signature's shapes; named dimensions are 2 unless given."""

        def size(dimension: int | Dimension) -> int:
            if isinstance(dimension, int):
                return dimension
            return sizes.get(dimension.name, max(dimension.minimum, min(2, dimension.maximum or 2)))

        return tuple(torch.zeros([size(d) for d in spec.shape], dtype=spec.dtype) for spec in self.inputs)

    def noted(self, entry: str) -> Program:
        """The same program with one more line of history."""
        return Program(self.graph, self.tensors, self.inputs, self.stage, (*self.history, entry))

    def edit(self) -> Edit:
        """Begin the next program: the graph is copied, tensors are shared."""
        self.check_unchanged()
        return Edit(self)


def _renamed(size: Any, names: Mapping[str, str]) -> str:
    text = str(size.node.expr)
    for symbol, name in names.items():
        text = text.replace(symbol, name)
    return text


class Edit:
    """A program under change. Change `graph` with the methods here or with those of ``fx.Graph``, then `finish`."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._nodes: dict[fx.Node, fx.Node] = {}
        self.graph = fx.Graph()
        returned = self.graph.graph_copy(program.graph, self._nodes)
        self.graph.output(returned)
        self.tensors: dict[str, Tensor] = dict(program.tensors)
        self._before = {
            copied: (old.target, map_arg((old.args, old.kwargs), self._nodes.__getitem__)) for old, copied in self._nodes.items()
        }

    def here(self, node: fx.Node) -> fx.Node:
        """The copy of a node of the original program."""
        return self._nodes[node]

    def tensor(self, node: fx.Node) -> Tensor:
        """The tensor that a ``get_attr`` node names."""
        return self.tensors[str(node.target)]

    def add_tensor(self, hint: str, value: Tensor) -> fx.Node:
        """A ``get_attr`` node for a new tensor, at the insertion point; the name is `hint`, made unique."""
        name, count = hint, 0
        while name in self.tensors:
            count += 1
            name = f"{hint}_{count}"
        self.tensors[name] = value
        node = self.graph.create_node("get_attr", name, name=name.replace(".", "_"))
        node.meta["provenance"] = name
        return node

    def call(self, target: Callable[..., Any], *args: Any, like: fx.Node | None = None, name: str | None = None) -> fx.Node:
        """A call at the insertion point; `like` gives it provenance and source line."""
        node = self.graph.create_node("call_function", target, args, name=name)
        if like is not None:
            node.meta.update({key: like.meta[key] for key in ("provenance", "source", "module") if key in like.meta})
        return node

    def replace(self, old: fx.Node, new: fx.Node) -> None:
        """Every use of `old` becomes a use of `new`; `old` goes when nothing uses it."""
        old.replace_all_uses_with(new, delete_user_cb=lambda user: user is not new)
        if not old.users:
            self.graph.erase_node(old)

    def finish(self, *, stage: str | None = None) -> Program:
        """The new program: dead code gone, unused tensors dropped, shapes re-propagated from the changed nodes only.

        Raises:
            ProgramError: the edited graph is malformed or a node's shape cannot be propagated.
        """
        self.graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output"))
        self.graph.lint()
        used = {str(node.target) for node in self.graph.find_nodes(op="get_attr")}
        self.tensors = {name: tensor for name, tensor in self.tensors.items() if name in used}
        self._propagate()
        program = self._program
        return Program(self.graph, self.tensors, program.inputs, stage or program.stage, program.history)

    def _propagate(self) -> None:
        mode = detect_fake_mode([node.meta["val"] for node in self._program.placeholders()]) or FakeTensorMode()
        changed: set[fx.Node] = set()
        for node in self.graph.nodes:
            if node.op in ("placeholder", "output"):
                continue
            same = self._before.get(node) == (node.target, (node.args, node.kwargs)) and "val" in node.meta
            if node.op == "get_attr":
                if not same or self._program.tensors.get(str(node.target)) is not self.tensors[str(node.target)]:
                    self._assign(node, mode.from_tensor(self.tensors[str(node.target)], static_shapes=True), changed)
            elif not same or not changed.isdisjoint(node.all_input_nodes):
                self._assign(node, self._evaluate(node, mode), changed)

    def _evaluate(self, node: fx.Node, mode: FakeTensorMode) -> Any:
        args, kwargs = map_arg((node.args, node.kwargs), lambda used: used.meta["val"])
        try:
            with mode, torch.no_grad():
                return node.target(*args, **kwargs)  # type: ignore[operator]
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            raise ProgramError(
                f"shapes do not propagate: {error}", where=f"{node.name} = {node.target}", way_on="the pass that made this node is wrong"
            ) from error

    def _assign(self, node: fx.Node, value: Any, changed: set[fx.Node]) -> None:
        old = node.meta.get("val")
        node.meta["val"] = value
        if not (isinstance(old, Tensor) and isinstance(value, Tensor) and old.shape == value.shape and old.dtype == value.dtype):
            changed.add(node)


def concrete_shape(program: Program, node: fx.Node, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """The node's shape with each named dimension at the size given for it."""
    values = {symbol: sizes[name] for symbol, name in program.symbols().items()}
    return tuple(concrete_size(size, values) for size in node.meta["val"].shape)


def replace_inputs(nodes: Iterable[fx.Node], old: fx.Node, new: fx.Node) -> None:
    """Only `nodes` read `new` instead of `old`."""
    for node in nodes:
        node.replace_input_with(old, new)
