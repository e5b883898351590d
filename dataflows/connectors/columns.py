"""The columnar cache of a tick log: what it says it is made of, and whether that still holds.

Rules of this file: the log is the truth; a cache is used only if every byte that is read of it, and
every byte of the segments behind it, is the one that was written down, and the text of the readers
and the times of the closings are the same; its bars only if the text that assembles and what that
reads of the feature pack are the same too, else its ticks; the manifest comes last and is replaced
as a whole; whatever is wrong is one sentence, and the next best is read.  Decision 16.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from importlib.resources import files
from pathlib import Path

import msgspec
import orjson

from dataflows.connectors.column_files import (
    FOLDERS,
    ColumnsError,
    File,
    Part,
    libraries,
    temporary_of,
    write_whole,
)
from dataflows.connectors.ticklog import plain_name, segments
from operators.assemble import reads_of
from operators.feed import FeedState, Hole
from operators.native import UNITS
from packs.schema import FeaturePack

VERSION = 2
MANIFEST = "manifest.json"
SUFFIX = ".columns"  # of the directory beside the log

_NAMES = {MANIFEST, temporary_of(Path(MANIFEST)).name, *FOLDERS}  # all that is in a cache

_READ_BYTES = 1 << 20
_HASHERS = 4  # files that are hashed at a time
# The text that decides what a line becomes. A cache made by another text is made anew.
_READERS = {
    "operators": ("feed.py", "layout.py", "lattice.py", "records.py", "wire.py", *UNITS["frames"]),
    "dataflows.connectors": ("column_files.py", "columns.py", "source.py", "ticklog.py"),
}
# The text that decides what bar ticks become. Bars made by another text are made anew.
_ASSEMBLY = {
    "operators": (
        *("assemble.py", "lattice.py", "layout.py", "quality.py", "records.py", "verdicts.py"),
        *UNITS["kernel"],
    ),
    "operators.formulas": ("price.py",),
    "dataflows.connectors": ("column_bars.py",),
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


class Bars(msgspec.Struct, frozen=True):
    """The bars of a cache: a file a part, in their order.

    assembly : digest of the text that made them of the ticks. limits : of what that read of the
    feature pack. states : what assembly knew behind the last two parts, or the only one.
    """

    assembly: str
    limits: str
    files: list[File]
    states: list[File]


class Manifest(msgspec.Struct, frozen=True):
    """What a cache is made of.

    readers : digest of the text that read the log. segments : of the log, from its first, all of
    each. state : of the reader behind them. holes : of the recording in them, each as it was last.
    bars : None if it has ticks alone.
    """

    version: int
    readers: str
    lattice: Lattice
    shards: int
    segments: list[Segment]
    parts: list[Part]
    state: FeedState
    holes: list[Hole]
    bars: Bars | None

    def tick_files(self) -> Iterator[File]:
        """Yield the files of all parts, but those of bars."""
        for part in self.parts:
            yield from part.files()

    def bar_files(self) -> list[File]:
        """Return the files of bars."""
        return [] if self.bars is None else [*self.bars.files, *self.bars.states]

    @property
    def ticks(self) -> int:
        """Records of all kinds."""
        return sum(part.ticks for part in self.parts)


class Columns(msgspec.Struct, frozen=True):
    """A cache that may be read. digest : of its manifest.

    bars : its bars may be read, its ticks were not looked at. no_bars : why they cannot be, "" if
    it has none.
    """

    directory: Path
    manifest: Manifest
    digest: str
    bars: bool = False
    no_bars: str = ""


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
    return digest_of_texts(_READERS)


@cache
def assembly() -> str:
    """Return the digest of the text that makes bars of ticks and closings."""
    return digest_of_texts(_ASSEMBLY)


def digest_of_texts(texts: Mapping[str, Iterable[str]]) -> str:
    """Return the digest of files of packages; texts : their names by package."""
    digest = hashlib.sha256()
    for package, names in texts.items():
        for name in names:
            text = files(package).joinpath(name).read_bytes()
            digest.update(b"%s %d\n" % (name.encode(), len(text)) + text)
    return digest.hexdigest()


def limits_of(features: FeaturePack) -> str:
    """Return the digest of all that bars take from a feature pack."""
    quality, future_ms = reads_of(features)
    said = [quality.model_dump(by_alias=True), future_ms]
    return hashlib.sha256(orjson.dumps(said, option=orjson.OPT_SORT_KEYS)).hexdigest()


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


def usable(
    log: Path, directory: Path, features: FeaturePack, *, bars: bool = True
) -> Columns | str:
    """Return the cache of a log if it may be read in its place, or else why not.

    The reason is "" where nobody ever made one. Reads the files of the log that it stands for, and
    those of its bars or else of its ticks, to the last byte. bars : False to look at ticks alone.
    """
    try:
        if not is_cache(directory):
            return ""
        found = load(directory)
        if isinstance(found, str):
            return found
        reason = unfit(found.manifest, features) or stale_segment(found.manifest, log)
        if reason:
            return reason
        if bars and found.manifest.bars is not None:
            no_bars = unfit_bars(found, features)
            found = msgspec.structs.replace(found, bars=not no_bars, no_bars=no_bars)
        return found if found.bars else _no_reader() or damaged_ticks(found) or found
    except OSError as error:
        return f"{error.filename}: {error.strerror}"


def is_cache(directory: Path) -> bool:
    """Tell whether a path is a cache, also one that was never finished; False if nothing is there.

    Raises `OSError` if that cannot be seen.
    """
    names = set(os.listdir(directory)) if directory.is_dir() else set()
    return MANIFEST in names or (names <= _NAMES and len(names) > 0)


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
    sweep(directory)
    return Columns(directory, manifest, hashlib.sha256(content).hexdigest())


def sweep(directory: Path) -> None:
    """Remove files that the manifest does not name; all if there is none.

    Where the manifest cannot be read, or is of another version, nobody knows, and all stay. To be
    called by who alone writes the cache.
    """
    kept = set[str]()
    if (directory / MANIFEST).exists():
        found = load(directory)
        if isinstance(found, str):
            return
        kept = {file.path for file in (*found.manifest.tick_files(), *found.manifest.bar_files())}
    temporary_of(directory / MANIFEST).unlink(missing_ok=True)
    for folder in FOLDERS:
        for path in (directory / folder).glob("*"):
            if f"{folder}/{path.name}" not in kept:
                path.unlink()


def _sealed(content: bytes) -> bytes:
    digest = hashlib.sha256(content).hexdigest().encode()
    return b'{"sha256":"%b","content":%b}\n' % (digest, content)


def unfit(manifest: Manifest, features: FeaturePack) -> str:
    """Say why no cache like this can be read, whatever is in its files, "" if it can."""
    if manifest.readers != readers():
        return "another version of this program made it"
    if manifest.lattice != lattice_of(features):
        return "the feature pack closes minutes at other times"
    return ""


def unfit_bars(columns: Columns, features: FeaturePack) -> str:
    """Say why the bars of a cache cannot be read, "" if they can, or if there are none."""
    bars = columns.manifest.bars
    if bars is None:
        return ""
    if bars.assembly != assembly():
        return "another version of this program assembled them"
    if bars.limits != limits_of(features):
        return "the feature pack has other limits of quality"
    return _damaged(columns, columns.manifest.bar_files())


def _no_reader() -> str:
    try:
        libraries()
    except ColumnsError as error:
        return str(error)
    return ""


def stale_segment(manifest: Manifest, log: Path) -> str:
    """Say which file of the log is not as it was, "" if all are."""
    present = files_of(log)
    names = {plain_name(path) for path in present}
    gone = [segment.name for segment in manifest.segments if segment.name not in names]
    if gone:
        more = f" and {len(gone) - 1} more" if len(gone) > 1 else ""
        return f"{gone[0]}{more} of the log {'are' if more else 'is'} gone"
    present = present[: len(manifest.segments)]
    for segment, path in zip(manifest.segments, present, strict=True):
        if plain_name(path) != segment.name or path.stat().st_size != segment.size:
            return f"{segment.name} of the log is another one"
    for segment, sha256 in zip(manifest.segments, _digests(present), strict=True):
        if sha256 != segment.sha256:
            return f"{segment.name} of the log is another one"
    return ""


def damaged_ticks(columns: Columns) -> str:
    """Say which file of a cache, but those of bars, is not as it was written, "" if all are."""
    return _damaged(columns, list(columns.manifest.tick_files()))


def _damaged(columns: Columns, named: list[File]) -> str:
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


@contextmanager
def unchanged(columns: Columns, named: list[File]) -> Iterator[None]:
    """Read files of a cache that were found in order; raises `ColumnsError` if they no longer are.

    Only where reading fails is that looked at; with files as they were, the failure is a bug.
    """
    try:
        yield
    except ColumnsError:
        raise
    except Exception as error:
        reason = _damaged(columns, named)
        if not reason:
            raise
        raise ColumnsError(
            f"{columns.directory}: {reason}: it was changed while it was read; run again"
        ) from error


def _digests(paths: list[Path]) -> Iterator[str]:
    """Yield the digests of files; hashing takes a third of the time of a read, so side by side."""
    with ThreadPoolExecutor(_HASHERS) as pool:
        yield from pool.map(sha256_of, paths)


def assert_ours(directory: Path) -> None:
    """Raise if a directory holds anything but a cache: what is in it will be removed."""
    if directory.is_dir():
        strange = sorted(set(os.listdir(directory)) - _NAMES)
        if strange:
            raise ColumnsError(
                f"{directory}: expected a columnar cache or no directory, found {strange[0]} in it"
            )
