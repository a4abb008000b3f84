"""Adapters on disk: PEFT's folders and our own ==> weights of the base, kind by kind."""

from __future__ import annotations

from .fold import fold_folder

__all__ = ["fold_folder"]
