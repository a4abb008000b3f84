"""The GEMM peak of this CPU: dot products on registers alone, no loads, one thread a core, in GMAC/s.

Run: ``python benchmarks/gemm_peak.py [--threads 2]``. AMX tiles (`tdpbusd`) where the CPU has them, else AVX512-VNNI (`vpdpbusd`).
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from typing import Any

STEPS = 1_000_000
"""Two milliseconds of dot products, so that starting the threads counts for nothing."""
SUMS = 8
"""Registers of sums: a VNNI dot product takes five cycles, two begin in each, so that eight keep both ports nearly full."""
_TILES = ((0, 4, 6), (1, 4, 7), (2, 5, 6), (3, 5, 7))


def _vnni(threads: int) -> tuple[Any, int]:
    from tvm.script.ir_builder import IRBuilder
    from tvm.script.ir_builder import tirx as T  # noqa: N812

    everything = T.Ramp(0, 1, 16)
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("main")
        y = T.match_buffer(T.arg("y", T.handle()), (threads * 16,), "int32")
        with T.parallel(threads) as thread:
            sums = [T.alloc_buffer((16,), "int32") for _ in range(2 * SUMS)]
            for number, row in enumerate(sums):  # each begins with a number of its own, or they would be one
                T.buffer_store(row, T.Broadcast(T.Cast("int32", thread + number), 16), [everything])
            bytes_ = [T.bind(T.Broadcast(T.Cast("int8", thread + number), 64)) for number in (1, 3)]
            with T.serial(STEPS):
                for row in sums:
                    dot = T.call_llvm_pure_intrin("int32x16", "llvm.x86.avx512.vpdpbusd.512", row[everything], *bytes_)
                    T.buffer_store(row, dot, [everything])
            total = sums[0][everything]
            for row in sums[1:]:
                total = total + row[everything]
            T.buffer_store(y, total, [T.Ramp(thread * 16, 1, 16)])
    return builder.get(), STEPS * len(sums) * 64


def _amx(threads: int) -> tuple[Any, int]:
    from tvm.script.ir_builder import IRBuilder
    from tvm.script.ir_builder import tirx as T  # noqa: N812

    def tile(operation: str, *operands: Any) -> None:
        T.evaluate(T.call_llvm_intrin("void", f"llvm.x86.{operation}", *operands))

    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("main")
        T.match_buffer(T.arg("y", T.handle()), (threads * 16,), "int32")
        with T.parallel(threads):
            settings = T.alloc_buffer((64,), "uint8")
            T.buffer_store(settings, T.Broadcast(T.uint8(0), 64), [T.Ramp(0, 1, 64)])
            T.buffer_store(settings, T.uint8(1), [0])
            for number in range(8):
                T.buffer_store(settings, T.uint8(64), [16 + 2 * number])
                T.buffer_store(settings, T.uint8(16), [48 + number])
            tile("ldtilecfg", T.address_of(settings[0]))
            for number in range(8):
                tile("tilezero", T.uint8(number))
            with T.serial(STEPS):
                for numbers in _TILES:
                    tile("tdpbusd", *(T.uint8(number) for number in numbers))
            tile("tilerelease")
    return builder.get(), STEPS * len(_TILES) * 16 * 16 * 64


def peak(threads: int, rounds: int = 15) -> tuple[str, float]:
    """The instruction, and the median over rounds in GMAC/s of all threads together; this process's pool becomes as large."""
    os.environ["TVM_NUM_THREADS"] = str(threads)
    import numpy as np
    import tvm
    from fxpress_backends.tvm.cpu import AMX, VNNI, host_features, llvm_target, native
    from fxpress_backends.tvm.run import ask_for_tiles

    features = host_features()
    if AMX not in features and VNNI not in features:
        return "none", float("nan")
    name, make = ("tdpbusd", _amx) if AMX in features else ("vpdpbusd", _vnni)
    if AMX in features:
        ask_for_tiles()
    function, products = make(threads)
    compiled = tvm.compile(tvm.IRModule({"main": function}), target=tvm.target.Target(llvm_target(native(features))))["main"]
    y = tvm.runtime.tensor(np.zeros(threads * 16, np.int32))
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        compiled(y)
        times.append(time.perf_counter() - start)
        time.sleep(0.05)
    return name, threads * products / statistics.median(times) / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    name, speed = peak(parser.parse_args().threads)
    print(f"{name} {speed:.0f}")


if __name__ == "__main__":
    main()
