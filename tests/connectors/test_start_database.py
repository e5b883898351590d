"""A database at the start: one that refuses is a message, one that is away is not."""

from __future__ import annotations

import pytest

from dataflows.connectors.dsn import DsnError
from dataflows.live import checked_url
from dataflows.settings import Settings


@pytest.mark.parametrize("what", ["user=nobody_here", "dbname=no_such_database"])
def test_a_server_that_refuses_is_one_message(postgres_server: str, what: str) -> None:
    """Waiting does not help against a wrong user or database, so the start does not."""
    settings = Settings.from_env({"ALPHA_DATABASE_URL": f"{postgres_server} {what}"})
    with pytest.raises(DsnError, match=r"refuses the connection: .*does not exist"):
        checked_url(settings)
    settings = Settings.from_env({"ALPHA_DATABASE_URL": postgres_server})
    assert checked_url(settings) == postgres_server


def test_a_server_that_is_away_is_waited_for() -> None:
    """The flow starts, and its spool takes what the server does not."""
    url = "host=127.0.0.1 port=9 user=x dbname=x"
    assert checked_url(Settings.from_env({"ALPHA_DATABASE_URL": url})) == url
