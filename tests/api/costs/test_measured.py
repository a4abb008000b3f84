"""Costs by group: what is known is not run again; a file of them is whole, or refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import fxpress.costs.measured as measured
import pytest
from fxpress.costs import MeasuredCosts
from fxpress.costs.cache import KEPT, Cache
from fxpress_backends.profile import RUNTIME, KernelTime, signatures
from fxpress_ir import Program
from fxpress_ir.errors import ArtifactError, BackendError
from support import attending_net, chain, residual_net

TARGET, SIZES = "onnx:qlinear", {"batch": 2}


class Clock:
    """In place of `profile`: the first group takes a second, the next two, ...; the runtime half of one a group."""

    def __init__(self) -> None:
        self.runs: list[str] = []

    def __call__(
        self, program: Program, target: str, *, sizes: Mapping[str, int], threads: int, repeats: int, artifact: object = None
    ) -> tuple[KernelTime, ...]:
        self.runs.append(program.hash)
        groups = signatures(program, target, sizes)
        times = [KernelTime("kernel", *group, number) for number, group in enumerate(groups, 1)]
        return (*times, KernelTime(RUNTIME, (), RUNTIME, len(groups) / 2))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(measured, "profile", clock)
    return clock


def test_the_groups_are_those_of_the_backend(tmp_path: Path, clock: Clock) -> None:
    program = residual_net()
    found = MeasuredCosts(TARGET, SIZES, threads=1, cache=tmp_path).of(program)
    assert [(nodes, signature) for nodes, signature, _ in found.groups[:-1]] == list(signatures(program, TARGET, SIZES))
    assert found.groups[-1][:2] == ((), RUNTIME)
    assert found.seconds == pytest.approx(sum(found.by_node.values()) + found.groups[-1][2])
    assert set(found.by_node) == {node.name for node in program.graph.nodes if node.op == "call_function"}


def test_time_goes_to_the_layers_of_a_group(tmp_path: Path, clock: Clock) -> None:
    found = MeasuredCosts(TARGET, SIZES, threads=1, cache=tmp_path).of(chain(4, 8))
    assert [seconds for _, _, seconds in found.groups] == [1, 2, 3, 1.5]
    assert found.by_node == {"quantize_default": 1, "conv2d_default": 2, "requantize_default": 0, "dequantize_default": 3}


def test_a_product_and_the_heaviest_of_what_only_moves(tmp_path: Path, clock: Clock) -> None:
    found = MeasuredCosts("tvm:native", SIZES, threads=1, cache=tmp_path).of(attending_net())
    by_nodes = {nodes: seconds for nodes, _, seconds in found.groups}
    moved, product = ("view_default", "transpose_int"), ("matmul_default", "requantize_default")
    assert [found.by_node[name] for name in moved] == [by_nodes[moved], 0]
    assert [found.by_node[name] for name in product] == [by_nodes[product], 0]


def test_what_is_known_is_not_run_again(tmp_path: Path, clock: Clock) -> None:
    costs = MeasuredCosts(TARGET, SIZES, threads=1, cache=tmp_path)
    first = costs.of(chain(4, 8, 8))
    assert len(clock.runs) == 1
    for again in (costs, MeasuredCosts(TARGET, SIZES, threads=1, cache=tmp_path)):
        assert again.of(chain(4, 8, 8)).groups == first.groups
    assert len(clock.runs) == 1, "a program, and a file, that is known"
    deeper = costs.of(chain(4, 8, 8, 8))
    assert len(clock.runs) == 1, "other programs of known groups"
    assert deeper.groups[-1][2] == 2.5, "as much a kernel as the runtime took before"
    costs.of(chain(4, 12))
    assert len(clock.runs) == 2


def test_a_program_is_profiled_again_where_that_is_asked(tmp_path: Path, clock: Clock) -> None:
    costs = MeasuredCosts(TARGET, SIZES, threads=1, cache=tmp_path)
    first, again = costs.of(chain(4, 8)), costs.measure(chain(4, 8))
    assert len(clock.runs) == 2
    assert again.groups == first.groups == costs.of(chain(4, 8)).groups, "medians of both"


def test_a_sum_is_what_the_program_took_however_unlike_equal_kernels_are(tmp_path: Path) -> None:
    kernels = [KernelTime("k", (f"n{place}",), "conv:1", seconds) for place, seconds in enumerate((1.0, 1.0, 7.0))]
    assert Cache(tmp_path, {"card": {"name": "a:b"}}).add(kernels).seconds("conv:1") == 3.0


def test_other_threads_sizes_and_targets_are_other_conditions(tmp_path: Path, clock: Clock) -> None:
    for target, sizes, threads in [(TARGET, {"batch": 2}, 1), (TARGET, {"batch": 2}, 2), (TARGET, {"batch": 3}, 1), ("onnx:int", {}, 1)]:
        MeasuredCosts(target, sizes, threads=threads, cache=tmp_path).of(chain(4, 8))
    assert len(clock.runs) == 4
    assert len(list(tmp_path.glob("*.json"))) == 3, "sizes are part of the signatures"


def test_a_time_is_the_median_of_all_profiles(tmp_path: Path) -> None:
    cache = Cache(tmp_path, {"card": {"name": "a:b"}})
    for seconds in (5.0, 1.0, 2.0):
        times = cache.add([KernelTime("k", ("n",), "conv:1", seconds), KernelTime(RUNTIME, (), RUNTIME, seconds)])
    assert times.seconds("conv:1") == times.runtime(["conv:1"]) == 2.0
    for _ in range(KEPT):
        times = cache.add([KernelTime("k", ("n",), "conv:1", 7.0)])
    assert times.seconds("conv:1") == 7.0
    assert len(times.kernels["conv:1"]) == KEPT


def test_writers_do_not_lose_each_other_s_times(tmp_path: Path) -> None:
    def write(number: int) -> None:
        cache = Cache(tmp_path, {"card": {"name": "a:b"}})
        for turn in range(5):
            cache.add([KernelTime("k", ("n",), f"conv:{number}", 1.0 + turn)])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    found = Cache(tmp_path, {"card": {"name": "a:b"}}).times()
    assert {key: median(some) for key, some in found.kernels.items()} == {f"conv:{number}": 3.0 for number in range(8)}
    assert [file.suffix for file in sorted(tmp_path.iterdir())] == [".json", ".lock"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: "{",
        lambda data: "[]",
        lambda data: json.dumps({**data, "format": 1}),
        lambda data: json.dumps({**data, "conditions": {}}),
        lambda data: json.dumps({**data, "kernels": {"conv:1": [-1.0]}}),
        lambda data: json.dumps({**data, "kernels": {"conv:1": ["1"]}}),
        lambda data: json.dumps({**data, "kernels": {"conv:1": []}}),
        lambda data: json.dumps({**data, "kernels": {"conv:1": [float("nan")]}}),
        lambda data: json.dumps({**data, "counts": {}}),
    ],
)
def test_a_damaged_file_is_refused_in_one_line(tmp_path: Path, clock: Clock, damage: Any) -> None:
    MeasuredCosts(TARGET, SIZES, threads=1, cache=tmp_path).of(chain(4, 8))
    (file,) = tmp_path.glob("*.json")
    file.write_text(damage(json.loads(file.read_text())))
    with pytest.raises(ArtifactError) as error:
        MeasuredCosts(TARGET, SIZES, threads=1, cache=tmp_path).of(chain(4, 8))
    assert str(error.value).startswith(f"{file}: no file of measured costs")
    assert str(error.value).endswith("delete it, and costs are measured anew")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("target", ["tvm:nativ", "tvm:riscv64"])
def test_a_target_that_does_not_run_here_is_refused(target: str) -> None:
    with pytest.raises(BackendError, match=r"unknown target 'tvm:nativ'|'tvm:riscv64': this machine does not run it"):
        MeasuredCosts(target)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match=r"cannot be read and written: .*; pass another folder as cache"):
        MeasuredCosts(TARGET, SIZES, threads=1, cache=tmp_path / "file").of(chain(4, 8))
