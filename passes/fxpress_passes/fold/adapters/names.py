"""Module paths of an adapter ==> module paths of a program: one prefix is put before, or cut from, all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from fxpress_ir.errors import PassError

_SHOWN = 8


def resolve(paths: Collection[str], modules: Collection[str], where: str) -> dict[str, str]:
    """Each path ==> the module that it means.

    Raises:
        PassError: some path means no module, listed; or several prefixes fit all paths.
    """
    fits: Counter[tuple[str, str]] = Counter()
    known = set(modules)
    for path in paths:
        fits.update({("", module.removesuffix(path)) for module in known if module == path or module.endswith(f".{path}")})
        parts = path.split(".")
        fits.update({(f"{'.'.join(parts[:cut])}.", "") for cut in range(1, len(parts)) if ".".join(parts[cut:]) in known})
    whole = [change for change, count in fits.items() if count == len(paths)]
    if ("", "") in whole:
        whole = [("", "")]
    if len(whole) > 1:
        choices = " and ".join(sorted(repr(_changed(min(paths), change)) for change in whole))
        raise PassError(f"{min(paths)!r} could mean {choices}", where=where, way_on="capture one of them alone")
    if not whole:
        best = max(sorted(fits), key=lambda change: fits[change], default=("", ""))
        raise _unmatched([path for path in sorted(paths) if _changed(path, best) not in known], len(paths), where)
    return {path: _changed(path, whole[0]) for path in paths}


def _changed(path: str, change: tuple[str, str]) -> str:
    cut, put = change
    return put + path.removeprefix(cut) if path.startswith(cut) else ""


def _unmatched(missing: list[str], count: int, where: str) -> PassError:
    shown = ", ".join(missing[:_SHOWN]) + (f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else "")
    way_on = "fold it onto the base that it was trained on; ignore=[...] leaves out modules that the captured graph does not compute"
    return PassError(f"the program has no {shown} ({len(missing)} of {count} modules)", where=where, way_on=way_on)
