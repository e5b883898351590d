"""A worker thread that stays one of Python's."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from bytewax import operators as op
from bytewax.dataflow import Dataflow
from bytewax.inputs import DynamicSource, StatelessSourcePartition
from bytewax.testing import TestingSink, cluster_main

from dataflows.connectors import own_thread

BATCHES = 5


class _Batches(DynamicSource[int], StatelessSourcePartition[int]):
    """Some batches of one item each."""

    def __init__(self, began: Callable[[], None]) -> None:
        self._began = began
        self._left = BATCHES

    def build(self, step_id: str, worker_index: int, worker_count: int) -> _Batches:
        self._began()
        return self

    def next_batch(self) -> list[int]:
        if not self._left:
            raise StopIteration
        self._left -= 1
        return [self._left]


@pytest.mark.parametrize(
    ("began", "states"), [(lambda: None, BATCHES), (own_thread.stay, 1)], ids=["goes", "stays"]
)
def test_a_thread_keeps_what_python_knows_of_it(began: Callable[[], None], states: int) -> None:
    """What is local to a thread lives as long as its state: without `stay`, one batch."""
    local, made = threading.local(), list[int]()

    def note(item: int) -> int:
        if not hasattr(local, "known"):
            local.known = True
            made.append(item)
        return item

    flow, out = Dataflow("own_thread"), list[int]()
    items = op.map("note", op.input("in", flow, _Batches(began)), note)
    op.output("out", items, TestingSink(out))
    cluster_main(flow, [], 0)
    assert len(out) == BATCHES
    assert len(made) == states


def test_it_may_be_asked_for_often() -> None:
    """Also where it is at hand anyway, in a thread of Python."""
    for _ in range(3):
        own_thread.stay()
    thread = threading.Thread(target=own_thread.stay)
    thread.start()
    thread.join()
    assert not thread.is_alive()
