"""Where the products of a run are, and the packs that made them."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from dataflows.archive import Archive, ArchiveError
from dataflows.cli.failures import INPUT, USAGE, Problem
from dataflows.connectors.archive_files import FileArchive
from dataflows.connectors.archive_postgres import PostgresArchive
from dataflows.connectors.database import Database
from dataflows.settings import DATABASE_OFF, Settings
from packs.loader import Packs, load_packs


def archive_of(directory: Path | None, schema: str, packs: Packs) -> Archive:
    """Return the files of a directory, or else the tables of a schema."""
    if directory is not None:
        if not directory.is_dir():
            raise Problem(f"--from: expected a directory, found {directory}", INPUT)
        try:
            return FileArchive(directory)
        except ArchiveError as error:
            raise Problem(str(error), INPUT) from error
    settings = Settings.from_env()
    if settings.database_url == DATABASE_OFF:
        raise Problem("ALPHA_DATABASE_URL is `off`: give --from DIRECTORY", USAGE)
    dsn = Database(settings.data_dir, settings.database_url, schema=schema).open()
    return PostgresArchive(dsn, packs.features, schema=schema)


def packs_with(
    config_hash: str, packs: Packs, features: Path | None, universe: Path | None
) -> Packs:
    """Return the shipped packs of a configuration, those at hand where it is none of them."""
    if packs.config_hash == config_hash:
        return packs
    for entry in sorted(files("packs.detectors").iterdir(), key=lambda entry: entry.name):
        if entry.name.endswith(".yaml"):
            other = load_packs(features, Path(str(entry)), universe)
            if other.config_hash == config_hash:
                return other
    return packs
