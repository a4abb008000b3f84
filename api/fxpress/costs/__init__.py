"""What a program costs on a target: seconds of its fused groups, measured in place or predicted, size, multiply-accumulates, memory."""

from .latency_model import LatencyModel
from .measured import GroupCosts, MeasuredCosts
from .resources import NodeResources, Resources, resources

__all__ = ["GroupCosts", "LatencyModel", "MeasuredCosts", "NodeResources", "Resources", "resources"]
