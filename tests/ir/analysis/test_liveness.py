"""Last uses and the peak, read off small graphs by hand."""

from __future__ import annotations

from fxpress_ir.analysis.liveness import last_uses, peak
from support import aten
from torch import fx


def diamond() -> tuple[fx.Graph, dict[str, fx.Node]]:
    """a = relu(x); b = neg(a); c = view(a); d = b + c; e = d + x; returns (e, d)."""
    graph = fx.Graph()
    x = graph.placeholder("x")
    a = graph.call_function(aten.relu.default, (x,))
    b = graph.call_function(aten.neg.default, (a,))
    c = graph.call_function(aten.view.default, (a, [-1]))
    d = graph.call_function(aten.add.Tensor, (b, c))
    e = graph.call_function(aten.add.Tensor, (d, x))
    graph.output((e, d))
    return graph, {"x": x, "a": a, "b": b, "c": c, "d": d, "e": e, "output": graph.output_node()}


def test_a_value_dies_at_its_last_use_or_the_last_use_of_its_views() -> None:
    graph, node = diamond()
    dying = {user: set(values) for user, values in last_uses(graph).items() if values}
    assert dying == {node["d"]: {node["a"], node["b"]}, node["e"]: {node["x"]}, node["output"]: {node["d"], node["e"]}}


def test_every_value_dies_once() -> None:
    graph, node = diamond()
    values = [value for values in last_uses(graph).values() for value in values]
    assert len(values) == len(set(values)) == 5
    assert node["c"] not in values  # it owns no memory


def test_the_peak_is_the_largest_sum_of_live_sizes() -> None:
    graph, node = diamond()
    sizes = {"x": 1, "a": 10, "b": 100, "c": 0, "d": 1000, "e": 10000}
    by_node = {node[name]: size for name, size in sizes.items()}
    assert peak(graph, lambda value: by_node.get(value, 0)) == 1 + 1000 + 10000
    by_node[node["a"]] = 20000
    assert peak(graph, lambda value: by_node.get(value, 0)) == 1 + 20000 + 100 + 1000


def test_an_input_that_nothing_reads_is_held_all_along() -> None:
    graph = fx.Graph()
    x, y = graph.placeholder("x"), graph.placeholder("y")
    graph.output((graph.call_function(aten.relu.default, (x,)),))
    assert peak(graph, lambda value: {"x": 1, "y": 10, "relu_default": 100}.get(value.name, 0)) == 111
    assert y not in [value for values in last_uses(graph).values() for value in values]
