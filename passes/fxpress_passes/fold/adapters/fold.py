"""program, folders of adapters ==> the program with their sum folded into its weights, and a certificate for each layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from fxpress_ir import Program
from fxpress_ir.errors import PassError
from torch import Tensor, fx

from ...contract import Context
from ..observed import Observed
from .combine import COMBINATIONS, Part, combined
from .folder import read_folder
from .layer import Layer
from .plan import Plan
from .proof import certificate, requantized, requantizing
from .sites import Site, Sites

_MERGED = "PEFT's forward changes this one alone, its merge_and_unload all of them"


def fold_folder(
    program: Program,
    folders: Sequence[Path],
    context: Context,
    *,
    weights: Sequence[float] | None = None,
    combination: str = "linear",
    ignore: Sequence[str] = (),
    rank: int = 0,
) -> Program:
    """Fold adapters into a float program, or into the weights before the quantisers of a simulated one; all of them or none.

    Computed in float64, stored in the base's dtype. Each layer leaves a `Certificate` in the context's notes, each weight behind a
    quantiser what requantising it costs.

    Args:
        folders: with ``adapter_config.json`` and ``adapter_model.safetensors``; see docs/adapters.md for the kinds.
        weights: of the adapters' changes W' - W; 1 each where empty.
        combination: ``linear``, the sum of the weighted changes; ``cat``, the same of LoRAs by joining their factors; ``svd``, its best
            approximation of rank `rank`.
        ignore: endings of module paths that are adapted and that the captured graph does not compute.
        rank: kept by ``svd``; 0 is the largest rank of the adapters.

    Raises:
        PassError: the program is an integer one; a folder is damaged, of a kind that is no change of the weights, or for another base;
            several adapters have no exact sum.
    """
    _check(program, folders, combination)
    read = [read_folder(path) for path in folders]
    shares = _weights(weights, len(read))
    sites = Sites(program)
    plans = [Plan(program, sites, folder, ignore) for folder in read]
    for plan, share in zip(plans, shares, strict=True):
        plan.check(len(plans) == 1 and share == 1)
    return _Fold(program, plans, shares, context).run(combination, rank)


def _check(program: Program, folders: Sequence[Path], combination: str) -> None:
    if program.stage not in ("float", "simulated"):
        what = f"a {program.stage} program holds integers"
        raise PassError(what, where="fold-adapters", way_on="fold first, then quantise")
    if combination not in COMBINATIONS:
        raise PassError(f"combination={combination!r}", where="fold-adapters", way_on=f"one of {', '.join(COMBINATIONS)}")
    if not folders:
        raise PassError("no folder is given", where="fold-adapters", way_on='path=["folder"]')


def _weights(weights: Sequence[float] | None, count: int) -> list[float]:
    shares = [float(weight) for weight in weights or [1.0] * count]
    if len(shares) != count:
        raise PassError(f"{len(shares)} weights for {count} folders", where="fold-adapters", way_on="give each its weight, or none")
    return shares


@dataclass
class _Fold:
    """The folds of one edit: new values are gathered by tensor and module, then put where they are read."""

    program: Program
    plans: list[Plan]
    shares: list[float]
    context: Context

    def run(self, combination: str, rank: int) -> Program:
        self._edit, self._sites = self.program.edit(), self.plans[0].sites
        self._observed = Observed(self.program, self.context)
        self._values: dict[tuple[str, str], Tensor] = {}
        self._puts: dict[tuple[str, str], tuple[tuple[fx.Node, ...], str]] = {}
        for plan in self.plans:
            self._replace(plan)
        for module in sorted({module for plan in self.plans for module in plan.paths}):
            self._fold(module, combination, rank)
        self._check_overlaps()
        for (tensor, module), (calls, hint) in self._puts.items():
            value = self._values[tensor, module]
            if self._sites.put(self._edit, tensor, value, calls, hint):
                size = value.numel() * value.element_size()
                self.context.note(f"{tensor} is read by other layers too: copied for {module}, {size} bytes more; {_MERGED}")
        return self._edit.finish()

    def _check_overlaps(self) -> None:
        """Trained tokens count for every module that shares the embedding, as PEFT ties them; none may have a change of its own."""
        seen: dict[tuple[str, fx.Node], str] = {}
        for (tensor, module), (calls, _) in self._puts.items():
            for call in calls:
                other = seen.setdefault((tensor, call), module)
                if not torch.equal(self._values[tensor, other], self._values[tensor, module]):
                    what = f"{other} and {module} share {tensor} and change it differently"
                    raise PassError(what, where=self.plans[0].name, way_on="merge it with PEFT")

    def _put(self, tensor: str, module: str, value: Tensor, calls: tuple[fx.Node, ...], hint: str) -> None:
        """`value` for a tensor where the module reads it; the last one counts."""
        self._values[tensor, module], self._puts[tensor, module] = value, (calls, hint)

    def _replace(self, plan: Plan) -> None:
        """modules_to_save, trained biases and norms: the folder's tensors in the place of the base's."""
        for key, tensor in sorted(plan.plain.items()):
            path, _, last = key.rpartition(".")
            module = plan.modules[path]
            found = self._sites.parameter(f"{module}.{last}", module)
            if found is None:
                way_on = "fold it onto the base that it was trained on"
                raise PassError(f"the captured graph has no {module}.{last}", where=plan.name, way_on=way_on)
            name, calls = found
            base = self.program.tensors[name]
            if tensor.shape != base.shape:
                what = f"{key} is {list(tensor.shape)}, the base's {list(base.shape)}"
                raise PassError(what, where=plan.name, way_on="fold it onto the base that it was trained on")
            self._put(name, module, tensor.to(base.dtype), calls, f"{module}.{last}")
            self.context.note(f"{name} is that of {plan.name}")

    def _value(self, name: str, module: str) -> Tensor:
        return self._values.get((name, module), self.program.tensors[name]).detach()

    def _fold(self, module: str, combination: str, rank: int) -> None:
        concerned = [(plan, share) for plan, share in zip(self.plans, self.shares, strict=True) if module in plan.paths]
        target = concerned[0][0].folder.config.get("target_parameters") or []
        site = self._parameter(module, target, concerned[0][0].name) if self._is_parameter(module, target) else None
        site = site or self._sites.site(module, concerned[0][0].name)
        if any(name.startswith("trainable_tokens_") for plan, _ in concerned for name in plan.layers[plan.paths[module]]):
            site = replace(site, calls=self._sites.readers(site.weight))
        stored = self._value(site.weight, module)
        base = stored if site.quantizer is None else requantized(site.quantizer, stored, self.program.tensors)
        if site.quantizer is not None and any(plan.folder.kind == "L4Q" for plan, _ in concerned):
            raise PassError("L4Q brings a grid of its own", where=module, way_on="fold it into the float base, then place-quantizers")
        weight = base.double().T if site.transposed else base.double()
        bias = None if site.bias is None else self._value(site.bias, module).double()
        parts = [Part(self._layer(plan, module, site, weight, bias), plan.kind, share) for plan, share in concerned]
        folded, moved = combined(parts, combination, rank)
        self._take(site, folded, moved, parts)

    def _is_parameter(self, module: str, targets: Sequence[str]) -> bool:
        return any(f".{module}".endswith(f".{target.rpartition('.')[0]}") for target in targets)

    def _parameter(self, module: str, targets: Sequence[str], where: str) -> Site:
        """target_parameters: a parameter of any shape, whatever reads it."""
        names = [target.rpartition(".")[2] for target in targets if f".{module}".endswith(f".{target.rpartition('.')[0]}")]
        found = self._sites.parameter(f"{module}.{names[0]}", module)
        if len(names) != 1 or found is None:
            what = f"{module} has {', '.join(names)} as target_parameters"
            raise PassError(what, where=where, way_on="adapt one parameter of a module, which the captured graph reads")
        return Site(module, "parameter", found[1], found[0], None)

    def _layer(self, plan: Plan, module: str, site: Site, weight: Tensor, bias: Tensor | None) -> Layer:
        path = plan.paths[module]
        return Layer(
            path=path,
            role=site.role,
            weight=weight,
            bias=bias,
            tensors=plan.layers[path],
            shared=plan.folder.shared,
            config=plan.folder.config,
            folder=plan.name,
            groups=site.groups,
            dilated=site.dilated,
        )

    def _take(self, site: Site, folded: Tensor, moved: Tensor | None, parts: list[Part]) -> None:
        dtype = self.program.tensors[site.weight].dtype
        weight = (folded.T if site.transposed else folded).to(dtype).contiguous()
        if not bool(torch.isfinite(weight).all()):
            raise PassError(
                "the folded weight is not finite", where=site.module, way_on="the adapter is damaged, or too large for the dtype"
            )
        self._put(site.weight, site.module, weight, site.calls, f"{site.module}.weight")
        before = parts[0].layer
        after = None if moved is None else moved.to(dtype)
        if site.bias is not None and after is not None and moved is not before.bias:
            self._put(site.bias, site.module, after, site.calls, f"{site.module}.bias")
        elif after is not None and site.bias is None:
            self._sites.put_bias(self._edit, site, after)
        source = " + ".join(str(part.layer.folder) for part in parts)
        stored = weight.T if site.transposed else weight
        self.context.note(certificate(site, source, before, (folded, moved), (stored, after), self._observed))
        if site.quantizer is not None:
            self.context.note(requantizing(site, site.quantizer, weight, self.program.tensors))
