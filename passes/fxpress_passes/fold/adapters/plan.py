"""A folder, a program ==> which tensors of the folder go to which modules, and whether it may be weighed and summed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from fxpress_ir import Program
from fxpress_ir.digest import digest
from fxpress_ir.errors import PassError
from torch import Tensor

from .folder import Folder
from .kinds import KINDS
from .layer import Kind
from .names import resolve
from .refused import REFUSED
from .sites import Sites


class Plan:
    """What one folder does to which modules and parameters of a program.

    Attributes:
        layers: path as the adapter names it ==> the adapter's tensors there.
        plain: key ==> a tensor of the base's own that the folder replaces.
        modules: path ==> module of the program; `paths` is the other way round, of `layers` alone.

    Raises:
        PassError: the folder is of no kind that folds, holds nothing of its kind, or is for another base.
    """

    def __init__(self, program: Program, sites: Sites, folder: Folder, ignore: Sequence[str]) -> None:
        self.folder, self.sites, self.kind = folder, sites, _kind(folder)
        self.layers: dict[str, dict[str, Tensor]] = defaultdict(dict)
        self.plain: dict[str, Tensor] = {}
        for key, tensor in folder.tensors.items():
            path, name = self._split(key)
            if any(path == ending or path.endswith(f".{ending}") for ending in ignore):
                continue
            if name.startswith(self.kind.prefixes) and self.kind.prefixes:
                self.layers[path][name] = tensor
            else:
                self.plain[key] = tensor
        if not self.layers and not self.plain:
            way_on = "save the adapter again, with what its layers hold (save_indices=True, save_projection=True)"
            raise PassError("holds no tensor of a layer", where=self.name, way_on=way_on)
        paths = {*self.layers, *(key.rpartition(".")[0] for key in self.plain)}
        self.modules = resolve(paths, self.sites.modules, self.name)
        self.paths = {self.modules[path]: path for path in self.layers}
        self._check_digests(program)

    @property
    def name(self) -> str:
        return str(self.folder.path)

    def _split(self, key: str) -> tuple[str, str]:
        """``encoder.query.lora_A.weight`` ==> ``encoder.query``, ``lora_A.weight``."""
        parts, prefixes = key.split("."), self.kind.prefixes
        found = [at for at, part in enumerate(parts) if prefixes and part.startswith(prefixes)]
        at = found[-1] if found else len(parts) - 1
        return ".".join(parts[:at]), ".".join(parts[at:])

    def _check_digests(self, program: Program) -> None:
        """The config may say what base it is for: ``base_digests``, parameter ==> digest."""
        known: Mapping[str, str] = self.folder.config.get("base_digests") or {}
        wrong = []
        for name, wanted in known.items():
            path, _, last = name.rpartition(".")
            found = self.sites.parameter(f"{self.modules.get(path, path)}.{last}", self.modules.get(path, path))
            if found is None or digest(program.tensors[found[0]]) != wanted:
                wrong.append(name)
        if wrong:
            what = f"the base has other values in {', '.join(sorted(wrong))}"
            raise PassError(what, where=self.name, way_on="fold it onto the base that it was trained on")

    def check(self, alone: bool) -> None:
        """PassError where it is weighed or added to others and has no exact meaning then."""
        if alone:
            return
        if not self.kind.adds(self.folder.config):
            what = f"{self.folder.kind} is no sum with the base, so a weight or a second adapter has no exact meaning"
            raise PassError(what, where=self.name, way_on="fold one after the other, or merge them in training")
        if self.plain:
            what = f"it replaces {min(self.plain)}, which no weight and no second adapter goes with"
            raise PassError(what, where=self.name, way_on="fold it alone")


def _kind(folder: Folder) -> Kind:
    if folder.kind in REFUSED:
        reason, way_on = REFUSED[folder.kind]
        raise PassError(f"{folder.kind}: {reason}", where=str(folder.path), way_on=way_on)
    if folder.kind not in KINDS:
        raise PassError(f"unknown kind {folder.kind}", where=str(folder.path), way_on=f"known are {', '.join(sorted(KINDS))}")
    return KINDS[folder.kind]
