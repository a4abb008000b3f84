"""A decoder of eight blocks loses two: held-out loss where they are dropped, fused into their neighbours, or trained without.

Run: ``python benchmarks/depth.py [--seeds 3] [--write]``. It trains one small model a seed, some minutes each on one core.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass

import fxpress as fx
import readme
import torch
from fxpress.zoo.char_lm import CharLM, Text, text
from fxpress_ir.analysis.blocks import rows
from fxpress_ir.slicing import remove_blocks
from torch import Tensor
from torch.nn import functional

DEPTH, LEAVE, LENGTH = 8, 2, 64
STEPS, BATCH, RATE = 600, 32, 3e-3
CALIBRATION, WINDOWS = 16, 400
"""Batches of 16 windows that passes see, and windows of held-out text that losses are measured on."""
FUSED = 100
"""Steps of training for each block that leaves; what is trained otherwise has as many in all."""
HEAD = ("program", "blocks", "training steps", "loss: mean", "of each seed")
PIPELINES: Sequence[tuple[str, int]] = (
    (f"prune-blocks{{ratio={LEAVE / DEPTH}}}", 0),
    (f'prune-blocks{{ratio={LEAVE / DEPTH}, score="loss"}}', 0),
    (f"fuse-blocks{{remove={LEAVE}, steps=0}}", 0),
    (f'share-blocks{{remove={LEAVE}, similarity="cka"}}', 0),
    (f"share-blocks{{remove={LEAVE}}}", 0),
    (f"share-blocks{{remove={LEAVE}, fill=true}}", 0),
    (f"fuse-blocks{{remove={LEAVE}, steps={FUSED}}}", LEAVE * FUSED),
    (f"fuse-blocks{{remove={LEAVE}, steps={FUSED}, rank=0}}", LEAVE * FUSED),
    (f"fuse-blocks{{remove={LEAVE}, steps={FUSED}, lora_rank=0}}", LEAVE * FUSED),
    (f"prune-blocks{{ratio={LEAVE / DEPTH}}}, recover{{steps={LEAVE * FUSED}}}", LEAVE * FUSED),
    (f"fuse-blocks{{remove={LEAVE}, steps={FUSED // 2}}}, recover{{steps={FUSED}}}", LEAVE * FUSED),
)
"""Each with how many steps it trains."""


def trained(seed: int, data: Text) -> CharLM:
    """AdamW with a warm-up and a cosine on windows of the training text."""
    torch.manual_seed(seed)
    model = CharLM(width=64, heads=4, groups=2, hidden=176, depth=DEPTH)
    torch.nn.init.normal_(model.embedding.weight, 0, 0.05)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.01)
    for step in range(STEPS):
        windows = drawn(data.train, BATCH, LENGTH + 1, generator)
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * step / STEPS))
        loss = functional.cross_entropy(model(windows[:, :-1]).flatten(0, 1), windows[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model.eval()


def drawn(ids: Tensor, count: int, length: int, generator: torch.Generator) -> Tensor:
    """Windows of text, int64 [count, length]."""
    starts = torch.randint(0, len(ids) - length, (count,), generator=generator)
    return ids[starts[:, None] + torch.arange(length)]


@dataclass(frozen=True)
class Trial:
    """One trained model as a program, with data to calibrate and to judge."""

    program: fx.Program
    calibration: list[tuple[Tensor, ...]]
    held_out: tuple[Tensor, Tensor]

    @classmethod
    def of(cls, model: CharLM, seed: int, data: Text) -> Trial:
        generator = torch.Generator().manual_seed(100 + seed)
        windows = drawn(data.train, CALIBRATION * 16, LENGTH, generator)
        shapes = {"ids": {0: torch.export.Dim("batch"), 1: torch.export.Dim("seq", max=128)}}
        program = fx.capture(model, (windows[:2],), dynamic_shapes=shapes)
        held = min(WINDOWS, (len(data.held_out) - 1) // LENGTH) * LENGTH
        pair = data.held_out[:held].view(-1, LENGTH), data.held_out[1 : held + 1].view(-1, LENGTH)
        return cls(program, [(batch,) for batch in torch.split(windows, 16)], pair)

    def loss(self, program: fx.Program) -> float:
        """Mean cross-entropy of the next byte, in nats."""
        total = 0.0
        for ids, following in zip(*(torch.split(part, 50) for part in self.held_out), strict=True):
            total += float(functional.cross_entropy(program.run(ids)[0].flatten(0, 1), following.flatten(), reduction="sum"))
        return total / self.held_out[1].numel()

    def uniform(self) -> fx.Program:
        """The blocks that stay are spread evenly, the first and the last among them."""
        (row,) = rows(self.program)
        stay = {round(place) for place in torch.linspace(0, len(row) - 1, len(row) - LEAVE).tolist()}
        return remove_blocks(self.program, [block for place, block in enumerate(row) if place not in stay])

    def compressed(self, pipeline: str, seed: int) -> fx.Program:
        return fx.Pipeline.parse(pipeline).run(self.program, calibration=self.calibration, seed=seed).program


def losses(trial: Trial, seed: int) -> dict[str, tuple[int, int, float]]:
    """What is tried ==> blocks that run, steps of training, held-out loss."""
    found = {"whole": (DEPTH, 0, trial.loss(trial.program)), "uniform dropping": (DEPTH - LEAVE, 0, trial.loss(trial.uniform()))}
    for pipeline, steps in PIPELINES:
        program = trial.compressed(pipeline, seed)
        found[f"`{pipeline}`"] = sum(map(len, rows(program))), steps, trial.loss(program)
        print(f"seed {seed}: {pipeline}: {found[f'`{pipeline}`'][2]:.3f}", flush=True)
    return found


def table(found: Sequence[dict[str, tuple[int, int, float]]]) -> list[tuple[str, ...]]:
    lines = []
    for name, (blocks, steps, _) in found[0].items():
        values = [one[name][2] for one in found]
        lines.append((name, str(blocks), str(steps), f"{sum(values) / len(values):.3f}", ", ".join(f"{value:.3f}" for value in values)))
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="put the table into README.md")
    options = parser.parse_args()
    data = text()
    found = [losses(Trial.of(trained(seed, data), seed, data), seed) for seed in range(options.seeds)]
    words = (
        f"Held-out loss in nats a byte of decoders of {DEPTH} blocks (char-lm's kind, width 64, {STEPS} steps on Python's help topics); "
        f"passes see {CALIBRATION} batches of 16 windows of {LENGTH} bytes, no labels."
    )
    shown = "\n\n".join((readme.markdown(HEAD, table(found)), words))
    print(shown)
    if options.write:
        readme.write("depth", shown)


if __name__ == "__main__":
    main()
