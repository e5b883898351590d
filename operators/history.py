"""The closed bars that a column looks back to: a short table of labels and values, oldest first."""

from __future__ import annotations

import msgspec

from operators.kernel import push, value_at, values_to


class History(msgspec.Struct):
    """Values by column and label; at most `limit` bars, given with every push.

    A push can be taken back once: the bar that fell out is one more than any column looks back to.
    """

    labels: list[int] = []
    values: dict[str, list[float | None]] = {}

    def push(self, label_ms: int, values: dict[str, float | None], limit: int) -> None:
        """Append a bar, later than all before, always with the same columns."""
        push(self.labels, self.values, label_ms, values, limit)

    def pop(self) -> None:
        """Take the newest bar back."""
        self.labels.pop()
        for column in self.values.values():
            column.pop()

    def at(self, name: str, label_ms: int) -> float | None:
        """Return the value of the bar with a label; NULL when it was NULL or there is no such bar.

        >>> history = History([60_000], {"mid": [1.5]})
        >>> history.at("mid", 60_000), history.at("mid", 120_000)
        (1.5, None)
        """
        return value_at(self.labels, self.values.get(name, []), label_ms)

    def window(self, name: str, label_ms: int, bars: int, bar_ms: int) -> list[float | None]:
        """Return the values of the last bars up to a label, oldest first, NULL where one lacks."""
        return values_to(self.labels, self.values.get(name, []), label_ms, bars, bar_ms)
