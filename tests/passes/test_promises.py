"""One test holds every pass to its promise, the house's and a third party's: alone, and in every pair that may run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import ClassVar

import pytest
import torch
from encoder import encoder_program
from float_programs import BATCHES, captured, measured, sample, sequence_program, untouched
from fusible import fusible_program
from fxpress_ir import Program, verify
from fxpress_ir.errors import PassError, PipelineError
from fxpress_passes import (
    PASSES,
    AllocateBits,
    Close,
    Compensate,
    ComposeLinear,
    ComposeMasks,
    ComposeRmsNorm,
    Context,
    CorrectBias,
    DecomposeAttention,
    DecomposeIndex,
    DecomposePool1d,
    DecomposeRoll,
    DecomposeUnflatten,
    EliminateDeadCode,
    Equalize,
    Exact,
    Factorize,
    FoldAdapters,
    FoldBatchNorm,
    FoldConstants,
    FoldFirstToken,
    FoldPositions,
    FuseAffine,
    FuseBlocks,
    FuseLinear,
    FusePad,
    FuseParallel,
    FuseParallelInteger,
    Lossy,
    NoisyBias,
    Pass,
    PlaceQuantizers,
    PowerOfTwoFactors,
    Promise,
    PruneBlocks,
    PruneChannels,
    PruneHeads,
    PruneWidth,
    QuantizeDyadic,
    Reconstruct,
    Recover,
    ReestimateBatchNorm,
    RemoveEmpty,
    RemoveNoops,
    Rotate,
    SeparateMasks,
    ShareBlocks,
    Sparsify,
    ToInteger,
)
from fxpress_passes.contract import difference
from fxpress_passes.pipeline import Pipeline, Report
from stretched import ClassToken

_aten = torch.ops.aten


@dataclass(frozen=True)
class SwapAdds(Pass):
    """x + y ==> y + x: a third party's pass, which the house does not know."""

    name: ClassVar[str] = "swap-adds"
    promise: ClassVar[Promise] = Exact()

    def apply(self, program: Program, context: Context) -> Program:
        edit = program.edit()
        for node in edit.graph.find_nodes(op="call_function", target=_aten.add.Tensor):
            node.args = node.args[::-1]
        return edit.finish()


DECOMPOSED = (DecomposeIndex(), DecomposeUnflatten(), DecomposeRoll(), DecomposeAttention())
WRITTEN_OUT = (FoldPositions(), ComposeLinear(), ComposeRmsNorm(), *DECOMPOSED)
QUANTIZABLE = (
    RemoveNoops(),
    RemoveEmpty(),
    FoldConstants(),
    *WRITTEN_OUT,
    FoldBatchNorm(),
    DecomposePool1d(),
    ComposeMasks(),
    SeparateMasks(),
)
CASES: dict[type[Pass], tuple[Pass, ...]] = {
    RemoveNoops: (),
    RemoveEmpty: (),
    FoldConstants: (),
    EliminateDeadCode: (),
    FoldPositions: (),
    ComposeLinear: (),
    ComposeRmsNorm: (RemoveNoops(),),
    DecomposeIndex: (),
    DecomposeUnflatten: (),
    DecomposeRoll: (),
    DecomposeAttention: (),
    DecomposePool1d: (),
    ComposeMasks: (FoldPositions(), DecomposeAttention()),
    SeparateMasks: (FoldConstants(), FoldPositions(), DecomposeAttention()),
    Factorize: (RemoveNoops(), FoldConstants(), ComposeLinear()),
    PruneBlocks: (),
    FuseBlocks: (),
    ShareBlocks: (),
    PruneWidth: (),
    PruneHeads: (),
    PruneChannels: (),
    FoldAdapters: (),
    FoldBatchNorm: (),
    FuseAffine: (),
    FusePad: (),
    FuseLinear: (),
    FuseParallel: (),
    FuseParallelInteger: (*QUANTIZABLE, PlaceQuantizers(), ToInteger()),
    FoldFirstToken: (),
    Equalize: (),
    Rotate: (),
    NoisyBias: (),
    PowerOfTwoFactors: (),
    AllocateBits: QUANTIZABLE,
    PlaceQuantizers: QUANTIZABLE,
    ReestimateBatchNorm: (),
    Sparsify: (),
    Recover: (Sparsify(),),
    Reconstruct: (*QUANTIZABLE, PlaceQuantizers()),
    CorrectBias: (*QUANTIZABLE, PlaceQuantizers()),
    Compensate: (Sparsify(),),
    ToInteger: (*QUANTIZABLE, PlaceQuantizers()),
    QuantizeDyadic: QUANTIZABLE,
    SwapAdds: (),
}
"""For each pass, what has to run first on its net so that it has something to do."""
STRETCHED = {FoldFirstToken, PowerOfTwoFactors}
"""Passes whose net has a class token, and channels in front of a normalisation, that are far wider than the others; all other passes have
the sequence net."""
STRUCTURED = {PruneBlocks, FuseBlocks, ShareBlocks, PruneWidth, PruneHeads, PruneChannels}
"""Passes whose net has layers of attention and MLP on one stream: heads and widths that can shrink."""
FUSING = {FuseAffine, FusePad, FuseLinear, FuseParallel, FuseParallelInteger}
"""Passes whose net has layers in a row and beside each other, paddings and scales."""
PLACING = {"place-quantizers", "allocate-bits"}
"""Either stands for the other."""
HELD = (*PASSES, SwapAdds)
MEASURING = (
    *STRUCTURED,
    SwapAdds,
    Recover,
    Sparsify,
    Factorize,
    ReestimateBatchNorm,
    Reconstruct,
    CorrectBias,
    FoldFirstToken,
    Equalize,
    Rotate,
    NoisyBias,
    PowerOfTwoFactors,
)
"""Passes that always do something: they swap, they measure anew, or they remove a share of what is there."""


SHORT: dict[type[Pass], Pass] = {
    FuseBlocks: FuseBlocks(steps=3),
    Recover: Recover(steps=10),
    AllocateBits: AllocateBits(rounds=0),
    Reconstruct: Reconstruct(steps=5),
}
"""Passes that search or train at length, for as long as it takes to hold them to their promises."""


def _made(kind: type[Pass]) -> Pass:
    return SHORT.get(kind) or kind()


def _first(*kinds: type[Pass]) -> tuple[Pass, ...]:
    """What has to run before these passes, without themselves, in order and each once."""
    missing = [kind.name for kind in kinds if kind not in CASES]
    if missing:
        pytest.fail(f"{missing[0]} has no case in CASES: nothing holds it to its promise")
    own = {part.name for kind in kinds for part in kind().parts()}
    own |= PLACING if own & PLACING else set()
    found = dict.fromkeys(item for kind in kinds for item in CASES[kind] if item.name not in own)
    return tuple(sorted(found, key=lambda item: item.gives is not None))  # what takes floats comes before what ends them


@lru_cache
def _class_token_program() -> Program:
    return captured(ClassToken(), 2, 16)


def _net(*kinds: type[Pass]) -> Program:
    if STRETCHED & set(kinds):
        return _class_token_program()
    if STRUCTURED & set(kinds):
        return encoder_program()
    return fusible_program() if FUSING & set(kinds) else sequence_program()


@lru_cache
def _prepared(program: Program, first: tuple[Pass, ...]) -> Program:
    return Pipeline(first).run(program, calibration=_calibration(program)).program if first else program


@lru_cache
def _calibration(program: Program) -> list[tuple[torch.Tensor, ...]]:
    return [sample(program, 8, seed) for seed in range(4)]


def _context(program: Program, kind: type[Pass]) -> Context:
    """With data, and as if in a pipeline that began with the net."""
    context = measured(program)
    context.original = _net(kind)
    context.losses = ((_net(kind), program),)
    return context


def _check_held(before: Program, after: Program, promises: list[Promise]) -> None:
    """The loosest kind of promise holds; several of one kind add up, decibels as amplitudes of noise."""
    noise = sum(10 ** (-promise.floor / 20) for promise in promises if isinstance(promise, Lossy))
    rtol = sum(promise.rtol for promise in promises if isinstance(promise, Close))
    together: Promise = Lossy(-20 * math.log10(noise)) if noise else Close(rtol, "their sum") if rtol else Exact()
    for batch in BATCHES:
        inputs = sample(before, batch, seed=100)
        found = difference(before.run(*inputs), after.run(*inputs))
        assert together.held(found), f"promised {together}, found {found} at batch {batch}"


def _check_report(report: Report) -> None:
    assert all(step.promise_held in (True, None) for step in report.steps)
    assert all(step.promise_held for step in report.steps if step.fired)


@pytest.mark.parametrize("kind", HELD, ids=lambda kind: kind.name)
def test_a_pass_keeps_its_promise(kind: type[Pass]) -> None:
    program = _prepared(_net(kind), _first(kind))
    with untouched(program):
        result = _made(kind).apply(program, _context(program, kind))
    assert result is not program, "the net gives this pass nothing to do"
    verify(result)
    assert result.inputs == program.inputs
    assert result.stage == (kind.gives or program.stage)
    _check_held(program, result, [kind.promise])


@pytest.mark.parametrize("kind", HELD, ids=lambda kind: kind.name)
def test_a_pass_that_did_nothing_gives_the_same_object_back(kind: type[Pass]) -> None:
    program = _prepared(_net(kind), _first(kind))
    once = _made(kind).apply(program, _context(program, kind))
    if once.stage in kind.takes and kind not in MEASURING:
        assert kind().apply(once, Context()) is once


def _ordered(first: type[Pass], second: type[Pass]) -> bool:
    after = {name for part in first().parts() for name in part.after}
    return not after & {part.name for part in second().parts()}


def _takes(kind: type[Pass]) -> tuple[str, ...]:
    return kind().parts()[0].takes


PAIRS: list[tuple[type[Pass], type[Pass]]] = [(a, b) for a in HELD for b in HELD if a is not b]
ALLOWED = [(a, b) for a, b in PAIRS if _ordered(a, b) and any((a.gives or stage) in _takes(b) for stage in _takes(a))]
FORBIDDEN = [pair for pair in PAIRS if pair not in ALLOWED]


@pytest.mark.parametrize(("first", "second"), ALLOWED, ids=lambda kind: kind.name)
def test_a_pair_keeps_both_promises(first: type[Pass], second: type[Pass]) -> None:
    net = _net(first, second)
    program = _prepared(net, _first(first, second))
    result = Pipeline([_made(first), _made(second)]).run(program, calibration=_calibration(net))
    _check_report(result.report)
    verify(result.program)
    _check_held(program, result.program, [step.promise for step in result.report.steps])


@pytest.mark.parametrize(("first", "second"), FORBIDDEN, ids=lambda kind: kind.name)
def test_a_pair_in_a_wrong_order_is_an_error_before_anything_runs(
    first: type[Pass], second: type[Pass], monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in HELD:
        monkeypatch.setattr(kind, "apply", lambda *_: pytest.fail("a pass ran"))
    with pytest.raises(PipelineError):
        Pipeline([first(), second()]).run(sequence_program(), calibration=_calibration(sequence_program()))


def test_the_pairs_are_those_that_one_expects() -> None:
    forbidden = {(first.name, second.name) for first, second in FORBIDDEN}
    written_out = {"decompose-attention", "decompose-unflatten", "decompose-roll", "decompose-pool1d", "separate-masks"}
    composed = {"fold-positions", "compose-linear", "compose-rms-norm", "decompose-index", "compose-masks"}
    equalized = {"equalize", "rotate", "noisy-bias", "power-of-two-factors"}
    fused = {"fuse-affine", "fuse-pad", "fuse-linear", "fuse-parallel"}
    anywhere = {
        *("prune-blocks", "fuse-blocks", "share-blocks", "prune-width", "prune-heads", "prune-channels"),
        *("factorize", "sparsify"),
        *("remove-noops", "remove-empty"),
        "fold-constants",
        "fold-batch-norm",
        *fused,
        "swap-adds",
        "fold-first-token",
        *written_out,
        *composed,
        *equalized,
    }
    normal = {
        *(("compose-linear", "fold-constants"), ("compose-rms-norm", "remove-noops"), ("decompose-attention", "fold-positions")),
        *product({"decompose-pool1d"}, {"fold-constants", "fold-batch-norm", "compose-rms-norm"}),
        *product({"separate-masks"}, {"fold-constants", "decompose-attention", "compose-masks"}),
        *product({"compose-masks"}, {"fold-positions", "decompose-index", "decompose-attention"}),
    }
    normal |= {
        *product({"fuse-linear", "fuse-parallel"}, {"fold-constants", "compose-linear", "fold-batch-norm"}),
        *product({"fuse-affine"}, {"fold-constants", "compose-rms-norm"}),
    }
    normal |= {
        *product(equalized, {"fold-batch-norm", "fold-constants"}),
        *product({"fold-first-token"}, {"fold-batch-norm", "fold-constants"}),
    }
    normal |= {*product({"rotate", "noisy-bias", "power-of-two-factors"}, {"equalize"}), ("noisy-bias", "rotate")}
    normal |= {("power-of-two-factors", "rotate"), ("power-of-two-factors", "noisy-bias")}
    normal |= {("sparsify", "rotate"), *product({"to-integer", "quantize-dyadic"}, {"recover"})}
    placing = {*PLACING, "quantize-dyadic"}
    late = {*placing, "to-integer", "reconstruct", "correct-bias"}
    sums = {pair for pair in product(placing, placing) if pair[0] != pair[1]}
    backwards = {*product({"to-integer"}, placing), ("quantize-dyadic", "to-integer")}
    unquantized = set(product({*anywhere, "reestimate-batch-norm"}, {"to-integer", "reconstruct", "correct-bias"}))
    norms = {*product(late, {"reestimate-batch-norm"}), ("fold-batch-norm", "reestimate-batch-norm")}
    biases = set(product({"to-integer", "quantize-dyadic"}, {"reconstruct", "correct-bias", "compensate"})) | set(
        product({"reconstruct", "correct-bias", "compensate"}, placing)
    )
    biases |= {
        ("compensate", "correct-bias"),
        *product({"compensate", "correct-bias"}, {"reconstruct"}),
        *product({"to-integer", "quantize-dyadic"}, {"fold-adapters"}),
    }
    last, others = {"fuse-parallel-integer"}, {kind.name for kind in HELD} - {"fuse-parallel-integer", "eliminate-dead-code"}
    integers = {*product(last, others), *product(others - {"to-integer", "quantize-dyadic"}, last)}
    assert forbidden == {*product(late, anywhere), *sums, *backwards, *unquantized, *norms, *biases, *normal, *integers}


def test_a_new_pass_without_a_case_fails() -> None:
    @dataclass(frozen=True)
    class Fresh(Pass):
        name: ClassVar[str] = "fresh"
        promise: ClassVar[Promise] = Exact()

    with pytest.raises(pytest.fail.Exception, match="fresh has no case"):
        test_a_pass_keeps_its_promise(Fresh)


@dataclass(frozen=True)
class Liar(Pass):
    """Multiplies every ReLU's result by 1.001, whatever it promises."""

    name: ClassVar[str] = "liar"
    promise: ClassVar[Promise] = Exact()

    def apply(self, program: Program, context: Context) -> Program:
        edit = program.edit()
        for node in edit.graph.find_nodes(op="call_function", target=_aten.relu.default):
            with edit.graph.inserting_after(node):
                scaled = edit.call(_aten.mul.Tensor, node, 1.001)
            edit.replace(node, scaled)
        return edit.finish()


class Closer(Liar):
    promise: ClassVar[Promise] = Close(1e-4, "it says so")


class Honest(Liar):
    promise: ClassVar[Promise] = Lossy(30.0)


@pytest.mark.parametrize("kind", [Liar, Closer])
def test_a_third_partys_pass_that_lies_is_caught(kind: type[Pass]) -> None:
    with pytest.raises(PassError, match=r"^liar: promised (exact|close).* but outputs moved by 0\.00\d+ .*fault of the pass$"):
        Pipeline([kind()]).run(sequence_program(), calibration=_calibration(sequence_program()))


def test_the_same_change_under_a_promise_that_it_keeps_is_fine() -> None:
    step = Pipeline([Honest()]).run(sequence_program(), calibration=_calibration(sequence_program())).report.steps[0]
    assert step.promise_held
    assert step.against_previous is not None
    assert 30 < step.against_previous.sqnr < 80
