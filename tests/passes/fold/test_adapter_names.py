"""Paths of an adapter and modules of a program meet by one prefix or not at all."""

from __future__ import annotations

import pytest
from fxpress_ir.errors import PassError
from fxpress_passes.fold.adapters.names import resolve


@pytest.mark.parametrize(
    ("paths", "modules", "wanted"),
    [
        (["a.b"], ["a.b", "c.a.b"], {"a.b": "a.b"}),
        (["a.b", "a.c"], ["net.a.b", "net.a.c", "b"], {"a.b": "net.a.b", "a.c": "net.a.c"}),
        (["model.a.b"], ["a.b"], {"model.a.b": "a.b"}),
        (["a.b"], ["x.a.b", "y.a.b"], "'a.b' could mean 'x.a.b' and 'y.a.b'"),
        (["l.7.q", "l.0.q"], ["net.l.0.q"], r"has no l\.7\.q \(1 of 2 modules\)"),
        (["a.b"], ["x.ca.b"], r"has no a\.b"),
    ],
)
def test_one_prefix_is_put_before_or_cut_from_all_paths(paths: list[str], modules: list[str], wanted: dict[str, str] | str) -> None:
    if isinstance(wanted, dict):
        assert resolve(paths, modules, "folder") == wanted
        return
    with pytest.raises(PassError, match=wanted):
        resolve(paths, modules, "folder")
