"""What each node of a whole graph is in integers, or the reason why it is nothing; the same before and after quantisers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from blocks import BLOCKS, ready, seen
from float_programs import captured, sample
from fxpress_ir import Program
from fxpress_ir.errors import RefusalError
from fxpress_passes.pipeline import Pipeline
from fxpress_passes.quantize.place_quantizers import PlaceQuantizers
from fxpress_passes.quantize.recognize import Recognition, computes_on_floats, recognize
from fxpress_passes.quantize.recognized import Recognized
from networks import NETWORKS
from quantized import network_stages
from sketch import IMAGE, Sketch, alone, attended, rotated
from torch import Tensor, fx
from torch.nn import functional

_aten = torch.ops.aten
RELU, RELU6, CLAMP, SIGMOID = _aten.relu.default, _aten.relu6.default, _aten.clamp.default, _aten.sigmoid.default
ADD, MUL, CONV = _aten.add.Tensor, _aten.mul.Tensor, _aten.conv2d.default
INF = float("inf")


def _conv(sketch: Sketch, x: fx.Node) -> fx.Node:
    return sketch.call(CONV, x, sketch.tensor(4, 4, 1, 1))


@pytest.mark.parametrize(
    ("clamp", "args", "bounds"),
    [
        (RELU, (), (0.0, INF)),
        (RELU6, (), (0.0, 6.0)),
        (_aten.hardtanh.default, (-2, 2), (-2.0, 2.0)),
        (CLAMP, (None, 3), (-INF, 3.0)),
    ],
)
def test_a_clamp_that_alone_reads_an_accumulator_is_its_bounds(
    clamp: Callable[..., Tensor], args: tuple[float, ...], bounds: tuple[float, float]
) -> None:
    sketch = Sketch()
    moved = sketch.call(_aten.transpose.int, sketch.x, 2, 3)
    cores = [_conv(sketch, sketch.x), sketch.call(ADD, sketch.x, moved), sketch.call(MUL, sketch.x, moved)]
    cores.append(sketch.call(_aten.avg_pool2d.default, sketch.x, [2, 2]))
    clamps = [sketch.call(clamp, core, *args) for core in cores]
    recognition = sketch.recognition(*clamps)
    for core, node in zip(cores, clamps, strict=True):
        found, inner = recognition.found[node], recognition.found[core]
        assert isinstance(found, Recognized)
        assert isinstance(inner, Recognized)
        assert (found.kind, found.operands, found.core, found.bounds) == (inner.kind, inner.operands, core, bounds)
    assert recognition.inside == frozenset(cores)


def test_a_clamp_beside_other_readers_is_a_table() -> None:
    sketch = Sketch()
    core = _conv(sketch, sketch.x)
    relu = sketch.call(RELU, core)
    recognition = sketch.recognition(core, relu)
    assert recognition.found[relu] == Recognized("table", (core,))
    assert recognition.inside == frozenset()


def test_only_the_first_clamp_is_taken_over() -> None:
    sketch = Sketch()
    core = _conv(sketch, sketch.x)
    first = sketch.call(RELU, core)
    second = sketch.call(RELU6, first)
    recognition = sketch.recognition(second)
    assert recognition.inside == {core}
    assert recognition.found[second] == Recognized("table", (first,))


def test_a_clamp_by_tensors_or_of_no_accumulator_is_a_table() -> None:
    sketch = Sketch()
    bounded = sketch.call(_aten.maximum.default, _conv(sketch, sketch.x), sketch.tensor(4, 1, 1))
    pooled = sketch.call(RELU, sketch.call(_aten.max_pool2d.default, sketch.x, [2, 2]))
    assert sketch.found(bounded, pooled) == [Recognized("table", tuple(bounded.args[:1])), Recognized("table", tuple(pooled.args))]  # type: ignore[arg-type]


def test_two_functions_of_one_value_make_one_of_it() -> None:
    """x * sigmoid(x), the clamp of that included, though a product of two values would take it over."""
    sketch = Sketch()
    gate = sketch.call(SIGMOID, sketch.x)
    swish = sketch.call(MUL, sketch.x, gate)
    relu = sketch.call(RELU, swish)
    recognition = sketch.recognition(relu)
    assert recognition.found[relu] == Recognized("table", (sketch.x,))
    assert recognition.inside == {gate, swish}


def test_a_function_that_something_else_reads_makes_a_pair() -> None:
    sketch = Sketch()
    gate = sketch.call(SIGMOID, sketch.x)
    gated = sketch.call(MUL, sketch.x, gate)
    recognition = sketch.recognition(gate, gated)
    assert recognition.found[gated] == Recognized("product", (sketch.x, gate))
    assert recognition.found[gate] == Recognized("table", (sketch.x,))
    assert recognition.inside == frozenset()


def test_a_pair_of_functions_of_two_values() -> None:
    sketch = Sketch()
    moved = sketch.call(_aten.transpose.int, sketch.x, 2, 3)
    relu, gate = sketch.call(RELU, sketch.x), sketch.call(SIGMOID, moved)
    total = sketch.call(ADD, relu, gate)
    assert sketch.found(total, relu, gate) == [
        Recognized("add", (relu, gate)),
        Recognized("table", (sketch.x,)),
        Recognized("table", (moved,)),
    ]


def test_a_table_has_the_axis_of_its_constants() -> None:
    sketch = Sketch()
    columns = sketch.call(ADD, sketch.call(MUL, sketch.x, 2), sketch.tensor(6))
    channels = sketch.call(ADD, sketch.call(MUL, sketch.x, 2), sketch.tensor(4, 1, 1))
    assert sketch.found(columns, channels) == [Recognized("table", (sketch.x,), axis=3), Recognized("table", (sketch.x,))]


def test_a_constant_that_no_table_holds_leaves_the_rest_of_the_function_one() -> None:
    """relu(x) + 1 is a table still, and so is what comes after the sum with a whole image, which is a value itself."""
    sketch = Sketch()
    image = sketch.tensor(4, 6, 6)
    first = sketch.call(ADD, sketch.call(RELU, sketch.x), 1)
    middle = sketch.call(ADD, first, image)
    last = sketch.call(SIGMOID, middle)
    recognition = sketch.recognition(last)
    assert recognition.found[first] == Recognized("table", (sketch.x,))
    assert recognition.found[middle] == Recognized("add", (first, image))
    assert recognition.found[image] == Recognized("constant", ())
    assert recognition.found[last] == Recognized("table", (middle,))
    assert recognition.inside == frozenset(first.all_input_nodes) - {sketch.x}


def test_sums_products_concatenations_and_moves_read_constants_as_values() -> None:
    sketch = Sketch()
    images = [sketch.tensor(2, 4, 6, 6) for _ in range(4)]
    less, gated = sketch.call(_aten.sub.Tensor, images[0], sketch.x), sketch.call(MUL, sketch.x, images[1])
    joined, moved = sketch.call(_aten.cat.default, [sketch.x, images[2]], 1), sketch.call(_aten.transpose.int, images[3], 2, 3)
    bounded = sketch.call(RELU, gated)
    recognition = sketch.recognition(less, joined, moved, bounded)
    assert [recognition.found[node] for node in (less, bounded, joined, moved)] == [
        Recognized("add", (images[0], sketch.x), sign=-1),
        Recognized("product", (sketch.x, images[1]), core=gated, bounds=(0.0, INF)),
        Recognized("concat", (sketch.x, images[2])),
        Recognized("move", (images[3],)),
    ]
    assert [recognition.found[image] for image in images] == [Recognized("constant", ())] * 4


def test_what_divides_by_a_whole_image_or_reads_two_constants_is_nothing() -> None:
    sketch = Sketch()
    images = [sketch.tensor(4, 6, 6) for _ in range(3)]
    divided, both = sketch.call(_aten.div.Tensor, sketch.x, images[0]), sketch.call(ADD, *images[1:])
    scaled = sketch.call(ADD, sketch.x, sketch.tensor(4, 6, 6), alpha=2)
    assert sketch.found(divided, both, scaled) == [
        "its constant differs along more than the channels",
        "it computes on constants alone",
        "it scales its second operand by 2",
    ]


def test_a_pattern_and_what_is_refused_of_one_are_no_functions() -> None:
    """What follows attention or a rotation is a table of its result; a refused one is floats from its softmax on."""
    sketch = Sketch(2, 4, 4)
    whole, turned = attended(sketch, sketch.x, sketch.x, sketch.x), rotated(sketch, sketch.x, sketch.tensor(4, 4), sketch.tensor(4, 4))
    refused = attended(sketch, sketch.x, sketch.x, sketch.x, factor=-1.0)
    tips = [sketch.call(SIGMOID, node) for node in (whole, turned, refused)]
    recognition = sketch.recognition(*tips)
    assert [recognition.found[tip] for tip in tips] == [Recognized("table", (node,)) for node in (whole, turned, refused)]
    assert recognition.found[refused] == "its scores are multiplied by -1"
    softmax, _ = refused.all_input_nodes
    assert recognition.found[softmax] == recognition.found[refused]
    assert recognition.inside >= {part for what in map(recognition.found.get, (whole, turned)) for part in what.parts}  # type: ignore[union-attr]


def test_constants_along_two_dimensions_are_no_one_table() -> None:
    sketch = Sketch()
    first = sketch.call(MUL, sketch.x, sketch.tensor(4, 1, 1))
    second = sketch.call(ADD, first, sketch.tensor(6))
    recognition = sketch.recognition(second)
    assert recognition.found[first] == Recognized("table", (sketch.x,))
    assert recognition.found[second] == "its constants differ along more than one dimension"


def _sketched(target: Callable[..., Tensor], *shape: int, dtype: torch.dtype = torch.float32) -> Recognized | str:
    """What ``target(x)`` is."""
    sketch = Sketch(*shape, dtype=dtype)
    return sketch.found(sketch.call(target, sketch.x))[0]


def _of_constants(target: Callable[..., Tensor]) -> Recognized | str:
    sketch = Sketch()
    return sketch.found(sketch.call(target, sketch.tensor(2, 2)))[0]


def _of_integers() -> list[Recognized | str]:
    sketch = Sketch(2, 3, dtype=torch.int64)
    converted = sketch.call(_aten.to.dtype, sketch.x, torch.float32)
    return sketch.found(converted, sketch.call(ADD, sketch.x, converted), sketch.call(MUL, sketch.x, 0.5))


def _of_two(target: Callable[..., Tensor]) -> Recognized | str:
    sketch = Sketch()
    return sketch.found(sketch.call(target, sketch.x, sketch.call(_aten.transpose.int, sketch.x, 2, 3)))[0]


def test_what_has_no_integer_form_says_why() -> None:
    assert alone(_aten.softmax.int, 1)[1] == "it is not over the last dimension"
    assert alone(_aten.cumsum.default, 1)[1] == "aten.cumsum.default has no integer form"
    assert _of_two(_aten.div.Tensor) == "aten.div.Tensor of several values has no integer form"
    assert _of_two(_aten.maximum.default) == "aten.maximum.default of several values has no integer form"
    assert _of_constants(RELU) == "it computes on constants alone"
    assert _sketched(RELU, 2, 6, dtype=torch.float64) == "it computes in torch.float64"
    assert _sketched(_aten.contiguous.default, 2, 6, dtype=torch.bfloat16) == "it computes in torch.bfloat16"
    assert _of_integers() == [
        "aten.to.dtype has no integer form",
        "its operand x is not a float tensor",
        "its operand x is not a float tensor",
    ]
    pooled = Sketch()
    assert pooled.found(pooled.call(_aten.max_pool2d.default, pooled.tensor(*IMAGE), [2, 2])) == ["its operand w is constant"]
    grown = Sketch(4, 1)
    assert grown.found(grown.call(MUL, grown.x, grown.tensor(3))) == ["it broadcasts its operand"]


def test_only_what_computes_on_float_tensors_is_looked_at() -> None:
    sketch = Sketch()
    size = sketch.call(_aten.sym_size.int, sketch.x, 0)
    index = sketch.call(_aten.argmax.default, sketch.x, 1)
    later = sketch.call(ADD, index, 1)
    assert [computes_on_floats(node) for node in (sketch.x, size, index, later)] == [False, False, True, False]
    assert sketch.recognition(later).found == {index: "aten.argmax.default has no integer form"}


def _kinds(recognition: Recognition) -> dict[str, tuple[str, str | None] | str]:
    return {
        node.name: what if isinstance(what, str) else (what.kind, what.core.name if what.core else None)
        for node, what in recognition.found.items()
        if node not in recognition.inside
    }


@pytest.mark.parametrize("name", NETWORKS)
def test_fake_quantizers_change_nothing(name: str) -> None:
    """What was decided on the float program is what the simulated one turns out to be."""
    simulated = network_stages(name).simulated
    before, after = (_kinds(recognize(graph)) for graph in (_without_quantizers(simulated), simulated.graph))
    assert after == before
    assert {"weighted"} < {what[0] for what in before.values()}
    assert not [reason for reason in before.values() if isinstance(reason, str)]


@pytest.mark.parametrize("name", BLOCKS)
def test_fake_quantizers_change_nothing_in_a_transformer(name: str) -> None:
    program = ready(name)
    simulated = PlaceQuantizers(integer_only=True).apply(program, seen(name))
    before, after = (_kinds(recognize(graph)) for graph in (_without_quantizers(simulated), simulated.graph))
    for kinds in (before, after):  # constants of one side are quantisers of constants on the other
        for name in [name for name, what in kinds.items() if what == ("constant", None)]:
            del kinds[name]
    assert after == before
    assert {"normalize", "attention", "weighted", "add"} <= {what[0] for what in before.values()}


def _without_quantizers(program: Program) -> fx.Graph:
    edit = program.edit()
    for node in edit.graph.nodes:
        if node.target in (torch.ops.fxp.fake_quantize.default, torch.ops.fxp.fake_quantize_channels.default):
            edit.replace(node, node.args[0])
    return edit.graph


def test_an_image_without_a_batch_has_no_window() -> None:
    sketch = Sketch(*IMAGE[1:])
    assert sketch.found(_conv(sketch, sketch.x)) == ["its input is one image without a batch dimension"]


@pytest.mark.parametrize(
    "body",
    [
        lambda x: x + functional.linear(x[:, :0], torch.zeros(6, 0)),
        lambda x: x + functional.linear(x, torch.zeros(0, 6)).sum(1, keepdim=True),
        lambda x: x + (x[:, :0].relu() * torch.zeros(0)).sum(1, keepdim=True),
        lambda x: (x * 2, torch.cat([x[:, :0], torch.zeros(0)], 1)),
    ],
    ids=["no inputs", "no outputs", "a function of nothing", "nothing joined"],
)
def test_what_has_no_elements_has_no_range_and_is_refused(body: Callable[[Tensor], Tensor]) -> None:
    program, pipeline = captured(body, 1, 6), "quantize-dyadic{{integer_only={}}}"
    with pytest.raises(RefusalError, match="it reads or makes a tensor without elements; rewrite it, or allow float islands"):
        Pipeline.parse(pipeline.format("true")).run(program, calibration=[sample(program, 8)])
    assert Pipeline.parse(pipeline.format("false")).run(program, calibration=[sample(program, 8)]).program.islands
