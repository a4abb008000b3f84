"""``model.pt2``, a zoo name or ``package.module:factory`` ==> a model with its example inputs, ready to capture."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fxpress_ir import Program, capture
from fxpress_ir.errors import InputError
from fxpress_ir.pt2 import load_pt2
from torch import Tensor, nn
from torch.export import ExportedProgram

from . import zoo
from .factory import call_factory, is_factory

_RETURNS = "return (model, inputs), (model, inputs, dynamic_shapes) or a zoo Entry"


@dataclass(frozen=True, eq=False)
class Source:
    """A model and all that came with it.

    Attributes:
        name: as the user wrote it; a file's without folder and suffix.
        model: a module, or a program that ``torch.export`` made.
        inputs: example inputs; none for an exported program, which has its signature.
        dynamic_shapes: as ``capture`` takes it.
        calibration: batches of inputs, where the model brings them.
        evaluate: quality of a function that runs a batch, higher is better, where the model brings it.
        scores: whether every floating-point output is known to hold scores (logits) along its last axis, as ``zoo.Entry.scores``: losses
            are then divergences of softmax, and training follows them; False, the default, makes them relative errors.
    """

    name: str
    model: nn.Module | ExportedProgram
    inputs: tuple[Tensor, ...] = ()
    dynamic_shapes: Any = None
    calibration: Iterable[Any] | None = None
    evaluate: Callable[[Callable[..., Sequence[Any]]], float] | None = None
    scores: bool = False

    def capture(self) -> Program:
        """The model as a float program.

        Raises:
            CaptureError: as ``fxpress_ir.capture``.
        """
        return capture(self.model, self.inputs, dynamic_shapes=self.dynamic_shapes)


def open_model(text: str) -> Source:
    """The model that `text` names. A factory's module is imported and run; a ``.pt2`` file runs nothing.

    Args:
        text: a file that ``torch.export.save`` wrote; a name of the zoo; or ``package.module:factory``, a function
            without arguments that returns ``(model, inputs)``, ``(model, inputs, dynamic_shapes)`` or a zoo entry, looked
            for in the current folder too. `inputs` is a tensor or a tuple of tensors.

    Raises:
        InputError: nothing of that name; the factory fails or returns something else.
        CaptureError: the file is no intact archive of torch.export.
    """
    if text.endswith(".pt2") or Path(text).is_file():
        return Source(Path(text).stem, load_pt2(text))
    if is_factory(text):
        return _from_factory(text, call_factory(text))
    if text not in zoo.names():
        known = f"a .pt2 file, package.module:factory, or one of the zoo: {', '.join(zoo.names())}"
        raise InputError("is no file, no factory and not in the zoo", where=f"model {text!r}", way_on=f"pass {known}")
    return _from_entry(zoo.load(text))


def _from_entry(entry: zoo.Entry) -> Source:
    return Source(entry.name, entry.model, entry.inputs, entry.dynamic_shapes, entry.calibration, entry.evaluate, entry.scores)


def _from_factory(text: str, result: Any) -> Source:
    if isinstance(result, zoo.Entry):
        return _from_entry(result)
    if not isinstance(result, tuple) or len(result) not in (2, 3):
        size = f" of {len(result)}" if isinstance(result, tuple) else ""
        raise InputError(f"the factory returned a {type(result).__name__}{size}", where=text, way_on=_RETURNS)
    model, inputs = result[:2]
    if not isinstance(model, (nn.Module, ExportedProgram)):
        raise InputError(f"its model is a {type(model).__name__}", where=text, way_on="return an nn.Module first")
    inputs = (inputs,) if isinstance(inputs, Tensor) else inputs
    if not isinstance(inputs, (tuple, list)) or not all(isinstance(item, Tensor) for item in inputs):
        kinds = ", ".join(type(item).__name__ for item in inputs) if isinstance(inputs, (tuple, list)) else type(inputs).__name__
        raise InputError(f"its inputs are {kinds or 'empty'}", where=text, way_on="return a tensor or a tuple of tensors second")
    shapes = result[2] if len(result) == 3 else None
    if shapes is not None and not isinstance(shapes, (Mapping, tuple, list)):
        kind = type(shapes).__name__
        raise InputError(f"its dynamic_shapes are a {kind}", where=text, way_on='return e.g. {"x": {0: torch.export.Dim("batch")}} third')
    return Source(text, model, tuple(inputs), shapes)
