"""The size of a dimension as data: a number, or products of the dimensions that stay symbolic, added up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import prod
from typing import Any


@dataclass(frozen=True)
class Size:
    """A symbolic size, such as ``batch*seq + batch``; equal sizes are equal values.

    Attributes:
        terms: (factor, names of the dimensions that it multiplies), in one order.
        multiple: the sum is rounded up to a multiple of it.
    """

    terms: tuple[tuple[int, tuple[str, ...]], ...]
    multiple: int = 1

    def __str__(self) -> str:
        parts = ["*".join([*([str(factor)] if factor != 1 or not names else []), *names]) for factor, names in self.terms]
        text = " + ".join(parts).replace("+ -", "- ")
        if self.multiple == 1:
            return text
        return f"{self.multiple}*ceil({text if len(self.terms) == 1 else f'({text})'}/{self.multiple})"


Extent = int | Size


def extent_of(size: Any, names: Mapping[str, str]) -> Extent | None:
    """An int or SymInt as an extent, by the dimension's name behind each symbol; None where it divides, compares or has no name."""
    if isinstance(size, int):
        return size
    expression = size.node.expr
    if str(expression) in names:
        return _extent({(names[str(expression)],): 1})
    terms: Counter[tuple[str, ...]] = Counter()
    for product, factor in expression.expand().as_coefficients_dict().items():
        powers = {} if product.is_Integer else product.as_powers_dict()
        whole = factor.is_Integer and all(power.is_Integer and power > 0 for power in powers.values())
        if not whole or not all(str(symbol) in names for symbol in powers):
            return None
        terms[tuple(sorted(names[str(symbol)] for symbol, power in powers.items() for _ in range(power)))] += int(factor)
    return _extent(terms)


def _extent(terms: Mapping[tuple[str, ...], int]) -> Extent:
    """The largest products first, the number last."""
    kept = sorted(((names, factor) for names, factor in terms.items() if factor), key=lambda term: (-len(term[0]), term[0]))
    if all(not names for names, _ in kept):
        return sum(factor for _, factor in kept)
    return Size(tuple((factor, names) for names, factor in kept))


def _terms(extent: Extent) -> dict[tuple[str, ...], int]:
    if isinstance(extent, int):
        return {(): extent}
    assert extent.multiple == 1, "only what is stored is rounded up"
    return {names: factor for factor, names in extent.terms}


def plus(left: Extent, right: Extent) -> Extent:
    terms = Counter(_terms(left))
    terms.update(_terms(right))
    return _extent(terms)


def times(left: Extent, right: Extent) -> Extent:
    terms: Counter[tuple[str, ...]] = Counter()
    for names, factor in _terms(left).items():
        for others, other in _terms(right).items():
            terms[tuple(sorted((*names, *others)))] += factor * other
    return _extent(terms)


def padded(extent: Extent, multiple: int) -> Extent:
    """Rounded up to a multiple."""
    return -(-extent // multiple) * multiple if isinstance(extent, int) else replace(extent, multiple=multiple)


def value(extent: Extent, symbols: Mapping[str, Any]) -> Any:
    """The number that an extent is where each dimension is what `symbols` say; also of expressions in place of numbers."""
    if isinstance(extent, int):
        return extent
    total = sum(factor * prod(symbols[name] for name in names) for factor, names in extent.terms)
    return total if extent.multiple == 1 else (total + (extent.multiple - 1)) // extent.multiple * extent.multiple


def dimensions(data: Any) -> Iterator[str]:
    """The names of dimensions in the extents that nested lists hold."""
    if isinstance(data, Size):
        yield from (name for _, names in data.terms for name in names)
    elif isinstance(data, (list, tuple)):
        for item in data:
            yield from dimensions(item)


def blocks(before: Sequence[Extent], after: Sequence[Extent]) -> list[tuple[slice, slice]]:
    """A change of shape as the smallest runs of dimensions that become each other, in order."""
    left, right = list(_products(before)), list(_products(after))
    cuts = [(0, 0)]
    for position, product in enumerate(left[1:-1], 1):
        same = next((other for other in range(cuts[-1][1], len(right)) if right[other] == product), None)
        cuts += [] if same is None else [(position, same)]
    cuts.append((len(before), len(after)))
    return [(slice(first[0], last[0]), slice(first[1], last[1])) for first, last in pairwise(cuts)]


def _products(extents: Iterable[Extent]) -> Iterator[Extent]:
    """Of the first none, one, two, ... of them."""
    product: Extent = 1
    yield product
    for extent in extents:
        product = times(product, extent)
        yield product
