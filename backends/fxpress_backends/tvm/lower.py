"""physical plan ==> Relax module ==> shared library: the walker calls each group's kernel, or island, once, in order."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tvm
from fxpress_ir import Program
from fxpress_ir.errors import BackendError
from numpy.typing import NDArray
from tvm import relax, tirx
from tvm.support import cc

from fxpress_backends import apart
from fxpress_backends.contract import Target

from .check import check
from .cpu import EMULATED_AMX, host_features, llvm_target
from .cross import MACHINES
from .cuda import architecture, compiler_target, source_of
from .float_ import blamed_on, imported, kernels
from .islands import ENTRY, float_parts
from .kernels import prim_func
from .nvrtc import cubin
from .physical import FUNCTION, RESULT, Buffer, Plan
from .plan import plan
from .sizes import dimensions, value
from .tune import tuned


def module_of(plan: Plan, islands: Any = None, given: Sequence[str] = ()) -> Any:
    """The Relax module: ``main`` takes the plain inputs and returns the tuple of plain outputs.

    Args:
        islands: a module of the functions that the plan calls, to which the rest is added.
        given: constants that the library does not hold: ``main`` takes them after the inputs.
    """
    names = sorted(set(dimensions([buffer.sizes for buffer in plan.buffers.values()])))
    symbols = {name: tirx.Var(name, "int64") for name in names}

    def type_of(buffer: Buffer) -> Any:
        return relax.TensorType([value(size, symbols) for size in buffer.sizes], buffer.dtype)

    builder = relax.BlockBuilder(islands)
    inputs = [relax.Var(f"x{number}", type_of(plan.buffers[name])) for number, name in enumerate(plan.inputs)]
    constants = {name: relax.const(tvm.runtime.tensor(array)) for name, array in plan.constants.items() if name not in given}
    for number, name in enumerate(given):
        array = plan.constants[name]
        constants[name] = relax.Var(f"w{number}", relax.TensorType(array.shape, str(array.dtype)))
    values = {**constants, **dict(zip(plan.inputs, inputs, strict=True))}
    with builder.function(ENTRY, [*inputs, *(constants[name] for name in given)]):
        for group in plan.groups:
            read = [values[name] for name in group.inputs]
            if group.kernel == "view":
                values[group.output] = read[0]
            elif group.kernel == FUNCTION:
                values[group.output] = builder.emit(relax.Call(islands.get_global_var(group.output), read))
            elif group.kernel == RESULT:
                given = builder.emit(relax.TupleGetItem(read[0], group.attributes["index"]))
                buffer = plan.buffers.get(group.output)
                values[group.output] = given if buffer is None else builder.match_cast(given, type_of(buffer))
            else:
                kernel = builder.add_func(prim_func(plan, group), group.kernel)
                operands = [*read, *(constants[name] for name in group.constants), *(symbols[name] for name in plan.symbols(group))]
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

_KEPT_WHOLE = ["s_tir.CompactBufferAllocation"]
"""It cuts buffers to what it sees read and written; of a tile, of which kernels give the address, it sees one element."""

_LINKING = ("-Wl,--build-id=none", "-s")
"""No build id and no debug sections: they differ from one lowering of a program to the next."""


_EMULATION = ("-O2", str(Path(__file__).with_name("amx_emulated.cpp")))
"""What the linker compiles beside the library where tiles are emulated."""

_UNCHECKED = "linked for another kind of machine, not opened here: no bits were compared"


def write(
    program: Program,
    target: Target,
    folder: Path,
    tune: Mapping[str, int] | None = None,
    *,
    is_sparse: bool = False,
    nibbles: bool | None = None,
) -> Mapping[str, Any]:
    """Compile a program into ``folder/model-<hash of its bytes>.so``; returns the manifest's details.

    The name holds the hash because the system's loader takes two libraries of one path for the same: an artifact that is
    replaced while the old one is loaded would go on running the old one.

    With `tune`, sizes of dynamic dimensions, the kernels are those that are fastest there when timed now (`tuned`); the bytes are
    then no function of the program alone.

    Constants that `apart` makes smaller are written beside the library, for `run.load` to expand: those of few bits, and with `is_sparse`
    those with zeros.

    `nibbles` is as `plan` takes it; tuning decides for itself. ``packed`` in the details lists weights that stay at 4 bits.

    A library for another kind of machine, or a CPU that offers more, is linked, not opened; ``unchecked`` in the details says so.

    Raises:
        BackendError: the target is a kind of machine that this one cannot compile for, no C compiler is found to link the
            library, or TVM cannot compile the program's floats to what PyTorch computes.
    """
    gpu, linker = architecture(target), _linker(target)
    opens = target.runs_here and gpu is None
    settings, parts = llvm_target(target), float_parts(program)
    compiled_for = tvm.target.Target(settings) if gpu is None else compiler_target(gpu, settings)
    planned, record = (None if program.stage == "float" else plan(program, target, nibbles=nibbles)), None
    if tune is not None:
        planned, record = tuned(program, target, tune)
    stored = apart.worthwhile(_read(planned), is_sparse=is_sparse) if planned is not None else {}
    with blamed_on(parts), tvm.transform.PassContext(disabled_pass=_KEPT_WHOLE):
        module = kernels({name: imported(part) for name, part in parts.items()}, compiled_for) if parts else None
        module = module if planned is None else module_of(planned, module, tuple(stored))
        executable = relax.build(module, compiled_for, relax_pipeline=tvm.transform.Sequential(list(_LOWERING)))
    with tempfile.TemporaryDirectory(dir=folder) as workshop:
        linked = Path(workshop) / "model.so"
        executable.export_library(
            str(linked), fcompile=cc.cross_compiler(linker), options=[*_LINKING, *(_EMULATION if EMULATED_AMX in target.features else ())]
        )
        if opens:
            check(program, parts, linked)
        library = f"model-{hashlib.sha256(linked.read_bytes()).hexdigest()[:16]}.so"
        linked.replace(folder / library)
    groups = () if planned is None else planned.groups
    calls = [{"kernel": group.kernel, "nodes": list(group.nodes), "why": group.why} for group in groups if group.kernel != RESULT]
    details = {"library": library, "llvm_target": settings, "features": list(target.features), "groups": calls}
    if record is not None:
        details["tuned"] = record
    if is_sparse or stored:
        details["apart"] = apart.write(stored, folder)
    if planned is not None and (narrow := _narrow(planned)):
        details["packed"] = narrow
    if gpu is not None:
        details |= _write_cubin(source_of(executable), gpu, folder)
    return details if opens else {**details, "unchecked": _UNCHECKED}


def _read(plan: Plan) -> Mapping[str, NDArray[Any]]:
    """The constants that groups read, or that are given back as they are."""
    names = {*plan.outputs, *(name for group in plan.groups for name in (*group.inputs, *group.constants))}
    return {name: array for name, array in plan.constants.items() if name in names}


def _narrow(plan: Plan) -> dict[str, dict[str, int]]:
    """Weights that the library holds at 4 bits."""
    names = [group.constants[0] for group in plan.groups if group.kernel == "linear_nibbles"]
    return {name: {"bits": 4, "bytes": plan.constants[name].nbytes, "dense_bytes": 2 * plan.constants[name].nbytes} for name in names}


def _write_cubin(source: str, gpu: str, folder: Path) -> Mapping[str, Any]:
    """Compile what TVM would compile only where the library is loaded; returns what finds it there."""
    code = cubin(source, gpu)
    name = f"kernels-{hashlib.sha256(code).hexdigest()[:16]}.cubin"
    (folder / name).write_bytes(code)
    return {"cubin": name, "cuda_source_sha256": hashlib.sha256(source.encode()).hexdigest()}


def _linker(target: Target) -> str:
    """The C++ compiler that links for a target, this machine's own or a cross compiler."""
    kind = target.features[0]
    if kind in host_features():
        linker = cc.get_cc()
        if linker is None:
            raise BackendError("no C compiler to link the library", where=target.name, way_on="install gcc or clang, or set CXX")
        return str(linker)
    if kind not in MACHINES:
        raise BackendError(f"this machine is no {kind}", where=target.name, way_on="take tvm:native")
    machine = MACHINES[kind]
    if shutil.which(machine.compiler) is None:
        way_on = f"install it, Debian's package is {machine.package}"
        raise BackendError(f"no {machine.compiler} to link the library", where=target.name, way_on=way_on)
    return machine.compiler
