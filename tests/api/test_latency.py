"""A pass asks what a program takes on a target; what the answer means is the pass's business."""

from __future__ import annotations

import fxpress as fx
import fxpress.latency
import numpy as np
import pytest
import torch
from fxpress_backends.latency import Table
from fxpress_ir.errors import BackendError, BenchError
from fxpress_passes.latency import Interleaved
from torch import nn


def _program() -> fx.Program:
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    return fx.capture(model, (torch.zeros(1, 8),), dynamic_shapes={"input": {0: fx.Dim("batch")}})


def _wide() -> fx.Program:
    """Some milliseconds of products of matrices."""
    model = nn.Sequential(nn.Linear(512, 2048), nn.ReLU(), nn.Linear(2048, 512)).eval()
    return fx.capture(model, (torch.zeros(64, 512),))


def test_a_pass_is_held_to_what_the_target_says() -> None:
    """An eighth of the work is faster, whatever else the machine does."""
    latency, whole = fx.latency_on("onnx:float", repeats=30, threads=1), _wide()
    result = fx.Pipeline([fx.passes.PruneChannels(ratio=0.875)]).run(whole, latency=latency)
    assert result.program.cost().macs < whole.cost().macs / 7
    assert not result.report.steps[0].refusals or "output 0" in str(result.report.steps[0].refusals)


class Benched:
    """In place of `bench`: each contender takes a millisecond a KiB of its folder; it notes them."""

    def __init__(self) -> None:
        self.contenders, self.options = list[list[fx.Artifact]](), list[dict[str, object]]()

    def __call__(self, contenders: list[fx.Artifact], **options: object) -> Table:
        self.contenders.append(contenders)
        self.options.append(options)
        seconds = np.array([[[artifact.size / 1024 / 1e3] * 5] * 6 for artifact in contenders])
        return Table(tuple(map(str, range(len(contenders)))), seconds, (None,) * len(contenders))


@pytest.fixture
def benched(monkeypatch: pytest.MonkeyPatch) -> Benched:
    benched = Benched()
    monkeypatch.setattr(fxpress.latency, "bench", benched)
    return benched


def test_both_run_in_turns_and_the_parent_is_lowered_once(benched: Benched) -> None:
    latency = fx.latency_on("onnx:float", sizes={"batch": 3}, threads=1, repeats=40)
    assert isinstance(latency, Interleaved)
    parent = _program()
    pruned = fx.Pipeline([fx.passes.PruneChannels()]).run(parent).program
    found = [latency.ratio(pruned, parent), latency.ratio(pruned, parent)]
    assert found[0] == found[1]
    assert found[0].low <= found[0].median < 1
    assert [one.manifest["program_hash"] for one in benched.contenders[0]] == [pruned.hash, parent.hash]
    assert benched.contenders[0][1] is benched.contenders[1][1]
    assert benched.options[0] == {"inputs": None, "sizes": {"batch": 3}, "repeats": 40, "threads": 1}
    folder = benched.contenders[0][1].folder
    assert folder.exists()
    assert not benched.contenders[0][0].folder.exists()
    assert latency(parent) > 0


def test_programs_become_integers_where_passes_are_named(benched: Benched) -> None:
    integers = fx.Pipeline.parse("quantize-dyadic")
    data = iter([(torch.randn(4, 8, generator=torch.Generator().manual_seed(0)),)])  # one walk; it is kept
    latency = fx.latency_on("reference", pipeline=integers, calibration=data)
    assert latency(_program()) > 0
    assert latency(_program()) > 0
    assert [one.manifest["stage"] for (one,) in benched.contenders] == ["integer", "integer"]


def test_a_rank_is_taken_where_its_layer_is_faster(benched: Benched) -> None:
    """By the size of files that is where it has fewer parameters, by what a file has beside them."""
    torch.manual_seed(0)
    wide = nn.Linear(64, 64)
    wide.weight.data = torch.randn(64, 4) @ torch.randn(4, 64)
    program = fx.capture(nn.Sequential(wide, nn.ReLU(), nn.Linear(64, 2)).eval(), (torch.zeros(2, 64),))
    result = fx.Pipeline([fx.passes.Factorize(energy=1.0, break_even=fx.latency_on("onnx:float"))]).run(program)
    assert [tuple(v.shape) for name, v in result.program.tensors.items() if "factor" in name] == [(4, 64), (64, 4)]
    ((split, whole),) = benched.contenders
    assert split.size < whole.size


def test_without_data_they_are_drawn(benched: Benched) -> None:
    latency = fx.latency_on("reference", pipeline=fx.Pipeline.parse("quantize-dyadic"))
    assert latency(_program()) > 0


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(BackendError):
        fx.latency_on("onnx:nothing")(_program())
    with pytest.raises(BenchError, match="too few for a claim"):
        fx.latency_on("onnx:float", repeats=3)(_program())
