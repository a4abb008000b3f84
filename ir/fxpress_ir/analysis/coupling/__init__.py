"""float Program ==> which dimensions of which tensors must shrink together, and whether they may."""

from .grouping import coupled_groups
from .groups import Group, Groups, Site
from .walk import can_be_zero

__all__ = ["Group", "Groups", "Site", "can_be_zero", "coupled_groups"]
