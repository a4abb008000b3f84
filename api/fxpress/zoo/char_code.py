"""The decoder of `char_lm` on other text, Python's standard library, with an adapter trained on it: what a fold starts from."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import torch
from fxpress_ir.errors import InputError
from safetensors.torch import load_file

from .char_lm import LENGTH, WEIGHTS, CharLM, Text, TextEntry

NAME = "char-code"
ADAPTER = Path(__file__).with_name("char_code_adapter")
"""A folder in PEFT's format: LoRA on every linear layer of the blocks."""
_LONGEST, _ROWS = 60_000, 192
_BATCHES, _BATCH = 8, 16


def code() -> Text:
    """The modules of the standard library's top folder below 60,000 bytes: every eighth, in alphabetical order, is held out.

    Raises:
        InputError: this Python has its standard library in no folder of sources.
    """
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    sources = [file.read_bytes() for file in files]
    kept = [source for source in sources if len(source) < _LONGEST]
    if len(kept) < 16:
        raise InputError("this Python has no sources of its standard library", where=f"zoo, {NAME}", way_on="take a usual build of Python")
    parts: tuple[list[bytes], list[bytes]] = ([], [])
    for number, source in enumerate(kept):
        parts[number % 8 == 7].append(source)
    train, held_out = (torch.tensor(list(b"\n".join(part)), dtype=torch.int64) for part in parts)
    return Text(train, held_out)


def load() -> TextEntry:
    """The decoder as it was trained on help topics, the adapter not in it, with the code's data."""
    model = CharLM().eval()
    model.load_state_dict(load_file(WEIGHTS))
    data, generator = code(), torch.Generator().manual_seed(1)
    rows = min(_ROWS, (len(data.held_out) - 1) // LENGTH)
    starts = torch.randint(0, len(data.train) - LENGTH, (_BATCHES * _BATCH,), generator=generator)
    windows = data.train[starts[:, None] + torch.arange(LENGTH)]
    return TextEntry(
        name=NAME,
        description="the decoder of char-lm, to be adapted to Python's standard library (zoo/char_code_adapter)",
        model=model,
        inputs=(windows[:1],),
        dynamic_shapes={"ids": {0: torch.export.Dim("batch"), 1: torch.export.Dim("seq", max=LENGTH)}},
        calibration=[(batch,) for batch in torch.split(windows, _BATCH)],
        held_out=(data.held_out[: rows * LENGTH].view(rows, LENGTH), data.held_out[1 : rows * LENGTH + 1].view(rows, LENGTH)),
    )
