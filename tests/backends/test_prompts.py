"""A Llama with a prefix or a prompt of PEFT's: its vectors are constants of an integer program, the same bits on every target."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path

import fxpress as fx
import numpy as np
import peft
import pytest
import torch
from fxpress_ir import Program
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

VIRTUAL, VOCABULARY = 4, 50
CONFIGS: dict[str, Callable[[], peft.PeftConfig]] = {
    "prefix": lambda: peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=VIRTUAL),
    "prompt": lambda: peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=VIRTUAL),
}
TARGETS = ("reference", "onnx:int", "onnx:qlinear", "tvm:x86-64", "tvm:native")
QUICK = {("prefix", "tvm:native"), *((kind, target) for kind in CONFIGS for target in TARGETS[:3])}
PAIRS = [
    pytest.param(kind, target, marks=[] if (kind, target) in QUICK else pytest.mark.slow) for kind in CONFIGS for target in TARGETS
]  # slow: TVM builds a network each


class Logits(nn.Module):
    """Tokens [batch, seq] ==> their logits, those of virtual tokens in front where there are any."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        result: Tensor = self.model(input_ids=tokens, use_cache=False).logits
        return result


def tokens(batch: int, length: int, seed: int) -> Tensor:
    return torch.randint(0, VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(seed))


@cache
def model(kind: str) -> nn.Module:
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "max_position_embeddings": 32}
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        base = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2))
        return Logits(peft.get_peft_model(base, CONFIGS[kind]())).eval()


@cache
def captured(kind: str) -> Program:
    shapes = {"tokens": {0: fx.Dim("batch"), 1: fx.Dim("seq", min=2, max=16)}}
    return fx.capture(model(kind), (tokens(2, 8, 0),), dynamic_shapes=shapes)


@cache
def quantized(kind: str) -> Program:
    batches = [(tokens(8, 8, seed),) for seed in range(4)]
    return fx.Pipeline.parse("quantize-dyadic{integer_only=true}").run(captured(kind), calibration=batches).program


@pytest.mark.parametrize("kind", CONFIGS)
def test_its_vectors_are_constants(kind: str) -> None:
    """Once what sizes decide is a constant, tokens alone are looked up."""
    folded = fx.Pipeline.parse("remove-noops, remove-empty, fold-constants, fold-positions").run(captured(kind)).program
    assert [node.args[1].name for node in folded.graph.find_nodes(op="call_function", target=torch.ops.aten.embedding.default)] == [
        "tokens"
    ]
    assert all(tensor.numel() for tensor in folded.tensors.values())
    for batch, length in ((1, 3), (3, 8)):
        x = tokens(batch, length, 7)
        with torch.no_grad():
            assert torch.equal(folded.run(x)[0], model(kind)(x))


@pytest.mark.parametrize(("kind", "target"), PAIRS)
def test_the_same_bits(kind: str, target: str, tmp_path: Path) -> None:
    program = quantized(kind)
    assert program.stage == "integer"
    assert not program.islands
    artifact = fx.lower(program, target, out=tmp_path / "model")
    for batch, length in ((1, 3), (3, 8)):
        x = tokens(batch, length, 9)
        assert np.array_equal(artifact.run(x.numpy())[0], program.run(x)[0].numpy())
