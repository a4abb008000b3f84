"""Program ==> the next Program: the graph is copied, tensors are shared, shapes are re-propagated where they changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_arg

from .errors import ProgramError
from .program import Program
from .propagate import fake_mode, propagated

_WAY_ON = "the pass that made this edit is wrong"


class Edit:
    """A program under change. Change `graph` with the methods here or with those of ``fx.Graph``, then `finish`.

    Where outputs change, `output_scales` are to be set with them.
    """

    def __init__(self, program: Program) -> None:
        self._program = program
        self._nodes: dict[fx.Node, fx.Node] = {}
        self.graph = fx.Graph()
        returned = self.graph.graph_copy(program.graph, self._nodes)
        self.graph.output(returned)
        self.tensors: dict[str, Tensor] = dict(program.tensors)
        self.inputs, self.output_scales = program.inputs, program.output_scales
        self._before = {copied: _call(copied) for copied in self._nodes.values()}

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

    def take_steps(self, node: fx.Node, dtype: torch.dtype, scale: float) -> None:
        """The input `node` takes integers of `dtype` from now on, in steps of `scale`."""
        self.inputs = tuple(replace(spec, dtype=dtype, scale=scale) if spec.name == node.name else spec for spec in self.inputs)
        with fake_mode(self._program.graph):
            node.meta["val"] = torch.empty_like(node.meta["val"], dtype=dtype)

    def replace(self, old: fx.Node, new: fx.Node) -> None:
        """Every use of `old` becomes a use of `new`; `old` goes when nothing uses it."""
        old.replace_all_uses_with(new, delete_user_cb=lambda user: user is not new)
        if not old.users and old.op != "placeholder":
            self.graph.erase_node(old)

    def finish(self, *, stage: str | None = None, islands: tuple[str, ...] | None = None) -> Program:
        """The new program: dead code gone, unused tensors dropped, shapes re-propagated from the changed nodes only.

        Raises:
            ProgramError: the edited graph is malformed, or a node's shape cannot be propagated or holds only at the
                example's sizes; a tensor was changed in place meanwhile.
        """
        self._program.check_unchanged()
        self._check_order()
        self.graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output"))
        self._check_ends()
        used = {str(node.target) for node in self.graph.find_nodes(op="get_attr")}
        self.tensors = {name: tensor for name, tensor in self.tensors.items() if name in used}
        self._untangle()
        self._propagate()
        program = self._program
        return Program(
            self.graph,
            self.tensors,
            self.inputs,
            stage or program.stage,
            program.history,
            program.islands if islands is None else islands,
            self.output_scales,
        )

    def _untangle(self) -> None:
        """A tensor ``a.b`` beside a tensor ``a`` gets another name: a module cannot hold both."""
        for name in list(self.tensors):
            parts = name.split(".")
            if not any(".".join(parts[:count]) in self.tensors for count in range(1, len(parts))):
                continue
            flat, count = "_".join(parts), 0
            while flat in self.tensors:
                count += 1
                flat = f"{'_'.join(parts)}_{count}"
            self.tensors[flat] = self.tensors.pop(name)
            for node in self.graph.find_nodes(op="get_attr"):
                node.target = flat if node.target == name else node.target

    def _check_order(self) -> None:
        try:
            self.graph.lint()
        except RuntimeError as error:
            first = str(error).partition("\n")[0]
            raise ProgramError(f"the edited graph is malformed: {first}", way_on=_WAY_ON) from error

    def _check_ends(self) -> None:
        inputs = [spec.name for spec in self._program.inputs]
        if [node.name for node in self.graph.find_nodes(op="placeholder")] != inputs:
            raise ProgramError(f"the edited graph does not take {', '.join(inputs)}", way_on=_WAY_ON)
        returned = self.graph.output_node().args[0]
        if not isinstance(returned, (tuple, list)):
            raise ProgramError("the edited graph does not return a tuple", way_on=_WAY_ON)
        if len(self.output_scales) not in (0, len(returned)):
            what = f"the edited graph returns {len(returned)} values for {len(self.output_scales)} output scales"
            raise ProgramError(what, way_on=_WAY_ON)
        for node in self.graph.find_nodes(op="get_attr"):
            if node.target not in self.tensors:
                raise ProgramError(f"there is no tensor {node.target!r}", where=node.name, way_on="name it with add_tensor")

    def _propagate(self) -> None:
        """Evaluate the nodes whose operator, arguments or inputs' kinds are not those of before."""
        mode = fake_mode(self._program.graph)
        for node in self.graph.nodes:
            if node.op == "get_attr":
                if "val" not in node.meta or self._program.tensors.get(str(node.target)) is not self.tensors[str(node.target)]:
                    node.meta["val"] = mode.from_tensor(self.tensors[str(node.target)], static_shapes=True)
            elif node.op == "call_function" and ("val" not in node.meta or self._before.get(node) != _call(node)):
                node.meta["val"] = propagated(node, mode)


def _call(node: fx.Node) -> str:
    """The operator and its arguments, values by what a result's shape depends on.

    As text: comparing symbolic sizes themselves would make them equal for good.
    """
    return str((node.target, map_arg((node.args, node.kwargs), lambda used: _kind(used.meta.get("val")))))


def _kind(value: Any) -> str:
    return f"{value.dtype}{value.shape}{value.stride()}" if isinstance(value, Tensor) else str(value)
