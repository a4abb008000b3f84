"""One layer of the base under an adapter: its weight in float64 and the adapter's tensors ==> the folded weight and bias."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from fxpress_ir.errors import PassError
from torch import Tensor

Folded = tuple[Tensor, Tensor | None]
"""Weight and bias of a layer, in float64."""


@dataclass(frozen=True)
class Layer:
    """What a kind's formula sees. All values are float64, integers excepted.

    Attributes:
        path: of the module, as the adapter names it.
        role: ``linear``, ``conv``, ``embedding``, ``scale`` (the affine part of a norm) or ``parameter``.
        weight: [out, in], [out, in / groups, *window], [tokens, features], [features], or a parameter of any shape.
        bias: [out] or [features]; None where the base has none.
        groups, dilated: of a convolution.
        tensors: the adapter's, by their names below the path.
        shared: tensors of the whole adapter.
        config: of the adapter.
        folder: named in errors.
    """

    path: str
    role: str
    weight: Tensor
    bias: Tensor | None
    tensors: Mapping[str, Tensor]
    shared: Mapping[str, Tensor]
    config: Mapping[str, Any]
    folder: str
    groups: int = 1
    dilated: bool = False
    read: set[str] = field(default_factory=set)

    def __getitem__(self, name: str) -> Tensor:
        """The adapter's tensor; PassError where the folder does not hold it."""
        tensor = self.get(name)
        if tensor is None:
            raise self.error(f"the folder holds no {name}", "save the adapter again")
        return tensor

    def sized(self, name: str, *sizes: int | None) -> Tensor:
        """The tensor, in this shape; None is any size. PassError otherwise, because a size of 1 would spread."""
        tensor = self[name]
        fits = tensor.dim() == len(sizes) and all(size in (None, given) for size, given in zip(sizes, tensor.shape, strict=True))
        if not fits:
            wanted = ", ".join("any" if size is None else str(size) for size in sizes)
            raise self.error(f"{name} is {list(tensor.shape)}, expected [{wanted}]", "fold it onto the base that it was trained on")
        return tensor

    def flat(self, name: str, count: int) -> Tensor:
        """The tensor as one dimension of `count` elements; PassError where it has others."""
        tensor = self[name].flatten()
        if len(tensor) != count:
            raise self.error(f"{name} has {len(tensor)} elements, expected {count}", "fold it onto the base that it was trained on")
        return tensor

    def get(self, name: str) -> Tensor | None:
        self.read.add(name)
        tensor = self.tensors.get(name, self.shared.get(name))
        return tensor.double() if tensor is not None and tensor.is_floating_point() else tensor

    def option(self, name: str, *default: Any) -> Any:
        """From the adapter's config; PassError where it is not there and has no default."""
        if name not in self.config and not default:
            raise self.error(f"adapter_config.json does not say {name}", "save the adapter again")
        return self.config.get(name, *default)

    def pattern(self, table: str, name: str) -> Any:
        """The option `name`, unless `table` has another value for this layer; matched as PEFT's get_pattern_key does."""
        for key, value in (self.config.get(table) or {}).items():
            if re.match(rf"(.*\.)?({key})$", self.path):
                return value
        return self.option(name)

    @property
    def matrix(self) -> Tensor:
        """The weight as [out, everything else]."""
        return self.weight.flatten(1)

    @property
    def bias_or_zero(self) -> Tensor:
        return torch.zeros(self.weight.shape[0], dtype=torch.float64) if self.bias is None else self.bias

    def plus(self, delta: Tensor, bias: Tensor | None = None) -> Folded:
        """W + delta, b + bias."""
        return self.becomes(self.weight + self.fitting(delta), self.bias if bias is None else self.bias_or_zero + bias)

    def becomes(self, weight: Tensor, bias: Tensor | None) -> Folded:
        return self.fitting(weight), bias

    def fitting(self, value: Tensor) -> Tensor:
        """`value` in the weight's shape; PassError where it has other elements: this adapter was trained on another base."""
        if value.numel() != self.weight.numel() or (value.dim() == self.weight.dim() and value.shape != self.weight.shape):
            what = f"the adapter is for a weight {list(value.shape)}, the base's is {list(self.weight.shape)}"
            raise self.error(what, "fold it onto the base that it was trained on")
        return value.reshape(self.weight.shape)

    def only(self, *roles: str) -> None:
        """PassError where the layer is none of these."""
        if self.role not in roles:
            raise self.error(f"this kind has no formula for a {self.role} layer", "leave the module out of target_modules")

    def error(self, what: str, way_on: str) -> PassError:
        return PassError(what, where=f"{self.folder}: {self.path}", way_on=way_on)


@dataclass(frozen=True)
class Kind:
    """A row of the table of kinds.

    Attributes:
        fold: the formula.
        prefixes: what the adapter's tensors in a layer begin with.
        source: where the formula is from: a method of the table of methods, or PEFT's layer.
        additive: W' - W does not depend on what else is folded in, so that sums with weights mean what they say.
        whole: options under which it is not additive all the same.
    """

    fold: Callable[[Layer], Folded]
    prefixes: tuple[str, ...]
    source: str
    additive: bool = True
    whole: tuple[str, ...] = ()

    def adds(self, config: Mapping[str, Any]) -> bool:
        return self.additive and not any(config.get(option) for option in self.whole)
