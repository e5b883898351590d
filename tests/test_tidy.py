"""The rules of the house that behaviour depends on, checked over the whole tree."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PACKAGES = ("operators", "packs", "dataflows", "fixtures")
CODE = sorted(p for name in PACKAGES for p in (ROOT / name).rglob("*.py"))

# Who may import whom: package -> what of ours it may see.
MAY_SEE = {
    "operators/formulas": {"operators"},
    "operators": {"operators", "packs"},
    "packs": {"packs", "operators"},
    "dataflows/connectors": {"dataflows", "operators", "packs"},
    "dataflows": {"dataflows", "operators", "packs", "fixtures"},
    "fixtures/golden_windows": {"fixtures", "dataflows", "operators", "packs"},
    "fixtures/simulation": {"fixtures", "dataflows", "operators", "packs"},
    "fixtures": {"fixtures", "dataflows", "operators"},
}
# Clocks, dice, environment: one place each.
ONLY_IN = {
    "time": {"dataflows/connectors/clock.py"},
    "random": {
        *("dataflows/connectors/clock.py", "fixtures/market.py"),
        "fixtures/simulation/plan.py",  # the dice of a seed
    },
    "secrets": set(),
}
SOCKETS = {"socket", "websockets", "httpx", "psycopg", "asyncio", "subprocess", "http"}


def relative(path: Path) -> str:
    """Return a path as it stands in the repository."""
    return path.relative_to(ROOT).as_posix()


def imports(path: Path) -> Iterator[str]:
    """Yield the top-level modules and packages that a file imports, dotted."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{relative(path)}: relative import"
            yield node.module or ""


@pytest.mark.parametrize("path", CODE, ids=relative)
def test_nobody_imports_upward(path: Path) -> None:
    """operators computes, dataflows touches the world, packs say what to compute."""
    place = next(p for p in MAY_SEE if relative(path).startswith(p + "/"))
    ours = {name.split(".")[0] for name in imports(path)} & set(PACKAGES)
    assert ours <= MAY_SEE[place]


@pytest.mark.parametrize("path", CODE, ids=relative)
def test_clocks_and_dice_have_one_home(path: Path) -> None:
    """Results may not depend on when or where they are computed."""
    for module in imports(path):
        top = module.split(".")[0]
        assert top not in ONLY_IN or relative(path) in ONLY_IN[top], module
    text = path.read_text()
    assert "datetime.now" not in text
    assert "uuid4" not in text
    if relative(path) != "dataflows/settings.py":
        assert "os.environ" not in text or relative(path).startswith("dataflows/cli/")


@pytest.mark.parametrize(
    "path", [p for p in CODE if relative(p).startswith(("operators/", "packs/"))], ids=relative
)
def test_the_core_touches_no_world_and_sums_no_floats_by_builtin(path: Path) -> None:
    """No sockets, files or processes; no sum(), whose bits differ between Python versions."""
    assert not {name.split(".")[0] for name in imports(path)} & SOCKETS
    assert "numpy" not in set(imports(path))
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "sum", f"line {node.lineno}"
            assert node.func.id != "open" or relative(path).startswith("packs/")
        if isinstance(node, ast.For | ast.comprehension):
            assert not isinstance(node.iter, ast.Set | ast.SetComp), "iterates over a set"


@pytest.mark.parametrize("path", CODE, ids=relative)
def test_every_public_thing_says_what_it_is(path: Path) -> None:
    """Modules, public classes and functions have a docstring."""
    tree = ast.parse(path.read_text())
    if path.read_text().strip():
        assert ast.get_docstring(tree), relative(path)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{relative(path)}: {node.name}"


def pinned(lock: Path) -> dict[str, Version]:
    """Return name and version of everything a lock holds."""
    found = re.findall(r"^([A-Za-z0-9._-]+)==([^ ;\\]+)", lock.read_text(), re.MULTILINE)
    return {name.lower().replace("_", "-"): Version(version) for name, version in found}


@pytest.mark.parametrize("extras", [(), ("test",), ("bench",)])
def test_the_locks_are_in_step_with_the_project(extras: tuple[str, ...]) -> None:
    """Every dependency is pinned inside its range, with hashes, and names no address."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lock = ROOT / f"{'-'.join(('requirements', *extras))}.lock"
    wanted = list(project["dependencies"])
    for extra in extras:
        wanted += project["optional-dependencies"][extra]
    versions = pinned(lock)
    for text in wanted:
        requirement = Requirement(text)
        version = versions[requirement.name.lower().replace("_", "-")]
        assert version in requirement.specifier, text
    text = lock.read_text()
    assert "://" not in text
    assert text.count("--hash=sha256:") > len(versions)


def test_every_command_of_the_readme_exists() -> None:
    """`make` targets and `alpha` commands that the README names are there."""
    readme = (ROOT / "README.md").read_text()
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z][a-z-]*):", makefile, re.MULTILINE))
    for target in re.findall(r"^make ([a-z-]+)", readme, re.MULTILINE):
        assert target in targets, target
