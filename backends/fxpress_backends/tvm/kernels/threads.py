"""Plain loops on any CPU ==> a grid of threads: every loop around a kernel's work, and the 16 lanes of its vectors, become threads."""

from __future__ import annotations

from functools import reduce
from typing import Any

from fxpress_ir.errors import BackendError
from tvm import ir, tirx
from tvm.s_tir.stmt import SBlock, SBlockRealize

from ..pack import LANES
from .rewrite import lanes_of, rebuilt, within
from .scalars import EachLane, OneLane, copied, lanes_are_apart, vectors_in

BLOCK = 256
"""Threads of a block: 8 warps."""
DP4A = "__dp4a"
IN_ANY_ORDER = frozenset(
    (
        "add", "affine", "conv2d_dp4a", "conv2d_loops", "conv2d_mma", "convert", "dequantize", "linear_dp4a", "linear_loops", "linear_mma",
        "lut", "lut16", "matmul_loops", "max_pool2d", "multiply", "normalize", "quantize", "requantize", "rotary", "softmax", "sum_pool2d",
    )
)  # fmt: skip
"""Kernels that write each value once, or the same again, so that all loops around their work are threads. The others write vectors
beyond what they move and put that right later: of them the loops that are parallel on a CPU, and no others, are threads."""

Expr = Any
Stmt = Any


def on_threads(function: Any, where: str, emulated: bool = False) -> Any:
    """A kernel of plain loops, its statements one grid each.

    Args:
        where: for errors.
        emulated: loops in place of threads and products in place of `DP4A`, for the CPU that proves the kernel's bits.

    Raises:
        BackendError: a thread would need a row of symbolic length for itself.
    """
    block = function.body.block
    _check_apart(function)
    statements = list(block.body.seq) if isinstance(block.body, tirx.SeqStmt) else [block.body]
    _check_sizes(function, where)
    views = [statement for statement in statements if isinstance(statement, tirx.DeclBuffer)]
    free = str(function.attrs["global_symbol"]) in IN_ANY_ORDER
    grids = [_grid(statement, free, emulated) for statement in statements if not isinstance(statement, tirx.DeclBuffer)]
    whole = tirx.SeqStmt([*views, *grids]) if len(views) + len(grids) > 1 else grids[0]
    inside = SBlock([], block.reads, block.writes, block.name_hint, whole)
    return function.with_body(SBlockRealize([], True, inside))


def _check_apart(function: Any) -> None:
    """No thread reads what another writes."""
    nodes = list(within(function.body.block.body))
    read = {node.source for node in nodes if isinstance(node, ir.TensorLoad)}
    written = {node.buffer for node in nodes if isinstance(node, tirx.BufferStore)}
    if read & written & set(function.params):
        raise TypeError(f"{function.attrs['global_symbol']} reads what it writes")


def _check_sizes(function: Any, where: str) -> None:
    for node in within(function.body.block.body):
        if isinstance(node, tirx.AllocBuffer) and not all(isinstance(size, tirx.IntImm) for size in node.buffer.shape):
            what = f"{function.attrs['global_symbol']} works on rows of symbolic length, which no thread can keep"
            raise BackendError(what, where=where, way_on="capture the model with that dimension fixed")


def _grid(statement: Stmt, free: bool, emulated: bool) -> Stmt:
    """One nest of loops: those around the work that may run at once, counted as one, then cut into blocks of threads.

    Where the kernel's order is `free` they are all: what adds up does so in private buffers, which lie inside the loops that are
    work. So they are where constants are written, as around an image.
    """
    free = free or not any(isinstance(node, (ir.TensorLoad, tirx.AllocBuffer)) for node in within(statement))
    around: list[Any] = []
    body, known = statement, set[Any]()
    while True:
        first = list(body.seq) if isinstance(body, tirx.SeqStmt) else [body]
        *binds, inner = first
        fixed = isinstance(inner, tirx.For) and all(isinstance(bind, tirx.Bind) and lanes_of(bind.value) == 1 for bind in binds)
        if not fixed or known & _variables(inner.min, inner.extent):
            break
        if not free and inner.kind != tirx.ForKind.PARALLEL:
            break
        around += [*binds, inner]
        known |= {bind.var for bind in binds} | {inner.loop_var}
        body = inner.body
    loops = [part for part in around if isinstance(part, tirx.For)]
    if not loops:
        raise TypeError(f"no loop around {type(statement).__name__}")
    apart = free and vectors_in(body) and lanes_are_apart(body)
    sizes = [tirx.Cast("int64", loop.extent) for loop in loops] + ([tirx.const(LANES, "int64")] if apart else [])
    count = reduce(lambda all_, size: all_ * size, sizes)
    thread, lane = tirx.Var("thread", "int64"), tirx.Var("lane", "int32")
    values: dict[Any, Expr] = {}
    rest: Expr = thread
    if apart:
        rest = tirx.floordiv(thread, LANES)
    for number, loop in reversed(list(enumerate(loops))):
        value = tirx.floormod(rest, sizes[number]) if number else rest
        values[loop.loop_var] = tirx.Cast(str(loop.loop_var.ty), value) + loop.min
        rest = tirx.floordiv(rest, sizes[number])
    binds = [tirx.Bind(lane, tirx.Cast("int32", tirx.floormod(thread, LANES)))] if apart else []
    binds += [part if isinstance(part, tirx.Bind) else tirx.Bind(part.loop_var, values[part.loop_var]) for part in around]
    work = (OneLane(body, lane) if apart else EachLane(body)).statement(body)
    work = tirx.SeqStmt([*binds, *(work.seq if isinstance(work, tirx.SeqStmt) else [work])])
    if emulated:
        # the last 16 threads first, and so on: what relies on the order of the loops before shows
        step, place = tirx.Var("step", "int64"), tirx.Var("place", "int64")
        groups, zero = tirx.floordiv(count + (LANES - 1), LANES), tirx.const(0, "int64")
        number = tirx.Bind(thread, (groups - 1 - step) * LANES + place)
        inner = tirx.SeqStmt([number, tirx.IfThenElse(thread < count, _without_dp4a(work), None)])
        inner = tirx.For(place, zero, tirx.const(LANES, "int64"), tirx.ForKind.SERIAL, inner)
        return tirx.For(step, zero, groups, tirx.ForKind.SERIAL, inner)
    x, y = (tirx.Var(name, "int64") for name in ("block", "within"))
    inner = tirx.IfThenElse(thread < count, work, None)
    inner = tirx.SeqStmt([tirx.Bind(thread, x * BLOCK + y), inner])
    inner = _bound(y, tirx.const(BLOCK, "int64"), "threadIdx.x", inner)
    return _bound(x, tirx.floordiv(count + (BLOCK - 1), BLOCK), "blockIdx.x", inner)


def _bound(var: Any, extent: Expr, tag: str, body: Stmt) -> Stmt:
    axis = tirx.IterVar(ir.Range.from_min_extent(0, extent), tirx.Var(tag, "int64"), tirx.IterVar.ThreadIndex, tag)
    return tirx.For(var, tirx.const(0, "int64"), extent, tirx.ForKind.THREAD_BINDING, body, axis)


def _variables(*expressions: Expr) -> set[Any]:
    return {node for expression in expressions for node in within(expression) if isinstance(node, ir.Var)}


def _without_dp4a(node: Stmt) -> Stmt:
    def expression(expr: Expr) -> Expr:
        changed = rebuilt(expr, expression)
        if isinstance(changed, ir.Call) and changed.args and isinstance(changed.args[0], ir.StringImm) and changed.args[0].value == DP4A:
            _, x, y, total = changed.args
            for byte in range(4):
                left, right = ((value << (24 - 8 * byte)) >> 24 for value in (x, y))
                total = total + left * right
            return total
        return changed

    def statement(stmt: Stmt) -> Stmt:
        return copied(stmt, statement, expression, {})

    return statement(node)
