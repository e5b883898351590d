"""Passes over the values of a row or of a window: the inner loops of the join and of the sinks.

Rules of this file: as in kernel.py; it runs as it stands, and compiled with the types of scans.pxd
gives the same bits (decision 9).
"""

from __future__ import annotations  # plain form only

from collections.abc import Callable, Iterable  # plain form only
from typing import Any  # plain form only

from operators import native  # plain form only
from operators.kernel import median
from operators.lattice import MINUTE_MS
from operators.verdicts import DQ_OK, DQ_STALE

UNKNOWN = -1.0  # open interest of a minute that has none: below every value, which are >= 0


def float_at(values: list[float], place: int) -> float:  # plain form only
    """Return a value in the form in which loops read it."""  # plain form only
    return values[place]  # plain form only


def total(values: list[float], start: int) -> float:
    """Return the sum of the values from a place on, one after the other from 0.0.

    >>> total([5.0, 1.0, 0.25], 1)
    1.25
    """
    result = 0.0
    for i in range(start, len(values)):
        result += float_at(values, i)
    return result


def first_after(count: int, newest_ms: int, since_ms: int) -> int:
    """Return the place of the first of so many minutes that is labelled after `since_ms`.

    newest_ms : label of the last of them.

    >>> [first_after(3, 180_000, since_ms) for since_ms in (0, 60_000, 180_000)]
    [0, 1, 3]
    """
    after = -((since_ms - newest_ms) // MINUTE_MS)  # upwards, if it is no label
    return min(count, max(0, count - after))


def sums_since(known: dict[int, Any], uids: Iterable[int], since_ms: int) -> dict[int, float]:
    """Return by asset the sum of the volumes of the minutes labelled after `since_ms`, as `total`;
    0.0 if there is none.

    known : what is remembered of an asset's minutes (`activity.Past`).
    """
    sums: dict[int, float] = {}
    for uid in uids:
        past = known.get(uid)
        if past is None:
            sums[uid] = 0.0
            continue
        volumes = past.volumes
        sums[uid] = total(volumes, first_after(len(volumes), past.newest_ms, since_ms))
    return sums


def medians_since(
    known: dict[int, Any], uids: Iterable[int], since_ms: int
) -> dict[int, float | None]:
    """Return by asset the median of the open interest of the minutes labelled after `since_ms`,
    over those that know it; NULL if none does.

    known : as in `sums_since`.
    """
    medians: dict[int, float | None] = {}
    for uid in uids:
        past = known.get(uid)
        medians[uid] = None
        if past is not None:
            interests = past.interests
            first = first_after(len(interests), past.newest_ms, since_ms)
            held = known_from(interests, first)
            if held:
                medians[uid] = median(held)
    return medians


def known_from(interests: list[float], start: int) -> list[float]:
    """Return the values from a place on that are not UNKNOWN.

    >>> known_from([5.0, 1.0, -1.0, 0.0], 1)
    [1.0, 0.0]
    """
    found = []
    for i in range(start, len(interests)):
        number = float_at(interests, i)
        if number >= 0.0:
            found.append(number)
    return found


def remember_minute(
    known: dict[int, Any],
    uid: int,
    label_ms: int,
    volume: float | None,
    interest: float | None,
    stale: bool,
    begin: Callable[[int, list[float], list[float], int], Any],
    l1_min: int,
    l2_min: int,
) -> None:
    """Take an asset's newest minute, or that one amended (`activity.remember`).

    begin : makes what is remembered of a new asset. l1_min, l2_min : minutes that are kept.
    """
    traded = volume or 0.0
    held = UNKNOWN if interest is None else interest
    past = known.get(uid)
    if past is None:
        known[uid] = begin(label_ms, [traded], [held], 1 if stale else 0)
        return
    newest_ms, volumes, interests = past.newest_ms, past.volumes, past.interests
    missing = (label_ms - newest_ms) // MINUTE_MS - 1
    assert missing >= -1, f"asset {uid} sent minute {label_ms} after {newest_ms}"
    if missing < 0:
        volumes[-1], interests[-1] = traded, held
        before = past.stale_before
    else:
        before = past.stale_min if missing == 0 else 0
        if missing > 0:
            volumes.extend([0.0] * min(missing, l1_min))
            interests.extend([UNKNOWN] * min(missing, l2_min))
        volumes.append(traded)
        interests.append(held)
        if len(volumes) > l1_min:
            del volumes[: len(volumes) - l1_min]
        if len(interests) > l2_min:
            del interests[: len(interests) - l2_min]
        past.stale_before, past.newest_ms = before, label_ms
    past.stale_min = before + 1 if stale else 0


def remember_minutes(
    known: dict[int, Any],
    rows: list[Any],
    begin: Callable[[int, list[float], list[float], int], Any],
    l1_min: int,
    l2_min: int,
) -> None:
    """Take the minutes of some assets' rows, as `remember_minute`."""
    for row in rows:
        columns = row.columns
        remember_minute(
            known,
            row.asset_uid,
            row.exchange_ts_ms,
            columns["v_total_m_1"],
            columns["oi_close"],
            columns["dq_status"] == DQ_STALE,
            begin,
            l1_min,
            l2_min,
        )


def remember_strengths(
    known: dict[int, Any], rows: list[Any], begin: Callable[[], Any], step_ms: int
) -> None:
    """Take the relative strength of the minutes that are ok (`rotation.observe_minutes`)."""
    for row in rows:
        columns = row.columns
        if columns["dq_status"] != DQ_OK:
            continue
        uid, label_ms = row.asset_uid, row.exchange_ts_ms
        own = known.get(uid)
        if own is None:
            own = known[uid] = begin()
        labels, scores = own.labels, own.scores
        while len(labels) > 0 and labels[0] <= label_ms - step_ms:
            del labels[0], scores[0]
        if len(labels) > 0 and labels[-1] == label_ms:
            del labels[-1], scores[-1]
        labels.append(label_ms)
        scores.append(columns["rs_score_m_5"])


def give_membership(
    items: list[Any],
    inside: Iterable[int],
    hot: dict[int, Any],
    revision: int,
    last: dict[str, dict[int, Any]],
    names: dict[str, tuple[str, ...]],
    make: Callable[..., Any],
) -> None:
    """Write the membership of its asset into each row, and make what frames read of it the newest
    of its timeframe (`ContextState.last`).

    names, make : as `newest_of` has them, names by timeframe.
    """
    for item in items:
        uid = item.asset_uid
        is_inside = uid in inside
        is_hot = uid in hot
        for row in item.rows:
            columns = row.columns
            columns["is_in_universe"] = is_inside
            columns["is_hot"] = is_hot
            columns["universe_rev"] = revision
            newest = last.get(row.tf)
            if newest is None:
                newest = last[row.tf] = {}
            newest[uid] = newest_of(row, names[row.tf], make)


def newest_of(row: Any, names: tuple[str, ...], make: Callable[..., Any]) -> Any:
    """Return what frames read of a row; names : of the columns as it stores them; one that it does
    not have is NULL. make : a `Newest`."""
    columns = row.columns
    found = [columns.get(name) for name in names]
    return make(row.asset_uid, row.symbol, row.exchange_ts_ms, *found)


def squares(values: list[float], mean: float) -> list[float]:
    """Return the squares of the distances from a mean.

    >>> squares([1.0, 4.0], 2.0)
    [1.0, 4.0]
    """
    found = []
    for value in values:
        number = value - mean
        found.append(number * number)
    return found


def is_finite(value: object) -> bool:
    """Tell whether every number is, in a value that JSON has, however deep.

    >>> is_finite({"a": 1.5, "b": [None, "x", 2]}), is_finite([{"a": (1.0, float("nan"))}])
    (True, False)
    """
    if isinstance(value, float):
        number = value
        return number - number == 0.0
    if isinstance(value, dict):
        for item in value.values():
            if item is None:  # most of a row
                continue
            if type(item) is float:
                number = item
                if number - number != 0.0:
                    return False
            elif type(item) is not str and type(item) is not int and not is_finite(item):
                return False
        return True
    if isinstance(value, list | tuple):
        for item in value:
            if not is_finite(item):
                return False
    return True


FORM = native.take_over("scans", globals())  # plain form only
