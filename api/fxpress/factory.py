"""``package.module:factory`` ==> what the factory returns. This imports and runs the user's code."""

from __future__ import annotations

import difflib
import importlib
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fxpress_ir.errors import FxpressError, InputError

_FORM = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


def is_factory(text: str) -> bool:
    """Whether `text` has the form of a factory's name."""
    return _FORM.fullmatch(text) is not None


def find_factory(text: str) -> Callable[[], Any]:
    """The callable that `text` names; the current folder stands first on ``sys.path``, as for ``python -m``.

    Raises:
        InputError: no such module, the module raises, no such attribute, not callable.
    """
    name, _, path = text.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        found: Any = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            way_on = "run from the folder that holds it, or install it"
            raise InputError(f"no module {error.name!r}", where=text, way_on=way_on) from error
        raise InputError(f"importing {name} needs {error.name!r}, which is not there", where=text, way_on="install it") from error
    except (Exception, SystemExit) as error:
        raise failed(f"importing {name}", text, error) from error
    for part in path.split("."):
        if not hasattr(found, part):
            near = difflib.get_close_matches(part, [key for key in dir(found) if not key.startswith("_")], n=1)
            way_on = f"did you mean {near[0]!r}?" if near else f"define it in {name}"
            raise InputError(f"no attribute {part!r} in {getattr(found, '__name__', name)}", where=text, way_on=way_on)
        found = getattr(found, part)
    if not callable(found):
        raise InputError(f"{path} is a {type(found).__name__}", where=text, way_on="name a function without arguments")
    return found  # type: ignore[no-any-return]


def call_factory(text: str) -> Any:
    """What the factory called `text` returns.

    Raises:
        InputError: as `find_factory`; the factory raised.
    """
    factory = find_factory(text)
    try:
        return factory()
    except FxpressError:
        raise
    except (Exception, SystemExit) as error:
        raise failed("the factory", text, error) from error


def failed(what: str, text: str, error: BaseException) -> InputError:
    """The error for `what` having raised; it names the last line on the stack that is no library's, the place to look."""
    traceback, place = error.__traceback__, ""
    while traceback is not None:
        file = traceback.tb_frame.f_code.co_filename
        if file != __file__ and "site-packages" not in file and not file.startswith("<"):
            place = f" at {Path(file).name}:{traceback.tb_lineno}"
        traceback = traceback.tb_next
    return InputError(
        f"{what} raised {type(error).__name__}{place}: {str(error)[:200]}", where=text, way_on="it has to run without arguments"
    )
