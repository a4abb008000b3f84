"""batches ==> what every batch norm would normalise by, averaged; a program ==> the same with these statistics."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from fxpress_ir import Program
from fxpress_ir.errors import CalibrationError
from fxpress_ir.ops import arguments
from torch import Tensor, fx

_aten = torch.ops.aten


def norms_with_statistics(program: Program) -> list[fx.Node]:
    """The batch norms that normalise by constants."""
    return [node for node in program.graph.nodes if _has_statistics(node)]


def reestimated(program: Program, batches: Iterable[tuple[Tensor, ...]]) -> Program:
    """Each norm's statistics are the means over batches of theirs, the variance unbiased; `program` itself without norms.

    Raises:
        CalibrationError: a batch with one value per channel.
    """
    norms = norms_with_statistics(program)
    if not norms:
        return program
    measured = _Statistics(program)
    for batch in batches:
        measured.observe(batch)
    edit = program.edit()
    for original in norms:
        node, named = edit.here(original), arguments(original)
        mean, variance = measured.of(original.name)
        with edit.graph.inserting_before(node):
            for key, value in (("running_mean", mean), ("running_var", variance)):
                old = edit.here(named[key])
                dtype = edit.tensor(old).dtype
                node.replace_input_with(old, edit.add_tensor(f"{old.target}.reestimated", value.to(dtype)))
    return edit.finish()


def _has_statistics(node: fx.Node) -> bool:
    if node.target is not _aten.batch_norm.default:
        return False
    named = arguments(node)
    return not named["training"] and all(named[key] is not None and named[key].op == "get_attr" for key in ("running_mean", "running_var"))


class _Statistics(fx.Interpreter):
    """Runs a program with every batch norm in training mode and adds up what it normalises by."""

    def __init__(self, program: Program) -> None:
        super().__init__(program.module)
        self.extra_traceback = False  # it would make an error's one line many
        self._sums: dict[str, tuple[Tensor, Tensor, int]] = {}

    def observe(self, batch: tuple[Tensor, ...]) -> None:
        with torch.no_grad():
            self.run(*batch)

    def of(self, name: str) -> tuple[Tensor, Tensor]:
        mean, variance, count = self._sums[name]
        return mean / count, variance / count

    def run_node(self, n: fx.Node) -> Any:
        if not _has_statistics(n):
            return super().run_node(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        named = {**dict(zip(arguments(n), args, strict=False)), **kwargs}
        x, eps = named["input"], named["eps"]
        dims = [d for d in range(x.dim()) if d != 1]
        if x.numel() <= x.shape[1]:
            raise CalibrationError("a batch has one value per channel, so no variance", where=n.name, way_on="give batches of two or more")
        mean, variance = x.double().mean(dims), x.double().var(dims, unbiased=True)
        old = self._sums.get(n.name, (torch.zeros_like(mean), torch.zeros_like(mean), 0))
        self._sums[n.name] = (old[0] + mean, old[1] + variance, old[2] + 1)
        biased = x.double().var(dims, unbiased=False).to(x.dtype)
        return torch.nn.functional.batch_norm(x, mean.to(x.dtype), biased, named["weight"], named["bias"], False, 0.0, eps)
