"""A kernel over vectors ==> the same over scalars: each lane a thread of its own where no lane reads another, else a loop over lanes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tvm import ir, sym, tirx

from ..pack import LANES
from .rewrite import element, lanes_of, parts_of, rebuilt, within

Expr = Any
Stmt = Any


def vectors_in(body: Stmt) -> bool:
    """Whether anything is a vector."""
    return any(isinstance(node, (tirx.Ramp, tirx.Broadcast, tirx.Shuffle)) for node in within(body))


def lanes_are_apart(body: Stmt) -> bool:
    """Whether 16 threads that each keep to one lane compute what the vectors do.

    They do where every vector has 16 lanes and no lane is moved to another: what vectors write to a private buffer is read at
    lanes of the same number. Scalars are computed by all 16 alike.
    """
    vectors = [node for node in within(body) if isinstance(node, (tirx.Ramp, tirx.Broadcast, tirx.Shuffle))]
    if any(isinstance(node, tirx.Shuffle) or node.lanes != LANES for node in vectors):
        return False
    private = {node.buffer for node in within(body) if isinstance(node, tirx.AllocBuffer)}
    written = {store.buffer for store in _stores(body) if any(lanes_of(index) > 1 for index in store.indices)} & private
    return all(_keeps_lanes(indices) for buffer, indices in _accesses(body) if buffer in written)


def _stores(body: Stmt) -> Iterator[Any]:
    return (node for node in within(body) if isinstance(node, tirx.BufferStore))


def _accesses(body: Stmt) -> Iterator[tuple[Any, Any]]:
    for node in within(body):
        if isinstance(node, tirx.BufferStore):
            yield node.buffer, node.indices
        elif isinstance(node, ir.TensorLoad):
            yield node.source, node.indices


def _keeps_lanes(indices: Any) -> bool:
    """The last index alone is a vector, of 16 neighbours from a multiple of 16 on."""
    *outer, last = indices
    if any(lanes_of(index) > 1 for index in outer) or not isinstance(last, tirx.Ramp):
        return False
    aligned = sym.Analyzer().can_prove_equal(tirx.floormod(last.base, tirx.const(LANES, str(last.base.ty))), 0)
    return bool(aligned) and isinstance(last.stride, tirx.IntImm) and int(last.stride) == 1


class OneLane:
    """Statements ==> those of one thread, which keeps to the lane of the number `lane`."""

    def __init__(self, body: Stmt, lane: Expr) -> None:
        self._lane = lane
        self._vars: dict[Any, Any] = {}
        private = {node.buffer for node in within(body) if isinstance(node, tirx.AllocBuffer)}
        shapes = {buffer: list(map(int, buffer.shape)) for buffer in private if all(isinstance(size, tirx.IntImm) for size in buffer.shape)}
        vectors = {buffer for buffer, shape in shapes.items() if shape == [LANES]}
        wide = {buffer for buffer, indices in _accesses(body) if lanes_of(indices[-1]) == 1}
        self._buffers = {
            buffer: tirx.decl_buffer([1] if buffer in vectors - wide else buffer.shape, buffer.dtype, buffer.name, scope="local")
            for buffer in private
        }
        self._registers = vectors - wide
        """Sixteen values of which each thread keeps one."""

    def statement(self, node: Stmt) -> Stmt:
        if isinstance(node, tirx.BufferStore):
            buffer, indices = self._place(node.buffer, node.indices)
            return tirx.BufferStore(buffer, self.expression(node.value), indices)
        if isinstance(node, tirx.Bind) and lanes_of(node.value) > 1:
            self._vars[node.var] = tirx.Var(node.var.name, element(node.value))
            return tirx.Bind(self._vars[node.var], self.expression(node.value))
        return copied(node, self.statement, self.expression, self._buffers)

    def expression(self, node: Expr) -> Expr:
        if isinstance(node, ir.Var):
            return self._vars.get(node, node)
        if isinstance(node, ir.TensorLoad):
            return tirx.BufferLoad(*self._place(node.source, node.indices))
        return lane_of(node, self._lane, self.expression) if lanes_of(node) > 1 else rebuilt(node, self.expression)

    def _place(self, buffer: Any, indices: Any) -> tuple[Any, list[Expr]]:
        chosen = [0] if buffer in self._registers else [self.expression(index) for index in indices]
        return self._buffers.get(buffer, buffer), chosen


class EachLane:
    """Statements ==> those of one thread, which loops over the lanes of every vector."""

    def __init__(self, body: Stmt) -> None:
        self._kept: dict[Any, Any] = {}
        private = [node.buffer for node in within(body) if isinstance(node, tirx.AllocBuffer)]
        self._buffers = {buffer: tirx.decl_buffer(buffer.shape, buffer.dtype, buffer.name, scope="local") for buffer in private}

    def statement(self, node: Stmt) -> Stmt:
        if isinstance(node, tirx.BufferStore):
            count = max(map(lanes_of, node.indices))
            return self._over(node, count, lambda lane: self._store(node, lane))
        if isinstance(node, tirx.Bind) and lanes_of(node.value) > 1:
            kept = tirx.decl_buffer([lanes_of(node.value)], element(node.value), node.var.name, scope="local")
            stores = self._over(node, lanes_of(node.value), lambda lane: tirx.BufferStore(kept, self._at(node.value, lane), [lane]))
            self._kept[node.var] = kept
            return tirx.SeqStmt([tirx.AllocBuffer(kept), stores])
        return copied(node, self.statement, lambda expr: self._at(expr, None), self._buffers)

    def _over(self, node: Stmt, count: int, at: Callable[[Expr], Stmt]) -> Stmt:
        """One statement a lane: a loop, or all in a row where lanes are chosen by their numbers."""
        if count == 1:
            return at(None)
        if any(isinstance(part, tirx.Shuffle) for part in within(node)):
            return tirx.SeqStmt([at(tirx.const(lane, "int32")) for lane in range(count)])
        lane = tirx.Var("lane", "int32")
        return tirx.For(lane, 0, count, tirx.ForKind.SERIAL, at(lane))

    def _store(self, node: Stmt, lane: Expr) -> Stmt:
        indices = [self._at(index, lane) for index in node.indices]
        return tirx.BufferStore(self._buffers.get(node.buffer, node.buffer), self._at(node.value, lane), indices)

    def _at(self, node: Expr, lane: Expr) -> Expr:
        if isinstance(node, ir.Var):
            return tirx.BufferLoad(self._kept[node], [lane]) if node in self._kept else node
        if isinstance(node, tirx.Shuffle):
            position = int(node.indices[int(lane)])
            for vector in node.vectors:
                if position < lanes_of(vector):
                    return self._at(vector, tirx.const(position, "int32"))
                position -= lanes_of(vector)
        if isinstance(node, ir.TensorLoad):
            indices = [self._at(index, lane) for index in node.indices]
            return tirx.BufferLoad(self._buffers.get(node.source, node.source), indices)
        change = lambda part: self._at(part, lane)  # noqa: E731
        return lane_of(node, lane, change) if lanes_of(node) > 1 else rebuilt(node, change)


def lane_of(node: Expr, lane: Expr, change: Callable[[Expr], Expr]) -> Expr:
    """One value of a vector whose parts `change` takes to one value each."""
    if isinstance(node, tirx.Ramp):
        base = change(node.base)
        return base + change(node.stride) * tirx.Cast(str(base.ty), lane)
    if isinstance(node, tirx.Broadcast):
        return change(node.value)
    return rebuilt(node, change)


def copied(node: Stmt, statement: Callable[[Stmt], Stmt], expression: Callable[[Expr], Expr], buffers: Mapping[Any, Any]) -> Stmt:
    """A statement without vectors of its own, its parts rewritten."""
    if isinstance(node, tirx.AllocBuffer):
        return tirx.AllocBuffer(buffers.get(node.buffer, node.buffer))
    if isinstance(node, tirx.SeqStmt):
        return tirx.SeqStmt([statement(part) for part in node.seq])
    if isinstance(node, tirx.For):
        first, count, body = expression(node.min), expression(node.extent), statement(node.body)
        return tirx.For(node.loop_var, first, count, node.kind, body, node.thread_binding, node.annotations)
    if isinstance(node, tirx.IfThenElse):
        other = None if node.else_case is None else statement(node.else_case)
        return tirx.IfThenElse(expression(node.condition), statement(node.then_case), other)
    if isinstance(node, tirx.Bind):
        return tirx.Bind(node.var, expression(node.value))
    if isinstance(node, tirx.BufferStore):
        indices = [expression(index) for index in node.indices]
        return tirx.BufferStore(buffers.get(node.buffer, node.buffer), expression(node.value), indices)
    if isinstance(node, tirx.Evaluate):
        return tirx.Evaluate(expression(node.value))
    if isinstance(node, tirx.DeclBuffer):
        return node
    raise TypeError(f"no kernel has a {type(node).__name__}: {parts_of(node)}")
