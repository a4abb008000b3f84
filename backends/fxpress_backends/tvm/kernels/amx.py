"""sums[16][16] += x[16][64] . w[16][16][4]: AMX's tile registers, each thread with a configuration of its own.

Every operation on tiles goes through `operate`: LLVM's intrinsic, or a C function of the same meaning (``amx_emulated.cpp``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

from tvm.script.ir_builder import tirx as T  # noqa: N812

from ..pack import BYTES, LANES, WORD
from ..tiles import ROWS
from .operand import Expr

_OPERATIONS = {
    "configure": "ldtilecfg",
    "release": "tilerelease",
    "clear": "tilezero",
    "load": "tileloadd64",
    "store": "tilestored64",
    "multiply": "tdpbusd",
}
"""LLVM's names: ``llvm.x86.`` before them; ``fxpress_`` for the functions in C."""
SUMS = ROWS * LANES
"""int32 of a stored tile."""
Made = TypeVar("Made")


def operate(emulated: bool, operation: str, *operands: Expr) -> None:
    """Emit one operation on tiles; tiles are numbered by constants, memory is an address and, for load and store, bytes from row to row."""
    name = _OPERATIONS[operation]
    if emulated:
        T.evaluate(T.call_extern("void", f"fxpress_{name}", *operands))
    else:
        T.evaluate(T.call_llvm_intrin("void", f"llvm.x86.{name}", *operands))


def configure(emulated: bool, tiles: Mapping[int, tuple[Expr, int]]) -> None:
    """Load this thread's configuration: (rows, bytes of a row) of each tile; palette 1, all tiles become zeros."""
    memory = T.alloc_buffer((BYTES,), "uint8")
    T.buffer_store(memory, T.Broadcast(T.uint8(0), BYTES), [T.Ramp(0, 1, BYTES)])
    T.buffer_store(memory, T.uint8(1), [0])
    for tile, (rows, width) in tiles.items():
        T.buffer_store(memory, T.uint8(width), [16 + 2 * tile])
        T.buffer_store(memory, T.Cast("uint8", rows), [48 + tile])
    operate(emulated, "configure", T.address_of(memory[0]))


class Block:
    """Sums of up to 2 tiles of rows x 2 of channels, in tiles 0 to 3; 4 and 5 take inputs, 6 and 7 weights."""

    def __init__(self, emulated: bool, tall: int, wide: int, rows: Expr, words: int) -> None:
        """Configures the thread's tiles.

        Args:
            tall, wide: tiles of rows, of 16 channels.
            rows: of each tile.
            words: of each row of inputs.
        """
        self._emulated, self._tall, self._wide = emulated, range(tall), range(wide)
        sums = {2 * i + j: (rows, BYTES) for i in self._tall for j in self._wide}
        inputs = {4 + i: (rows, words * WORD) for i in self._tall}
        weights = {6 + j: (T.int32(words), BYTES) for j in self._wide}
        configure(emulated, {**sums, **inputs, **weights})
        self._memory = T.alloc_buffer((tall * wide * SUMS,), "int32")

    def start(self, biases: Sequence[Expr]) -> None:
        """Every row begins as the bias: the addresses of 16 int32 for each of the channel tiles, loaded from row to row again."""
        for i in self._tall:
            for j, bias in zip(self._wide, biases, strict=True):
                self._operate("load", 2 * i + j, bias, T.int64(0))

    def step(self, inputs: Sequence[Expr], pitch: int, weights: Sequence[Expr]) -> None:
        """Multiply what lies at the addresses; `pitch`: bytes from row to row of the inputs."""
        for i in self._tall:
            self._operate("load", 4 + i, inputs[i], T.int64(pitch))
            for j in self._wide:
                if i == 0:
                    self._operate("load", 6 + j, weights[j], T.int64(BYTES))
                self._operate("multiply", 2 * i + j, T.uint8(4 + i), T.uint8(6 + j))

    def store(self) -> None:
        """To where `sums` reads them."""
        for i in self._tall:
            for j in self._wide:
                self._operate("store", 2 * i + j, T.address_of(self._memory[self._at(i, j)]), T.int64(BYTES))

    def sums(self, i: int, j: int, row: Expr) -> Expr:
        """16 channels of a row of a tile, int32."""
        return self._memory[T.Ramp(self._at(i, j) + row * LANES, 1, LANES)]

    def _at(self, i: int, j: int) -> int:
        return (i * len(self._wide) + j) * SUMS

    def _operate(self, operation: str, tile: int, *operands: Expr) -> None:
        operate(self._emulated, operation, T.uint8(tile), *operands)


@contextmanager
def shares(emulated: bool, count: Expr, make: Callable[[], Made]) -> Iterator[tuple[Made, Expr]]:
    """Tasks 0 to `count`, in as many runs of neighbours as there are threads: what `make` makes for the thread, and the task.

    `make` configures the thread's tiles, which are given back at the end of its run.
    """
    threads = T.bind(T.Cast("int64", T.call_packed("runtime.NumThreads")))
    with T.parallel(threads) as share:
        made = make()
        first, last = (T.bind(part * count // threads) for part in (share, share + 1))
        with T.serial(last - first) as step:
            yield made, T.bind(first + step)
        operate(emulated, "release")
