"""A wrong environment is one message that names every fault."""

from __future__ import annotations

from pathlib import Path

import pytest

from dataflows.settings import Settings, SettingsError, directory_of_run


def test_an_empty_environment_is_the_default() -> None:
    """No configuration at all: the public venue, everything under var/."""
    settings = Settings.from_env({})
    assert settings.data_dir == Path("var")
    assert settings.ws_url.startswith("wss://")
    assert settings.coins is None


def test_coins_are_a_list_and_blanks_mean_nothing() -> None:
    """Spaces around names do not matter; an empty variable is as good as none."""
    assert Settings.from_env({"ALPHA_COINS": "BTC, kPEPE ,"}).coins == ("BTC", "kPEPE")
    assert Settings.from_env({"ALPHA_COINS": ""}).coins is None


def test_every_fault_is_named_at_once() -> None:
    """A mistyped name and two wrong values."""
    given = {"ALPHA_COIN": "BTC", "ALPHA_MAX_ASSETS": "many", "PATH": "x"}
    with pytest.raises(SettingsError) as caught:
        Settings.from_env(given)
    message = str(caught.value)
    assert "ALPHA_COIN: found an unknown variable, expected ALPHA_COINS" in message
    assert "ALPHA_MAX_ASSETS: found 'many'" in message
    assert message.count("\n") == 2


@pytest.mark.parametrize(
    ("arguments", "environment", "expected"),
    [
        (["dataflows.live"], {}, None),
        (["dataflows.live", "-r", "a/b", "-s", "10", "-b", "0"], {}, "a/b"),
        (["-w", "2", "--recovery-directory=a", "dataflows.live:flow()"], {}, "a"),
        (["dataflows.live", "-ra"], {"BYTEWAX_RECOVERY_DIRECTORY": "b"}, "a"),
        (["dataflows.live"], {"BYTEWAX_RECOVERY_DIRECTORY": "b"}, "b"),
    ],
)
def test_the_directory_is_the_one_that_the_engine_is_given(
    arguments: list[str], environment: dict[str, str], expected: str | None
) -> None:
    """As `bytewax.run` reads its command line."""
    assert directory_of_run(arguments, environment) == (Path(expected) if expected else None)
