"""Measuring over RPC: a tracker and a server on this machine, right and wrong remotes, and every failure in one line."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from fxpress_backends import folder, manifest
from fxpress_backends.artifact import Artifact, load, lower
from fxpress_backends.bench import Command, bench
from fxpress_backends.conformance import FILE
from fxpress_backends.tvm import remote, remote_machine
from fxpress_backends.tvm.remote_machine import Machine, described
from fxpress_backends.tvm.run import POOL_SIZE
from fxpress_backends.tvm.tracker import session
from fxpress_ir.errors import ArtifactError, BenchError
from safetensors.numpy import load_file, save_file
from support import narrow_net, residual_net
from tvm import rpc
from tvm.rpc.tracker import Tracker

KEY = "loopback"
QUICK: dict[str, Any] = {"quick": True, "pause": 0.0, "repeats": 6, "runs_per_turn": 3, "warmup": 1, "threads": 2, "timeout": 30.0}


def _free_port() -> int:
    """One that the system has free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    """A server of `KEY` with two threads; ``tracker`` is the address."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(POOL_SIZE, "2")
        port = _free_port()
        tracker = Tracker("127.0.0.1", port, port + 100, silent=True)
        try:
            port = _free_port()
            where = ("127.0.0.1", tracker.port)
            running = rpc.Server("127.0.0.1", port, port + 100, key=KEY, tracker_addr=where, silent=True)
            try:
                running.tracker = f"127.0.0.1:{tracker.port}"
                yield running
            finally:
                running.terminate()
        finally:
            tracker.terminate()


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return lower(residual_net(), "tvm:x86-64", tmp_path_factory.mktemp("remote") / "net")


def _with(artifact: Artifact, **details: Any) -> Artifact:
    """The artifact as if the manifest said otherwise of its library."""
    return replace(artifact, manifest={**artifact.manifest, "details": {**artifact.manifest["details"], **details}})


def test_artifacts_take_turns_on_the_device(server: Any, artifact: Artifact) -> None:
    given = np.full((3, 3, 8, 8), 0.25, np.float32)
    table = bench([artifact, str(artifact.folder)], rpc=server.tracker, key=KEY, inputs=[given], **QUICK)
    assert [(row.name, row.runs, row.size_bytes) for row in table.rows] == [
        ("net (tvm:x86-64)", 6, artifact.size),
        ("net (tvm:x86-64) #2", 6, artifact.size),
    ]
    assert (table.seconds > 0).all()
    assert table.notes[0].startswith("measured on x86-64 ")
    assert table.notes[0].endswith(f"server of key '{KEY}' of {server.tracker}; 2 threads each, one process for all")


def test_outputs_on_the_device_are_those_here(server: Any, artifact: Artifact) -> None:
    given = np.random.default_rng(0).uniform(-2, 2, (5, 3, 8, 8)).astype(np.float32)
    with remote.Remote(server.tracker, KEY, wait=30, timeout=30, threads=1) as there:
        timed = there.open("net", artifact, [given])
        (found,), (expected,) = timed.outputs(), residual_net().run(torch.from_numpy(given))
        np.testing.assert_array_equal(found, expected.numpy())
        assert timed.run(4).shape == (4,)


def test_a_remote_that_computes_something_else_is_caught(server: Any, artifact: Artifact, tmp_path: Path) -> None:
    copy = tmp_path / "net"
    copy.mkdir()
    for file in artifact.folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    arrays = load_file(copy / FILE)
    arrays["output.0"].reshape(-1)[0] += 1
    save_file(arrays, copy / FILE)
    data = {name: value for name, value in artifact.manifest.items() if name != "sha256"}
    (copy / manifest.NAME).unlink()
    (copy / manifest.NAME).write_bytes(manifest.seal({**data, "files": folder.inventory(copy)}))
    count = arrays["output.0"].size
    with pytest.raises(BenchError, match=rf"contender 'net \(tvm:x86-64\)': output.0 is wrong on the remote: 1 of {count} values differ"):
        bench([load(copy)], rpc=server.tracker, key=KEY, **QUICK)


REFUSED = {
    "another machine": (
        {"features": ["aarch64", "dotprod"]},
        "its library is for aarch64, the server's machine is x86-64; lower it for x86-64",
    ),
    "another CPU": ({"features": ["x86-64", "x86-64-v9"]}, "has no x86-64-v9; lower it to tvm:x86-64"),
    "tiles": ({"features": ["x86-64", "amx-int8"]}, "artifacts of amx-int8 are not measured over RPC; lower it to tvm:x86-64-vnni"),
    "a GPU": ({"features": ["x86-64", "cuda", "sm_90"]}, "artifacts of cuda are not measured over RPC; run benchmarks/cuda.py there"),
    "no library": ({"library": "certificate.json"}, "Loader for .* the server's own output says more"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_library_that_does_not_fit_the_server(case: str, server: Any, artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(remote_machine.LEVELS, "x86-64-v9", "from_the_future")
    details, message = REFUSED[case]
    with pytest.raises(BenchError, match=rf"contender 'net \(tvm:x86-64\)': .*{message}") as caught:
        bench([_with(artifact, **details)], rpc=server.tracker, key=KEY, **QUICK)
    assert "\n" not in str(caught.value)


def test_weights_that_are_stored_apart_are_sent(server: Any, tmp_path: Path) -> None:
    """They come out of their file here."""
    program = narrow_net()
    artifact = lower(program, "tvm:x86-64", tmp_path / "net")
    assert artifact.manifest["details"]["apart"]["tensors"]
    given = np.random.default_rng(0).integers(-128, 128, (5, 64)).astype(np.int8)
    with remote.Remote(server.tracker, KEY, wait=30, timeout=30, threads=1) as there:
        (found,) = there.open("net", artifact, [given]).outputs()
        np.testing.assert_array_equal(found, program.run(torch.from_numpy(given))[0].numpy())
        (artifact.folder / "weights.safetensors").write_bytes(b"")
        with pytest.raises(ArtifactError, match=r"its weights in weights\.safetensors are malformed"):
            there.open("net", artifact, [given])


def test_a_server_of_unknown_make_is_left_to_its_loader() -> None:
    class Bare:
        def get_function(self, name: str) -> Any:
            raise AttributeError(name)

    machine = described(Bare())
    machine.check(["aarch64", "dotprod"], "contender")
    assert (machine, str(machine)) == (Machine(), "a machine that it does not name")


def test_only_artifacts_of_tvm(server: Any, tmp_path: Path) -> None:
    other = lower(residual_net(), "reference", tmp_path / "other")
    with pytest.raises(
        BenchError, match=r"contender 'other \(reference\)': only TVM artifacts are measured over RPC, this one is of reference"
    ):
        bench([other], rpc=server.tracker, key=KEY, **QUICK)
    with pytest.raises(BenchError, match="this one is a command"):
        bench([Command("peer", ["true"])], rpc=server.tracker, key=KEY, **QUICK)
    with pytest.raises(BenchError, match="rpc and key go together"):
        bench([other], rpc=server.tracker, **QUICK)


def test_no_tracker(artifact: Artifact) -> None:
    address = f"127.0.0.1:{_free_port()}"
    began = monotonic()
    with pytest.raises(BenchError, match=rf"tracker '{address}': no tracker answers: .*refused; start one with"):
        bench([artifact], rpc=address, key=KEY, wait=20.0, **QUICK)
    assert monotonic() - began < 20, "TVM's own client tries again for a minute"
    for malformed in ("board", "board:", ":9190", "board:http", "board:70000"):
        with pytest.raises(BenchError, match="no address of a tracker; write host:port"):
            bench([artifact], rpc=malformed, key=KEY, **QUICK)


def test_what_answers_is_no_tracker() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"127.0.0.1:{listening.getsockname()[1]}"

        def serve() -> None:
            for answer in (b"HTTP/1.1 400 no", b""):
                channel, _ = listening.accept()
                with channel:
                    channel.recv(4)
                    channel.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        with pytest.raises(BenchError, match="what answers is no TVM tracker"):
            session(address, KEY, 10.0)
        with pytest.raises(BenchError, match="no tracker answers: connection reset"):
            session(address, KEY, 10.0)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(BenchError, match="no tracker answers: timed out"):
        session(f"127.0.0.1:{silent.getsockname()[1]}", KEY, 0.2)


def test_an_unknown_key_names_the_nearest(server: Any) -> None:
    with pytest.raises(BenchError, match=rf"knows no server of key 'loopbak'; do you mean '{KEY}'\?"):
        session(server.tracker, "loopbak", 10.0)
    with pytest.raises(BenchError, match=rf"knows no server of key 'rasp'; it knows '{KEY}'"):
        session(server.tracker, "rasp", 10.0)


def test_a_held_server_is_waited_for_so_long_alone(server: Any) -> None:
    message = f"no server of key '{KEY}' was free within 0.3 s; wait longer"
    with remote.Remote(server.tracker, KEY, wait=30, timeout=30, threads=2), pytest.raises(BenchError, match=message):
        session(server.tracker, KEY, 0.3)


def test_more_threads_than_the_server_has(server: Any) -> None:
    with pytest.raises(BenchError, match=f"server of key '{KEY}': its pool has 2 threads, not 3; start it with {POOL_SIZE}=3"):
        remote.Remote(server.tracker, KEY, wait=30, timeout=30, threads=3)


def test_vectors_that_are_malformed(server: Any, artifact: Artifact) -> None:
    damaged = replace(artifact, manifest={**artifact.manifest, "conformance": {"file": FILE}})
    with pytest.raises(ArtifactError, match="its conformance record is malformed; lower the program again"):
        bench([damaged], rpc=server.tracker, key=KEY, **QUICK)


@pytest.mark.skipif(os.name != "posix", reason="stops a process by a signal")
def test_a_server_that_falls_silent_or_dies(server: Any, artifact: Artifact) -> None:
    """Last: the server does not outlive the end of its process."""
    with remote.Remote(server.tracker, KEY, wait=30, timeout=30, threads=2) as there:
        timed = there.open("net", artifact, [np.zeros((1, 3, 8, 8), np.float32)])
        serving = psutil.Process(server.proc._proc.pid).children()[-1]
        serving.suspend()
        there._timeout = 0.3
        with pytest.raises(BenchError, match=r"contender 'net': no answer within 0\.3 s"):
            timed.run(1)
        serving.kill()
        there._timeout = 30
        with pytest.raises(BenchError, match=r"contender 'net': .*the server's own output says more"):
            timed.run(1)
