"""Pieces are packed by several workers at the same time."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

from dataflows.connectors.packing import Zstd


def test_threads_that_share_an_object_do_not_share_contexts() -> None:
    """Each gets its own bytes back; with one context for all, this ends the process."""
    zstd = Zstd()

    def work(seed: int) -> bool:
        rng = random.Random(seed)
        for _ in range(25):
            data = rng.randbytes(64) * rng.randint(1, 1_500)
            if zstd.unpack(zstd.pack(data)) != data:
                return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(8)))


def test_equal_bytes_are_packed_alike_by_every_thread() -> None:
    """What is stored does not tell which worker wrote it."""
    zstd, data = Zstd(), b"a state " * 5_000
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(zstd.pack, [data] * 32)) == {zstd.pack(data)}
