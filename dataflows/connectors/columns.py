"""The columnar cache of a tick log: what it says it is made of, and whether that still holds.

Rules of this file: the log is the truth; a cache is used only if every byte of it and of the
segments behind it is the one that was written down, and the text of the readers and the times of
the closings are the same; the manifest comes last and is replaced as a whole; whatever is wrong is
one sentence, and the log is read.  Decision 16.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.resources import files
from pathlib import Path

import msgspec

from dataflows.connectors.column_files import (
    FOLDERS,
    ColumnsError,
    File,
    Part,
    libraries,
    write_whole,
)
from dataflows.connectors.ticklog import plain_name, segments
from operators.feed import FeedState, Hole
from operators.native import UNITS
from packs.schema import FeaturePack

VERSION = 1
MANIFEST = "manifest.json"
SUFFIX = ".columns"  # of the directory beside the log

_READ_BYTES = 1 << 20
_HASHERS = 4  # files that are hashed at a time
# The text that decides what a line becomes. A cache made by another text is made anew.
_READERS = {
    "operators": ("feed.py", "layout.py", "lattice.py", "records.py", "wire.py", *UNITS["frames"]),
    "dataflows.connectors": ("column_files.py", "columns.py", "source.py", "ticklog.py"),
}


class Segment(msgspec.Struct, frozen=True):
    """A file of the log as it lies on disk; `name` is without `.zst`."""

    name: str
    size: int
    sha256: str


class Lattice(msgspec.Struct, frozen=True):
    """When minutes close, of the feature pack: all that ticks and closings take from packs."""

    lateness_ms: int
    grace_ms: int
    arrival_jump_gap_ms: int


class Manifest(msgspec.Struct, frozen=True):
    """What a cache is made of.

    readers : digest of the text that read the log. segments : of the log, from its first, all of
    each. state : of the reader behind them. holes : of the recording in them, each as it was last.
    """

    version: int
    readers: str
    lattice: Lattice
    shards: int
    segments: list[Segment]
    parts: list[Part]
    state: FeedState
    holes: list[Hole]

    def files(self) -> Iterator[File]:
        """Yield the files of all parts."""
        for part in self.parts:
            yield part.closings
            for shard in part.shards:
                yield from shard.values()

    @property
    def ticks(self) -> int:
        """Records of all kinds."""
        return sum(part.ticks for part in self.parts)


class Columns(msgspec.Struct, frozen=True):
    """A cache that may be read. digest : of its manifest."""

    directory: Path
    manifest: Manifest
    digest: str


class _Sealed(msgspec.Struct):
    sha256: str
    content: msgspec.Raw


def place_of(log: Path) -> Path:
    """Return where the cache of a log is, if nobody says otherwise: beside it.

    >>> place_of(Path("/data/ticks")).as_posix(), place_of(Path("/data/day.log.zst")).as_posix()
    ('/data/ticks.columns', '/data/day.log.zst.columns')
    """
    whole = log.resolve()
    return whole.with_name(whole.name + SUFFIX)


def lattice_of(features: FeaturePack) -> Lattice:
    """Return the times of the closings of a pack."""
    lattice = features.lattice
    return Lattice(lattice.lateness_ms, lattice.grace_ms, lattice.arrival_jump_gap_ms)


@cache
def readers() -> str:
    """Return the digest of the text that makes ticks and closings of lines."""
    digest = hashlib.sha256()
    for package, names in _READERS.items():
        for name in names:
            text = files(package).joinpath(name).read_bytes()
            digest.update(b"%s %d\n" % (name.encode(), len(text)) + text)
    return digest.hexdigest()


def files_of(log: Path) -> list[Path]:
    """Return the files of a log in their order."""
    return segments(log) if log.is_dir() else [log]


def segment_of(path: Path) -> Segment:
    """Measure a file of a log."""
    return Segment(plain_name(path), path.stat().st_size, sha256_of(path))


def sha256_of(path: Path) -> str:
    """Return the digest of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while data := file.read(_READ_BYTES):
            digest.update(data)
    return digest.hexdigest()


def usable(log: Path, directory: Path, features: FeaturePack) -> Columns | str:
    """Return the cache of a log if it may be read in its place, or else why not.

    The reason is "" where nobody ever made one. Reads every file of the cache and those of the log
    that it stands for, to the last byte.
    """
    if not directory.exists():
        return ""
    try:
        found = load(directory)
        if isinstance(found, str):
            return found
        return (
            _reason(found.manifest, features)
            or stale_segment(found.manifest, log)
            or damaged_file(found)
            or found
        )
    except OSError as error:
        return f"{error.filename}: {error.strerror}"


def load(directory: Path) -> Columns | str:
    """Return what a manifest says, or why that cannot be known; nothing is compared with it."""
    try:
        data = (directory / MANIFEST).read_bytes()
    except FileNotFoundError:
        return "it was never finished"
    try:
        sealed = msgspec.json.decode(data, type=_Sealed)
        content = bytes(sealed.content)
        if data != _sealed(content):
            return f"{MANIFEST} is damaged"
        if msgspec.json.decode(content, type=_Versioned).version != VERSION:
            return "another version of this program made it"
        manifest = msgspec.json.decode(content, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return f"{MANIFEST} is damaged"
    return Columns(directory, manifest, sealed.sha256)


class _Versioned(msgspec.Struct):
    version: int


def save(directory: Path, manifest: Manifest) -> Columns:
    """Put a manifest in place, and remove files that it does not name."""
    content = msgspec.json.encode(manifest)
    write_whole(directory / MANIFEST, _sealed(content))
    kept = {file.path for file in manifest.files()}
    for folder in FOLDERS:
        for path in (directory / folder).glob("*"):
            if f"{folder}/{path.name}" not in kept:
                path.unlink()
    return Columns(directory, manifest, hashlib.sha256(content).hexdigest())


def _sealed(content: bytes) -> bytes:
    digest = hashlib.sha256(content).hexdigest().encode()
    return b'{"sha256":"%b","content":%b}\n' % (digest, content)


def _reason(manifest: Manifest, features: FeaturePack) -> str:
    """Say why no cache like this can be read, whatever is in its files."""
    if manifest.readers != readers():
        return "another version of this program made it"
    if manifest.lattice != lattice_of(features):
        return "the feature pack closes minutes at other times"
    try:
        libraries()
    except ColumnsError as error:
        return str(error)
    return ""


def stale_segment(manifest: Manifest, log: Path) -> str:
    """Say which file of the log is not as it was, "" if all are."""
    present = files_of(log)[: len(manifest.segments)]
    if len(present) < len(manifest.segments):
        return f"{manifest.segments[len(present)].name} of the log is gone"
    for segment, path in zip(manifest.segments, present, strict=True):
        if plain_name(path) != segment.name or path.stat().st_size != segment.size:
            return f"{segment.name} of the log is another one"
    for segment, sha256 in zip(manifest.segments, _digests(present), strict=True):
        if sha256 != segment.sha256:
            return f"{segment.name} of the log is another one"
    return ""


def damaged_file(columns: Columns) -> str:
    """Say which file of a cache is not as it was written, "" if all are."""
    named = list(columns.manifest.files())
    paths = [columns.directory / file.path for file in named]
    for file, path in zip(named, paths, strict=True):
        if not path.exists():
            return f"{file.path} is gone"
        if path.stat().st_size != file.size:
            return f"{file.path} is damaged"
    for file, sha256 in zip(named, _digests(paths), strict=True):
        if sha256 != file.sha256:
            return f"{file.path} is damaged"
    return ""


def _digests(paths: list[Path]) -> Iterator[str]:
    """Yield the digests of files; hashing takes a third of the time of a read, so side by side."""
    with ThreadPoolExecutor(_HASHERS) as pool:
        yield from pool.map(sha256_of, paths)


def assert_ours(directory: Path) -> None:
    """Raise if a directory holds anything but a cache: what is in it will be removed."""
    known = {MANIFEST, f"{MANIFEST}.tmp", *FOLDERS}
    if directory.exists():
        strange = sorted(set(os.listdir(directory)) - known)
        if strange:
            raise ColumnsError(
                f"{directory}: expected a columnar cache or no directory, found {strange[0]} in it"
            )
