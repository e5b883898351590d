"""Exit codes, and which error means which.

Rules of this file: an error that a user can cause or cure is one message and a code; anything else
is a bug and keeps its traceback. Errors are known by their name, so that nothing has to be imported
to recognise them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

DONE = 0
FAILED = 1
USAGE = 2
INPUT = 3
NOT_IN_ORDER = 4
INTERRUPTED = 130

EXIT_CODES = {
    DONE: "done",
    FAILED: "the run failed: a server, the disk, or a bug (then with a traceback)",
    USAGE: "wrong usage, configuration or pack",
    INPUT: "the input cannot be read, or is not what it should be",
    NOT_IN_ORDER: "what was checked is not in order (packs check, explain, verify, doctor, ..)",
    INTERRUPTED: "interrupted by Ctrl-C (record and tail end with 0)",
}

# An error of the class, or of one derived from it, ends with the code.
KNOWN = {
    "packs.loader.PackError": USAGE,
    "dataflows.settings.SettingsError": USAGE,
    "dataflows.connectors.recorder.RecorderError": USAGE,
    "dataflows.connectors.ticklog.LogError": INPUT,
    "dataflows.connectors.rows_table.TableError": INPUT,
    "dataflows.connectors.column_files.ColumnsError": INPUT,
    "dataflows.importing.reading.ImportProblem": INPUT,
    "dataflows.connectors.notify.ChannelError": USAGE,
    "dataflows.connectors.dsn.DsnError": USAGE,
    "dataflows.connectors.replay_schema.SchemaError": USAGE,
    "dataflows.connectors.kafka_options.OptionsError": USAGE,
    "dataflows.connectors.state_file.StateError": INPUT,
    "operators.assemble.StateError": INPUT,
    "dataflows.connectors.topic_source.SourceError": FAILED,
    "dataflows.connectors.topics.TopicError": FAILED,
    "dataflows.connectors.embedded_postgres.PostgresError": FAILED,
    "dataflows.connectors.migrate.MigrationError": FAILED,
    "dataflows.connectors.postgres.WriteError": FAILED,
    "dataflows.connectors.kafka.BusError": FAILED,
    "dataflows.connectors.venue_rest.VenueError": FAILED,
    "dataflows.connectors.candles.BackfillError": FAILED,
    "psycopg.Error": FAILED,
}
_WRAPPER = "bytewax.errors.BytewaxRuntimeError"  # what went wrong is its cause


class Problem(Exception):
    """Something the user can cure; the message says what was expected and what was found."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Failure:
    """How a command ends."""

    message: str
    code: int


def failure_of(error: BaseException) -> Failure | None:
    """Return message and exit code of an error, None if it is a bug.

    >>> failure_of(Problem("no such log", INPUT))
    Failure(message='no such log', code=3)
    >>> failure_of(ZeroDivisionError()) is None
    True
    """
    for each in _unwrapped(error):
        if isinstance(each, Problem):
            return Failure(str(each), each.code)
        if isinstance(each, OSError):
            return _of_system(each)
        codes = [KNOWN[name] for name in _names(each) if name in KNOWN]
        if codes:
            return Failure(str(each) or type(each).__name__, _died(each) or codes[0])
    return None


def _unwrapped(error: BaseException) -> Iterator[BaseException]:
    """Yield the error, or what the engine has wrapped."""
    inner: BaseException | None = error
    while inner is not None and _WRAPPER in _names(inner):
        inner = inner.__cause__ or inner.__context__
    if inner is not None:
        yield inner


def _names(error: BaseException) -> list[str]:
    return [f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__]


def _died(error: BaseException) -> int | None:
    """A recorder that was refused is a wrong configuration; one that died has a cause."""
    return FAILED if type(error).__name__ == "RecorderError" and error.__cause__ else None


def _of_system(error: OSError) -> Failure | None:
    """A file that cannot be read is the input's fault; a closed pipe is nobody's."""
    if isinstance(error, BrokenPipeError):
        return None
    why = error.strerror or str(error) or type(error).__name__
    if error.filename is None:
        return Failure(f"the run failed: {why}", FAILED)
    return Failure(f"{error.filename}: {why}", INPUT)
