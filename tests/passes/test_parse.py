"""Text ==> passes ==> the same text; what cannot be read is an error of one line with the nearest known name."""

from __future__ import annotations

import string
from contextlib import suppress
from dataclasses import dataclass
from typing import ClassVar

import pytest
from fxpress_ir.errors import PipelineError
from fxpress_passes import PASSES, Exact, FoldBatchNorm, FoldConstants, Pass, PlaceQuantizers, Promise, QuantizeDyadic, RemoveNoops
from fxpress_passes.pipeline import Pipeline
from hypothesis import given
from hypothesis import strategies as st


@dataclass(frozen=True)
class Mine(Pass):
    """A third party's pass with an option of each type."""

    name: ClassVar[str] = "acme.mine"
    promise: ClassVar[Promise] = Exact()
    takes: ClassVar[tuple[str, ...]] = ("float", "simulated", "integer")
    count: int = 3
    share: float = 0.5
    on: bool = False
    mode: str = "fast"
    layers: tuple[str, ...] = ()


KNOWN = (*PASSES, Mine)
_scalars = st.one_of(st.integers(), st.floats(allow_nan=False), st.booleans(), st.text())
_mine = st.builds(
    Mine,
    count=st.integers(),
    share=st.one_of(st.floats(allow_nan=False), st.integers()),
    on=st.booleans(),
    mode=st.text(),
    layers=st.lists(_scalars).map(tuple),
)
_passes = st.one_of(
    _mine,
    st.sampled_from([RemoveNoops(), FoldBatchNorm()]),
    st.builds(FoldConstants, max_growth=st.integers()),
)


@given(st.lists(_passes))
def test_a_printed_pipeline_parses_to_itself(passes: list[Pass]) -> None:
    pipeline = Pipeline(passes)
    again = Pipeline.parse(str(pipeline), passes=KNOWN)
    assert again == pipeline
    assert str(again) == str(pipeline)


@pytest.mark.parametrize("kind", PASSES, ids=lambda kind: kind.name)
def test_every_pass_parses_from_its_name(kind: type[Pass]) -> None:
    assert Pipeline.parse(kind.name).passes == (kind(),)


@given(st.text(alphabet=string.whitespace, max_size=3))
def test_white_space_means_nothing(space: str) -> None:
    text = "fold-batch-norm,quantize-dyadic{weight_bits=4,integer_only=true}"
    for mark in ",{}=":
        text = text.replace(mark, f"{space}{mark}{space}")
    assert Pipeline.parse(f"{space}{text}{space}").passes == (FoldBatchNorm(), QuantizeDyadic(weight_bits=4, integer_only=True))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ()),
        ("remove-noops{}", (RemoveNoops(),)),
        ("place-quantizers{weight_bits=4}, remove-noops", (PlaceQuantizers(4), RemoveNoops())),
        ("acme.mine{share=2}", (Mine(share=2),)),
        ("acme.mine{mode=slow}", (Mine(mode="slow"),)),
        ('acme.mine{mode="true"}', (Mine(mode="true"),)),
        ('acme.mine{mode="a, b={1}[2]", on=true}', (Mine(mode="a, b={1}[2]", on=True),)),
        ('acme.mine{layers=["conv1", "x]}", 3]}', (Mine(layers=("conv1", "x]}", 3)),)),  # type: ignore[arg-type]
        ("acme.mine{count=-7, share=1e-3}", (Mine(-7, 1e-3),)),
    ],
)
def test_what_is_written_is_what_is_built(text: str, expected: tuple[Pass, ...]) -> None:
    assert Pipeline.parse(text, passes=KNOWN).passes == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fold-batchnorm", "pipeline: unknown pass 'fold-batchnorm'; did you mean 'fold-batch-norm'?"),
        ("zzz", "pipeline: unknown pass 'zzz'; `fxpress passes` lists them"),
        ("quantize-dyadic{weigth_bits=8}", "quantize-dyadic: unknown option 'weigth_bits'; did you mean 'weight_bits'?"),
        (
            "quantize-dyadic{zzz=8}",
            "quantize-dyadic: unknown option 'zzz'; it has weight_bits, activation_bits, edge_bits, "
            "ranges, border_ranges, percentile, input_floor, integer_only, io, bits",
        ),
        ("remove-noops{hard=true}", "remove-noops: unknown option 'hard'; it has none"),
        ('quantize-dyadic{weight_bits="8"}', 'quantize-dyadic: weight_bits="8" is no int; e.g. weight_bits=8'),
        ("quantize-dyadic{weight_bits=8.0}", "quantize-dyadic: weight_bits=8.0 is no int; e.g. weight_bits=8"),
        ("quantize-dyadic{weight_bits=true}", "quantize-dyadic: weight_bits=true is no int; e.g. weight_bits=8"),
        ("quantize-dyadic{weight_bits=null}", "quantize-dyadic: weight_bits=null is no int; e.g. weight_bits=8"),
        ("quantize-dyadic{weight_bits=9}", "place-quantizers: weight_bits=9; one of 8, 7, 6, 5, 4, 3, 2"),
        ("quantize-dyadic{integer_only=1}", "quantize-dyadic: integer_only=1 is no bool; e.g. integer_only=false"),
        ("acme.mine{share=true}", "acme.mine: share=true is no float; e.g. share=0.5"),
        ("acme.mine{layers=conv1}", 'acme.mine: layers="conv1" is no tuple; e.g. layers=[]'),
        ("acme.mine{mode=[1]}", 'acme.mine: mode=[1] is no str; e.g. mode="fast"'),
        ("quantize-dyadic{weight_bits=8, weight_bits=4}", "quantize-dyadic: option 'weight_bits' is given twice; keep one"),
        ("quantize-dyadic{weight_bits}", "quantize-dyadic: cannot read option 'weight_bits'; write name=value, ..."),
        ("quantize-dyadic{=8}", "quantize-dyadic: cannot read option '=8'; write name=value, ..."),
        ("remove-noops,, fold-constants", "pipeline: cannot read ', fold-constants'; write name{option=value}, name, ..."),
        ("quantize-dyadic{weight_bits=8", "pipeline: cannot read 'quantize-dyadic{weight_bits=8'; write name{option=value}, name, ..."),
        ("remove-noops fold-constants", "pipeline: cannot read 'remove-noops fold-constants'; write name{option=value}, name, ..."),
        ("8", "pipeline: cannot read '8'; write name{option=value}, name, ..."),
        ('acme.mine{mode="open}', "pipeline: cannot read 'acme.mine{mode=\"open}'; write name{option=value}, name, ..."),
    ],
)
def test_what_cannot_be_read_is_one_line_and_the_way_on(text: str, message: str) -> None:
    with pytest.raises(PipelineError) as caught:
        Pipeline.parse(text, passes=KNOWN)
    assert str(caught.value) == message


@given(st.text())
def test_any_text_is_a_pipeline_or_an_error_of_one_line(text: str) -> None:
    with suppress(PipelineError):
        assert Pipeline.parse(str(pipeline := Pipeline.parse(text))) == pipeline
        return
    with pytest.raises(PipelineError, match=r"\A.*\Z"):  # a dot is no line break
        Pipeline.parse(text)


def test_a_number_with_too_many_digits_is_no_number() -> None:
    with pytest.raises(PipelineError, match="is no int"):
        Pipeline.parse(f"quantize-dyadic{{weight_bits={'1' * 5000}}}")


def test_a_third_partys_pass_is_unknown_until_it_is_given() -> None:
    with pytest.raises(PipelineError, match=r"unknown pass 'acme\.mine'"):
        Pipeline.parse("acme.mine")
    assert Pipeline.parse("acme.mine, remove-noops", passes=(*PASSES, Mine)).passes == (Mine(), RemoveNoops())
