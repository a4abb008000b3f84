"""Python's help topics, 2000 steps ==> char_lm.safetensors; ``python -m fxpress.zoo.train_char_lm``.

One thread and one seed: the same machine and the same PyTorch write the same bytes again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch.nn import functional

from .char_lm import LENGTH, VOCABULARY, WEIGHTS, CharLM, load, text
from .train_digits_cnn import save

_SEED, _STEPS, _BATCH, _RATE = 0, 2000, 16, 3e-3


def train(steps: int = _STEPS) -> CharLM:
    """The decoder after `steps`, in evaluation mode; the held-out topics are not looked at."""
    torch.manual_seed(_SEED)
    torch.set_num_threads(1)  # sums are split by thread, so another count would give other bits
    torch.use_deterministic_algorithms(True)
    ids = text().train
    generator = torch.Generator().manual_seed(_SEED)
    model = CharLM()
    torch.nn.init.normal_(model.embedding.weight, std=0.02)
    optimizer = torch.optim.AdamW(model.parameters(), lr=_RATE, weight_decay=0.1, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=steps, pct_start=0.1)
    for step in range(steps):
        starts = torch.randint(0, len(ids) - LENGTH - 1, (_BATCH, 1), generator=generator)
        windows = ids[starts + torch.arange(LENGTH + 1)]
        scores = model(windows[:, :-1])
        loss = functional.cross_entropy(scores.reshape(-1, VOCABULARY), windows[:, 1:].reshape(-1))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 99:
            print(f"step {step + 1:5} of {steps}: loss {float(loss.detach()):.4f}", flush=True)
    return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="where to write the weights (default: the zoo's own file)")
    out: Path = parser.parse_args().out
    model = train()
    save(model, out)
    entry = load()
    with torch.no_grad():
        print(f"held-out perplexity {entry.perplexity(lambda x: (model(x),)):.4f}, {out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
