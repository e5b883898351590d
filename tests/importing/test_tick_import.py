"""Recordings of trades, quotes and books become a tick log."""

from __future__ import annotations

import gzip
from collections import Counter
from contextlib import closing
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
import pytest

from dataflows.connectors.ticklog import TickLogReader, TickLogWriter
from dataflows.importing import (
    ImportProblem,
    QuoteColumns,
    Stamp,
    TickFile,
    TickReport,
    TradeColumns,
    import_ticks,
    read_meta,
    ticks,
)
from dataflows.importing.frames import TradeIds
from dataflows.importing.texts import Unit, to_ns
from operators import wire

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data" / "hyperliquid"
RECORDINGS = DATA / "recordings"
RESHAPED = DATA / "derived" / "djienne_20250903_4coins_reshaped_frames.jsonl.gz"
needs_recordings = pytest.mark.skipif(
    not RECORDINGS.is_dir(), reason="the recordings in ../shared/data are not there"
)
COINS = ("BTC", "ETH", "SOL", "WLFI")
T0 = 1_756_904_112_000  # 2025-09-03 12:55:12


Lines = list[tuple[int, dict[str, Any]]]


def write(path: Path, text: str) -> Path:
    data = text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def run(
    tmp_path: Path, files: dict[str, str] | list[TickFile], **options: object
) -> tuple[Lines, TickReport]:
    """Import files given as name -> content; return the log's lines and the report."""
    if isinstance(files, dict):
        files = [TickFile(write(tmp_path / name, text)) for name, text in files.items()]
    out = tmp_path / "out.log"
    report = import_ticks(files, out, **options)  # type: ignore[arg-type]
    return parsed(out), report


def raw_lines(out: Path) -> list[bytes]:
    with closing(TickLogReader(out)) as reader:
        return reader.read(10**7)


def parsed(out: Path) -> Lines:
    cut = (line.partition(b" ") for line in raw_lines(out))
    return [(int(stamp), orjson.loads(frame)) for stamp, _, frame in cut]


def of(lines: Lines, channel: str) -> list[Any]:
    return [frame["data"] for _, frame in lines if frame["channel"] == channel]


def trades_of(lines: Lines) -> list[dict[str, Any]]:
    return [trade for data in of(lines, "trades") for trade in data]


# --- the log ---------------------------------------------------------------------------------

GENERIC_TRADES = f"""time_ms,symbol,price,size,side,trade_id
{T0},BTC,111039.0,0.00091,buy,7
{T0},BTC,111038.50,1,sell,8
{T0 + 2500},ETH,4344.10,0.5,SELL,9
{T0 + 40_000},BTC,111040.0,2e-3,B,10
"""
GENERIC_QUOTES = f"""time_ms,symbol,bid,bid_size,ask,ask_size
{T0 + 100},BTC,111038.0,8.8,111039.0,0.0036
{T0 + 200},BTC,111038.0,8.8,,
"""
EXPECTED = b"".join(
    b"%d %b\n" % (ms * 1_000_000, frame)
    for ms, frame in [
        (
            T0,
            b'{"channel":"alpha.roster","data":{"from_ms":1756904160000,"assets":['
            b'{"uid":0,"coin":"BTC","channels":["trades","bbo"]},'
            b'{"uid":1,"coin":"ETH","channels":["trades"]}],"dexes":[""]}}',
        ),
        (
            T0,
            b'{"channel":"trades","data":['
            b'{"coin":"BTC","side":"B","px":"111039.0","sz":"0.00091","time":1756904112000,"tid":7},'
            b'{"coin":"BTC","side":"A","px":"111038.50","sz":"1","time":1756904112000,"tid":8}]}',
        ),
        (
            T0 + 100,
            b'{"channel":"bbo","data":{"coin":"BTC","time":1756904112100,"bbo":['
            b'{"px":"111038.0","sz":"8.8"},{"px":"111039.0","sz":"0.0036"}]}}',
        ),
        (
            T0 + 200,
            b'{"channel":"bbo","data":{"coin":"BTC","time":1756904112200,"bbo":['
            b'{"px":"111038.0","sz":"8.8"},null]}}',
        ),
        (T0 + 1200, b'{"channel":"alpha.clock"}'),
        (T0 + 2200, b'{"channel":"alpha.clock"}'),
        (
            T0 + 2500,
            b'{"channel":"trades","data":['
            b'{"coin":"ETH","side":"A","px":"4344.10","sz":"0.5","time":1756904114500,"tid":9}]}',
        ),
        (
            T0 + 40_000,
            b'{"channel":"alpha.gap","data":'
            b'{"start_ms":1756904114500,"end_ms":1756904152000,"cause":"hole"}}',
        ),
        (
            T0 + 40_000,
            b'{"channel":"trades","data":['
            b'{"coin":"BTC","side":"B","px":"111040.0","sz":"2e-3","time":1756904152000,"tid":10}]}',
        ),
    ]
)


def test_a_small_import_gives_exactly_these_bytes(tmp_path: Path) -> None:
    """Roster first, frames grouped as recorded, heartbeats in a silence, a gap for a hole."""
    _, report = run(tmp_path, {"t.csv": GENERIC_TRADES, "q.csv.gz": GENERIC_QUOTES})
    assert (tmp_path / "out.log").read_bytes() == EXPECTED
    assert report == TickReport(
        files=2,
        lines=6,
        frames=5,
        ticks={"trades": {"BTC": 3, "ETH": 1}, "bbo": {"BTC": 2}},
        holes=[(T0 + 2500, T0 + 40_000)],
        rejects={},
        span_ms=(T0, T0 + 40_000),
        uids={"BTC": 0, "ETH": 1},
    )


def test_the_flow_decodes_every_line(tmp_path: Path) -> None:
    """What is written is what the flow reads: no line is rejected, in whole or in part."""
    run(tmp_path, {"t.csv": GENERIC_TRADES, "q.csv": GENERIC_QUOTES})
    decoded = [wire.decode(line.partition(b" ")[2]) for line in raw_lines(tmp_path / "out.log")]
    assert len(decoded) == EXPECTED.count(b"\n")
    assert sum(dropped for _, dropped in decoded) == 0


@pytest.mark.parametrize("name", ["log.gz", "log.zst", "log.ndjson", "log"])
def test_every_form_of_output_holds_the_same_lines(tmp_path: Path, name: str) -> None:
    """A compressed file, a plain one and a directory of segments read back the same."""
    files = [TickFile(write(tmp_path / "t.csv", GENERIC_TRADES))]
    files.append(TickFile(write(tmp_path / "q.csv", GENERIC_QUOTES)))
    contents = []
    for copy in ("a", "b"):
        out = tmp_path / copy / name
        import_ticks(files, out)
        assert b"".join(line + b"\n" for line in raw_lines(out)) == EXPECTED
        found = sorted(out.iterdir()) if out.is_dir() else [out]
        contents.append([(path.name, path.read_bytes()) for path in found])
    assert contents[0] == contents[1]


def test_large_outputs_rotate_into_segments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A directory gets more than one segment, and the reader sees one log."""
    rows = "".join(f"{T0 + i},BTC,100.0,1.0,buy,{i}\n" for i in range(20_000))
    source = write(tmp_path / "t.csv", "time_ms,symbol,price,size,side,trade_id\n" + rows)
    monkeypatch.setattr(ticks, "TickLogWriter", partial(TickLogWriter, segment_bytes_max=1 << 20))
    import_ticks([TickFile(source)], tmp_path / "log")
    assert len(list((tmp_path / "log").iterdir())) > 1
    assert [t["tid"] for t in trades_of(parsed(tmp_path / "log"))] == list(range(20_000))


def test_a_directory_that_holds_something_is_refused(tmp_path: Path) -> None:
    """An import never mixes with what is there."""
    out = tmp_path / "log"
    out.mkdir()
    write(out / "ticks-0001756904112-000001.log", "")
    with pytest.raises(ImportProblem, match="empty directory"):
        import_ticks([TickFile(write(tmp_path / "t.csv", GENERIC_TRADES))], out)


# --- silence ---------------------------------------------------------------------------------


def one_trade_each(*after_ms: int) -> str:
    rows = "".join(f"{T0 + ms},BTC,100.0,1.0,buy,{i}\n" for i, ms in enumerate(after_ms))
    return "time_ms,symbol,price,size,side,trade_id\n" + rows


def test_a_silence_of_one_file_is_filled_by_another(tmp_path: Path) -> None:
    """A hole is a silence of all files at once."""
    quiet = one_trade_each(0, 60_000)
    busy = one_trade_each(*range(0, 60_001, 500)).replace("BTC", "ETH")
    lines, report = run(tmp_path, {"a.csv": quiet, "b.csv": busy})
    assert report.holes == []
    assert {frame["channel"] for _, frame in lines} == {"alpha.roster", "trades"}


def test_the_clock_never_jumps_without_a_record(tmp_path: Path) -> None:
    """Lines are in order of arrival and at most a second apart, but for a declared gap."""
    lines, report = run(tmp_path, {"a.csv": one_trade_each(0, 900, 1900, 2901, 16_000, 31_001)})
    stamps = [stamp for stamp, _ in lines]
    assert stamps == sorted(stamps)
    wide = [b for a, b in pairwise(lines) if b[0] - a[0] > 10**9]
    assert [frame["channel"] for _, frame in wide] == ["alpha.gap"]
    assert report.holes == [(T0 + 16_000, T0 + 31_001)]


def test_the_allowed_silence_is_a_choice(tmp_path: Path) -> None:
    """A longer allowance turns the hole into heartbeats."""
    lines, report = run(tmp_path, {"a.csv": one_trade_each(0, 31_000)}, max_silence_s=31)
    assert report.holes == []
    assert [frame["channel"] for _, frame in lines].count("alpha.clock") == 30


def test_a_tail_lets_the_last_minute_close(tmp_path: Path) -> None:
    """Heartbeats go on after the last tick when asked for."""
    lines, report = run(tmp_path, {"a.csv": one_trade_each(0)}, tail_s=3)
    assert [stamp // 1_000_000 - T0 for stamp, _ in lines] == [0, 0, 1000, 2000, 3000]
    assert report.span_ms == (T0, T0)


# --- order, ids, text ------------------------------------------------------------------------


def test_rows_slightly_out_of_order_are_sorted_and_ties_keep_their_order(tmp_path: Path) -> None:
    """Within the reorder bound the log is sorted by arrival, stable."""
    lines, report = run(tmp_path, {"a.csv": one_trade_each(500, 300, 300, 400, 0)})
    assert [trade["tid"] for trade in trades_of(lines)] == [4, 1, 2, 3, 0]
    assert report.rejects == {}


def test_rows_far_out_of_order_are_dropped_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes too late for the reorder bound is counted, and the log stays sorted."""
    monkeypatch.setattr(ticks, "REORDER_FRAMES_MAX", 2)
    lines, report = run(tmp_path, {"a.csv": one_trade_each(100, 200, 300, 400, 0, 500, 1)})
    assert [trade["tid"] for trade in trades_of(lines)] == [0, 1, 2, 3, 5]
    assert report.rejects == {"out_of_order": 2}


def test_equal_arrivals_keep_the_order_of_the_files(tmp_path: Path) -> None:
    """Ties between files go to the file named first."""
    first, second = one_trade_each(0, 100), one_trade_each(0, 100).replace("BTC", "ETH")
    lines, _ = run(tmp_path, {"b.csv": first, "a.csv": second})
    assert [trade["coin"] for trade in trades_of(lines)] == ["BTC", "ETH", "BTC", "ETH"]


def test_number_text_survives(tmp_path: Path) -> None:
    """No digit is added, dropped or rounded, and nonsense numbers reach the flow."""
    texts = ["0.10", "100", "1e-7", "+5.0", "007", ".5", "5.", "-1", "NaN", "inf"]
    texts.append("111038.123456789012345678901234567890")
    rows = "".join(f"{T0},BTC,{text},{text},buy,{i}\n" for i, text in enumerate(texts))
    lines, report = run(tmp_path, {"a.csv": "time_ms,symbol,price,size,side,trade_id\n" + rows})
    assert [trade["px"] for trade in trades_of(lines)] == texts
    assert [trade["sz"] for trade in trades_of(lines)] == texts
    assert report.rejects == {}


def test_equal_rows_without_an_id_stay_distinct(tmp_path: Path) -> None:
    """A derived id counts equal rows, and is the same wherever that stretch was recorded."""
    text = "time_ms,symbol,price,size,side\n" + f"{T0},BTC,100.0,1.0,buy\n" * 3
    lines, _ = run(tmp_path, {"a.csv": text, "b.csv": text})
    tids = [trade["tid"] for trade in trades_of(lines)]
    assert len(set(tids)) == 3
    assert tids[:3] == tids[3:]
    assert all(0 <= tid < 2**50 for tid in tids)


def test_a_repeated_id_stays_a_repeated_row(tmp_path: Path) -> None:
    """Removing duplicates is the flow's work."""
    text = one_trade_each(0) + f"{T0},BTC,100.0,1.0,buy,0\n"
    lines, report = run(tmp_path, {"a.csv": text})
    assert [trade["tid"] for trade in trades_of(lines)] == [0, 0]
    assert report.ticks == {"trades": {"BTC": 2}}


def test_ids_that_are_not_numbers_become_numbers() -> None:
    """Float text loses its fraction, anything else is hashed; equal text gives equal ids."""
    row = ("BTC", T0, "1", "1", "B")
    ids = TradeIds()
    assert ids.of("1598954554.0", row) == 1598954554
    assert ids.of("a-7", row) == ids.of("a-7", row) != ids.of("a-8", row)
    assert ids.of("9" * 30, row) < 2**50


def test_numbering_equal_rows_takes_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest rows are forgotten; the newest are still told apart."""
    monkeypatch.setattr("dataflows.importing.frames.EQUAL_ROWS_MAX", 4)
    ids = TradeIds()
    given = [ids.of("", ("BTC", T0 + i, "1", "1", "B")) for i in range(100)]
    again = ids.of("", ("BTC", T0 + 99, "1", "1", "B"))
    assert len({*given, again}) == 101


def test_a_long_group_becomes_several_frames(tmp_path: Path) -> None:
    """A frame is bounded however many rows share a time."""
    text = "time_ms,symbol,price,size,side\n" + f"{T0},BTC,100.0,1.0,buy\n" * 2500
    lines, _ = run(tmp_path, {"a.csv": text})
    assert [len(data) for data in of(lines, "trades")] == [1000, 1000, 500]


# --- layouts ---------------------------------------------------------------------------------


def test_layout_hyperliquid_csv(tmp_path: Path) -> None:
    """Receive times order the log; a quote is two rows; the header says how deep a book is."""
    files = {
        "x_trades_BTC.csv": "timestamp,price,size,side,trade_id,exchange_timestamp\n"
        f"{T0 / 1000:.0f}.5455544,111039.0,0.00091,buy,106,{T0 - 10_000}\n"
        f"{T0 / 1000:.0f}.5455544,111038.0,1.0,sell,107,{T0 - 9_000}\n",
        "x_prices_BTC.csv": "timestamp,price,size,side,exchange_timestamp\n"
        f"{T0 / 1000:.0f}.6,111038.0,8.8,bid,{T0 + 1}\n"
        f"{T0 / 1000:.0f}.6,111039.0,0.1,ask,{T0 + 1}\n"
        f"{T0 / 1000:.0f}.6,111039.0,0.2,ask,{T0 + 2}\n"
        f"{T0 / 1000:.0f}.6,111038.0,8.9,bid,{T0 + 2}\n"
        f"{T0 / 1000:.0f}.7,111038.0,9.0,bid,{T0 + 3}\n",
        "orderbooks_kPEPE.csv": "timestamp,sequence,exchange_timestamp,bid_price_0,bid_size_0,"
        "ask_price_0,ask_size_0,bid_price_1,bid_size_1,ask_price_1,ask_size_1\n"
        f"{T0 / 1000:.0f}.7,1,{T0 + 4},10.0,1.0,11.0,2.0,9.0,3.0,,\n",
    }
    lines, report = run(tmp_path, files)
    assert lines[0][0] == lines[1][0] == T0 * 1_000_000 + 545_554_400
    assert [trade["side"] for trade in trades_of(lines)] == ["B", "A"]
    assert trades_of(lines)[0]["time"] == T0 - 10_000
    quotes = of(lines, "bbo")
    assert [quote["time"] - T0 for quote in quotes] == [1, 2, 3]
    assert quotes[1]["bbo"] == [
        {"px": "111038.0", "sz": "8.9"},
        {"px": "111039.0", "sz": "0.2"},
    ]
    assert quotes[2]["bbo"] == [{"px": "111038.0", "sz": "9.0"}, None]
    (book,) = of(lines, "l2Book")
    assert book["coin"] == "kPEPE"
    assert [[level["px"] for level in side] for side in book["levels"]] == [
        ["10.0", "9.0"],
        ["11.0"],
    ]
    assert report.uids == {"BTC": 0, "kPEPE": 1}


def test_layout_reshaped_frames_keeps_the_frame_as_it_is(tmp_path: Path) -> None:
    """A frame's bytes are not rewritten, and its receive time is exact."""
    frame = '{"channel":"bbo", "data":{"coin":"ETH","time":1,"bbo":[null,{"px":"1.10","sz":"2"}]}}'
    _, report = run(tmp_path, {"a.jsonl": f'{{"recv_ts":1756904112.5455544,"frame":{frame}}}\n'})
    last = (tmp_path / "out.log").read_bytes().splitlines()[-1]
    assert last == f"1756904112545554400 {frame}".encode()
    assert report.ticks == {"bbo": {"ETH": 1}}


def test_layout_raw_frames_passes_through(tmp_path: Path) -> None:
    """Venue frames of any channel go through; control records of another log and noise do not."""
    stamp = T0 * 1_000_000
    kept = [
        '{"channel":"subscriptionResponse","data":{"method":"subscribe"}}',
        '{"channel":"trades","data":[{"coin":"BTC","px":"1.0"},{"coin":"BTC","px":"oops"}]}',
        '{"channel":"activeAssetCtx","data":{"coin":"BTC","ctx":{}}}',
        '{"channel":"candle","data":{"s":"ETH"}}',
        '{"channel":"trades","data":[]}',
    ]
    dropped = ['{"channel":"alpha.clock"}', '{"data":1}', '{"channel":"bbo",', "pong"]
    text = "".join(f"{stamp + i} {frame}\n" for i, frame in enumerate(kept + dropped))
    lines, report = run(tmp_path, {"a.txt": text})
    assert [frame for _, frame in lines[1:]] == [orjson.loads(frame) for frame in kept]
    assert lines[0][1]["data"]["assets"] == [
        {"uid": 0, "coin": "BTC", "channels": ["trades", "activeAssetCtx"]},
        {"uid": 1, "coin": "ETH", "channels": ["candle"]},
    ]
    assert report.rejects == {"bad_frame": 1, "bad_json": 1, "bad_line": 1, "control_record": 1}
    assert report.ticks["trades"] == {"BTC": 2}


def test_layout_binance_frames(tmp_path: Path) -> None:
    """Trades and book tickers are translated; depth is counted as not supported."""
    text = "\n".join(
        f"{T0 * 1_000_000 + i} {frame}"
        for i, frame in enumerate(
            [
                '{"stream":"btcusdt@trade","data":{"e":"trade","E":2,"s":"BTCUSDT","t":37,'
                f'"p":"61837.63000000","q":"0.02000000","T":{T0},"m":true,"M":true}}}}',
                '{"stream":"btcusdt@bookTicker","data":{"u":1,"s":"BTCUSDT","b":"1.0","B":"2.0",'
                '"a":"1.1","A":"3.0"}}',
                '{"stream":"btcusdt@depth@100ms","data":{"b":[],"a":[]}}',
            ]
        )
    )
    lines, report = run(tmp_path, {"a.txt": text})
    assert trades_of(lines) == [
        {
            "coin": "BTCUSDT",
            "side": "A",
            "px": "61837.63000000",
            "sz": "0.02000000",
            "time": T0,
            "tid": 37,
        }
    ]
    assert of(lines, "bbo")[0]["bbo"] == [{"px": "1.0", "sz": "2.0"}, {"px": "1.1", "sz": "3.0"}]
    assert report.rejects == {"unsupported_frame": 1}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "binance.csv",
            "# quality report\nTimestampOfReceive,Stream,TransactionTime,Symbol,TradeId,Price,"
            f"Quantity,IsBuyerMarketMaker\n{T0}272,x,{T0}000,ETH,5,4344.1,0.50,1\n",
        ),
        (
            "binance2.csv",
            "symbol,trade_id,price,quantity,is_buyer_market_maker,timestamp\n"
            "ETH,5.0,4344.1,0.50,True,2025-09-03 12:55:12\n",
        ),
        (
            "ETH-trades.csv",
            f"timestamp,id,type,side,price,amount,cost\n{T0},5,,sell,4344.1,0.50,2172.05\n",
        ),
        ("generic.csv", f"time_ms,symbol,price,size,side,trade_id\n{T0},ETH,4344.1,0.50,sell,5\n"),
        (
            "generic.ndjson",
            f'{{"time_ms":{T0},"symbol":"ETH","price":4344.1,"size":0.50,"side":"A","trade_id":5}}\n',
        ),
    ],
)
def test_layouts_of_trades_agree(tmp_path: Path, name: str, text: str) -> None:
    """The same trade comes out of every layout of trades."""
    lines, report = run(tmp_path, {name: text})
    assert trades_of(lines) == [
        {"coin": "ETH", "side": "A", "px": "4344.1", "sz": "0.50", "time": T0, "tid": 5}
    ]
    assert lines[1][0] // 1_000_000 == T0
    assert report.rejects == {}


def test_layout_book_lines(tmp_path: Path) -> None:
    """A book of two lists, as objects or as pairs, becomes a venue book."""
    text = (
        '\n{"coin":"BTC","timestamp":"2025-09-03 12:55:12.050",'
        '"bids":[{"px":"10.0","sz":"1","n":2}],"asks":[]}\n'
        '{"coin":"BTC","timestamp":"2025-09-03 12:55:12.550",'
        '"bids":[["10.0","1"]],"asks":[[11,2.0]]}\n'
        '{"coin":"BTC","timestamp":"2025-09-03 12:55:13.050","bids":[1],"asks":[]}\n'
    )
    lines, report = run(tmp_path, {"a.jsonl": text})
    assert [book["levels"] for book in of(lines, "l2Book")] == [
        [[{"px": "10.0", "sz": "1"}], []],
        [[{"px": "10.0", "sz": "1"}], [{"px": "11", "sz": "2.0"}]],
    ]
    assert report.rejects == {"bad_book": 1}


def test_columns_of_ones_own(tmp_path: Path) -> None:
    """Any file that a column description fits can be imported."""
    trades = write(tmp_path / "t.csv", f"when;x,p,q,maker\n{T0}000000,,5.0,1,TRUE\n")
    quotes = write(tmp_path / "q.csv", f"at,b,bs,a,as\n{T0}.5,4,1,6,1\n")
    own_trades = TradeColumns(
        receive=Stamp("when;x", "ns"), price="p", size="q", side="maker", sides={"true": "A"}
    )
    own_quotes = QuoteColumns(
        exchange=Stamp("at", "ms"), bid="b", bid_size="bs", ask="a", ask_size="as"
    )
    trades.write_text(trades.read_text().replace(",,", ","))
    lines, report = run(
        tmp_path,
        [TickFile(trades, "X", own_trades), TickFile(quotes, "X", own_quotes)],
    )
    assert trades_of(lines)[0]["time"] == T0
    assert lines[-1][0] == T0 * 1_000_000 + 500_000
    assert report.ticks == {"trades": {"X": 1}, "bbo": {"X": 1}}


def test_what_cannot_be_used_is_one_message_with_every_fault(tmp_path: Path) -> None:
    """The message names every file, what was found in it, and the layouts that are known."""
    strange = write(tmp_path / "strange.csv", "a,b\n1,2\n")
    nameless = write(tmp_path / "nameless.csv", "timestamp,side,price,amount\n")
    empty = write(tmp_path / "empty.csv", "\n")
    files = [TickFile(path) for path in (strange, nameless, empty, tmp_path / "absent.csv")]
    files += [TickFile(strange, layout="generic"), TickFile(strange, layout="no such")]
    with pytest.raises(ImportProblem) as caught:
        import_ticks(files, tmp_path / "out.log", max_silence_s=0.5, uids={"A": 1, "B": 1})
    message = str(caught.value)
    for part in (
        "strange.csv: expected a known layout, found columns a, b; known layouts: hyperliquid-csv",
        "generic (quotes: time_ms, symbol, bid, bid_size, ask, ask_size)",
        "nameless.csv: expected a coin",
        "empty.csv: expected a known layout, found an empty file",
        "absent.csv: expected a file, found none",
        "expected layout generic, found columns a, b",
        "expected layout no such",
        "expected max_silence_s from 5",
        "a different id for every coin",
    ):
        assert part in message
    assert not (tmp_path / "out.log").exists()


def test_a_coin_can_be_given_where_the_file_name_has_none(tmp_path: Path) -> None:
    """The caller's coin wins over the file name."""
    path = write(tmp_path / "XRP_ETH-trades.csv", f"timestamp,side,price,amount\n{T0},buy,1,2\n")
    assert run(tmp_path, [TickFile(path)])[1].uids == {"XRP_ETH": 0}
    assert run(tmp_path, [TickFile(path, coin="XRP")])[1].uids == {"XRP": 0}


def test_byte_order_mark_line_ends_and_spaces_do_not_matter(tmp_path: Path) -> None:
    """A file that went through a spreadsheet is the same recording."""
    text = GENERIC_TRADES.replace("\n", "\r\n").replace(",BTC,", ", BTC ,")
    run(tmp_path, {"t.csv": "\ufeff" + text, "q.csv": GENERIC_QUOTES})
    assert (tmp_path / "out.log").read_bytes() == EXPECTED


@pytest.mark.parametrize(
    ("text", "unit", "expected"),
    [
        ("1756904112.5455544", "s", T0 * 10**6 + 545_554_400),
        ("1756904112", "s", T0 * 10**6),
        ("1756904112000.25", "ms", T0 * 10**6 + 250_000),
        ("1756904112000001", "us", T0 * 10**6 + 1_000),
        ("1756904112000000001", "ns", T0 * 10**6 + 1),
        ("1756904112.0000000019", "s", T0 * 10**6 + 1),
        ("1756904112", "auto", T0 * 10**6),
        ("1756904112000", "auto", T0 * 10**6),
        ("1756904112000000", "auto", T0 * 10**6),
        ("1756904112000000000", "auto", T0 * 10**6),
        ("2025-09-03T12:55:12Z", "iso", T0 * 10**6),
        ("2025-09-03 12:55:12.5", "iso", T0 * 10**6 + 500_000_000),
        ("2025-09-03 14:55:12.000000001+02:00", "iso", T0 * 10**6 + 1),
    ],
)
def test_instants_are_exact(text: str, unit: Unit, expected: int) -> None:
    """No instant passes through a float, and digits beyond a nanosecond are cut."""
    assert to_ns(text, unit) == expected


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("", "s"),
        ("1e9", "s"),
        ("-1", "ms"),
        ("0", "ns"),
        ("2025-13-01 00:00:00", "iso"),
        ("x", "iso"),
    ],
)
def test_what_is_no_instant_is_refused(text: str, unit: Unit) -> None:
    """The reader counts these as bad times."""
    with pytest.raises(ValueError, match=r"expected|month"):
        to_ns(text, unit)


# --- bad rows --------------------------------------------------------------------------------


def test_bad_rows_are_counted_by_reason(tmp_path: Path) -> None:
    """Each bad row has one reason; the good rows around it are kept."""
    good = f"{T0},BTC,100.0,1.0,buy,1"
    rows = [
        good,
        f"{T0},BTC,100.0,1.0,buy",
        f"{T0},BTC,1 00,1.0,buy,1",
        f"{T0},BTC,100.0,,buy,1",
        f"{T0},,100.0,1.0,buy,1",
        f"{T0},BTC,100.0,1.0,hold,1",
        "yesterday,BTC,100.0,1.0,buy,1",
        "0,BTC,100.0,1.0,buy,1",
        "99999999999999999,BTC,100.0,1.0,buy,1",
        "\udcff",
        good,
    ]
    path = tmp_path / "a.csv"
    text = "\n".join(["time_ms,symbol,price,size,side,trade_id", *rows])
    path.write_bytes(text.encode(errors="surrogateescape"))
    lines, report = run(tmp_path, [TickFile(path)])
    assert report.rejects == {
        "bad_line": 1,
        "bad_number": 1,
        "bad_side": 1,
        "bad_time": 3,
        "field_count": 1,
        "missing_field": 2,
    }
    assert len(trades_of(lines)) + sum(report.rejects.values()) == report.lines == len(rows)


def test_one_stray_quote_does_not_swallow_the_file(tmp_path: Path) -> None:
    """Lines are read one by one, quoted cells within a line are understood."""
    text = one_trade_each(0) + f'{T0},"BTC,100.0,1.0,buy,8\n{T0},"BTC","100.0",1.0,buy,9\n'
    lines, report = run(tmp_path, {"a.csv": text})
    assert [trade["tid"] for trade in trades_of(lines)] == [0, 9]
    assert report.rejects == {"field_count": 1}


def test_a_truncated_file_gives_what_is_before_the_damage(tmp_path: Path) -> None:
    """A gzip file cut short is read as far as it goes, and counted."""
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(one_trade_each(*range(5000)).encode(), mtime=0)[:-2000])
    lines, report = run(tmp_path, [TickFile(path)])
    assert report.rejects == {"damaged_file": 1}
    assert 0 < len(trades_of(lines)) < 5000


def test_a_line_too_long_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory stays bounded however long a line is."""
    monkeypatch.setattr("dataflows.importing.reading.LINE_BYTES_MAX", 1 << 10)
    monkeypatch.setattr("dataflows.importing.reading._READ_BYTES", 1 << 9)
    text = one_trade_each(0) + "x" * 10_000 + "\n" + f"{T0},BTC,100.0,1.0,buy,9\n"
    lines, report = run(tmp_path, {"a.csv": text})
    assert [trade["tid"] for trade in trades_of(lines)] == [0, 9]
    assert report.rejects == {"line_too_long": 1}


def test_an_import_without_ticks_writes_nothing(tmp_path: Path) -> None:
    """Success with an empty log would hide that nothing was understood."""
    path = write(tmp_path / "a.csv", "time_ms,symbol,price,size,side\nx,BTC,1,1,buy\n")
    with pytest.raises(ImportProblem, match="'bad_time': 1"):
        import_ticks([TickFile(path)], tmp_path / "out.log")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.csv"]


# --- ids -------------------------------------------------------------------------------------


def test_given_ids_win_and_the_rest_fill_up(tmp_path: Path) -> None:
    """The venue's ids are never guessed: unknown coins take the lowest free numbers."""
    text = "time_ms,symbol,price,size,side\n" + "".join(
        f"{T0},{coin},1,1,buy\n" for coin in ("SOL", "BTC", "WLFI")
    )
    lines, report = run(tmp_path, {"a.csv": text}, uids={"BTC": 1, "ETH": 2})
    assert report.uids == {"SOL": 0, "BTC": 1, "WLFI": 3}
    assert [asset["coin"] for asset in lines[0][1]["data"]["assets"]] == ["SOL", "BTC", "WLFI"]


def test_ids_from_a_stored_meta_answer(tmp_path: Path) -> None:
    """Perps are their index, spot pairs are offset, builder perps need their dex."""
    perps = write(tmp_path / "m.json", '[{"universe":[{"name":"BTC"},{"name":"ETH"}]},[]]')
    assert read_meta(perps) == {"BTC": 0, "ETH": 1}
    spot = '{"universe":[{"name":"PURR/USDC","index":0,"tokens":[1,0]}]}'
    assert read_meta(write(tmp_path / "s.json", spot)) == {"PURR/USDC": 10_000}
    with pytest.raises(ImportProblem, match="xyz:TSLA"):
        read_meta(write(tmp_path / "b.json", '{"universe":[{"name":"xyz:TSLA"}]}'))
    with pytest.raises(ImportProblem, match="expected a meta answer"):
        read_meta(write(tmp_path / "x.json", "[]"))


# --- real recordings -------------------------------------------------------------------------


@needs_recordings
def test_real_four_coins_are_complete_and_their_holes_are_found(tmp_path: Path) -> None:
    """Counts are those of the sources page; both reconnects of the recording are gaps."""
    files = [TickFile(path) for path in sorted(RECORDINGS.glob("djienne_20250903_*.csv.gz"))]
    lines, report = run(tmp_path, files)
    assert report.ticks == {
        "trades": dict(zip(COINS, (1497, 782, 1027, 183), strict=True)),
        "bbo": dict(zip(COINS, (1793, 1795, 1807, 796), strict=True)),
        "l2Book": dict.fromkeys(COINS, 446),
    }
    assert report.rejects == {}
    assert [round((end - start) / 1000) for start, end in report.holes] == [250, 50]
    assert len(of(lines, "alpha.gap")) == 2
    for line in raw_lines(tmp_path / "out.log"):
        assert wire.decode(line.partition(b" ")[2])[1] == 0
    keys = Counter((t["coin"], t["time"], t["tid"]) for t in trades_of(lines))
    assert any(count > 1 for count in keys.values()), "the recording holds replayed trades"


@needs_recordings
def test_real_csv_and_reshaped_frames_carry_the_same(tmp_path: Path) -> None:
    """Two forms of one recording give the same lines, equal arrivals in another order."""
    files = [TickFile(path) for path in sorted(RECORDINGS.glob("djienne_20250903_*.csv.gz"))]
    uids = {coin: uid for uid, coin in enumerate(COINS)}
    logs = []
    for name, sources in (("csv.log", files), ("frames.log", [TickFile(RESHAPED)])):
        import_ticks(sources, tmp_path / name, uids=uids)
        logs.append((tmp_path / name).read_bytes().splitlines())
    assert sorted(logs[0]) == sorted(logs[1])


@needs_recordings
def test_real_raw_frames_pass_through(tmp_path: Path) -> None:
    """A backtester's recording is already a tick log but for the roster and heartbeats."""
    source = RECORDINGS / "hftbacktest_BTC_20250126_raw_frames.txt.gz"
    _, report = run(tmp_path, [TickFile(source)])
    assert report.ticks == {"trades": {"BTC": 64}, "l2Book": {"BTC": 46}}
    written = (tmp_path / "out.log").read_bytes().splitlines()
    control = [line for line in written if b'"alpha.' in line]
    kept = [line for line in written if line not in control]
    assert kept == gzip.decompress(source.read_bytes()).splitlines()


@needs_recordings
@pytest.mark.slow
def test_real_week_in_pieces(tmp_path: Path) -> None:
    """Seven pieces of a week: all ticks are there and every pause between pieces is a hole."""
    files = [TickFile(path) for path in sorted(RECORDINGS.glob("djienne_20250901-07_*.csv.gz"))]
    _, report = run(tmp_path, files)
    assert report.ticks == {"trades": {"BTC": 12_261}, "bbo": {"BTC": 27_556}}
    assert len([hole for hole in report.holes if hole[1] - hole[0] > 3_600_000]) == 6
