"""What power-of-two factors and a folded first token gain in dB, and the most that norm inputs could: two zoo models, constructed nets.

Run: ``python benchmarks/factors.py`` (needs no extra). *Unrounded norm inputs* is the simulated program with nothing rounded in front
of normalisations: over *simulated*, the most that finer steps there can gain. Integers round the normalised values, too, which copies
of wide channels make finer as well. char-lm was not trained on sequences that begin with a token of their own; here all begin with
a line's end.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import fxpress as fx
import readme
import torch
from stretched import LONGEST, TOKEN, FirstToken, WideNorm, sequences
from torch import Tensor, nn

NAMES = ("digits-vit", "char-lm", "wide RMSNorm", "wide LayerNorm", "first token", "no wide first token")
HEAD = ("model", "integers", "power-of-two-factors", "fold-first-token", "simulated", "unrounded norm inputs")
PREPARED = "fold-batch-norm, "
INTEGERS = "quantize-dyadic{integer_only=true, input_floor=0}"
NEWLINE = 10
_aten, _fxp = torch.ops.aten, torch.ops.fxp
NORMS = (_aten.layer_norm.default, _aten.rms_norm.default)
Batch = tuple[Tensor, ...]


@dataclass(frozen=True)
class Case:
    """A captured program, calibration batches, inputs to compare on, and the token that sequences begin with, -1 for none."""

    program: fx.Program
    calibration: Sequence[Batch]
    held_out: Batch
    token: int = -1


def case(name: str) -> Case:
    if name in ("wide RMSNorm", "wide LayerNorm"):
        model = WideNorm(nn.RMSNorm if name == "wide RMSNorm" else nn.LayerNorm)
        program = fx.capture(model.eval(), (torch.zeros(2, 16),), dynamic_shapes=({0: fx.Dim("batch")},))
        drawn = [(torch.randn(64, 16, generator=torch.Generator().manual_seed(seed)),) for seed in range(5)]
        return Case(program, drawn[:4], drawn[4])
    if name in ("first token", "no wide first token"):
        shapes = {"ids": {0: fx.Dim("batch"), 1: fx.Dim("seq", min=2, max=LONGEST)}}
        program = fx.capture(FirstToken(planted=name == "first token").eval(), sequences(2, 12, 0), dynamic_shapes=shapes)
        return Case(program, [sequences(8, 12, seed) for seed in range(4)], sequences(16, 20, 99), TOKEN)
    entry = fx.zoo.load(name)
    if name == "digits-vit":
        program = fx.capture(entry.model, entry.inputs, dynamic_shapes=entry.dynamic_shapes)
        return Case(program, entry.calibration, (entry.held_out[0][:200],))
    shapes = {"ids": {0: fx.Dim("batch"), 1: fx.Dim("seq", min=2, max=128)}}
    program = fx.capture(entry.model, entry.inputs, dynamic_shapes=shapes)
    calibration, held_out = [_begun(ids) for (ids,) in entry.calibration], _begun(entry.held_out[0][:16])
    return Case(program, calibration, held_out, NEWLINE)


def _begun(ids: Tensor) -> Batch:
    ids = ids.clone()
    ids[:, 0] = NEWLINE
    return (ids,)


def row(name: str) -> tuple[str, ...]:
    """The decibels of each program against the float one, a dash where a pass left the program as it was."""
    tried = case(name)
    exact = tried.program.run(*tried.held_out)

    def against(program: fx.Program) -> str:
        return f"{sqnr(exact, program.run(*tried.held_out)):.2f}"

    def passed(text: str) -> tuple[fx.Program, bool]:
        result = fx.Pipeline.parse(text).run(tried.program, calibration=tried.calibration)
        return result.program, any(step.fired and step.name.startswith(text.split(", ")[1].split("{")[0]) for step in result.report.steps)

    found = [against(passed(f"{PREPARED}{INTEGERS}")[0])]
    for text in ("power-of-two-factors", f"fold-first-token{{token={tried.token}}}"):
        program, fired = passed(f"{PREPARED}{text}, {INTEGERS}")
        found.append(against(program) if fired else "-")
    simulated, _ = passed(f"{PREPARED}place-quantizers{{input_floor=0}}")
    return name, *found, against(simulated), against(unrounded(simulated))


def sqnr(exact: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    """Signal to noise over all outputs, in dB."""
    signal = sum(float(part.double().square().sum()) for part in exact)
    noise = sum(float((part.double() - found.double()).square().sum()) for part, found in zip(exact, other, strict=True))
    return float(10 * torch.log10(torch.tensor(signal / noise, dtype=torch.float64)))


def unrounded(simulated: fx.Program) -> fx.Program:
    """A simulated program whose normalisations read what comes in front of their inputs' quantisers."""
    edit = simulated.edit()
    for norm in [node for node in edit.graph.nodes if node.target in NORMS]:
        if norm.args[0].target is _fxp.fake_quantize.default:
            norm.replace_input_with(norm.args[0], norm.args[0].args[0])
    return edit.finish()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--write", action="store_true", help="put the table into README.md")
    options = parser.parse_args()
    rows = []
    for name in options.models:
        rows.append(row(name))
        print(*rows[-1], sep="  ", flush=True)
    table = readme.markdown(HEAD, rows)
    print(table)
    if options.write:
        readme.write("factors", table)


if __name__ == "__main__":
    main()
