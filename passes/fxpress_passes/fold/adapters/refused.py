"""Kinds of adapters that are no change of the base's weights ==> why, and the way on."""

from __future__ import annotations

_PROMPT = "prepend its vectors where the inputs are embedded, and capture that model"
_BRANCH = "capture the PeftModel itself; it stays in the graph"

REFUSED: dict[str, tuple[str, str]] = {
    "PROMPT_TUNING": ("it lengthens the sequence by virtual tokens", _PROMPT),
    "MULTITASK_PROMPT_TUNING": ("it lengthens the sequence by virtual tokens of a task", _PROMPT),
    "P_TUNING": ("it lengthens the sequence by virtual tokens", _PROMPT),
    "CPT": ("it lengthens the sequence by virtual tokens", _PROMPT),
    "PREFIX_TUNING": (
        "its keys and values join those of each attention, and the captured graph has no place for past ones",
        "capture the PeftModel itself, where they are constants",
    ),
    "CARTRIDGE": (
        "its keys and values join those of each attention, and the captured graph has no place for past ones",
        "capture the PeftModel itself, where they are constants",
    ),
    "ADAPTION_PROMPT": ("its gated attention to a prompt has a softmax of its own", _BRANCH),
    "POLY": ("a router mixes its modules for each task", "fold the mixture of one task as a LoRA"),
    "XLORA": ("a classifier mixes its adapters for each token", "fold one of the adapters"),
    "LILY": ("a router mixes its experts by the batch", _BRANCH),
    "SHADOW": ("a second network runs beside the base", _BRANCH),
    "ADAMSS": (
        "PEFT clusters the base's rows anew when it loads it; which rows belong together is not in the folder",
        "merge it with PEFT",
    ),
    "PSOFT": ("it rotates the base's singular vectors, whose signs the folder does not hold", "merge it with PEFT where it was trained"),
}
"""What stands in ``peft_type`` ==> reason, way on."""
