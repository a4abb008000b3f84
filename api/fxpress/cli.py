"""The command line. Exit codes: 0 ok, 1 a check failed, 2 bad usage or input."""

from __future__ import annotations

import typer
from fxpress_ir.errors import FxpressError

from .commands.bench import bench
from .commands.compress import compress
from .commands.demo import demo
from .commands.inspect import inspect
from .commands.lists import passes, targets
from .commands.verify import verify

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help=("Compress a PyTorch model, prove the integer program, and run the same bits everywhere."),
)
for command in (demo, compress, verify, bench, inspect, passes, targets):
    app.command()(command)


def main() -> None:
    """Entry point: an error that a user can cause is one line on stderr and exit code 2."""
    try:
        app()
    except FxpressError as error:
        typer.echo(f"fxpress: {error}", err=True)
        raise SystemExit(2) from error


if __name__ == "__main__":
    main()
