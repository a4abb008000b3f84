"""Program, which atoms or blocks stay ==> a smaller Program, or the same one with zeros where the others were."""

from .mask_atoms import mask_atoms
from .plan import Plan
from .remove_blocks import remove_blocks
from .slice_atoms import slice_atoms

__all__ = ["Plan", "mask_atoms", "remove_blocks", "slice_atoms"]
