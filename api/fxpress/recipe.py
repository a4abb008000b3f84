"""YAML recipe <==> pipeline, calibration data, targets, seed and quality floors, as one value."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, replace
from os import PathLike
from pathlib import Path
from typing import Any

import yaml
from fxpress_backends.registry import find as find_target
from fxpress_ir.errors import BackendError, FxpressError, PipelineError
from fxpress_passes import PASSES, Pass
from fxpress_passes.contract import options_of
from fxpress_passes.parse import build, find
from fxpress_passes.pipeline import Pipeline

from .data import DISTILLED, Data
from .factory import is_factory
from .located import Located, read_yaml

VERSION = 1
_KEYS = ("version", "pipeline", "calibration", "targets", "seed", "require")


@dataclass(frozen=True)
class Require:
    """Quality that a compressed model has to keep; None asks nothing.

    Attributes:
        sqnr_db: least signal to quantisation-noise ratio against the float program, in dB, on one calibration batch.
        top1_drop: most points of quality lost (100 is all), for models that bring `evaluate`.
        saturated: largest share of clamped values, from 0 to 1, on one calibration batch; integer programs only.
    """

    sqnr_db: float | None = None
    top1_drop: float | None = None
    saturated: float | None = None


@dataclass(frozen=True)
class Recipe:
    """All that a compression is determined by, beside the model.

    Attributes:
        pipeline: the passes.
        data: calibration data; None where no pass needs them or the model brings its own.
        targets: what to lower for.
        seed: of everything random in passes.
        require: floors, checked after lowering.
        base: the folder from which a relative `data.source` counts: the recipe's own.
    """

    pipeline: Pipeline
    data: Data | None = None
    targets: tuple[str, ...] = ()
    seed: int = 0
    require: Require = Require()
    base: Path = field(default=Path(), compare=False)

    @classmethod
    def read(cls, path: str | PathLike[str]) -> Recipe:
        """The recipe in the file at `path`.

        Raises:
            PipelineError: the file cannot be read; as `parse`.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except OSError as error:
            raise PipelineError(f"cannot be read: {error.strerror}", where=f"recipe {str(path)!r}", way_on="pass a YAML file") from error
        except ValueError as error:
            raise PipelineError("is not UTF-8 text", where=f"recipe {str(path)!r}", way_on="pass a YAML file") from error
        return replace(cls.parse(text, str(path)), base=Path(path).parent)

    @classmethod
    def parse(cls, text: str, file: str = "recipe") -> Recipe:
        """The recipe that `text` describes; `docs/recipes.md` documents every key.

        Raises:
            PipelineError: no YAML, an unknown key, pass, option or target, a bad value; the message has file, line and path
                of the offending key, and the nearest known name.
        """
        root = read_yaml(text, file)
        keys = root.mapping(_KEYS)
        for name in ("version", "pipeline"):
            if name not in keys:
                raise root.error(
                    f"{name} is missing", f"write {name}: {VERSION if name == 'version' else 'fold-batch-norm, quantize-dyadic'}"
                )
        if keys["version"].plain() != VERSION or isinstance(keys["version"].value, bool):
            raise keys["version"].error(f"is {keys['version'].plain()!r}", f"this fxpress reads {VERSION}")
        return cls(
            _pipeline(keys["pipeline"]),
            _data(keys["calibration"]) if "calibration" in keys else None,
            tuple(map(_target, keys["targets"].items())) if "targets" in keys else (),
            keys["seed"].integer(0) if "seed" in keys else 0,
            _require(keys["require"]) if "require" in keys else Require(),
        )

    def text(self) -> str:
        """The canonical recipe: `parse` gives the same one back, and equal recipes have equal texts."""
        data: dict[str, Any] = {"version": VERSION, "pipeline": [_written(item) for item in self.pipeline.passes]}
        if self.data is not None:
            data["calibration"] = {name: _plain(value) for name, value in asdict(self.data).items() if value not in (None, ())}
        if self.targets:
            data["targets"] = list(self.targets)
        data["seed"] = self.seed
        floors = {name: value for name, value in asdict(self.require).items() if value is not None}
        if floors:
            data["require"] = floors
        return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=1000)

    def located_data(self) -> Data | None:
        """The calibration data with the path from here."""
        if self.data is None or self.data.source == DISTILLED or is_factory(self.data.source):
            return self.data
        return replace(self.data, source=str(self.base / self.data.source))


def _pipeline(found: Located) -> Pipeline:
    try:
        if isinstance(found.value, str):
            return Pipeline.parse(found.value)
        passes = [_pass(item) for item in found.items()]
        if not passes:
            raise found.error("is empty", "name one pass at least; `fxpress passes` lists them")
        return Pipeline(passes)
    except FxpressError as error:
        raise _here(error, found) from error


def _pass(found: Located) -> Pass:
    if isinstance(found.value, dict) and len(found.value) != 1:
        raise found.error(f"holds {len(found.value)} keys", "write one pass an item: - name: {option: value}")
    if not isinstance(found.value, dict):
        return _find(found.text(), found)()
    name, options = next(iter(found.value.items()))
    kind = _find(name, options)
    given = {} if options.value is None else options.mapping(options_of(kind), "option")
    try:
        return build(kind, {option: value.plain() for option, value in given.items()})
    except FxpressError as error:
        named = (value for option, value in given.items() if error.what.startswith(option))
        raise _here(error, next(named, options)) from error


def _find(name: str, place: Located) -> type[Pass]:
    try:
        return find(name, PASSES)
    except PipelineError as error:
        raise _here(error, place) from error


def _here(error: FxpressError, place: Located) -> FxpressError:
    """The error at its place in the file, unless it already knows one."""
    if error.where.startswith(f"{place.file}:"):
        return error
    part = "" if not error.where or error.where == "pipeline" or error.where in place.path else f"{error.where}: "
    return place.error(f"{part}{error.what}", error.way_on)


def _data(found: Located) -> Data:
    if isinstance(found.value, str):
        return Data(found.text())
    keys = found.mapping(item.name for item in fields(Data))
    if "source" not in keys:
        raise found.error("source is missing", "name an .npz file, a folder of images or package.module:factory")
    return Data(
        keys["source"].text(),
        keys["batch_size"].integer(1) if "batch_size" in keys else None,
        keys["limit"].integer(1) if "limit" in keys else None,
        tuple(item.number() for item in keys["mean"].items()) if "mean" in keys else (),
        tuple(item.number() for item in keys["std"].items()) if "std" in keys else (),
    )


def _target(found: Located) -> str:
    try:
        return find_target(found.text())[1].name
    except BackendError as error:
        raise _here(error, found) from error


def _require(found: Located) -> Require:
    floors = {name: item.number() for name, item in found.mapping(item.name for item in fields(Require)).items()}
    for name, value in floors.items():
        if value < 0 and name != "sqnr_db":
            raise found.value[name].error(f"is {value}", "write a number of 0 or more")
    return Require(**floors)


def _written(item: Pass) -> Any:
    options: dict[str, Any] = {}
    for name, default in options_of(type(item)).items():
        value = getattr(item, name)
        if value != default:
            options[name] = float(value) if isinstance(default, float) else _plain(value)
    return {item.name: options} if options else item.name


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, (tuple, list)) else value
