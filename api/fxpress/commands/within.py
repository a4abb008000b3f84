"""``fxpress compress MODEL --budget ... --floor ...`` or ``--plan ...``: no recipe; the allocator chooses, or chose."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fxpress_ir.errors import ArtifactError, PassError, PipelineError
from rich.console import Console

from .terminal import Tell, print_json

if TYPE_CHECKING:
    from ..joint.within import Within


@dataclass(frozen=True)
class Asked:
    """What the command line says beside the model and the folder."""

    budgets: Sequence[str]
    floors: Sequence[str]
    targets: Sequence[str]
    calibration: str | None
    seed: int | None
    sizes: Mapping[str, int]

    @property
    def target(self) -> str:
        """The one target.

        Raises:
            PipelineError: there is none, or more.
        """
        if len(self.targets) != 1:
            what = f"{len(self.targets) or 'no'} targets"
            raise PipelineError(what, where="compress", way_on="what is measured is measured on one: give --target once")
        return self.targets[0]


def compress_within(model: str, out: Path, asked: Asked, progress: Tell | None) -> Within:
    """Search, build and measure."""
    from ..data import Data
    from ..joint.built import How
    from ..joint.goal import budgets, floor
    from ..joint.within import compress_within as run
    from ..model_source import open_model

    limits, least, target = budgets(asked.budgets), floor(asked.floors), asked.target
    data = None if asked.calibration is None else Data(asked.calibration)
    how = How(seed=asked.seed or 0, sizes=asked.sizes)
    return run(open_model(model), limits, least, target, out, data, how, progress)


def replayed(model: str, out: Path, asked: Asked, plan: Path, progress: Tell | None = None) -> Path:
    """The artifact's folder of what a plan says."""
    from ..data import Data
    from ..joint.plan import JointPlan
    from ..joint.within import replay
    from ..model_source import open_model

    target = asked.target
    try:
        text = plan.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise PipelineError(f"cannot be read: {why}", where=f"plan {str(plan)!r}", way_on="name what --budget wrote") from error
    data = None if asked.calibration is None else Data(asked.calibration)
    return replay(open_model(model), JointPlan.from_json(text), target, out, data, asked.seed, progress).folder


def write_fronts(done: Within) -> list[str]:
    """A JSON file for each budget beside the artifact, and a picture where matplotlib is installed; their names, or why there is none."""
    from fxpress_passes.allocate import picture

    written, place = [], done.artifact.folder
    for resource, swept in done.fronts.items():
        file = place.with_name(f"{place.name}.pareto-{resource}.json")
        try:
            file.write_text(swept.to_json(), encoding="utf-8")
            title = f"{done.artifact.target}: predicted loss over {resource}"
            measured = done.found.measured[resource]
            drawn = picture(swept, file.with_suffix(".svg"), chosen=done.predicted, measured=measured, title=title)
        except PassError as error:
            written += [str(file), f"({error.what}; {error.way_on})"]
        except OSError as error:
            raise ArtifactError(
                f"cannot be written: {error.strerror}", where=f"front {str(file)!r}", way_on="name another folder"
            ) from error
        else:
            written += [str(file), str(drawn)]
    return written


def show_json(done: Within) -> None:
    """The figures for machines; `accuracy` is the change in points, as floors are written."""
    from ..joint.within import plan_file

    latency = done.latency_ratio
    before, after = done.accuracy or (None, None)
    found: dict[str, Any] = {
        "held": done.held,
        "target": done.artifact.target,
        "folder": str(done.artifact.folder),
        "same_bits": done.same_bits,
        "size_ratio": done.size_ratio,
        "latency_ratio": None if latency is None else latency.median,
        "latency_interval": None if latency is None else [latency.low, latency.high],
        "accuracy": done.points,
        "accuracy_before": before,
        "accuracy_after": after,
        "size_bytes": done.artifact.payload_size,
        "float_bytes": done.float_size,
        "predicted": dict(done.found.answer.costs),
        "broken": list(done.found.broken),
        "floor": done.floor,
        "plan": json.loads(done.plan.to_json()),
        "plan_file": str(plan_file(done.artifact.folder)),
        "refusals": list(map(asdict, done.refusals)),
        "report": str(done.report),
    }
    print_json(found)


def show(done: Within, written: Sequence[str]) -> None:
    """What was chosen, what could not be, and the figures."""
    from ..joint.refusals import lines
    from ..joint.within import plan_file

    console = Console()

    def line(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    line(str(done.plan))
    line("")
    if done.refusals:
        line("\n".join(lines(done.refusals)))
        line("")
    line(str(done.report))
    line("")
    line(str(done.found))
    line(f"\nsize {done.size_ratio:.3f} of the float weights' {done.float_size / 1e3:.1f} kB")
    if done.latency_ratio is not None:
        line(f"latency {done.latency_ratio} of the float model's on onnx:float")
    if done.accuracy is not None:
        before, after = done.accuracy
        line(f"accuracy {100 * before:.2f} -> {100 * after:.2f} %, {done.points:+.2f} points")
    if done.same_bits is not None:
        line(f"same bits as the program: {'yes' if done.same_bits else 'NO'}")
    for name in done.found.broken:
        ratio = done.size_ratio if name == "size" or done.latency_ratio is None else done.latency_ratio.median
        line(f"MISSED: {name} is above its budget as measured; {name}={ceil(1000 * ratio) / 1000:g}x is the nearest that was built")
    if done.floor_missed:
        line(f"MISSED: accuracy {done.points:+.2f} points, {done.floor:+.2f} asked at least; raise a budget")
    line(f"written: {', '.join(map(str, [done.artifact.folder, plan_file(done.artifact.folder), *written]))}")
