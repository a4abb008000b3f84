"""program ==> seconds of each of its fused groups on a target: remembered by signature, or measured where they stand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fxpress_backends.artifact import Artifact
from fxpress_backends.profile import RUNTIME, profile, signatures
from fxpress_backends.registry import find
from fxpress_backends.work import sizes_at
from fxpress_ir import Program
from fxpress_ir.errors import BackendError

from .cache import Cache, Times, cache_folder
from .machine import conditions
from .work import Measure, Work

Group = tuple[tuple[str, ...], str, float]
"""Names of the nodes, signature, seconds."""
Groups = tuple[tuple[tuple[str, ...], str], ...]
"""Names of the nodes and signature."""


@dataclass(frozen=True, eq=False)
class GroupCosts:
    """What a run takes, group by group.

    Attributes:
        target, threads: where it was measured.
        sizes: of all dynamic dimensions.
        groups: (nodes, signature, seconds), in the backend's order; last, without nodes, what the runtime takes itself.
        works: of each group; None for the runtime's own.
        by_node: seconds of each node that computes something: of each of its groups a share by multiply-accumulates, all to the
            node with most elements where there are none. What the runtime takes itself is nobody's.
    """

    target: str
    threads: int
    sizes: Mapping[str, int]
    groups: tuple[Group, ...]
    works: tuple[Work | None, ...]
    by_node: dict[str, float]

    @property
    def seconds(self) -> float:
        """Of one run."""
        return sum(seconds for _, _, seconds in self.groups)


class MeasuredCosts:
    """Seconds of programs on a target at given sizes.

    A program whose groups were all measured before, in it or in others, on this machine with as many threads and the same versions,
    is not run; any other is profiled once as a whole, and its groups are remembered.

    Args:
        target: as of `lower`.
        sizes: of dynamic dimensions, by name; the least that a program takes unless given.
        threads: of the runtime.
        cache: the folder of what was measured; the user's own by default (`cache_folder`).
        repeats: runs of a profile.

    Raises:
        BackendError: the target is unknown or does not run here.
    """

    def __init__(
        self, target: str, sizes: Mapping[str, int] | None = None, *, threads: int = 2, cache: Path | None = None, repeats: int = 30
    ) -> None:
        if not find(target)[1].runs_here:
            raise BackendError("this machine does not run it", where=f"target {target!r}", way_on="measure on a machine of its kind")
        self.target, self.sizes, self.threads, self._repeats = target, dict(sizes or {}), threads, repeats
        self._cache = Cache(cache or cache_folder(), conditions(target, threads))

    def of(self, program: Program) -> GroupCosts:
        """The costs of a program.

        Raises:
            BackendError: the target cannot take the program, or its kernels cannot be told apart.
            BenchError: the process that runs it failed.
            ArtifactError: the file of measured costs is damaged or cannot be written.
        """
        at, groups = self._groups(program)
        times = self._cache.times()
        if not times.knows(signature for _, signature in groups):
            times = self._profiled(program, at)
        return self._costs(program, at, groups, times)

    def measure(self, program: Program, artifact: Artifact | None = None) -> GroupCosts:
        """As `of`, but the program is profiled in any case, and times are medians over this and what was known.

        Processes differ by some percent in all of their runs, so that several profiles tell more than a longer one.

        Args:
            artifact: the program's on this target, where it is lowered already.
        """
        at, groups = self._groups(program)
        return self._costs(program, at, groups, self._profiled(program, at, artifact))

    def _groups(self, program: Program) -> tuple[dict[str, int], Groups]:
        at = sizes_at(program, self.sizes, f"target {self.target!r}")
        return at, signatures(program, self.target, at)

    def _profiled(self, program: Program, at: Mapping[str, int], artifact: Artifact | None = None) -> Times:
        kernels = profile(program, self.target, sizes=at, threads=self.threads, repeats=self._repeats, artifact=artifact)
        return self._cache.add(kernels)

    def _costs(self, program: Program, at: Mapping[str, int], groups: Groups, times: Times) -> GroupCosts:
        timed = [(nodes, signature, times.seconds(signature)) for nodes, signature in groups]
        runtime = times.runtime([signature for _, signature in groups])
        return costs_of(program, self.target, self.threads, at, (*timed, ((), RUNTIME, runtime)))


def costs_of(program: Program, target: str, threads: int, sizes: Mapping[str, int], groups: tuple[Group, ...]) -> GroupCosts:
    """Groups with their seconds ==> the costs, by node too."""
    measure = Measure(program, sizes)
    by_node = {node.name: 0.0 for node in program.graph.nodes if node.op == "call_function"}
    for nodes, _, seconds in groups:
        for name, share in measure.shares(nodes).items() if nodes else ():
            by_node[name] = by_node.get(name, 0.0) + share * seconds
    works = tuple(measure.work(nodes) if nodes else None for nodes, _, _ in groups)
    return GroupCosts(target, threads, dict(sizes), groups, works, by_node)
