"""zstd for pieces of files, whichever worker thread asks.

Rules of this file: a context of zstandard belongs to one thread; it lets go of the interpreter lock
while it works, so that two threads in one context damage each other's bytes, or end the process.
"""

from __future__ import annotations

import threading

import zstandard


class Zstd(threading.local):
    """Packs and unpacks bytes; every thread that uses an object has its own contexts."""

    def __init__(self) -> None:
        self._compressor = zstandard.ZstdCompressor(level=1)
        self._decompressor = zstandard.ZstdDecompressor()

    def pack(self, data: bytes) -> bytes:
        """Return packed bytes, which tell the size of what is in them."""
        return self._compressor.compress(data)

    def unpack(self, data: bytes) -> bytes:
        """Return what was packed; raises zstandard.ZstdError."""
        return self._decompressor.decompress(data)
