"""Python's standard library, 600 steps ==> char_code_adapter, LoRA in PEFT's format; ``python -m fxpress.zoo.train_char_code``."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from .char_code import ADAPTER, code, load
from .char_lm import LENGTH, VOCABULARY, WEIGHTS, CharLM

_SEED, _STEPS, _BATCH, _RATE = 0, 600, 16, 3e-3
_RANK, _ALPHA = 8, 16.0
_LAYERS = ("query", "key", "value", "out", "gate", "up", "down")


class _Adapted(nn.Module):
    """layer(x) + alpha / r * B A x (Hu et al. 2021)."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer.requires_grad_(False)
        self.down = nn.Parameter(torch.randn(_RANK, layer.in_features) / math.sqrt(layer.in_features))
        self.up = nn.Parameter(torch.zeros(layer.out_features, _RANK))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layer(x) + _ALPHA / _RANK * functional.linear(functional.linear(x, self.down), self.up)
        return result


def train(steps: int = _STEPS) -> dict[str, Tensor]:
    """The adapter's tensors by PEFT's keys; the held-out modules are not looked at."""
    torch.manual_seed(_SEED)
    torch.set_num_threads(1)  # sums are split by thread, so another count would give other bits
    torch.use_deterministic_algorithms(True)
    model = CharLM().requires_grad_(False)
    model.load_state_dict(load_file(WEIGHTS))
    adapted = {}
    for name, layer in list(model.named_modules()):
        if isinstance(layer, nn.Linear) and name.rpartition(".")[2] in _LAYERS:
            parent, _, last = name.rpartition(".")
            adapted[name] = _Adapted(layer)
            setattr(model.get_submodule(parent), last, adapted[name])
    trained = [value for one in adapted.values() for value in (one.down, one.up)]
    optimizer = torch.optim.AdamW(trained, lr=_RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=steps, pct_start=0.1)
    ids, generator = code().train, torch.Generator().manual_seed(_SEED)
    for step in range(steps):
        starts = torch.randint(0, len(ids) - LENGTH - 1, (_BATCH, 1), generator=generator)
        windows = ids[starts + torch.arange(LENGTH + 1)]
        loss = functional.cross_entropy(model(windows[:, :-1]).reshape(-1, VOCABULARY), windows[:, 1:].reshape(-1))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        if step % 100 == 99:
            print(f"step {step + 1:5} of {steps}: loss {float(loss.detach()):.4f}", flush=True)
    found = {}
    for name, one in adapted.items():
        for part, value in (("lora_A", one.down), ("lora_B", one.up)):
            found[f"base_model.model.{name}.{part}.weight"] = value.detach().contiguous()
    entry = load()
    with torch.no_grad():
        print(f"held-out perplexity {entry.perplexity(_run(entry.model)):.3f} before, {entry.perplexity(_run(model)):.3f} after")
    return found


def _run(model: nn.Module) -> Callable[[Tensor], tuple[Tensor]]:
    return lambda ids: (model(ids),)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ADAPTER, help="the folder to write (default: the zoo's own)")
    out: Path = parser.parse_args().out
    tensors = train()
    out.mkdir(parents=True, exist_ok=True)
    save_file(tensors, out / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": _RANK, "lora_alpha": _ALPHA, "target_modules": list(_LAYERS), "bias": "none"}
    (out / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")
    print(sum(file.stat().st_size for file in out.iterdir()), "bytes")


if __name__ == "__main__":
    main()
