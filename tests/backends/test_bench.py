"""The benchmark: order and number of turns, statistics on known timings, and failures in one line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fxpress_backends.artifact import Artifact, lower
from fxpress_backends.bench import Command, bench
from fxpress_backends.latency import Table
from fxpress_ir.errors import BenchError, InputError
from support import residual_net

PEER = """
import sys, time
from fxpress_backends.bench_worker import inputs, serve
print("a banner of the runtime")
def run():
    print('{{"level": "info"}}')
    {body}
serve(run)
"""


def peer(name: str, body: str) -> Command:
    return Command(name, [sys.executable, "-c", PEER.format(body=body)])


QUICK: dict[str, Any] = {"quick": True, "pause": 0.0, "repeats": 12, "runs_per_turn": 3, "warmup": 1}


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return lower(residual_net(), "reference", tmp_path_factory.mktemp("bench") / "net")


def test_the_slower_peer_is_slower() -> None:
    steps: list[tuple[int, int]] = []
    table = bench(
        [peer("slow", "time.sleep(0.012)"), peer("fast", "time.sleep(0.003)")], progress=lambda *step: steps.append(step), **QUICK
    )
    assert [(row.name, row.runs, row.size_bytes) for row in table.rows] == [("slow", 12, None), ("fast", 12, None)]
    ratio = table.ratio("slow", "fast")
    assert 1 < ratio.low <= ratio.median <= ratio.high
    assert steps == [(done, 8) for done in range(1, 9)]


def test_turns_are_interleaved_after_warm_ups(tmp_path: Path) -> None:
    log = tmp_path / "log"
    bench([peer(name, f"open({str(log)!r}, 'a').write({name!r}); time.sleep(0.0001)") for name in "AB"], **QUICK)
    assert log.read_text() == "A" + "B" + "AAABBB" * 4


def test_several_processes_share_the_turns(tmp_path: Path) -> None:
    log = tmp_path / "log"
    body = "open({!r}, 'a').write({!r}); time.sleep(0.0001)"
    steps: list[tuple[int, int]] = []
    table = bench(
        [peer(name, body.format(str(log), name)) for name in "AB"],
        **{**QUICK, "processes": 3},
        progress=lambda *step: steps.append(step),
    )
    assert log.read_text() == ("A" + "B" + "AAABBB" * 2) * 3
    assert table.seconds.shape == (2, 6, 3)
    assert steps == [(done, 12) for done in range(1, 13)]
    with pytest.raises(BenchError, match="positive repeats, warmup, runs_per_turn, processes and threads"):
        bench([peer("A", "pass")], **{**QUICK, "processes": 0})


def test_artifacts_and_peers_get_the_same_inputs(artifact: Artifact) -> None:
    body = "assert inputs()[0].shape == (4, 3, 8, 8) and abs(inputs()[0].mean()) < 0.2"
    table = bench([artifact, str(artifact.folder), peer("peer", body)], sizes={"batch": 4}, **QUICK)
    assert [row.name for row in table.rows] == ["net (reference)", "net (reference) #2", "peer"]
    assert [row.size_bytes for row in table.rows] == [artifact.size, artifact.size, None]
    text = str(table).splitlines()
    assert text[0].split()[:3] == ["contender", "p50", "ms"]
    assert any(line.startswith("note: ") and "logical CPUs" in line for line in text)
    given = np.full((1, 3, 8, 8), 0.25, np.float32)
    bench([artifact, peer("peer", "assert (inputs()[0] == 0.25).all()")], inputs=[given], **QUICK)


def synthetic(a: np.ndarray, b: np.ndarray) -> Table:
    return Table(("a", "b"), np.stack([a, b]), (None, 2048))


def test_statistics_on_known_timings() -> None:
    a = np.arange(1, 51).reshape(10, 5) * 1e-3
    row = synthetic(a, a).rows[0]
    assert (row.p50_ms, row.p90_ms, row.runs) == (pytest.approx(25.5, rel=1e-12), pytest.approx(45.1, rel=1e-12), 50)  # rounding of float64
    assert "2.0 KiB" in str(synthetic(a, a))


def test_the_interval_pairs_turns() -> None:
    """A machine that slows down for both alike moves no ratio; independent resampling would widen the interval."""
    mood = np.repeat(np.linspace(1.0, 3.0, 10)[:, None], 5, 1)
    ratio = synthetic(2.0 * mood, mood).ratio("a", "b")
    assert (ratio.low, ratio.median, ratio.high) == (2.0, 2.0, 2.0)
    noise = np.random.default_rng(0).normal(1.0, 0.05, (2, 20, 5))
    table = synthetic(1.5 * noise[0], noise[1])
    ratio = table.ratio(0, 1)
    assert ratio.low < 1.5 < ratio.high
    assert ratio.low <= ratio.median <= ratio.high
    assert ratio == table.ratio("a", "b")  # the bootstrap's seed is fixed
    with pytest.raises(BenchError, match="no contender 'c'; the table has a, b"):
        table.ratio("a", "c")


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (peer("broken", "raise ValueError('no such layer')"), "contender 'broken': ValueError: no such layer; "),
        (Command("absent", ["/nonexistent/peer"]), "contender 'absent': cannot be started: No such file"),
        (Command("dying", [sys.executable, "-c", "raise SystemExit('no licence')"]), "contender 'dying': ended with status 1: no licence"),
        (Command("odd", [sys.executable, "-c", "input(); print('{\"seconds\": [0.1, 0.2]}')"]), "1 runs asked, answered"),
        (Command("dead group", ["sh", "-c", "sleep 60; exit 0"]), "contender 'dead group': no answer within 0.5 s"),
        (Command("mute", [sys.executable, "-c", "import time; time.sleep(60)"]), "contender 'mute': no answer within 0.5 s"),
    ],
)
def test_a_failing_contender_is_named_in_one_line(command: Command, message: str) -> None:
    with pytest.raises(BenchError, match=message.replace("(", r"\(")) as caught:
        bench([command], timeout=0.5 if "no answer" in message else 60, **QUICK)
    assert "\n" not in str(caught.value)


def test_an_artifact_that_fails_in_its_process_is_named(artifact: Artifact) -> None:
    opened = Artifact(artifact.folder, artifact.manifest, artifact.inputs, {"providers": ["CPU"]}, artifact._backend)
    with pytest.raises(BenchError, match=r"contender 'net \(reference\)': BackendError: .*unknown option 'providers'"):
        bench([opened], **QUICK)


def test_what_is_no_claim_is_refused(artifact: Artifact) -> None:
    with pytest.raises(BenchError, match=r"29 runs with pauses of 0\.25 s are too few for a claim; at least 30 runs"):
        bench([artifact], repeats=29)
    with pytest.raises(BenchError, match=r"pauses of 0\.1 s"):
        bench([artifact], pause=0.1)
    with pytest.raises(BenchError, match="nothing to measure"):
        bench([])
    with pytest.raises(BenchError, match="no dynamic dimension 'sequence'; the inputs are x: float32"):
        bench([artifact], sizes={"sequence": 128})
    with pytest.raises(InputError, match="net, input 'x': dimension 1 is 4, expected 3"):
        bench([artifact], inputs=[np.zeros((1, 4, 8, 8), np.float32)])
