"""benchmarks/amx_emulated_machine.py: a run counts where it ended as it has to and every output was compared."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from amx_emulated_machine import ILLEGAL, Run, failures, one_bit_turned
from amx_programs import vectors
from support import residual_net

RUN = Run("linear/0 1", "linear/model.so", "linear/0.safetensors", 1, 2, 66)
WRONG = Run("linear/wrong 1", "linear/model.so", "linear/wrong.safetensors", 1, 2, 66, code=1)
NO_TILES = Run("none", "linear/model.so", "linear/0.safetensors", 1, 2, 66, code=ILLEGAL)
SAME = "output.0 I8[1,5,33]: same bits\noutput.1 I32[1]: same bits\n"
ONE_DIFFERS = "output.0 I8[1,5,33]: DIFFERS\noutput.1 I32[1]: same bits\n"


@pytest.mark.parametrize(
    ("run", "said"),
    [
        (RUN, f"{SAME}code 0\n"),
        (RUN, f"[00:00:24] a warning\n{SAME}code 0\n[ 4.7] reboot: Power down\n"),
        (WRONG, f"{ONE_DIFFERS}code 1\n"),
        (NO_TILES, "Illegal instruction\ncode 132\n"),
    ],
)
def test_a_run_that_ended_as_it_has_to(run: Run, said: str) -> None:
    assert failures([run], f"[ 1.2] Linux starts\n== {run.name}\n{said}") == []


@pytest.mark.parametrize(
    ("run", "said", "line"),
    [
        (RUN, "", "linear/0 1: 0 outputs of 2 the same, 0 differ: it did not run"),
        (
            RUN,
            f"== linear/0 1\n{ONE_DIFFERS}code 1\n",
            "linear/0 1: 1 outputs of 2 the same, 1 differ: output.1 I32[1]: same bits / code 1",
        ),
        (RUN, "== linear/0 1\noutput.0 I8[1]: same bits\ncode 0\n", "linear/0 1: 1 outputs of 2 the same, 0 differ: "),
        (RUN, f"== linear/0 1\n{SAME}", "linear/0 1: 2 outputs of 2 the same, 0 differ: "),
        (RUN, f"== linear/0 1\n== another\n{SAME}code 0\n", "linear/0 1: 0 outputs of 2 the same, 0 differ: it did not run"),
        (
            RUN,
            "== linear/0 1\nIllegal instruction\ncode 132\n",
            "linear/0 1: 0 outputs of 2 the same, 0 differ: Illegal instruction / code 132",
        ),
        (WRONG, f"== linear/wrong 1\n{SAME}code 0\n", "linear/wrong 1: 2 outputs of 2 the same, 0 differ: "),
        (NO_TILES, f"== none\n{SAME}code 0\n", "none: 2 outputs of 2 the same, 0 differ: "),
    ],
)
def test_a_run_that_did_not(run: Run, said: str, line: str) -> None:
    (found,) = failures([run], said)
    assert found.startswith(line)


def test_vectors_are_the_programs_outputs_and_one_bit_makes_them_wrong() -> None:
    program = residual_net()
    found = list(vectors(program, (1, 3)))
    assert [tensors["input.0"].shape[0] for tensors in found] == [1, 3, 2, 2]
    for tensors in found:
        assert torch.equal(program.run(tensors["input.0"])[0], tensors["output.0"])
    wrong = one_bit_turned(found[0])
    assert torch.equal(wrong["input.0"], found[0]["input.0"])
    bits = (wrong["output.0"].view(torch.int32) ^ found[0]["output.0"].view(torch.int32)).reshape(-1).tolist()
    assert sorted(bit.bit_count() for bit in bits)[-2:] == [0, 1]
