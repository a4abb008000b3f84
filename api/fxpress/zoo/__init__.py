"""name ==> a small trained model with its data, ready to compress; nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable

from fxpress_ir.errors import InputError

from . import char_code, char_lm, digits_cnn, digits_vit, minilm
from .entry import Entry

__all__ = ["Entry", "load", "names"]

_MODELS: dict[str, Callable[[], Entry]] = {module.NAME: module.load for module in (digits_cnn, digits_vit, char_lm, char_code, minilm)}


def names() -> tuple[str, ...]:
    """The names that `load` knows."""
    return tuple(_MODELS)


def load(name: str) -> Entry:
    """The entry called `name`; each call makes a new model.

    Raises:
        InputError: the zoo has no such entry; the message lists those it has.
    """
    if name not in _MODELS:
        raise InputError(f"no model {name!r}", where="zoo", way_on=f"known: {', '.join(names())}")
    return _MODELS[name]()
