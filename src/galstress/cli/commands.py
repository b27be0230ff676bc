"""The program: all commands under one name, and errors as one line."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from typing import Annotated

import typer

from galstress.cli import (
    comparing,
    finetuning,
    importing,
    looking,
    making,
    measuring,
    refining,
    reporting,
    showing,
    studying,
    turning,
)
from galstress.errors import GalstressError

__all__ = ["app", "main"]

app = typer.Typer(
    name="galstress",
    help="Crash tests for galaxy-morphology networks. Each command has an example in its --help.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for command in (comparing.surveys, looking.layers, turning.rotation):
    assert command  # of the group study, there once it is imported
for module in (showing, making, importing, finetuning, measuring, refining, reporting, studying):
    app.add_typer(module.app)


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error came from; may stand anywhere.")] = False,
) -> None:
    del debug  # taken by main, which sees the words first


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and leave with its exit status.

    Arguments:
        arguments: Words of the command line after ``galstress``; by default the process's own.

    Exit status: 0 done; 2 the input or a word of the command line cannot be used (one line on stderr says what to do
    next); 1 a bug of galstress.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    with warnings.catch_warnings():
        if not debug:
            warnings.simplefilter("ignore")  # what matters is a flag in the table, or an error
        try:
            app(args=[word for word in words if word != "--debug"], prog_name="galstress")
        except (GalstressError, OSError, MemoryError) as error:
            _leave(error, debug, 2, "")
        except Exception as error:  # noqa: BLE001 (the last place where a bug can become one line)
            _leave(
                error, debug, 1, f"a bug of galstress; run again with --debug to see where ({type(error).__name__}): "
            )


def _leave(error: Exception, debug: bool, status: int, words: str) -> None:
    """One line on stderr and the exit status, or with ``--debug`` the whole story."""
    if debug:
        raise error
    typer.echo(f"error: {words}{' '.join(str(error).split())}", err=True)
    sys.exit(status)
