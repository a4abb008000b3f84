"""``.pt2`` archive of torch.export ==> ExportedProgram, without running anything that the file says."""

from __future__ import annotations

from .load import load_pt2

__all__ = ["load_pt2"]
