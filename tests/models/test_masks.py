"""transformers' models with an attention mask as integer-only programs: rows padded right and left, the same bits on every target."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import fxpress as fx
import numpy as np
import pytest
import torch
from fxpress.quality import sqnr
from fxpress_ir import Program
from fxpress_ir.errors import RefusalError
from fxpress_ir.ops import arguments
from torch import Tensor, nn
from torch.export import Dim
from torch.nn.functional import scaled_dot_product_attention

from .architectures import architecture

_fxp = torch.ops.fxp
TARGETS = ("reference", "onnx:int", "onnx:qlinear")
CASES = (("bert", "sdpa"), ("gpt2", "eager"), ("llama", "sdpa"), ("qwen2", "eager"))
BUILT = {"llama": ("tvm:native",), "qwen2": ("tvm:x86-64",)}
"""What is lowered to TVM here: both hide later keys too."""
UNSEEN = {"sdpa": "zero", "eager": "mean"}
"""What a query that sees nothing gives: the fused operator's 0, or the mean that finfo.min leaves."""


class Masked(nn.Module):
    """The first output for ids and a mask."""

    def __init__(self, model: nn.Module, attention: str) -> None:
        super().__init__()
        self.model = model
        self.model.config._attn_implementation = attention

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        output: Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask)[0]
        return output


def padded(batch: int, length: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Ids, and a mask that hides the last ones of all rows but the first; each keeps one."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 100, (batch, length), generator=generator)
    kept = torch.randint(1, length, (batch, 1), generator=generator)
    kept[0] = length if batch > 1 else length // 2
    return ids, (torch.arange(length) < kept).long()


def left_padded(batch: int, length: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """As `padded`, with the first ones hidden: in causal order these see nothing. With more rows than two the last one is all hidden."""
    ids, mask = padded(batch, length, seed)
    mask = mask.flip(1)
    mask[2:3] = 0
    return ids, mask


@cache
def _quantized(name: str, attention: str) -> tuple[Program, Program]:
    model, _ = architecture(name)
    sizes = {0: Dim("batch"), 1: Dim("seq", min=2, max=64)}
    shapes = {"input_ids": sizes, "attention_mask": sizes}
    program = fx.capture(Masked(model, attention).eval(), padded(2, 12), dynamic_shapes=shapes)
    pipeline = fx.Pipeline.parse("fold-batch-norm, quantize-dyadic{integer_only=true}")
    batches = [made(4, 12, seed) for seed in range(2) for made in (left_padded, padded)]
    return program, pipeline.run(program, calibration=batches).program


@pytest.mark.parametrize(("name", "attention"), CASES)
def test_the_same_bits_at_two_batch_sizes_and_two_lengths(name: str, attention: str, tmp_path: Path) -> None:
    program, integer = _quantized(name, attention)
    assert integer.stage == "integer"
    calls = integer.graph.find_nodes(op="call_function", target=_fxp.attention.default)
    assert len(calls) == 2
    assert {integer.shape_of(arguments(call)["mask"]) for call in calls} == {("batch", 1, 1, "seq")}
    assert all(arguments(call)["causal"] is (name != "bert") for call in calls)
    assert all(arguments(call)["unseen"] == UNSEEN[attention] for call in calls)
    targets = (*TARGETS, *BUILT.get(name, ()))
    artifacts = {target: fx.lower(integer, target, out=tmp_path / target.replace(":", "-")) for target in targets}
    for batch, length in ((1, 12), (3, 12), (1, 20), (3, 20)):
        for inputs in (padded(batch, length, 100 + batch), left_padded(batch, length, 100 + batch)):
            _check_equal(integer, artifacts, *inputs)
            wanted, found = program.run(*inputs)[0], integer.run(*inputs)[0]
            assert sqnr(wanted, found) >= 30
            hidden = inputs[1] == 0
            assert sqnr(wanted[hidden], found[hidden]) >= 30
    # queries that see no key: those of a row that is hidden altogether, and the first ones that padding from the left hides
    _check_equal(integer, artifacts, inputs[0][:, :9], (torch.arange(9) >= torch.tensor([[0], [4], [9]])).long())


def _check_equal(program: Program, artifacts: Mapping[str, fx.Artifact], *inputs: Tensor) -> None:
    (expected,) = program.run(*inputs)
    for target, artifact in artifacts.items():
        assert np.array_equal(artifact.run(*inputs)[0], expected.numpy()), target


def test_transformers_leaves_queries_that_see_nothing_to_the_kernel() -> None:
    """It makes no key visible to them: the two ways to compute attention differ in such rows, and in no other."""
    ids, mask = left_padded(3, 9, 1)
    with torch.no_grad():
        fused, written = (Masked(architecture("llama")[0], attention).eval()(ids, mask) for attention in ("sdpa", "eager"))
    torch.testing.assert_close(fused[mask == 1], written[mask == 1])
    differ = (fused - written).abs().amax(-1) > 1e-4
    first = mask.argmax(1, keepdim=True)
    assert torch.equal(differ, (mask == 0) & ((torch.arange(9) < first) | (mask.sum(1, keepdim=True) == 0)))


class Added(nn.Module):
    """Attention of two heads over [batch, seq, 16] with a mask that is added as -10000, as the first BERT did."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList(nn.Linear(16, 16) for _ in range(4))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = (part(x).unflatten(-1, (2, 8)).transpose(1, 2) for part in list(self.parts)[:3])
        scores = q @ k.transpose(-1, -2) / 8**0.5 + (1.0 - mask[:, None, None].float()) * -10000.0
        result: Tensor = self.parts[3]((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
        return result


def test_what_gets_minus_10000_everywhere_is_not_masked(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {0: Dim("batch"), 1: Dim("seq", min=2, max=64)}

    def inputs(batch: int, length: int, seed: int) -> tuple[Tensor, Tensor]:
        x = 2 * torch.randn(batch, length, 16, generator=torch.Generator().manual_seed(seed))
        return x, left_padded(batch, length, seed)[1]

    program = fx.capture(Added().eval(), inputs(2, 12, 0), dynamic_shapes={"x": sizes, "mask": sizes})
    pipeline = fx.Pipeline.parse("quantize-dyadic{integer_only=true}")
    integer = pipeline.run(program, calibration=[inputs(4, 12, seed) for seed in range(3)]).program
    (call,) = integer.graph.find_nodes(op="call_function", target=_fxp.attention.default)
    assert arguments(call)["unseen"] == "unmasked"
    x, mask = inputs(3, 10, 7)
    wanted, found, alone = program.run(x, mask)[0], integer.run(x, mask)[0], integer.run(x, torch.ones_like(mask))[0]
    assert torch.equal(found[2], alone[2])
    assert sqnr(wanted[2], found[2]) >= 25
    assert not torch.equal(found[1], alone[1])
    _check_equal(integer, {target: fx.lower(integer, target, out=tmp_path / target.replace(":", "-")) for target in TARGETS}, x, mask)


class Fused(Added):
    """The same with a mask [batch, 1, seq, seq] of floats for the fused operator."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = (part(x).unflatten(-1, (2, 8)).transpose(1, 2) for part in list(self.parts)[:3])
        result: Tensor = self.parts[3](scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).flatten(2))
        return result


def test_a_mask_of_floats_that_is_an_input_is_refused_by_name_or_stays_in_floats() -> None:
    torch.manual_seed(0)
    x, mask = torch.randn(4, 6, 16), torch.zeros(4, 1, 6, 6)
    mask[1, ..., :2] = torch.finfo(torch.float32).min
    sizes = {0: Dim("batch")}
    program = fx.capture(Fused().eval(), (x, mask), dynamic_shapes={"x": sizes, "mask": sizes})
    message = "an input is added to its scores as floats, not as a boolean or integer mask; rewrite it, or allow float islands"
    with pytest.raises(RefusalError, match=message):
        fx.Pipeline.parse("quantize-dyadic{integer_only=true}").run(program, calibration=[(x, mask)])
    mixed = fx.Pipeline.parse("quantize-dyadic").run(program, calibration=[(x, mask)]).program
    assert mixed.stage == "mixed"
    assert sqnr(*program.run(x, mask), *mixed.run(x, mask)) >= 25


def test_what_is_hidden_changes_nothing_that_is_seen() -> None:
    _, integer = _quantized(*CASES[0])
    ids, mask = padded(3, 9)
    others = torch.where(mask == 1, ids, (ids + 1) % 100)
    found, other = (integer.run(given, mask)[0] for given in (ids, others))
    assert torch.equal(found[mask == 1], other[mask == 1])
    assert not torch.equal(found, other)
