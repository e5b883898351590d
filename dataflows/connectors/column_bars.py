"""Minute bars of a columnar cache: what assembly made of the ticks of each part.

Rules of this file: the bars are those of operators/assemble.py, which is run here and nowhere
imitated; what is read is what was written, to the bit; the bytes depend on the ticks alone, not on
how the log was read; a stretch is unpacked when it is asked for. What assembly knew of each asset
behind the last part is a file too, so that the log can be gone on with, and behind the part before
it, because the last is taken up again when more is recorded.  Decision 16.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import zstandard

from dataflows.connectors.column_files import BARS, File, Part, bytes_of, label_of, write_file
from operators.assemble import Assemble, AssemblyCodec, AssemblyState
from operators.feed import Item
from operators.records import Bar, BarItem, Phase, Ticks
from packs.schema import FeaturePack


class _Bar(msgspec.Struct, frozen=True, array_like=True):
    """A bar without its minute; names : which columns these are, of the part."""

    symbol: str
    revision: int
    names: int
    values: list[Any]
    extras: dict[str, Any]


class _Share(msgspec.Struct, frozen=True, array_like=True):
    asset_uid: int
    bar: _Bar | None


class _Closed(msgspec.Struct, frozen=True, array_like=True):
    """A closing: the shares of the assets, in their order."""

    phase: Phase
    shares: list[_Share]


class _Bars(msgspec.Struct, frozen=True):
    """A part. names : orders of columns. stretches : closings of each, packed."""

    names: list[tuple[str, ...]]
    stretches: list[bytes]


_closings_of = msgspec.msgpack.Decoder(list[_Closed]).decode
_bars_of = msgspec.msgpack.Decoder(_Bars).decode
_states_of = msgspec.msgpack.Decoder(dict[int, bytes]).decode


class Assembler:
    """Makes the bars of the parts of a cache, one after the other."""

    def __init__(self, features: FeaturePack) -> None:
        self._step = Assemble(features)
        self._codec = AssemblyCodec()
        self._states: dict[int, AssemblyState] = {}
        self._pack = zstandard.ZstdCompressor().compress

    def go_on(self, known: dict[int, bytes]) -> None:
        """Begin behind a part; known : its `states`."""
        for uid, state in known.items():
            self._states[uid] = self._codec.decode(state)

    def states(self) -> dict[int, bytes]:
        """Return what is known of each asset behind the part that was written last, in their
        order, as `AssemblyCodec` has it."""
        return {uid: self._codec.encode(self._states[uid]) for uid in sorted(self._states)}

    def write(self, directory: Path, part: Part, stretches: Iterable[list[Item]]) -> File:
        """Assemble the next part, given the items of its stretches, and write its bars."""
        names: dict[tuple[str, ...], int] = {}
        packed = [self._pack(self._closings(items, names)) for items in stretches]
        data = msgspec.msgpack.encode(_Bars(list(names), packed))
        return write_file(directory, BARS, label_of(part.hour_ms, part.number), "msgpack", data)

    def _closings(self, items: list[Item], names: dict[tuple[str, ...], int]) -> bytes:
        found: list[_Closed] = []
        for uid, item in items:
            state = self._states.get(uid)
            if state is None:
                state = self._states[uid] = self._step.initial()
            for made in self._step.step(state, _in_order(item)):
                if not found or found[-1].phase != made.phase:
                    found.append(_Closed(made.phase, []))
                found[-1].shares.append(_Share(uid, _stored(made, names)))
        return msgspec.msgpack.encode(found)


def _in_order(item: Any) -> Any:
    """Give the reasons of rejects an order: that in which they were met says nothing."""
    if isinstance(item, Ticks) and len(item.rejects) > 1:
        return msgspec.structs.replace(item, rejects=dict(sorted(item.rejects.items())))
    return item


def _stored(item: BarItem, names: dict[tuple[str, ...], int]) -> _Bar | None:
    bar = item.bar
    if bar is None:
        return None
    assert (bar.asset_uid, bar.exchange_ts_ms) == (item.asset_uid, item.phase.minute_ms)
    order = names.setdefault(tuple(bar.columns), len(names))
    return _Bar(bar.symbol, bar.revision, order, list(bar.columns.values()), bar.extras)


def read_bars(directory: Path, file: File, first: int = 0) -> Iterator[list[BarItem]]:
    """Yield what was assembled of each stretch of a part, from the one with number `first` on."""
    bars = _bars_of(bytes_of(directory, file))
    unpack = zstandard.ZstdDecompressor().decompress  # a context belongs to one thread
    for packed in bars.stretches[first:]:
        items: list[BarItem] = []
        for closed in _closings_of(unpack(packed)):
            phase, minute_ms = closed.phase, closed.phase.minute_ms
            for share in closed.shares:
                uid, kept = share.asset_uid, share.bar
                bar = None
                if kept is not None:
                    columns = dict(zip(bars.names[kept.names], kept.values, strict=True))
                    bar = Bar(uid, kept.symbol, minute_ms, kept.revision, columns, kept.extras)
                items.append(BarItem(phase, uid, bar))
        yield items


def write_states(directory: Path, part: Part, states: dict[int, bytes]) -> File:
    """Write what assembly knows behind a part."""
    stem = f"{label_of(part.hour_ms, part.number)}-states"
    packed = zstandard.ZstdCompressor().compress(msgspec.msgpack.encode(states))
    return write_file(directory, BARS, stem, "msgpack.zst", packed)


def read_states(directory: Path, file: File) -> dict[int, bytes]:
    """Return what assembly knew of each asset behind a part, as `AssemblyCodec` has it."""
    return _states_of(zstandard.ZstdDecompressor().decompress(bytes_of(directory, file)))
