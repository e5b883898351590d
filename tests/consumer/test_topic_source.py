"""A topic file is followed through growth, cuts, rotation and restarts."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataflows.connectors import topic_source
from dataflows.connectors.topic_source import SourceError, TopicFile
from dataflows.connectors.topics import NdjsonFile

Follow = Callable[..., TopicFile]


def values(source: TopicFile, timeout_s: float = 0.0) -> list[bytes]:
    """Return what comes until nothing comes."""
    found: list[bytes] = []
    while records := source.poll(timeout_s):
        found += [record.value for record in records]
    return found


def reopened(source: TopicFile, clock: Any) -> TopicFile:
    """Return a new source at the position of another, through JSON."""
    position = orjson.loads(orjson.dumps(source.position()))
    source.close()
    again = TopicFile(source.path, clock)
    again.seek(position)
    return again


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A topic file that is not there yet."""
    return tmp_path / "alpha.events.v0.ndjson"


@pytest.fixture
def follow(clock: Any) -> Iterator[Follow]:
    """Return a maker of sources: of a path, at the position of another."""
    opened = []

    def new(path: Path, before: TopicFile | None = None) -> TopicFile:
        source = TopicFile(path, clock) if before is None else reopened(before, clock)
        opened.append(source)
        return source

    yield new
    for source in opened:
        source.close()


def test_a_file_is_waited_for_and_followed(path: Path, follow: Follow) -> None:
    """Half a line is not handed out; offsets say where each stood."""
    source = follow(path)
    assert values(source) == []
    assert source.at_end()
    path.write_bytes(b"one\ntw")
    assert source.poll(0.0) == [(b"one", 0, 0)]
    assert values(source) == []
    with path.open("ab") as file:
        file.write(b"o\n\nthree\n")
    assert source.poll(0.0) == [(b"two", 0, 4), (b"three", 0, 9)]


def test_a_poll_lasts_no_longer_than_asked(path: Path, follow: Follow, clock: Any) -> None:
    """Without a line the time is waited for, and no longer."""
    start_s = clock.monotonic_s()
    assert follow(path).poll(1.0) == []
    assert clock.monotonic_s() - start_s == pytest.approx(1.0, abs=1e-3)


def test_a_restart_goes_on_where_it_was(path: Path, follow: Follow) -> None:
    """Lines that came while nobody looked are read, those before are not."""
    path.write_bytes(b"one\ntwo\n")
    source = follow(path)
    assert values(source) == [b"one", b"two"]
    with path.open("ab") as file:
        file.write(b"three\n")
    assert values(follow(path, source)) == [b"three"]


def test_a_rotated_file_is_read_to_its_end_first(path: Path, follow: Follow) -> None:
    """A line that was written just before the rotation is not lost."""
    path.write_bytes(b"one\n")
    source = follow(path)
    assert values(source) == [b"one"]
    with path.open("ab") as file:
        file.write(b"last\n")
    path.rename(path.with_suffix(".1"))
    assert values(source) == [b"last"]
    path.write_bytes(b"first\n")
    assert values(source) == [b"first"]
    assert any("replaced" in note for note in source.notes())
    assert source.notes() == []


@pytest.mark.parametrize("restart", [False, True])
def test_a_file_written_anew_is_read_from_its_start(
    path: Path, follow: Follow, restart: bool
) -> None:
    """Truncated in place: shorter, as long or longer than before."""
    path.write_bytes(b"one\ntwo\n")
    source = follow(path)
    assert values(source) == [b"one", b"two"]
    for text in (b"a\n", b"b\nc\n", b"dd\nee\nff\n"):
        path.write_bytes(text)
        if restart:
            source = follow(path, source)
        assert values(source) == text.split()


def test_a_writer_that_repeats_an_epoch_loses_nothing(path: Path, follow: Follow) -> None:
    """The file is cut where the epoch began; what is written again is read again."""
    writer = NdjsonFile(path, append=True)
    writer.append([b"one", b"two"])
    kept = writer.offset()
    writer.append([b"three", b"four"])
    writer.close()
    source = follow(path)
    assert values(source) == [b"one", b"two", b"three", b"four"]
    writer = NdjsonFile(path, kept, append=True)
    assert set(values(source)) <= {b"one", b"two"}  # repeats, for the inbox to drop
    writer.append([b"three", b"four", b"five"])
    writer.close()
    assert values(source)[-3:] == [b"three", b"four", b"five"]


def test_a_file_that_was_cut_and_grew_again_is_not_read_from_inside_a_line(
    path: Path, follow: Follow
) -> None:
    """Between two looks the file lost its end and became longer than it was."""
    path.write_bytes(b"one\ntwo\n")
    source = follow(path)
    assert values(source) == [b"one", b"two"]
    path.write_bytes(b"one\nanother\nthree\n")
    assert values(source) == [b"one", b"another", b"three"]
    assert any("cut" in note for note in source.notes())


def test_a_cut_rewinds_no_further_than_the_memory_of_the_inbox(
    path: Path, follow: Follow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large file that lost its last line is not read as a whole, and from a whole line."""
    monkeypatch.setattr(topic_source, "REWIND_BYTES", 10)
    lines = [b"line %02d" % number for number in range(20)]
    path.write_bytes(b"\n".join(lines) + b"\n")
    source = follow(path)
    assert values(source) == lines
    with path.open("r+b") as file:
        file.truncate(8 * 19)
    assert values(source) == [b"line 18"]


def test_a_line_without_end_is_one_record(
    path: Path, follow: Follow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its start is handed out, the rest is left out, and the next line is read."""
    monkeypatch.setattr(topic_source, "READ_BYTES", 64)
    monkeypatch.setattr(topic_source, "LINE_BYTES_MAX", 64)
    path.write_bytes(b"one\n" + b"x" * 500 + b"\ntwo\n")
    assert values(follow(path)) == [b"one", b"x" * 64, b"two"]


def test_only_what_is_new(path: Path, follow: Follow) -> None:
    """What is there is left out, the end of a line that was begun is not."""
    path.write_bytes(b"one\ntw")
    source = follow(path)
    source.seek_end()
    assert values(source) == []
    with path.open("ab") as file:
        file.write(b"o\nthree\n")
    assert values(source) == [b"two", b"three"]


def test_what_is_no_position_is_refused(path: Path, follow: Follow) -> None:
    """A damaged state is an error."""
    for position in (None, {}, {"offset": -1, "head": None}, {"offset": 0, "head": 1}, {"0": 3}):
        with pytest.raises(SourceError, match="position"):
            follow(path).seek(position)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(1, 4)),
        st.tuples(st.just("half"), st.just(0)),
        st.tuples(st.just("read"), st.just(0)),
        st.tuples(st.just("rotate"), st.just(0)),
        st.tuples(st.just("repeat"), st.integers(1, 4)),
        st.tuples(st.just("restart"), st.just(0)),
    ),
    max_size=30,
)


@given(STEPS)
def test_no_line_is_lost(steps: list[tuple[str, int]]) -> None:
    """Any growth, repeated epochs, rotations while it reads, and restarts."""
    from_clock = _Still()
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "topic"
        source = TopicFile(path, from_clock)
        read: set[bytes] = set()
        written: list[bytes] = []
        in_file: list[bytes] = []
        for step, count in steps:
            if step == "write":
                lines = [b"%06d" % (len(written) + i) for i in range(count)]
                writer = NdjsonFile(path, append=True)  # cuts half a line
                writer.append(lines)
                writer.close()
                written += lines
                in_file += lines
            elif step == "half":
                with path.open("ab") as file:
                    file.write(b"9999")
            elif step == "rotate":
                read |= set(values(source))  # the old file is gone for who does not look
                if path.exists():
                    path.rename(path.with_suffix(".old"))
                in_file = []
            elif step == "repeat":
                again = in_file[-count:]
                writer = NdjsonFile(path, 7 * (len(in_file) - len(again)), append=True)
                if count % 2:
                    read |= set(values(source))
                writer.append(again)
                writer.close()
            elif step == "restart":
                source = reopened(source, from_clock)
            else:
                read |= set(values(source))
        read |= set(values(source))
        source.close()
        assert read - {b"9999"} == set(written)


class _Still:
    """A clock that stands."""

    def now_ns(self) -> int:
        """Return an instant."""
        return 0

    def monotonic_s(self) -> float:
        """Return an instant."""
        return 0.0

    def jitter(self) -> float:
        """Return no jitter."""
        return 0.0

    def sleep(self, seconds: float) -> None:
        """Do nothing."""
