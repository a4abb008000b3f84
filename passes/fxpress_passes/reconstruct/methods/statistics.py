"""s ==> s * sigma / sigma_q: results vary as much as those of the float layer, channel by channel."""

from __future__ import annotations

import torch

from .task import Learnt, Task


class Statistics:
    """Batch norm's statistics re-estimated where the norm is folded (para-normalisation, Hubara et al. 2021, section 3.4).

    y = sigma * (y_q - mu_q) / sigma_q + mu: the factor goes into the weight's scales, the means into the bias.
    """

    name, falls, moves = "statistics", False, True

    def learn(self, task: Task) -> Learnt:
        """The same integers on other scales; a channel that does not vary keeps its own."""
        codes = task.codes
        wanted = task.matrix.collect(task.error.spread)
        found = task.matrix.collect(task.error.spread_of(codes * task.steps))
        factor = torch.where((wanted > 0) & (found > 1e-12 * wanted), (wanted / found).sqrt(), 1.0)
        return Learnt(codes, task.scales * factor if task.free else task.scales)
