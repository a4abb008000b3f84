"""physical plan ==> Relax module ==> shared library: the walker calls each group's kernel once, in order."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tvm
from fxpress_ir.errors import BackendError
from tvm import relax, tirx
from tvm.support import cc

from fxpress_backends.contract import Target

from .cpu import host_features, llvm_target
from .kernels import prim_func
from .physical import Buffer, Plan


def module_of(plan: Plan) -> Any:
    """The Relax module: ``main`` takes the plain inputs and returns the tuple of plain outputs."""
    symbols = {b.lead.symbol: tirx.Var(b.lead.symbol, "int64") for b in plan.buffers.values() if b.lead.symbol is not None}

    def type_of(buffer: Buffer) -> Any:
        lead = buffer.lead.factor if buffer.lead.symbol is None else symbols[buffer.lead.symbol] * buffer.lead.factor
        return relax.TensorType((lead, *buffer.middle, buffer.channels), buffer.dtype)

    builder = relax.BlockBuilder()
    inputs = [relax.Var(f"x{number}", type_of(plan.buffers[name])) for number, name in enumerate(plan.inputs)]
    values = dict(zip(plan.inputs, inputs, strict=True))
    constants = {name: relax.const(tvm.runtime.tensor(array)) for name, array in plan.constants.items()}
    with builder.function("main", inputs):
        for group in plan.groups:
            if group.kernel == "view":
                values[group.output] = values[group.inputs[0]]
                continue
            kernel = builder.add_func(prim_func(plan, group), group.kernel)
            operands = [*(values[name] for name in group.inputs), *(constants[name] for name in group.constants)]
            values[group.output] = builder.emit(relax.call_tir(kernel, operands, type_of(plan.buffers[group.output])))
        builder.emit_func_output(relax.Tuple([values[name] for name in plan.outputs]))
    return builder.get()


def _in_slot_order(module: Any, context: Any) -> Any:
    """Sizes are computed in the order of their slots: TVM orders them by memory address, so no two lowerings would agree.

    Each size depends on the inputs' shapes alone, so any order is right.
    """
    for name, function in module.functions.items():
        if "tirx.is_host_func" in (function.attrs or {}) and isinstance(function.body, tirx.SeqStmt):
            stores = sorted(function.body.seq, key=lambda store: int(store.indices[0]))
            module[name] = function.with_body(tirx.SeqStmt(stores))
    return module


_LOWERING = (
    relax.transform.CallTIRRewrite(),
    relax.transform.StaticPlanBlockMemory(),
    relax.transform.LowerAllocTensor(),
    relax.transform.KillAfterLastUse(),
    relax.transform.LowerRuntimeBuiltin(),
    relax.transform.ComputePrimValue(),
    relax.transform.VMShapeLower(),
    tvm.transform.module_pass(_in_slot_order, opt_level=0),
    relax.transform.AttachGlobalSymbol(),
)
"""What TVM's own CPU pipeline does after operators have become kernels; ours are kernels from the start."""

_LINKING = ("-Wl,--build-id=none", "-s")
"""No build id and no debug sections: they differ from one lowering of a program to the next."""


def write(plan: Plan, target: Target, folder: Path) -> Mapping[str, Any]:
    """Compile a plan into ``folder/model-<hash of its bytes>.so``; returns the manifest's details.

    The name holds the hash because the system's loader takes two libraries of one path for the same: an artifact that is
    replaced while the old one is loaded would go on running the old one.

    Raises:
        BackendError: the target is another kind of machine's, or no C compiler is found to link the library.
    """
    if target.features[0] not in host_features():
        raise BackendError(f"this machine is no {target.features[0]}", where=target.name, way_on="take tvm:native")
    if cc.get_cc() is None:
        raise BackendError("no C compiler to link the library", where=target.name, way_on="install gcc or clang, or set CXX")
    settings = llvm_target(target)
    executable = relax.build(module_of(plan), tvm.target.Target(settings), relax_pipeline=tvm.transform.Sequential(list(_LOWERING)))
    with tempfile.TemporaryDirectory(dir=folder) as workshop:
        linked = Path(workshop) / "model.so"
        executable.export_library(str(linked), options=list(_LINKING))
        library = f"model-{hashlib.sha256(linked.read_bytes()).hexdigest()[:16]}.so"
        linked.replace(folder / library)
    groups = [{"kernel": group.kernel, "nodes": list(group.nodes), "why": group.why} for group in plan.groups]
    return {"library": library, "llvm_target": settings, "features": list(target.features), "groups": groups}
