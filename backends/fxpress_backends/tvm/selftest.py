"""instruction sets that this CPU says it has ==> those whose instructions give the integers that kernels count on, at their extremes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T  # noqa: N812

from fxpress_backends.contract import Target

from .cpu import AMX, AVX2, AVX512, TESTED, VBMI, VNNI, host_features, llvm_target, native
from .kernels import avx2, pairs, vnni
from .kernels.amx import Block
from .kernels.lookup import LOOKUPS, permuted
from .pack import BYTES, LANES, PAIR, WORD
from .run import ask_for_tiles

_ALL = T.Ramp(0, 1, LANES)
_TABLE = 256
Numbers = NDArray[np.int64]
Body = Callable[..., None]


def _dot_of_bytes(y: Any, x: Any, w: Any) -> None:
    byte = T.Ramp(0, 1, BYTES)
    T.buffer_store(y, vnni.Tile.dot(y[_ALL], T.reinterpret(f"int8x{BYTES}", x[byte]), w[byte]), [_ALL])


def _dot_of_pairs(y: Any, x: Any, w: Any) -> None:
    short = T.Ramp(0, 1, LANES * PAIR)
    T.buffer_store(y, pairs.PairTile.dot(y[_ALL], x[short], w[short]), [_ALL])


def _products_of_pairs(y: Any, x: Any, w: Any) -> None:
    for part in range(LANES // avx2.SUMS):
        some, short = T.Ramp(part * avx2.SUMS, 1, avx2.SUMS), T.Ramp(part * avx2.SUMS * PAIR, 1, avx2.SUMS * PAIR)
        T.buffer_store(y, avx2.add_products(y[some], x[short], w[short]), [some])


def _permute(y: Any, x: Any, w: Any) -> None:
    byte = T.Ramp(0, 1, BYTES)
    table = [T.reinterpret(f"int8x{BYTES}", w[T.Ramp(BYTES * half, 1, BYTES)]) for half in (0, 1)]
    T.buffer_store(y, permuted(table[0], T.reinterpret(f"int8x{BYTES}", x[byte]), table[1]), [byte])


def _look_up(name: str) -> Body:
    """64 bytes in a table of 256."""

    def body(y: Any, x: Any, w: Any) -> None:
        byte = T.Ramp(0, 1, BYTES)
        T.buffer_store(y, LOOKUPS[name](lambda run: w[run])(T.reinterpret(f"int8x{BYTES}", x[byte])), [byte])

    return body


def _tiles(y: Any, x: Any, w: Any) -> None:
    """One tile of 16 rows; its sums start as the first row of y."""
    block = Block(False, 1, 1, T.int32(LANES), LANES)
    block.start([T.address_of(y[0])])
    block.step([T.address_of(x[0])], BYTES, [T.address_of(w[0])])
    block.store()
    with T.serial(LANES) as row:
        T.buffer_store(y, block.sums(0, 0, row), [T.Ramp(row * LANES, 1, LANES)])
    T.evaluate(T.call_llvm_intrin("void", "llvm.x86.tilerelease"))


def _extremes(kind: str, count: int, seed: int) -> Numbers:
    """All least, all largest, both in turn, or drawn from the whole type."""
    limits, draw = np.iinfo(kind), np.random.default_rng(seed)
    patterns = ([limits.min], [limits.max], [limits.min, limits.max], draw.integers(limits.min, limits.max + 1, count))
    return np.resize(np.asarray(patterns[seed % len(patterns)], np.int64), count)


def _sums(x: Numbers, w: Numbers, y: Numbers) -> Numbers:
    found: Numbers = y + (x.reshape(LANES, -1) * w.reshape(LANES, -1)).sum(1)
    return found


def _products(x: Numbers, w: Numbers, y: Numbers) -> Numbers:
    """x [16, 64] times w [64 / 4, 16, 4] on top of y's first row in every row."""
    weights = w.reshape(-1, LANES, WORD).transpose(0, 2, 1).reshape(-1, LANES)
    found: Numbers = (y[:LANES] + x.reshape(LANES, -1) @ weights).reshape(-1)
    return found


def _looked_up(x: Numbers, w: Numbers, y: Numbers) -> Numbers:
    found: Numbers = w[x & (len(w) - 1)]
    return found


_TESTS: Mapping[str, tuple[tuple[Body, tuple[str, int], tuple[str, int], tuple[str, int], Callable[..., Numbers]], ...]] = {
    AVX2: (
        (_products_of_pairs, ("int16", LANES * PAIR), ("int16", LANES * PAIR), ("int32", LANES), _sums),
        (_look_up("pshufb-256"), ("uint8", BYTES), ("int8", _TABLE), ("int8", BYTES), _looked_up),
    ),
    AVX512: ((_look_up("pshufb-512"), ("uint8", BYTES), ("int8", _TABLE), ("int8", BYTES), _looked_up),),
    VNNI: (
        (_dot_of_bytes, ("uint8", BYTES), ("int8", BYTES), ("int32", LANES), _sums),
        (_dot_of_pairs, ("int16", LANES * PAIR), ("int16", LANES * PAIR), ("int32", LANES), _sums),
    ),
    VBMI: ((_permute, ("uint8", BYTES), ("int8", 2 * BYTES), ("int8", BYTES), _looked_up),),
    AMX: ((_tiles, ("uint8", LANES * BYTES), ("int8", LANES * BYTES), ("int32", LANES * LANES), _products),),
}
"""For each level: code, what it reads twice and starts from or writes (type, elements), and the integers it has to give."""


def _function(body: Body, *kinds: tuple[str, int]) -> Any:
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("main")
        handles = [T.arg(part, T.handle()) for part in "yxw"]
        y, x, w = (T.match_buffer(handle, (count,), kind) for handle, (kind, count) in zip(handles, kinds, strict=True))
        body(y, x, w)
    return builder.get().with_attr("global_symbol", "main")


def is_exact(feature: str, features: tuple[str, ...]) -> bool:
    """Whether a level's instructions, compiled for `features` and run here, give the integers that they should, 32-bit sums wrapping."""
    for body, first, second, result, wanted in _TESTS.get(feature, ()):
        function = _function(body, result, first, second)
        target = tvm.target.Target(llvm_target(replace(native(features), features=features)))
        with tvm.transform.PassContext(disabled_pass=["s_tir.CompactBufferAllocation"]):
            run = tvm.compile(tvm.IRModule({"main": function}), target=target)["main"]
        for case in range(4 * 4 * 2):
            x, w = _extremes(first[0], first[1], case % 4), _extremes(second[0], second[1], case // 4 % 4)
            y = _extremes(result[0], result[1], 2 * (case // 16) + 1)
            memory = tvm.runtime.tensor(y.astype(result[0]))
            run(memory, *(tvm.runtime.tensor(values.astype(kind)) for values, (kind, _) in ((x, first), (w, second))))
            if not np.array_equal(memory.numpy(), wanted(x, w, y).astype(result[0])):
                return False
    return True


@cache
def exact_features() -> tuple[tuple[str, ...], str]:
    """The levels of this machine up to the first whose instructions are wrong, and a line that says which; tried once a process."""
    offered = host_features()
    for place, feature in enumerate(offered):
        if feature == AMX:
            ask_for_tiles()
        if not is_exact(feature, offered[: place + 1]):
            return offered[:place], f"this CPU's {feature} failed its self-test: kernels use {offered[place - 1]} instead"
    return offered, ""


def proved(target: Target) -> tuple[Target, str]:
    """The card of this machine's kernels without what failed the self-test, and the line that says so; other cards as they are."""
    if target.name != "tvm:native" or not TESTED & set(target.features):
        return target, ""
    features, message = exact_features()
    return (native(features), message) if message else (target, "")
