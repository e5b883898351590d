"""The environment as frozen settings, and what the engine's runner was given; nothing else reads
`os.environ`.

Addresses, directories and sizes live here; thresholds never do, those are packs.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from operators.modes import Run
from operators.sharding import share_of

PREFIX = "ALPHA_"
RUNNER = "bytewax.run"
DATABASE_OFF = "off"
MAINNET_WS_URL = "wss://api.hyperliquid.xyz/ws"
MAINNET_REST_URL = "https://api.hyperliquid.xyz"


class SettingsError(Exception):
    """The environment is wrong; the message lists every fault."""


class Settings(BaseModel):
    """Every `ALPHA_*` variable, its default and its meaning."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data_dir: Path = Field(Path("var"), description="logs, topics and the embedded database")
    ws_url: str = Field(MAINNET_WS_URL, description="venue WebSocket")
    rest_url: str = Field(MAINNET_REST_URL, description="venue REST base address")
    coins: tuple[str, ...] | None = Field(
        None, description="comma-separated coins to track; default: the largest by volume"
    )
    max_assets: Annotated[int, Field(ge=1, le=300)] = Field(
        60, description="how many assets to track when coins are not named"
    )
    # What may hold a password is left out of `repr`; no message shows it.
    database_url: str | None = Field(
        None, repr=False, description="PostgreSQL to write to; default: embedded; `off` for none"
    )
    kafka_bootstrap: str | None = Field(
        None, description="`HOST:PORT,..` of Kafka for events; default: files"
    )
    kafka_options: str | None = Field(
        None,
        repr=False,
        description="`NAME=VALUE,..` of librdkafka, e.g. TLS and SASL, or `@FILE` with one a line",
    )
    topic_suffix: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,32}$")] | None = Field(
        None, description="ends the names of Kafka topics, one per environment, e.g. `staging`"
    )
    run_mode: Literal["dry_run", "shadow", "canary", "prod"] = Field(
        "prod", description="who hears the events: nobody, the shadow topic, canaries, all"
    )
    emit_events: bool = Field(
        True, description="the kill switch: `false` publishes no event, everything else goes on"
    )
    shard: str | None = Field(
        None, description="`I/K` of a split flow: assets whose uid leaves I when divided by K"
    )
    ticks: Literal["log", "kafka"] = Field(
        "log", description="where a shard reads ticks: the log under the data directory, or Kafka"
    )
    feature_pack: Path | None = Field(None, description="feature pack file")
    detector_pack: Path | None = Field(None, description="detector pack file")
    universe: Path | None = Field(None, description="universe policy file")

    @field_validator("coins", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(coin.strip() for coin in value.split(",") if coin.strip()) or None
        return value

    @field_validator("shard")
    @classmethod
    def _is_shard(cls, value: str | None) -> str | None:
        if value is not None and share_of(value) is None:
            raise ValueError("expected I/K with 0 <= I < K, such as 0/3")
        return value

    @property
    def run(self) -> Run:
        """Return how the run publishes."""
        return Run(self.run_mode, self.emit_events)

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Read the environment; raise `SettingsError` with every fault in one message."""
        given = os.environ if environ is None else environ
        values = {
            name: given[PREFIX + name.upper()]
            for name in cls.model_fields
            if given.get(PREFIX + name.upper())
        }
        faults = [
            f"  {name}: found an unknown variable, expected {_nearest(name, cls)}"
            for name in sorted(given)
            if name.startswith(PREFIX) and name[len(PREFIX) :].lower() not in cls.model_fields
        ]
        try:
            settings = cls(**values)  # type: ignore[arg-type]
        except ValidationError as error:
            faults += [
                f"  {PREFIX}{str(fault['loc'][0]).upper()}: found {fault['input']!r}, "
                f"expected: {fault['msg']}"
                for fault in error.errors()
            ]
        if faults:
            raise SettingsError("\n".join(["the environment is not valid:", *faults]))
        return settings


def _nearest(name: str, settings: type[Settings]) -> str:
    """Return the variable that was probably meant, or all there are."""
    known = [PREFIX + field.upper() for field in settings.model_fields]
    near = get_close_matches(name, known, n=1)
    return near[0] if near else "one of " + ", ".join(known)


# --- the engine's runner --------------------------------------------------------------------------


def store_of_this_process() -> Path | None:
    """Return the recovery directory of a flow that `python -m bytewax.run` is about to start here;
    None without one, or where something else runs."""
    main_module = getattr(sys.modules["__main__"], "__spec__", None)
    if main_module is None or main_module.name != RUNNER:
        return None
    return directory_of_run(sys.argv[1:], os.environ)


def directory_of_run(arguments: Sequence[str], environment: Mapping[str, str]) -> Path | None:
    """Return the recovery directory that `python -m bytewax.run` was given; None without one.

    >>> directory_of_run(["dataflows.live", "-r", "var/recovery", "-s", "10"], {})
    PosixPath('var/recovery')
    """
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    named = environment.get("BYTEWAX_RECOVERY_DIRECTORY")
    parser.add_argument("-r", "--recovery-directory", type=Path, default=named)
    found, _ = parser.parse_known_args(arguments)
    directory: Path | None = found.recovery_directory
    return directory
