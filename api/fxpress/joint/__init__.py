"""Bits, ranks, channels and blocks chosen together under measured budgets: the allocator's problem for a whole model."""

from .plan import JointPlan
from .prepare import prepared
from .space import FAMILIES, Space

__all__ = ["FAMILIES", "JointPlan", "Space", "prepared"]
