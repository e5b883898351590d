"""`alpha verify`: what it prints, which exit code, which metrics, and what it refuses."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dataflows.cli.failures import INPUT, NOT_IN_ORDER, USAGE
from dataflows.replay import product_path, replay
from packs.loader import load_packs


@pytest.fixture(scope="module")
def products(small_log: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The products of the small log."""
    out = tmp_path_factory.mktemp("verified")
    replay(small_log, out, load_packs())
    return out


@pytest.fixture
def spoilt(products: Path, tmp_path: Path) -> Path:
    """The same with a row less and a number changed."""
    out = shutil.copytree(products, tmp_path / "spoilt")
    lines = product_path(out, "rows").read_bytes().splitlines(True)
    lines[4] = lines[4].replace(b'"trade_count_m_1":', b'"trade_count_m_1":9')
    product_path(out, "rows").write_bytes(b"".join(lines[:2] + lines[3:]))
    return out


def metrics_of(path: Path) -> dict[str, int]:
    """The values of a metrics file by name and labels."""
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    return {name: int(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def test_what_is_in_order_is_said_so(
    alpha: Any, small_log: Path, products: Path, tmp_path: Path
) -> None:
    """A table of counts, the verdict, and the time of success for an alert."""
    ran = alpha("verify", small_log, "--from", products, "--metrics", tmp_path / "verify.prom")
    assert ran.code == 0, ran.err
    assert ran.out.endswith("equal, byte for byte\n")
    assert "mode replay" in ran.out
    document = alpha("verify", small_log, "--from", products, "--json").json
    assert document["tally"]["found"] == {}
    assert document["tally"]["minutes"]["judged"] == 6
    metrics = metrics_of(tmp_path / "verify.prom")
    assert metrics['alpha_verify_bars{verdict="judged"}'] == 6
    assert abs(metrics["alpha_verify_last_success_timestamp_seconds"] - time.time()) < 600
    assert metrics['alpha_verify_mismatches{product="rows",kind="differs"}'] == 0


def test_what_is_not_in_order_is_named_and_an_exit_code(
    alpha: Any, small_log: Path, products: Path, spoilt: Path, tmp_path: Path
) -> None:
    """Both damages with their place; the last success stays what it was."""
    metrics = tmp_path / "verify.prom"
    alpha("verify", small_log, "--from", products, "--metrics", metrics)
    before = metrics_of(metrics)["alpha_verify_last_success_timestamp_seconds"]
    ran = alpha("verify", small_log, "--from", spoilt, "--metrics", metrics)
    assert ran.code == NOT_IN_ORDER
    assert "NOT EQUAL: 2 mismatches" in ran.out
    assert "made again, not stored" in ran.out
    assert "trade_count_m_1: stored 9" in ran.out
    found = metrics_of(metrics)
    assert found['alpha_verify_mismatches{product="rows",kind="differs"}'] == 1
    assert found['alpha_verify_mismatches{product="rows",kind="missing"}'] == 1
    assert found["alpha_verify_last_success_timestamp_seconds"] == before
    document = alpha("verify", small_log, "--from", spoilt, "--json").json
    kinds = {each["kind"] for each in document["tally"]["examples"]}
    assert kinds == {"missing", "differs"}


def test_metrics_are_what_prometheus_reads(
    alpha: Any, small_log: Path, spoilt: Path, tmp_path: Path
) -> None:
    """By promtool where it is at hand, else line by line as the format asks."""
    path = tmp_path / "verify.prom"
    alpha("verify", small_log, "--from", spoilt, "--metrics", path)
    text = path.read_text()
    assert text.endswith("\n")
    promtool = shutil.which("promtool")
    if promtool is not None:
        done = subprocess.run(
            [promtool, "check", "metrics"], input=text, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
    seen: set[str] = set()
    name = ""
    for line in text.splitlines():
        if line.startswith("# HELP "):
            name = line.split()[2]
            assert name not in seen
            seen.add(name)
        elif line.startswith("# TYPE "):
            assert line == f"# TYPE {name} gauge"
        else:
            assert line.partition(" ")[0].partition("{")[0] == name
    assert [p.name for p in tmp_path.iterdir() if p.suffix not in (".prom", "")] == []


def test_wrong_arguments_are_one_message(
    alpha: Any, small_log: Path, products: Path, tmp_path: Path
) -> None:
    """What was expected and what was found."""
    given = ("verify", small_log, "--from", products)
    alpha("verify", tmp_path / "none", "--from", products).failed_with(INPUT, "none")
    alpha("verify", small_log, "--from", tmp_path / "none").failed_with(INPUT, "a directory")
    alpha(*given, "--last", "2x").failed_with(USAGE, "--last", "24h", "'2x'")
    alpha(*given, "--since", "soon").failed_with(USAGE, "--since", "'soon'")
    alpha(*given, "--mode", "loud").failed_with(USAGE, "dry_run", "loud")
    alpha(*given, "--last", "1h", "--since", "2026-01-01").failed_with(USAGE, "found both")
    product_path(empty := tmp_path / "empty", "events").parent.mkdir()
    product_path(empty, "events").write_bytes(b"")
    alpha("verify", small_log, "--from", empty).failed_with(INPUT, "expected rows", "found none")


def test_it_goes_on_until_it_is_told_to_stop(
    alpha_command: Callable[..., list[str]], small_log: Path, products: Path
) -> None:
    """A line a look on stderr; it ends in order."""
    live = shutil.copytree(products, Path("topics"))
    for path in list(live.iterdir()):
        path.rename(live / f"alpha.{path.stem}.v0.ndjson")
    command = alpha_command("verify", small_log, "--from", live, "--every", "1s")
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    first, second = process.stderr.readline(), process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    _, rest = process.communicate(timeout=20)
    assert "equal; minutes: judged 5, not stored yet 1" in first
    assert "equal; minutes: not stored yet 1" in second
    assert "Traceback" not in rest
    assert process.returncode == 0
