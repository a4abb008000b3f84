"""conv -> ... -> conv ==> the same on fewer channels: those that matter least leave every tensor that is tied to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .structured import Structured


@dataclass(frozen=True)
class PruneChannels(Structured):
    """Remove channels of convolutions, with the residual streams that tie them, and hidden units of MLPs.

    Before or after `fold-batch-norm`. Batch norms that are there see other inputs afterwards: prune-channels,
    reestimate-batch-norm, fold-batch-norm is the order, and the report says so where nothing measures them anew. Folded already,
    correct-bias takes part of the error away.

    Options:
        ratio: the share of each group's atoms that leaves; where residual connections tie several layers, a group is all of them.
        align: what stays is a multiple of it, one block at least; a group of one block or less stays whole.
        scope: ``layer``: `ratio` of each group; ``global``: of all atoms, the lowest scores first.
        score: ``magnitude`` (L2 of all that makes or reads an atom), ``activation`` (Minitron, M25), ``taylor``, ``fisher``,
            ``trajectory`` (OPTIN, M91), ``order`` (the first stay, a slice of nested weights: MatFormer, M64), ``random``; the
            second to the fifth measure on calibration data.
        macs, parameters: in place of `ratio`, the share of the program's MACs (or elements of tensors) that may stay; the
            smallest ratio that does it is found by bisection.
        time: the same of its time on the target by `latency` (the upper end of the 95 % interval, where that has one), which is
            measured some eight times.
        loss: of (outputs, inputs), for ``taylor`` and ``fisher``; None for the outputs' cross-entropy with their own argmax.
        latency: program ==> seconds on the target, ``fx.latency_on(target)``; None for the pipeline's. Where the pruned program is
            not found faster, it stays whole and the report says so. Without it nothing is claimed about time.
        plan: what `decide` made for this very program, perhaps edited; nothing is scored then.

    Raises:
        PassError: an option has no meaning; a score is NaN; the budget cannot be reached.
        CalibrationError: the score needs data and has none, or they do not fit.
        ProgramError: the plan was made for another program.
    """

    name: ClassVar[str] = "prune-channels"
    kind: ClassVar[str] = "channels"
    alike: ClassVar[tuple[str, ...]] = ("width",)
