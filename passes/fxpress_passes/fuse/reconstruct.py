"""module, the values that it should give, batches ==> its trained tensors: Adam under a cosine on the relative squared error."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from fxpress_ir.errors import PassError
from torch import Tensor, fx
from torch.func import functional_call

from .injected import Free, Injected

CLIP = 1.0
"""The largest norm of all gradients together."""
Batch = tuple[Tensor, ...]


def reconstruct(
    module: fx.GraphModule,
    wanted: fx.GraphModule,
    trained: Mapping[str, Injected | Free],
    batches: Callable[[], Iterable[Batch]],
    steps: int,
    rate: float,
    done: Callable[[int], None],
) -> Mapping[str, Tensor]:
    """What the module's tensors are after `steps` of one batch each, by name, without gradients.

    Args:
        module, wanted: return a tuple of one tensor each, of one shape.
        trained: the tensors of `module` that may move, by name.
        batches: gives the data from the beginning, as often as they are asked for.
        rate: the first learning rate; it falls to zero along half a cosine.
        done: told the steps done.

    Raises:
        PassError: the error is NaN or infinite.
    """
    leaves = [leaf for item in trained.values() for leaf in item.leaves]
    optimizer = torch.optim.Adam(leaves, lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    data = _endless(batches)
    for step in range(steps):
        batch = next(data)
        with torch.no_grad():
            (goal,) = wanted(*batch)
        with torch.enable_grad():
            (found,) = functional_call(module, {name: item.value() for name, item in trained.items()}, batch)
            loss = (found - goal).square().sum() / goal.square().sum().clamp_min(1e-30)
            if not bool(loss.isfinite()):
                raise PassError(f"the error is {float(loss.detach())} at step {step}", where="fuse-blocks", way_on="a lower rate")
            optimizer.zero_grad()
            loss.backward()
        torch.nn.utils.clip_grad_norm_(leaves, CLIP)
        optimizer.step()
        schedule.step()
        done(step + 1)
    with torch.no_grad():
        return {name: item.value().detach().clone() for name, item in trained.items()}


def _endless(batches: Callable[[], Iterable[Batch]]) -> Iterator[Batch]:
    while True:
        yield from batches()
