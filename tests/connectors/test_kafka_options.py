"""Settings of librdkafka are tried at the start, and no message shows what may be a secret."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from typer.testing import CliRunner

from dataflows import live
from dataflows.cli import app, doctor_checks
from dataflows.connectors.kafka_options import OptionsError, options_of, read_entries
from dataflows.live import live_sinks
from dataflows.settings import Settings
from packs.loader import load_packs

SASL = "security.protocol=sasl_ssl,sasl.mechanisms=PLAIN,sasl.username=u,sasl.password=geheim"


def options(text: str | None) -> dict[str, str]:
    """What the environment gives."""
    return options_of(Settings.from_env({"ALPHA_KAFKA_OPTIONS": text or ""}))


def test_entries_are_read_and_taken() -> None:
    """Blanks around them do not matter; none are none."""
    assert options(None) == {}
    assert options(SASL.replace(",", " , ") + ",") == {
        "security.protocol": "sasl_ssl",
        "sasl.mechanisms": "PLAIN",
        "sasl.username": "u",
        "sasl.password": "geheim",
    }


def test_commas_and_equals_signs_may_be_in_a_password() -> None:
    """A comma is escaped, and so is what escapes it."""
    assert read_entries(r"sasl.password=a\,b=c\\,client.rack=r") == {
        "sasl.password": "a,b=c\\",
        "client.rack": "r",
    }


def test_a_file_keeps_them_out_of_the_environment(tmp_path: Path) -> None:
    """A line each, as they are."""
    path = tmp_path / "kafka"
    path.write_text("# SASL\n\nsasl.password = ge,heim\nclient.rack=r\n")
    assert options(f"@{path}") == {"sasl.password": "ge,heim", "client.rack": "r"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sasl.password=ab,geheim", ["entry 2", "NAME=VALUE"]),
        ("sasl.password=ab,geheim=x", ["entry 2 of 2", "no setting", "\\,"]),
        ("sasl.password=ab,geheim_cb=x", ["entry 2 of 2"]),
        ("on_delivery=geheim", ["entry 1 of 1"]),
        ("security.protocol=geheim", ["entry 1", "security.protocol"]),
        ("queue.buffering.max.messages=geheim", ["queue.buffering.max.messages"]),
        ("security.protocol=sasl_ssl,sasl.mechanisms=PLAIN", ["sasl.username and sasl.password"]),
        ("security.protocol=ssl,ssl.ca.location=/no/where", ["ssl.ca.location"]),
        ("security.protocol=ssl,ssl.key.pem=geheim,ssl.key.password=geheim2", ["ssl.key"]),
        ("acks=1", ["entry 1", "acks", "take it out"]),
        ("enable.idempotence=false", ["enable.idempotence"]),
        ("client.rack=geheim,client.rack=geheim", ["entry 2", "earlier"]),
        ("=geheim", ["NAME=VALUE"]),
    ],
)
def test_what_librdkafka_does_not_take_is_one_message(text: str, words: list[str]) -> None:
    """It names the variable and the entry."""
    with pytest.raises(OptionsError) as caught:
        options(text)
    message = str(caught.value)
    assert [word for word in ("ALPHA_KAFKA_OPTIONS", *words) if word not in message] == []
    assert "geheim" not in message
    assert "\n" not in message.strip()


def test_settings_do_not_show_secrets(tmp_path: Path) -> None:
    """Neither as text nor by a check of the installation."""
    environment = {
        "ALPHA_DATA_DIR": str(tmp_path),
        "ALPHA_KAFKA_OPTIONS": SASL,
        "ALPHA_DATABASE_URL": "postgresql://u:geheim@127.0.0.1:1/x",
        "ALPHA_REST_URL": "http://127.0.0.1:1",
    }
    settings = Settings.from_env(environment)
    assert "geheim" not in f"{settings!r} {settings}"
    checked = CliRunner().invoke(app, ["doctor"], env=environment)
    assert "ALPHA_KAFKA_OPTIONS" in checked.output
    assert "geheim" not in checked.output
    wrong = CliRunner().invoke(app, ["doctor"], env={**environment, "ALPHA_KAFKA_OPTION": "geheim"})
    assert "geheim" not in wrong.output


def test_the_doctor_tries_the_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody there, settings that are none, and no broker at all."""
    monkeypatch.setattr(doctor_checks, "KAFKA_TIMEOUT_S", 0.5)
    environment = {"ALPHA_REST_URL": "http://127.0.0.1:1", "ALPHA_DATABASE_URL": "off"}
    cases = (
        ({}, "ok", "files"),
        ({"ALPHA_KAFKA_BOOTSTRAP": "127.0.0.1:1"}, "failed", "no broker of 127.0.0.1:1"),
        ({"ALPHA_KAFKA_BOOTSTRAP": "h:1", "ALPHA_KAFKA_OPTIONS": "x=1"}, "failed", "entry 1"),
        ({"ALPHA_KAFKA_BOOTSTRAP": "h:1", "ALPHA_KAFKA_OPTIONS": "@no"}, "failed", "no"),
    )
    for given, verdict, word in cases:
        ran = CliRunner().invoke(app, ["doctor", "--json"], env={**environment, **given})
        (check,) = [c for c in orjson.loads(ran.stdout)["checks"] if c["name"] == "kafka"]
        assert check["verdict"] == verdict
        assert word in check["found"]


def test_the_live_flow_is_given_them(tmp_path: Path) -> None:
    """And refuses wrong ones before anything is opened."""
    given = {"ALPHA_DATA_DIR": str(tmp_path), "ALPHA_KAFKA_BOOTSTRAP": "h:1"}
    settings = Settings.from_env({**given, "ALPHA_KAFKA_OPTIONS": SASL})
    sink = live_sinks(settings, load_packs(), None).published["kafka"]
    assert sink.bus.config()["sasl.password"] == "geheim"
    with pytest.raises(OptionsError):
        live_sinks(settings.model_copy(update={"kafka_options": "acks=1"}), load_packs(), None)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ALPHA_KAFKA_OPTIONS", "acks=geheim"),
        ("ALPHA_DATABASE_URL", "http://u:geheim@127.0.0.1/x"),
    ],
)
def test_a_live_start_with_wrong_settings_is_one_message(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """No traceback, which would show the text."""
    monkeypatch.setenv("ALPHA_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("ALPHA_DATABASE_URL", "off")
    monkeypatch.setenv("ALPHA_KAFKA_BOOTSTRAP", "h:1")
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as caught:
        live.flow()
    assert isinstance(caught.value.code, str)
    assert "geheim" not in caught.value.code
