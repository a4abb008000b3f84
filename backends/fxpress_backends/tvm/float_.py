"""float nodes of a Program ==> Relax functions by TVM's importer ==> kernels by TVM's own passes for CPUs."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import tvm
from fxpress_ir.errors import BackendError
from fxpress_ir.ops import arguments
from torch import fx
from torch.export import ExportedProgram
from tvm import relax
from tvm.relax.backend import cpu_generic
from tvm.relax.backend.cpu_generic.pipeline import dataflow_lower_passes
from tvm.relax.frontend.torch.exported_program_translator import ExportedProgramImporter

from fxpress_backends.contract import Refusal
from fxpress_backends.reexport import Part, origin_of, settle, symbolic_dimensions

from .decompose import decomposed

_WAY_ON = "lower it to another target, or rewrite the operator"
_BOUNDS = ("tir_var_lower_bound", "tir_var_upper_bound")
"""What torch.export assumed of symbolic sizes (no batch of 1); TVM would allocate for the upper one."""


class RefusedError(BackendError):
    """What keeps TVM from taking a part; the message is the first reason."""

    def __init__(self, *refusals: Refusal) -> None:
        super().__init__(refusals[0].reason, where=refusals[0].node, way_on=refusals[0].way_on)
        self.refusals = refusals


def imported(part: Part) -> Any:
    """The part as a Relax function of its inputs that returns the tuple of its outputs; symbolic sizes stay symbolic.

    Raises:
        RefusedError: torch cannot export the part again, or TVM's importer cannot take an operator.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, of its own deprecated calls
        with _refused(part, "torch.export fails on what leads to it"):
            exported = _exported(part)
        importer = _Importer()
        _check_known(exported, importer)
        with _refused(part, "TVM's importer fails on what leads to it"):
            module = importer.from_exported_program(
                exported,
                keep_params_as_input=False,
                unwrap_unit_return_tuple=False,
                no_bind_return_tuple=False,
                custom_convert_map=None,
            )
    function = module["main"]
    for bound in _BOUNDS:
        function = function.without_attr(bound)
    return _Wrapping().visit_expr(function)


def kernels(functions: Mapping[str, Any], target: Any) -> Any:
    """A module of these Relax functions, by name, and of the TIR functions that they call."""
    builder = relax.BlockBuilder()
    for name, function in functions.items():
        builder.add_func(function.with_attr("global_symbol", name), name)
    passes = (*cpu_generic.library_dispatch_passes(target), *cpu_generic.legalize_passes(target), *dataflow_lower_passes(target))
    with target:
        return tvm.transform.Sequential(list(passes))(builder.get())


@contextmanager
def blamed_on(functions: Collection[str]) -> Iterator[None]:
    """TVM has no kernel for some operators, or not for symbolic sizes; without such functions what it raises stays as it is.

    Raises:
        BackendError: instead of whatever TVM's many layers raise.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, BackendError) or not functions:
            raise
        raise BackendError(f"TVM cannot compile {' and '.join(functions)}: {_reason(error)}", way_on=_WAY_ON) from error


def _exported(part: Part) -> ExportedProgram:
    """The part exported and decomposed; its nodes remember those that they came from."""
    for node in part.module.graph.nodes:
        node.meta.pop("from_node", None)
    settle(part.module)
    exported = decomposed(torch.export.export(part.module, part.example(), dynamic_shapes=part.dynamic()))
    for name, node in zip(exported.graph_signature.user_inputs, part.inputs, strict=True):
        sizes = next(iter(exported.graph.find_nodes(op="placeholder", target=name))).meta["val"].shape
        if any(isinstance(sizes[dimension], int) for dimension in symbolic_dimensions(node)):
            reason = f"torch.export keeps only the example's size of {list(node.meta['val'].shape)}"
            raise RefusedError(Refusal(node.name, reason, "mark the dimension static"))
    return exported


def _check_known(exported: ExportedProgram, importer: ExportedProgramImporter) -> None:
    calls = [node for node in exported.graph.nodes if node.op == "call_function"]
    unknown = {origin_of(node): node.target for node in calls if node.target.__name__ not in importer.convert_map}
    if unknown:
        raise RefusedError(*(Refusal(name, f"TVM's importer has no {target}", _WAY_ON) for name, target in unknown.items()))


@contextmanager
def _refused(part: Part, what: str) -> Iterator[None]:
    """Whatever the many layers of torch and TVM raise, as a refusal of the part's first result."""
    try:
        yield
    except RefusedError:
        raise
    except Exception as error:
        where = part.outputs[0].name if part.outputs else "program"
        raise RefusedError(Refusal(where, f"{what}: {_reason(error)}", _WAY_ON)) from error


def _reason(error: Exception) -> str:
    """The first line that says something."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:200]


def _extremum(operator: Callable[..., Any]) -> Callable[[ExportedProgramImporter, fx.Node], Any]:
    def convert(importer: ExportedProgramImporter, node: fx.Node) -> Any:
        named = arguments(node)
        return importer.block_builder.emit(operator(importer.env[named["self"]], list(named["dim"]) or None, named["keepdim"]))

    return convert


_OURS = {"amax.default": _extremum(relax.op.max), "amin.default": _extremum(relax.op.min)}


class _Importer(ExportedProgramImporter):  # type: ignore[misc]
    """TVM's importer with the operators that it lacks; says at which node it failed."""

    def create_convert_map(self) -> dict[Any, Callable[[fx.Node], Any]]:
        known = {**super().create_convert_map(), **{name: convert.__get__(self) for name, convert in _OURS.items()}}
        return {name: _located(convert) for name, convert in known.items()}


def _located(convert: Callable[[fx.Node], Any]) -> Callable[[fx.Node], Any]:
    def converted(node: fx.Node) -> Any:
        try:
            return convert(node)
        except Exception as error:  # assertions, type errors and TVM's own
            raise RefusedError(Refusal(origin_of(node), f"TVM's importer fails on {node.target}: {_reason(error)}", _WAY_ON)) from error

    return converted


@relax.expr_functor.mutator
class _Wrapping(relax.PyExprMutator):  # type: ignore[misc]
    """Indices count from the end where they are negative; others outside read the tensor's own memory instead of any."""

    def visit_call_(self, call: Any) -> Any:
        call = self.visit_expr_post_order(call)
        if call.op == tvm.ir.Op.get("relax.take"):
            return relax.op.take(*call.args, axis=call.attrs.axis, mode="wrap")
        return call
