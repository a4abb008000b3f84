"""Program ==> the next Program: the graph is copied, tensors are shared, shapes are re-propagated where they changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx
from torch._guards import detect_fake_mode
from torch._subclasses import FakeTensorMode
from torch.fx.node import map_arg

from .errors import ProgramError
from .program import Program


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
