"""Machines that libraries are compiled for on another one: their cards, LLVM's targets and the compilers that link."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fxpress_backends.contract import Target

AARCH64, RISCV64 = "aarch64", "riscv64"
DOTPROD, I8MM = "dotprod", "i8mm"
EXTENSIONS = {DOTPROD: "asimddp", I8MM: "i8mm"}
"""What not every 64-bit Arm offers, each above the one before it, in the names of Linux; LLVM's are the keys."""


@dataclass(frozen=True)
class Machine:
    """A kind of machine under Linux with the GNU C library.

    Attributes:
        triple: as LLVM, GCC and Debian write it.
        options: the rest of LLVM's target: the least that any such machine offers.
    """

    triple: str
    options: Mapping[str, Any]

    @property
    def compiler(self) -> str:
        """The command that links for it on a machine of another kind."""
        return f"{self.triple}-g++"

    @property
    def package(self) -> str:
        """Debian's package of `compiler`."""
        return f"g++-{self.triple}"

    def llvm_target(self, features: tuple[str, ...]) -> dict[str, Any]:
        """The compiler's target for a card with these features."""
        attributes = [*self.options["mattr"], *(f"+{name}" for name in EXTENSIONS if name in features)]
        return {"kind": "llvm", "mtriple": self.triple, **self.options, "mattr": attributes}


MACHINES = {
    AARCH64: Machine("aarch64-linux-gnu", {"mcpu": "generic", "mattr": ["+neon"]}),
    RISCV64: Machine("riscv64-linux-gnu", {"mcpu": "generic-rv64", "mattr": ["+m", "+a", "+f", "+d", "+c"], "mabi": "lp64d"}),
}
"""By the first feature of a card: ARMv8.0-A with NEON, and RV64GC."""


def cards(offered: tuple[str, ...]) -> tuple[Target, ...]:
    """The targets of other machines, as seen from the one that offers these features.

    Integer programs alone: floats are compared with PyTorch's by running them, which only the machine itself could do.
    """

    def card(name: str, description: str, *features: str) -> Target:
        return Target(name, description, ("integer",), features=features, runs_here=set(features) <= set(offered))

    return (
        card("tvm:aarch64", "any 64-bit Arm Linux, widening products of NEON", AARCH64),
        card("tvm:aarch64-dotprod", "64-bit Arm Linux from ARMv8.2 on, dot products of s8", AARCH64, DOTPROD),
        card("tvm:aarch64-i8mm", "64-bit Arm Linux with i8mm (ARMv8.6), products of 2x8 by 8x2 bytes", AARCH64, DOTPROD, I8MM),
        card("tvm:riscv64", "any RV64GC Linux, plain loops; builds and links, was never run", RISCV64),
    )
