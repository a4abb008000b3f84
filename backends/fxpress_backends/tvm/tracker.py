"""``host:port`` and a key ==> a session with a free RPC server, or one line that says what is missing, within a given time."""

from __future__ import annotations

import difflib
import socket
import struct
from collections.abc import Sequence
from time import monotonic
from typing import Any

from fxpress_ir.errors import BenchError
from tvm import rpc
from tvm.rpc import base

_ERRORS = (RuntimeError, OSError, ValueError, AttributeError, TypeError)
"""What TVM's client raises."""


def session(address: str, key: str, wait: float) -> Any:
    """Ask the tracker for a server of that key; `tvm.rpc.RPCSession`.

    TVM's own client tries for a minute to reach a tracker and waits for a server without end; this one keeps to `wait`.

    Args:
        address: of the tracker, ``host:port``.
        wait: seconds, for the tracker's answer and for a free server together.

    Raises:
        BenchError: no such address, no tracker there, no server of that key, none free in time, or it does not answer.
    """
    where, deadline = f"tracker {address!r}", monotonic() + wait
    start = "start one with python -m tvm.exec.rpc_tracker, docs/edge.md says how"
    try:
        with socket.create_connection(_parsed(address), timeout=wait) as channel:
            channel.sendall(struct.pack("<i", base.RPC_TRACKER_MAGIC))
            if struct.unpack("<i", base.recvall(channel, 4)) != (base.RPC_TRACKER_MAGIC,):
                raise BenchError("what answers is no TVM tracker", where=where, way_on=start)
            _check_known(key, _ask(channel, [base.TrackerCode.SUMMARY], deadline), where)
            try:
                host, port, password = _ask(channel, [base.TrackerCode.REQUEST, key, "", 1], deadline)
            except TimeoutError as error:
                what, way_on = f"no server of key {key!r} was free within {wait:g} s", "wait longer, or end the session that holds it"
                raise BenchError(what, where=where, way_on=way_on) from error
    except (OSError, ValueError, struct.error) as error:
        raise BenchError(f"no tracker answers: {error or type(error).__name__}", where=where, way_on=start) from error
    try:
        return rpc.connect(host, port, password)
    except _ERRORS as error:
        what, way_on = f"server {host}:{port} of key {key!r} does not answer: {said(error)}", "see that it runs and is reached from here"
        raise BenchError(what, where=where, way_on=way_on) from error


def said(error: BaseException) -> str:
    """The last lines of TVM's message, without the trace of the other side."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    kept = [line for line in lines if not line.startswith(("RPCError:", "File ", "Error caught"))]
    return " ".join(kept[-2:])[-300:] or type(error).__name__


def _parsed(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise BenchError("no address of a tracker", where=repr(address), way_on="write host:port, 192.168.0.2:9190")
    return host, int(port)


def _ask(channel: socket.socket, question: Sequence[Any], deadline: float) -> Any:
    base.sendjson(channel, question)
    channel.settimeout(max(deadline - monotonic(), 1e-3))
    code, answer = base.recvjson(channel)
    if code != base.TrackerCode.SUCCESS:
        raise ValueError(f"it answers {code}")
    return answer


def _check_known(key: str, summary: Any, where: str) -> None:
    keys = sorted({str(server["key"]).removeprefix("server:") for server in summary["server_info"]})
    if key in keys:
        return
    near = difflib.get_close_matches(key, keys, n=1)
    way_on = f"do you mean {near[0]!r}?" if near else f"it knows {', '.join(map(repr, keys))}" if keys else "start a server with that key"
    raise BenchError(f"knows no server of key {key!r}", where=where, way_on=way_on)
