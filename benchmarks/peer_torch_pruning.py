"""The zoo's models cut in half by fxpress and by Torch-Pruning: same score, ratio, data and re-estimation of batch norms.

Run: ``python benchmarks/peer_torch_pruning.py [--models NAME ...] [--write]`` (needs the extra ``peers`` or ``dev``, and for ResNet-18
``models``; about four minutes). Torch-Pruning cuts the module, fxpress its captured program; both results are judged as programs.
"""

from __future__ import annotations

import argparse
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version

import fxpress as fx
import readme
import torch
import torch_pruning as peer
from fxpress_passes.evidence.gradients import own_cross_entropy
from fxpress_passes.prune.structured import Structured
from seeds import SEEDS, Model, Spread
from torch import Tensor, nn

RATIO = 0.5
SCORES = ("magnitude", "taylor")
LAYERS = (nn.Conv2d, nn.Linear)
HIDDEN = ("up", "gate")
"""The layers whose outputs are hidden units of an MLP."""
STEPS = {"digits-cnn": 100, "digits-vit": 100, "char-lm": 30}
SECONDS = 30
"""After which an attempt that has not come back counts as failed."""
SAMPLES = 128
"""Of calibration data that gradients are taken of, as `prune-channels` takes them."""
HEAD = ("model", "score", "tool", "MACs", "parameters", "held-out loss", "top-1", "recovered: loss", "top-1")


def kept_whole(model: nn.Module) -> list[nn.Module]:
    """What Torch-Pruning leaves: the classifier; of a transformer all but hidden units, as `prune-channels` does."""
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, LAYERS)}
    if any(name.endswith(HIDDEN) for name in layers):
        return [layer for name, layer in layers.items() if not name.endswith(HIDDEN)]
    return [layer for layer in layers.values() if isinstance(layer, nn.Linear)]


def theirs(model: Model, score: str, seed: int) -> fx.Program:
    """What Torch-Pruning leaves of a fresh copy of the model, captured."""
    entry = fx.zoo.load(model.entry.name)
    module = entry.model
    importance = peer.importance.GroupTaylorImportance() if score == "taylor" else peer.importance.GroupMagnitudeImportance()
    if score == "taylor":
        for (inputs,) in model.drawn(seed)[: SAMPLES // len(model.drawn(seed)[0][0])]:
            own_cross_entropy([module(inputs)], (inputs,)).backward()
    cut(module, entry.inputs[0], importance, pruning_ratio=RATIO, ignored_layers=kept_whole(module))
    module.zero_grad()
    return fx.capture(module, entry.inputs, dynamic_shapes=entry.dynamic_shapes)


def cut(module: nn.Module, example: Tensor, importance: Callable[..., Tensor], **options: object) -> peer.pruner.BasePruner:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # it names parameters outside of modules, which it leaves as they are here
        pruner = peer.pruner.BasePruner(module, example, importance=importance, **options)
        pruner.step()
    return pruner


def ours(model: Model, score: str, seed: int) -> fx.Program:
    """What `prune-channels` leaves."""
    item: Structured = fx.passes.PruneChannels(ratio=RATIO, score=score)
    return item.apply(model.program, model.context(seed))


def rows(model: Model, score: str, steps: int) -> Iterator[tuple[str, ...]]:
    """One for each tool: sizes, and quality before and after the same distillation."""
    for tool, make in (("fxpress", ours), ("Torch-Pruning", theirs)):
        figures = []
        for seed in SEEDS:
            pruned = fx.passes.ReestimateBatchNorm().apply(make(model, score, seed), model.context(seed))
            data = model.context(seed, steps if model.is_text else min(steps, 30))
            recovered = fx.passes.Recover(steps=steps).apply(pruned, data)
            figures.append([judge(found.run) for found in (pruned, recovered) for judge in (model.loss, model.entry.evaluate)])
        cost, whole = pruned.cost(), model.program.cost()
        shown = [Spread(tuple(figure)).shown(form) for figure, form in zip(zip(*figures, strict=True), (".3f", ".1%") * 2, strict=True)]
        yield model.entry.name, score, tool, f"{cost.macs / whole.macs:.1%}", f"{cost.parameters:,}", *shown


@contextmanager
def limit(seconds: int) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TimeoutError(f"not back after {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def heads(model: Model) -> tuple[str, str, str]:
    """Half of the heads of attention: what each tool makes of it."""
    entry = fx.zoo.load(model.entry.name)
    attention = [part for part in entry.model.modules() if hasattr(part, "heads")]
    counts = {getattr(part, name): part.heads if name == "query" else getattr(part, "groups", part.heads)
              for part in attention for name in ("query", "key", "value")}  # fmt: skip
    free = {*counts, *(part.out for part in attention)}
    whole = [layer for layer in entry.model.modules() if isinstance(layer, LAYERS) and layer not in free]
    options = {"num_heads": dict(counts), "prune_num_heads": True, "prune_head_dims": False, "head_pruning_ratio": RATIO}
    before = sum(weight.numel() for weight in entry.model.parameters())
    try:
        with limit(SECONDS):
            cut(
                entry.model, entry.inputs[0], peer.importance.GroupMagnitudeImportance(), pruning_ratio=0.0, ignored_layers=whole, **options
            )
        after = sum(weight.numel() for weight in entry.model.parameters())
        found = "removes nothing" if after == before else f"{after:,} parameters"
    except Exception as error:  # whatever it raises is the figure
        found = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    pruned = fx.passes.PruneHeads(ratio=RATIO).apply(model.program, model.context(0))
    return entry.name, f"{pruned.cost().parameters:,} parameters, top-1 {model.entry.evaluate(pruned.run):.1%}", found


def resnet18() -> tuple[str, str, str]:
    """Parameters of ResNet-18 at half of its channels, in multiples of 8: fxpress, Torch-Pruning."""
    from real_models import resnet

    example = torch.randn(1, 3, 224, 224)
    program = fx.capture(resnet(18), (example,), dynamic_shapes={"pixel_values": {0: fx.Dim("batch")}})
    half = fx.Pipeline.parse(f"prune-channels{{ratio={RATIO}, align=8}}").run(program).program
    counted = sum(tensor.numel() for name, tensor in half.tensors.items() if "running" not in name)
    module = resnet(18)
    last = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
    importance = peer.importance.GroupMagnitudeImportance()
    cut(module, example, importance, pruning_ratio=RATIO, round_to=8, ignored_layers=last, output_transform=lambda out: out.logits)
    return "ResNet-18", f"{counted:,}", f"{sum(weight.numel() for weight in module.parameters()):,}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=list(STEPS), default=list(STEPS))
    parser.add_argument("--write", action="store_true", help="put the tables into README.md")
    options = parser.parse_args()
    models = [Model.of(name) for name in options.models]
    table = []
    for model in models:
        for score in SCORES:
            for row in rows(model, score, STEPS[model.entry.name]):
                print(*row, sep="  ", flush=True)
                table.append(row)
    cases = [resnet18()]
    print(*cases[0], sep="  ", flush=True)
    attempts = [heads(model) for model in models if model.entry.name != "digits-cnn"]
    steps = ", ".join(f"{name} {STEPS[name]}" for name in options.models)
    words = (
        f"Half of the channels (of transformers: of hidden units) leave each group; mean (least to most) of {len(SEEDS)} seeds, which draw "
        f"calibration data; batch norms re-estimated on them for both. Recovered: `recover` for both, steps: {steps}. "
        f"Torch-Pruning {version('torch-pruning')}, its own group scores."
    )
    tables = (
        readme.markdown(HEAD, table),
        readme.markdown(("half of the channels, in eights: parameters", "fxpress", "Torch-Pruning"), cases),
        readme.markdown(("half of the heads", "fxpress", "Torch-Pruning"), attempts),
    )
    found = "\n\n".join((*tables, words))
    print(found)
    if options.write:
        readme.write("torch-pruning", found)


if __name__ == "__main__":
    main()
