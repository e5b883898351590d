"""A large state stored in two parts: a base, which is renewed rarely, and what came since.

    bars -> renewals -> bases -> merge with bars -> normalize

The engine writes the whole value of every key that was awake in an epoch, and nearly all of what
normalisation remembers, its baselines, is the same after a minute but for a few numbers. So
`normalize` stores a log of what they were given since their base, and the step `bases` holds the
base under the same key: it is awake, and so written, in the epochs of a renewal only.

Rules of this file: a base that takes the place of another waits in memory until it is stored that
there is one, and the next bar of its asset carries it to `bases`, in the same epoch as that bar;
there it is taken up, and `normalize` hears of it in that epoch, before which it goes on to refer to
the older one. `bases` lies upstream, so that the engine hands `normalize` no bar before all bases
are restored: an operator takes no item of an epoch before its frontier has reached that epoch, and
that of `normalize` includes the capability that `bases` gives up only behind its loads. Decision
18.
"""

from __future__ import annotations

import zlib
from mmap import mmap
from struct import Struct

import msgspec

from operators.records import BarItem

_HEAD = Struct("<qq")  # asset_uid, number
_CHECKSUM = Struct("<I")  # of the head: what follows has checksums of its own
_CONTENT = _HEAD.size + _CHECKSUM.size


class Base(msgspec.Struct, frozen=True):
    """The baselines of an asset, as they are stored.

    number : of the phase where it was made; those of an asset differ. content : bytes, or in memory
    of their own, see `aside`.
    """

    asset_uid: int
    number: int
    content: bytes | mmap


def aside(content: bytes) -> mmap:
    """Return bytes in memory that goes back to the system when they are let go.

    When all assets begin, their first bases lie between the states that are made at the same time,
    and would leave a hole as large as its baselines behind each.
    """
    found = mmap(-1, len(content))
    found.write(content)
    return found


class Taken(msgspec.Struct, frozen=True):
    """A base is in the store from the end of this epoch on; what follows it is all that is needed
    beside it."""

    asset_uid: int
    number: int


class Bases:
    """What the steps of a process hand each other, by asset_uid.

    made : bases that wait for the next bar of their asset. restored : those of the store, until
    the first bar of their asset. An asset is always on one thread.
    """

    def __init__(self) -> None:
        self.made: dict[int, Base] = {}
        self.restored: dict[int, Base] = {}

    def renewals(self, items: list[tuple[str, BarItem]]) -> list[tuple[str, Base]]:
        """Return the bases whose assets have a bar among the items, under the keys of these."""
        made = self.made
        if not made:  # nearly always
            return []
        found = [(key, made.pop(item.asset_uid, None)) for key, item in items]
        return [(key, base) for key, base in found if base is not None]


class Held(msgspec.Struct):
    """The base that the next snapshot writes, None where that has been done."""

    base: Base | None = None


class KeepBase:
    """`Base` in, `Taken` out, one asset at a time."""

    def initial(self) -> Held:
        """Return the state of an asset without a base."""
        return Held()

    def step(self, state: Held, item: Base) -> list[Taken]:
        """Hold a base to be written."""
        state.base = item
        return [Taken(item.asset_uid, item.number)]


class BaseCodec:
    """A held base to bytes and back to where `normalize` finds it.

    Once written it is let go: it is as large as the baselines themselves. Nothing is written in its
    place but at the end of a stream, where the engine asks for everything once more and `normalize`
    stores its whole state.
    """

    def __init__(self, bases: Bases) -> None:
        self._bases = bases

    def encode(self, state: Held) -> bytes:
        """Return the bytes of what is held, none where it was written before."""
        base, state.base = state.base, None
        if base is None:
            return b""
        head = _HEAD.pack(base.asset_uid, base.number)
        return b"".join((head, _CHECKSUM.pack(zlib.crc32(head)), base.content))

    def decode(self, data: bytes) -> Held:
        """Put a stored base where `normalize` finds it. Bytes that are none are left out: their
        asset will miss its base, and say so."""
        head = data[: _HEAD.size]
        if _CHECKSUM.pack(zlib.crc32(head)) == data[_HEAD.size : _CONTENT]:
            asset_uid, number = _HEAD.unpack(head)
            self._bases.restored[asset_uid] = Base(asset_uid, number, data[_CONTENT:])
        return Held()
