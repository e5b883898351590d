"""The command line `alpha`.

Importing it, and asking it for help, loads neither the engine nor a database or network library: a
command's module is imported when the command is called (`dataflows/cli/group.py`).
"""

from __future__ import annotations

from typing import Annotated

import typer

from dataflows.cli.failures import EXIT_CODES
from dataflows.cli.group import COMMANDS, LazyGroup
from dataflows.version import PRODUCER

# Help is plain text: laying it out with rich takes longer than everything else together.
_EPILOG = "\n".join(
    [
        "\b",  # keeps the lines as they are
        "Exit codes:",
        *(f"  {code:<3}  {meaning}" for code, meaning in EXIT_CODES.items()),
        "",
        "\b",
        "Results go to stdout, everything else to stderr. Every command takes --json.",
    ]
)

app = typer.Typer(
    name="alpha",
    cls=LazyGroup,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=_EPILOG,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(PRODUCER)
        raise typer.Exit


@app.callback()
def _alpha(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", is_eager=True, callback=_print_version
        ),
    ] = False,
) -> None:
    """Turn a market feed into feature rows, market frames and scored events."""


def _placeholder() -> None:
    """Stand for a command until it is called."""


for _name, _entry in COMMANDS.items():
    app.command(_name, help=_entry.help)(_placeholder)


def main() -> None:
    """Run the command line."""
    app()
