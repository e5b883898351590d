"""The tick log survives rotation, crashes and damage without losing a good line."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
import zstandard

from dataflows.connectors.ticklog import (
    CORRUPT_SEGMENT,
    FRAME_TOO_LARGE,
    LINE_BYTES_MAX,
    RELIST_POLLS,
    TORN_LINE,
    LogError,
    Position,
    TickLogReader,
    TickLogWriter,
    segments,
)

T0 = 1_756_891_800_000_000_000


def frames(count: int) -> list[bytes]:
    """Return numbered frames of different lengths."""
    return [b'{"n":%d,"pad":"%s"}' % (n, b"x" * (n % 97)) for n in range(count)]


def write(directory: Path, count: int, *, start: int = 0, segment_bytes: int = 4000) -> list[bytes]:
    """Append frames and return the lines the log must hold."""
    writer = TickLogWriter(directory, segment_bytes_max=segment_bytes)
    lines = []
    for n, frame in enumerate(frames(start + count)[start:], start):
        writer.append(T0 + n, frame)
        lines.append(b"%d %b" % (T0 + n, frame))
    writer.close()
    return lines


def drain(reader: TickLogReader, chunk: int) -> list[bytes]:
    """Read until nothing more comes."""
    lines = []
    while more := reader.read(chunk):
        lines += more
    return lines


def read_all(log: TickLogReader, chunk: int) -> list[bytes]:
    """Read a whole log and close it."""
    with log as reader:
        return drain(reader, chunk)


@pytest.mark.parametrize("chunk", [1, 7, 2000])
def test_everything_written_is_read_back_in_order(tmp_path: Path, chunk: int) -> None:
    """Rotation and compression neither lose nor reorder lines, at any chunk size."""
    lines = write(tmp_path, 500)
    assert len(list(tmp_path.glob("*.zst"))) > 3
    assert len(list(tmp_path.glob("*.log"))) == 1
    assert read_all(TickLogReader(tmp_path), chunk) == lines


def test_a_position_resumes_at_the_next_line(tmp_path: Path) -> None:
    """Reading on from any position gives exactly the rest, also inside compressed pieces."""
    lines = write(tmp_path, 300)
    for taken in (0, 1, 37, 150, 299, 300):
        with TickLogReader(tmp_path) as reader:
            first = reader.read(taken) if taken else []
        again = TickLogReader(tmp_path, reader.position)
        assert first + read_all(again, 11) == lines


def test_a_position_survives_the_compression_of_its_segment(tmp_path: Path) -> None:
    """A segment that was plain when it was left may be a zstd piece on return."""
    lines = write(tmp_path, 20, segment_bytes=1 << 20)
    with TickLogReader(tmp_path) as reader:
        first = reader.read(10)
    more = write(tmp_path, 20, start=20, segment_bytes=1 << 20)
    assert not list(tmp_path.glob("*000001.log"))
    assert first + read_all(TickLogReader(tmp_path, reader.position), 5) == lines + more


def test_a_reader_follows_a_log_that_is_being_written(tmp_path: Path) -> None:
    """What is appended later, also across rotation, is seen by the reader that is open."""
    writer = TickLogWriter(tmp_path, segment_bytes_max=300)
    reader = TickLogReader(tmp_path, follow=True)
    seen, written = [], []
    for n, frame in enumerate(frames(100)):
        writer.append(T0 + n, frame)
        written.append(b"%d %b" % (T0 + n, frame))
        if n % 3 == 0:
            seen += drain(reader, 4)
    for _ in range(RELIST_POLLS):
        seen += drain(reader, 4)
    assert seen == written
    writer.close()
    reader.close()


def test_a_line_without_newline_waits_while_the_log_is_open(tmp_path: Path) -> None:
    """Half a line is not a line yet."""
    path = tmp_path / "open.log"
    path.write_bytes(b"1 {}\n2 {")
    rejects: list[str] = []
    with TickLogReader(path, on_reject=rejects.append, follow=True) as reader:
        assert reader.read(10) == [b"1 {}"]
        with path.open("ab") as log:
            log.write(b"}\n")
        assert reader.read(10) == [b"2 {}"]
    assert rejects == []


def test_the_torn_tail_of_a_crashed_segment_is_counted_and_costs_nothing_else(
    tmp_path: Path,
) -> None:
    """A kill in mid-write leaves half a line; the next recorder starts a new segment."""
    lines = write(tmp_path, 10, segment_bytes=1 << 20)
    segment = next(tmp_path.glob("*.log"))
    segment.write_bytes(segment.read_bytes()[:-5])
    more = write(tmp_path, 10, start=10)
    rejects: list[str] = []
    assert read_all(TickLogReader(tmp_path, on_reject=rejects.append), 4) == lines[:-1] + more
    assert rejects == [TORN_LINE]


@pytest.mark.parametrize("cut", [1, 130, 600])
def test_a_reader_behind_the_end_of_a_cut_segment_goes_on_with_the_next(
    tmp_path: Path, cut: int
) -> None:
    """A power cut takes what was not forced to disk, also of what was read and committed."""
    lines = write(tmp_path, 20, segment_bytes=1 << 20)
    with TickLogReader(tmp_path) as reader:
        assert drain(reader, 7) == lines
    segment = next(tmp_path.glob("*.log"))
    segment.write_bytes(segment.read_bytes()[:-cut])
    plain = TickLogReader(tmp_path, reader.position, follow=True)
    assert drain(plain, 7) == []
    more = write(tmp_path, 20, start=20)  # packs the segment that was cut
    assert drain(plain, 7) == more
    plain.close()
    assert read_all(TickLogReader(tmp_path, reader.position), 5) == more


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_a_line_that_is_too_long_is_skipped_and_counted_once(tmp_path: Path, chunk: int) -> None:
    """A 50 MB frame is one reject; its neighbours are delivered; memory stays bounded."""
    path = tmp_path / "huge.log"
    with path.open("wb") as log:
        log.write(b"1 {}\n2 ")
        for _ in range(50):
            log.write(b"x" * (1 << 20))
        log.write(b"\n3 {}\n4 " + b"y" * (LINE_BYTES_MAX + 1) + b"\n5 {}\n")
    rejects: list[str] = []
    reader = TickLogReader(path, on_reject=rejects.append)
    assert read_all(reader, chunk) == [b"1 {}", b"3 {}", b"5 {}"]
    assert rejects == [FRAME_TOO_LARGE] * 2
    assert reader.position == Position("huge.log", path.stat().st_size)


def test_a_log_can_be_read_up_to_a_segment(tmp_path: Path) -> None:
    """What a crash cut off at the end of it is counted, for there is more behind."""
    written = write(tmp_path, 200)
    names = [path.name.removesuffix(".zst") for path in segments(tmp_path)]
    assert len(names) >= 3
    torn = tmp_path / names[1]
    with TickLogReader(tmp_path, last=names[1]) as log:
        whole = drain(log, 7)
    assert 0 < len(whole) < len(written)
    assert whole == written[: len(whole)]
    torn.write_bytes(b"\n".join([*whole[-2:], b"17 cut"]))
    reasons: list[str] = []
    with TickLogReader(tmp_path, on_reject=reasons.append, last=names[1]) as log:
        drain(log, 1000)
        assert log.read(10) == []
        assert log.position.segment == names[1]
    assert reasons == ["torn_line"]


def test_damaged_gzip_delivers_what_came_before_the_damage(tmp_path: Path) -> None:
    """A truncated recording is read up to the damage, which is counted once."""
    whole = b"".join(b"%d {}\n" % n for n in range(200_000))
    path = tmp_path / "cut.gz"
    path.write_bytes(gzip.compress(whole)[:-100])
    rejects: list[str] = []
    reader = TickLogReader(path, on_reject=rejects.append)
    lines = drain(reader, 1000)
    assert 100_000 < len(lines) <= 200_000
    assert rejects.count(CORRUPT_SEGMENT) == 1
    reader.close()


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.ZstdCompressor().compress])
def test_plain_gzip_and_zstd_files_are_told_apart_by_content(tmp_path: Path, pack) -> None:  # type: ignore[no-untyped-def]
    """A recording may have any name."""
    path = tmp_path / "recording"
    path.write_bytes(pack(b"1 {}\n2 {}\n"))
    assert read_all(TickLogReader(path), 10) == [b"1 {}", b"2 {}"]


def test_a_missing_log_is_one_clear_message(tmp_path: Path) -> None:
    """Someone who mistyped a path is told so."""
    with pytest.raises(LogError, match=r"nowhere: expected a tick log"):
        TickLogReader(tmp_path / "nowhere")


def test_a_newline_inside_a_frame_cannot_break_the_format(tmp_path: Path) -> None:
    """The writer replaces it; JSON does not mind."""
    writer = TickLogWriter(tmp_path)
    writer.append(T0, b'{\n"a":1}')
    writer.close()
    assert read_all(TickLogReader(tmp_path), 10) == [b'%d { "a":1}' % T0]
