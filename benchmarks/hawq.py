"""HAWQ-V3's published ResNet-18 schemes against those that the allocator finds, and how long each solver takes.

Run: ``python benchmarks/hawq.py`` (needs no extra; one thread). Losses, bytes, bit operations and latencies are the notebook's;
times are medians, without the building of the problem.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from statistics import median
from typing import Any

import readme
from fxpress_passes.allocate import Choice, Dynamic, Greedy, Milp, Problem, Solver, Unit, tie

DATA: dict[str, Any] = json.loads((Path(__file__).parents[1] / "tests/passes/allocate/hawq_resnet18.json").read_text())
HEAD = ("budget", "bits of the 19 convolutions", "published", "loss", "gap", "milp, ms", "dynamic, ms", "greedy, ms", "greedy's loss")
SOLVERS: tuple[Solver, ...] = (Milp(), Dynamic(), Greedy())
REPEATS = 20


def problem() -> Problem:
    """Mean trace times perturbation of 4 or 8 bits; sizes in bytes, latencies in seconds; tied, without a budget."""
    layers = DATA["layers"]
    units = tuple(Unit(name, (_choice(place, 8), _choice(place, 4))) for place, name in enumerate(layers))
    return tie(Problem(units), [[layers[place] for place in places] for places in DATA["ties"]])


def under(free: Problem, budget: str) -> Problem:
    """``size_0.75``: the most is that of 4 bits and 0.75 of what 8 bits take more."""
    resource, ratio = budget.split("_")
    low, high = (free.costs({unit.name: bits for unit in free.units})[resource] for bits in "48")
    return free.within({resource: low + float(ratio) * (high - low)})


def scheme(decisions: Any) -> str:
    """The bits of all layers, in order."""
    return "".join(decisions[name] for name in DATA["layers"])


def _choice(place: int, bits: int) -> Choice:
    costs = {
        "size": DATA["parameters"][place] * bits / 8,
        "bops": float(DATA["macs"][place] * bits * bits),
        "latency": DATA[f"latency_ms_{bits}bit"][place] / 1e3,
    }
    return Choice(str(bits), DATA["mean_hessian_trace"][place] * DATA[f"weight_perturbation_{bits}bit"][place], costs)


def row(budget: str, repeats: int = REPEATS) -> tuple[str, ...]:
    """What the solvers find under one budget, and the milliseconds that each takes."""
    posed = under(problem(), budget)
    best, *_, greedy = answers = [solver.solve(posed) for solver in SOLVERS]
    assert answers[1].loss == best.loss, "dynamic programming and MILP disagree"
    assert best.gap is not None
    found = scheme(best.decisions)
    same = "the same" if found == DATA["published"][budget] else DATA["published"][budget]
    times = [f"{median(_milliseconds(solver, posed) for _ in range(repeats)):.1f}" for solver in SOLVERS]
    return budget.replace("_", " "), found, same, f"{best.loss:.4f}", f"{best.gap:g}", *times, f"{greedy.loss / best.loss - 1:+.1%}"


def _milliseconds(solver: Solver, posed: Problem) -> float:
    start = time.perf_counter()
    solver.solve(posed)
    return 1e3 * (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="put the table into README.md")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    options = parser.parse_args()
    table = readme.markdown(HEAD, [row(budget, options.repeats) for budget in DATA["published"]])
    print(table)
    if options.write:
        readme.write("hawq", table)


if __name__ == "__main__":
    main()
