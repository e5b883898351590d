"""Third-party recordings become a tick log, or a bars file.

`import_ticks` takes trades, quotes, books and recorded frames; `import_bars` takes minute bars, and
`read_bars` reads what it wrote. Design 2.
"""

from dataflows.importing.bar_layouts import BAR_PRESETS, BarColumns, BarsFile
from dataflows.importing.bars import BarRow, read_bars
from dataflows.importing.bars_import import BarsReport, import_bars
from dataflows.importing.layouts import (
    BOOK_SIDES,
    BUYER_IS_MAKER,
    TAKER_SIDES,
    BookColumns,
    BookListColumns,
    FrameColumns,
    QuoteColumns,
    QuoteSideColumns,
    Stamp,
    StampedFrames,
    TradeColumns,
    known_layouts,
)
from dataflows.importing.presets import PRESETS, TickFile
from dataflows.importing.reading import ImportProblem
from dataflows.importing.ticks import TickReport, import_ticks, read_meta

__all__ = [
    "BAR_PRESETS",
    "BOOK_SIDES",
    "BUYER_IS_MAKER",
    "PRESETS",
    "TAKER_SIDES",
    "BarColumns",
    "BarRow",
    "BarsFile",
    "BarsReport",
    "BookColumns",
    "BookListColumns",
    "FrameColumns",
    "ImportProblem",
    "QuoteColumns",
    "QuoteSideColumns",
    "Stamp",
    "StampedFrames",
    "TickFile",
    "TickReport",
    "TradeColumns",
    "import_bars",
    "import_ticks",
    "known_layouts",
    "read_bars",
    "read_meta",
]
