"""One command: a model's file and the folder that PEFT saved ==> integer artifacts of the adapted model."""

from __future__ import annotations

import copy
import json
import sys
import warnings
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import fxpress as fx
import numpy as np
import peft
import pytest
import torch
from fxpress.cli import main
from torch import Tensor, nn
from transformers import ViTConfig, ViTForImageClassification


class Logits(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        result: Tensor = self.model(pixels).logits
        return result


def images(count: int, seed: int) -> Tensor:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def saved(folder: Path) -> nn.Module:
    """A vision transformer in ``base.pt2``, its adapter in ``adapter`` and data in ``x.npz``; the adapted model."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24, "num_labels": 5}
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        model = ViTForImageClassification(ViTConfig(**sizes, image_size=16, patch_size=4)).eval()
        shapes = {"pixels": {0: torch.export.Dim("batch")}}
        torch.export.save(torch.export.export(Logits(model), (images(2, 0),), dynamic_shapes=shapes), folder / "base.pt2")
        layers = [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and ".layers." in f".{name}"]
        config = peft.LoraConfig(r=3, lora_alpha=7, target_modules=layers, modules_to_save=["classifier"])
        adapted = peft.get_peft_model(copy.deepcopy(model), config).eval()
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.data += 0.1 * torch.randn_like(parameter)
        adapted.save_pretrained(str(folder / "adapter"))
    np.savez(folder / "x.npz", pixels=images(32, 1).numpy())
    return Logits(adapted.base_model.model)


@pytest.mark.parametrize(
    "targets", [("onnx:qlinear", "reference"), pytest.param(("onnx:qlinear", "tvm:native"), marks=pytest.mark.slow)]
)  # slow: TVM builds a transformer
def test_an_adapter_folder_becomes_an_artifact_of_integers(
    targets: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapted = saved(tmp_path)
    monkeypatch.chdir(tmp_path)
    text = 'fold-adapters{path=["adapter"]}, quantize-dyadic{integer_only=true}'
    wanted = [word for target in targets for word in ("--target", target)]
    monkeypatch.setattr(
        sys, "argv", ["fxpress", "compress", "base.pt2", "--pipeline", text, "--calibration", "x.npz", *wanted, "--out", "out", "--json"]
    )
    with redirect_stdout(StringIO()) as out, pytest.raises(SystemExit) as ended:
        main()
    found = json.loads(out.getvalue())
    assert not ended.value.code
    assert [(row["target"], row["stage"], row["same_bits"]) for row in found["rows"]] == [(target, "integer", True) for target in targets]
    assert found["measured"]["sqnr_db"] > 25, "against the adapted model, not against its base"
    x = images(3, 2)
    with torch.no_grad():
        expected = adapted(x).numpy()
    results = [fx.load(Path("out", target.replace(":", "-"))).run(x.numpy())[0] for target in targets]
    assert np.array_equal(*results)
    assert float(np.abs(results[0] - expected).max() / np.abs(expected).max()) < 0.05
