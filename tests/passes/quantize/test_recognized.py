"""Every rule's kind is one that the rest of the family knows what to do with."""

from __future__ import annotations

from fxpress_ir import Program
from fxpress_passes.quantize.emit import Emitter
from fxpress_passes.quantize.recognize import recognize
from fxpress_passes.quantize.recognized import ACCUMULATES, PASSES_ON, Recognized
from sketch import Sketch

VALUES = ACCUMULATES | {"concat", "table", "softmax", "attention", "normalize", "rotary", "embedding", "constant"}
"""Kinds that get a quantiser of their own."""


def test_a_kind_makes_a_value_or_passes_one_on() -> None:
    assert not VALUES & {*PASSES_ON, "pad"}


def test_the_emitter_has_a_rule_for_each_kind_of_value() -> None:
    sketch = Sketch()
    recognition = recognize(sketch.graph)
    sketch.graph.output((sketch.x,))
    emitter = Emitter(Program(sketch.graph, {}, ()).edit(), recognition)
    assert emitter._kinds.keys() == VALUES


def test_only_accumulators_take_the_clamp_that_follows_them() -> None:
    x = Sketch().x
    assert {kind for kind in VALUES | PASSES_ON | {"pad"} if Recognized(kind, (x,)).accumulates} == ACCUMULATES


def test_without_a_clamp_there_are_no_bounds() -> None:
    assert Recognized("add", (Sketch().x,) * 2).bounds == (float("-inf"), float("inf"))
