"""Program, which atoms stay ==> a smaller Program, or the same one with zeros where the others were."""

from .mask_atoms import mask_atoms
from .plan import Plan
from .slice_atoms import slice_atoms

__all__ = ["Plan", "mask_atoms", "slice_atoms"]
