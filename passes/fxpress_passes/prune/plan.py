"""SparsityPlan: which weights of one program stay, as bits, and what they become; a value that can be read, saved and replayed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from fxpress_ir import Program
from fxpress_ir.errors import PassError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

FORMAT, VERSION = "fxpress-sparsity-plan", 1
_RECORD = "fxpress"
_WAY_ON = "decide on this program"


@dataclass(frozen=True, eq=False)
class SparsityPlan:
    """What `sparsify` decided, apart from doing it.

    Attributes:
        program: the hash of the program that it is for.
        shapes: of each weight, by its tensor's name.
        bits: its mask, uint8, one bit a weight in the order of its elements, high bits first; 1 stays.
        values: what weights become whose score also moves those that stay; the others stay as they are.
    """

    program: str
    shapes: Mapping[str, tuple[int, ...]]
    bits: Mapping[str, Tensor]
    values: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, program: Program, masks: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> SparsityPlan:
        """The plan with these masks, bool in the weights' shapes."""
        bits = {name: torch.from_numpy(np.packbits(mask.numpy().reshape(-1))) for name, mask in masks.items()}
        return cls(program.hash, {name: tuple(mask.shape) for name, mask in masks.items()}, bits, dict(values))

    def mask(self, name: str) -> Tensor:
        """True where a weight stays, in the weight's shape."""
        shape = self.shapes[name]
        return torch.from_numpy(np.unpackbits(self.bits[name].numpy(), count=int(np.prod(shape)))).bool().reshape(shape)

    def sparsity(self, name: str) -> float:
        """The share of a weight that goes."""
        return 1 - float(self.mask(name).double().mean())

    def __str__(self) -> str:
        return "\n".join(f"{name} {list(shape)}: {self.sparsity(name):.1%} zeros" for name, shape in self.shapes.items())

    def save(self, file: str | PathLike[str]) -> None:
        """Write it as safetensors.

        Raises:
            PassError: the file cannot be written.
        """
        record = {
            "format": FORMAT,
            "format_version": VERSION,
            "program": self.program,
            "shapes": {n: list(s) for n, s in self.shapes.items()},
        }
        arrays = {
            f"{part}:{name}": tensor for part, found in (("bits", self.bits), ("values", self.values)) for name, tensor in found.items()
        }
        try:
            save_file(arrays, file, metadata={_RECORD: json.dumps(record, sort_keys=True)})
        except (OSError, SafetensorError) as error:
            raise PassError(f"cannot be written: {error}", where=f"plan {str(file)!r}", way_on="name a writable file") from error

    @classmethod
    def load(cls, file: str | PathLike[str]) -> SparsityPlan:
        """Read what `save` wrote; nothing in it is executed.

        Raises:
            PassError: the file cannot be read or is no such plan.
        """
        where = f"plan {str(file)!r}"
        try:
            with safe_open(Path(file), framework="pt") as opened:
                arrays: dict[str, Tensor] = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
                record = json.loads((opened.metadata() or {})[_RECORD])
            if (record["format"], record["format_version"]) != (FORMAT, VERSION):
                raise ValueError("another format")
            parts: dict[str, dict[str, Tensor]] = {"bits": {}, "values": {}}
            for name, tensor in arrays.items():
                part, _, weight = name.partition(":")
                parts[part][weight] = tensor
            plan = cls(record["program"], {name: tuple(shape) for name, shape in record["shapes"].items()}, parts["bits"], parts["values"])
            if any(len(plan.bits[name]) != -(-int(np.prod(shape)) // 8) for name, shape in plan.shapes.items()):
                raise ValueError("bits of other lengths")
        except OSError as error:
            raise PassError(f"cannot be read: {error}", where=where, way_on="check the file") from error
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise PassError("is no intact sparsity plan", where=where, way_on="decide and save it again") from error
        return plan


def cut(program: Program, plan: SparsityPlan) -> Program:
    """The program with the plan's zeros; `program` itself where nothing changes.

    Raises:
        PassError: the plan was made for another program.
    """
    if plan.program != program.hash:
        what = f"the plan is for program {plan.program[:12]}, this one is {program.hash[:12]}"
        raise PassError(what, where="sparsify", way_on=_WAY_ON)
    edit, changed = program.edit(), False
    for name in plan.shapes:
        old = program.tensors[name].detach()
        new = torch.where(plan.mask(name), plan.values.get(name, old).to(old.dtype), torch.zeros((), dtype=old.dtype))
        if not torch.equal(new, old):
            edit.tensors[name], changed = new, True
    return edit.finish() if changed else program
