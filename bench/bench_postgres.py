"""What storing a minute's rows costs: the writer beside a bare COPY, on one embedded server.

    python -m bench.bench_postgres [--rows N] [--rounds N]

Prints one JSON object. Times are ms of wall time to the commit on stable storage, in interleaved
rounds, a minute each, with a value in every column of the table. bare : binary COPY of lines that
were converted before into a table like it without key and indexes, a transaction. writer :
`PostgresWriter.write_market` from the rows, as the sink calls it. The ratio of the two is what to
quote.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from psycopg import sql

from dataflows.connectors.embedded_postgres import EmbeddedPostgres
from dataflows.connectors.migrate import migrate, open_session, query
from dataflows.connectors.postgres import PostgresWriter, row_record, tables_of
from operators.lattice import MINUTE_MS, iso
from operators.records import MarketPhase, Phase, Row
from packs.loader import load_packs

WARM_ROUNDS = 10
BUDGET_MS = 30.0  # 95th percentile of 200 rows
FIRST_MS = 1_756_891_800_000
TWIN = "twin"


def value_of(kind: str, label_ms: int, rng: random.Random) -> Any:
    """Return a value of a column as rows hold them: a float has 12 significant digits."""
    if kind == "double precision":
        return float(f"{rng.lognormvariate(0.0, 6.0) * rng.choice((-1.0, 1.0)):.12g}")
    if kind == "bigint":
        return rng.randrange(100_000)
    if kind == "boolean":
        return rng.random() < 0.5
    if kind == "timestamptz":
        return iso(label_ms + 1500)
    return ["quiet"] if kind == "text[]" else "ok"


def minute(columns: dict[str, str], count: int, round_: int) -> MarketPhase:
    """Return a sealed minute of some assets, with a value in every column."""
    rng, label = random.Random(round_), FIRST_MS + round_ * MINUTE_MS
    rows = tuple(
        Row(
            *(uid, f"COIN{uid}", "1m", label, 0),
            {name: value_of(kind, label, rng) for name, kind in columns.items()},
            {"clamp": {"z_vol_m_1": [-4.7215, 4.7215]}},
        )
        for uid in range(count)
    )
    return MarketPhase(Phase(label, False, count, label + 1500), (), rows)


def quantiles(times_ms: list[float]) -> dict[str, float]:
    """Return median and 95th percentile, ms."""
    cuts = statistics.quantiles(times_ms, n=20, method="inclusive")
    return {"p50": round(cuts[9], 3), "p95": round(cuts[18], 3)}


def run(dsn: str, count: int, rounds: int) -> dict[str, Any]:
    """Return the times of both, and what the budget says."""
    columns = {column.name: column.type for column in load_packs().features.stored}
    table = tables_of(columns)["features_snapshot"]
    migrate(dsn, now_ms=FIRST_MS)
    writer = PostgresWriter(dsn, columns, backoff_s=())
    writer.connect()
    names = {"twin": sql.Identifier(TWIN), "table": sql.Identifier(table.name)}
    copy = query("copy_lines").format(
        target=names["twin"], columns=sql.SQL(", ").join(map(sql.Identifier, table.types))
    )
    times_ms: dict[str, list[float]] = {"bare": [], "writer": []}
    with open_session(dsn, "public") as bare:
        bare.execute(sql.SQL("create table {twin} (like {table})").format(**names))
        for round_ in range(WARM_ROUNDS + rounds):
            phase = minute(columns, count, round_)
            lines = [table.line(row_record(row)) for row in phase.rows]
            stamps = [time.perf_counter()]
            with bare.transaction(), bare.cursor() as cursor, cursor.copy(copy) as stream:
                stream.set_types(list(table.types.values()))
                for line in lines:
                    stream.write_row(line)
            stamps.append(time.perf_counter())
            writer.write_market([phase])
            stamps.append(time.perf_counter())
            for n, name in enumerate(times_ms):
                times_ms[name].append((stamps[n + 1] - stamps[n]) * 1e3)
        server = bare.info.server_version
        stored = bare.execute(sql.SQL("select count(*) from {table}").format(**names)).fetchone()
    writer.close()
    assert stored == ((WARM_ROUNDS + rounds) * count,), stored
    found = {name: quantiles(times[WARM_ROUNDS:]) for name, times in times_ms.items()}
    return {
        "rows": count,
        "columns": len(table.types),
        "rounds": rounds,
        "machine": machine(server),
        "ms": found,
        "ratio_to_bare": {
            q: round(value / found["bare"][q], 2) for q, value in found["writer"].items()
        },
        "budget_p95_ms": BUDGET_MS,
        "within_budget": found["writer"]["p95"] <= BUDGET_MS,
    }


def machine(server: int) -> dict[str, Any]:
    """Return what the figures belong to."""
    return {
        "system": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load_1m": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "postgresql": server,
    }


def main() -> None:
    """Start a server, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=200)
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="alpha-bench-"))
    folder.chmod(0o755)  # under root the server runs as another user
    server = EmbeddedPostgres(folder / "data", own=True).start()
    try:
        print(json.dumps(run(server.dsn(), given.rows, given.rounds)))
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
