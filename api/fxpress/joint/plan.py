"""JointPlan: which atoms stay, which blocks leave, at which ranks and bits; it replays without the search, and is JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from fxpress_ir import Program
from fxpress_ir.analysis.blocks import Block, residual_blocks
from fxpress_ir.errors import PassError
from fxpress_ir.slicing import remove_blocks, slice_atoms
from fxpress_passes import Context, Factorize
from fxpress_passes.evidence import Calibration
from fxpress_passes.evidence.state import Run
from fxpress_passes.factorize.plan import RankPlan, Split

_WHERE, _GIVE = "plan", "give what --budget or JointPlan.to_json wrote"


@dataclass(frozen=True)
class JointPlan:
    """What was decided for one prepared program, apart from doing it.

    Attributes:
        program_hash: `Program.hash` of the prepared program.
        seed: of training and of all else that is random; another one gives other weights.
        calibration: `digest_of` the data, on which factors, ranges and training depend.
        keep: the atoms that stay of each group that shrinks, as `fxpress_ir.slicing.Plan` has them.
        remove: blocks that leave, by the names of their input's and output's node.
        ranks: of layers that become two, by their names after the two above.
        bits: ``w4a8`` by layers' names after all of it, as `place-quantizers` takes them; layers not named have 8.
        steps: of training on the float model's outputs, before quantisers are placed.
    """

    program_hash: str
    seed: int
    calibration: str
    keep: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    remove: tuple[tuple[str, str], ...] = ()
    ranks: Mapping[str, int] = field(default_factory=dict)
    bits: Mapping[str, str] = field(default_factory=dict)
    steps: int = 0

    @property
    def changes_structure(self) -> bool:
        """Whether more than bits changes, so that training on the way is worth while."""
        return bool(self.keep or self.remove or self.ranks)

    @property
    def entries(self) -> tuple[str, ...]:
        """The option ``bits`` of `place-quantizers` and `quantize-dyadic`."""
        return tuple(f"{name}={precision}" for name, precision in self.bits.items())

    def cut(self, program: Program, context: Context) -> Program:
        """The float program without what leaves, layers in two where ranks say so; quantisers are placed later, by `entries`.

        Args:
            context: the seed and the calibration data; factors are those of least error on it.

        Raises:
            PassError: the plan was made for another program, with another seed or other data, or names what the program has not.
            CalibrationError: there are no data.
        """
        self.check_seed(context.seed)
        if program.hash != self.program_hash:
            what = f"was made for program {self.program_hash[:12]}, this one is {program.hash[:12]}"
            raise PassError(what, where=_WHERE, way_on="give the same model, or search again")
        data = digest_of(context.evidence.calibration, program)
        if data != self.calibration:
            what = f"was made on calibration data {self.calibration[:12]}, these are {data[:12]}"
            raise PassError(what, where=_WHERE, way_on="give the same batches in the same order, or search again")
        return self.factorized(self.sliced(program), context)

    def check_seed(self, seed: int) -> None:
        """Raises a PassError where the plan was made with another seed."""
        if seed != self.seed:
            raise PassError(f"was made with seed {self.seed}, not {seed}", where=_WHERE, way_on="leave the seed out, or search again")

    def sliced(self, program: Program) -> Program:
        """Without the atoms and the blocks that leave."""
        sliced = slice_atoms(program, self.keep) if self.keep else program
        if not self.remove:
            return sliced
        # of the whole program: where layers shrink to different sizes, other rows of blocks repeat
        known = {block.names for block in residual_blocks(program)}
        unknown = next((names for names in self.remove if names not in known), None)
        if unknown is not None:
            raise PassError(f"there is no block {' ==> '.join(unknown)}", where=_WHERE, way_on="search again")
        nodes = {node.name: node for node in sliced.graph.nodes}
        return remove_blocks(sliced, [Block(nodes[start], nodes[end], ()) for start, end in self.remove])

    def factorized(self, sliced: Program, context: Context) -> Program:
        """What `sliced` gave, with layers in two."""
        if not self.ranks:
            return sliced
        splits = {name: Split("channel", (rank,), 0, 0) for name, rank in self.ranks.items()}
        return Factorize().cut(sliced, RankPlan(sliced.hash, splits), context)

    def to_json(self) -> str:
        """The plan as text; ``from_json`` reads it back."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> JointPlan:
        """The plan in a text.

        Raises:
            PassError: it is no JSON of such a plan.
        """
        try:
            found = json.loads(text)
            keep = {str(name): tuple(map(int, atoms)) for name, atoms in found["keep"].items()}
            remove = tuple((str(start), str(end)) for start, end in found["remove"])
            ranks = {str(name): int(rank) for name, rank in found["ranks"].items()}
            bits = {str(name): str(precision) for name, precision in found["bits"].items()}
            made = str(found["program_hash"]), int(found["seed"]), str(found["calibration"])
            return cls(*made, keep, remove, ranks, bits, int(found["steps"]))
        except KeyError as error:
            raise PassError(f"is no plan: it lacks {error}", where=_WHERE, way_on=_GIVE) from error
        except (ValueError, TypeError, AttributeError, OverflowError) as error:
            raise PassError(f"is no plan: {error}", where=_WHERE, way_on=_GIVE) from error

    def __str__(self) -> str:
        lines = [f"{name}: {len(atoms)} stay" for name, atoms in self.keep.items()]
        lines += [f"{start} ==> {end} leaves" for start, end in self.remove]
        lines += [f"{name}: rank {rank}" for name, rank in self.ranks.items()]
        lines += [f"{name}: {precision}" for name, precision in self.bits.items()]
        return "\n".join([*lines, *([f"{self.steps} steps of training"] if self.steps else [])])


def digest_of(data: Calibration, program: Program) -> str:
    """A SHA-256 over all batches in their order, as kept measurements are told apart by; reads them all.

    Raises:
        CalibrationError: they do not fit the program.
    """
    run = Run()
    for batch in data.batches(program):
        run = run.then(batch)
    return run.digest
