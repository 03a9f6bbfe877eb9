"""vcrpy: it records and plays beneath urllib3, so that every attempt is on the tape."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
from adapter_support import connect, numbers

import resilient_adapter as ra
from resilient_adapter.testing import Fault, Gateway

vcr = pytest.importorskip("vcr")


def test_every_attempt_is_on_the_tape(gateway: Gateway, tmp_path: Path) -> None:
    """A tape holds the refused attempts and the last; played, it tells the same story, and nothing is sent."""
    tape = str(tmp_path / "tape.yaml")
    gateway.script(Fault.code(-1008, 503), Fault.code(-1001))
    stories, bodies = [], []
    for mode in ("once", "none"):
        with vcr.use_cassette(tape, record_mode=mode) as cassette:
            response = connect().get(gateway.url + "/account")
            bodies.append(response.json())
            stories.append([(one.status, one.code) for one in ra.resilience_of(response).attempts])
            assert len(cassette) == 3
    assert stories == [[(503, -1008), (200, -1001), (200, 0)]] * 2
    assert bodies[0] == bodies[1]
    assert numbers(gateway) == 3


def test_streams(gateway: Gateway, tmp_path: Path) -> None:
    """A recorded stream is not read ahead: it is judged by its HTTP status, and handed on whole."""
    tape = str(tmp_path / "tape.yaml")
    gateway.script(Fault.code(-1008, 503), Fault.code(-1001))
    for mode in ("once", "none"):
        with vcr.use_cassette(tape, record_mode=mode):
            response = connect().get(gateway.url + "/account", stream=True)
            assert response.json()["code"] == -1001
            assert [one.status for one in ra.resilience_of(response).attempts] == [503, 200]
    assert numbers(gateway) == 2


@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")  # vcrpy drops the one it finds in the pool
def test_a_connection_from_before(gateway: Gateway, tmp_path: Path) -> None:
    """A session whose pool we remember, with a connection in it, is recorded and played all the same."""
    tape = str(tmp_path / "tape.yaml")
    session = connect()
    session.get(gateway.url + "/account")
    with vcr.use_cassette(tape):
        recorded = session.get(gateway.url + "/account").json()
    assert numbers(gateway) == 2
    with vcr.use_cassette(tape, record_mode="none") as cassette:
        assert session.get(gateway.url + "/account").json() == recorded
        assert cassette.all_played
    assert numbers(gateway) == 2
    assert session.get(gateway.url + "/account").json() != recorded
    gc.collect()


def test_a_large_body(gateway: Gateway, tmp_path: Path) -> None:
    """A body of many reads is played as it was recorded."""
    tape = str(tmp_path / "tape.yaml")
    gateway.respond("/large", b'{"code":0,"data":"' + b"x" * 3_000_000 + b'"}')
    for mode in ("once", "none"):
        with vcr.use_cassette(tape, record_mode=mode):
            assert len(connect().get(gateway.url + "/large").content) == 3_000_020
    assert numbers(gateway) == 1


def test_what_the_tape_lacks(gateway: Gateway, tmp_path: Path) -> None:
    """A request that must not be recorded is vcrpy's own error, at once: it is no fault of the network's."""
    with (
        vcr.use_cassette(str(tmp_path / "tape.yaml"), record_mode="none"),
        pytest.raises(vcr.errors.CannotOverwriteExistingCassetteException) as caught,
    ):
        connect().get(gateway.url + "/account")
    assert len(ra.resilience_of(caught.value).attempts) == 1
    assert numbers(gateway) == 0


def test_tokens_are_on_the_tape(gateway: Gateway, tmp_path: Path) -> None:
    """vcrpy sees what is sent, the token with it; filter_headers keeps it off the tape."""
    tape = tmp_path / "tape.yaml"
    settings = {"origins": [gateway.url]}
    with vcr.use_cassette(str(tape)):
        connect(settings, token_source=lambda: "hush-hush").get(gateway.url + "/account")
    assert "hush-hush" in tape.read_text(encoding="utf-8")
    tape.unlink()
    with vcr.use_cassette(str(tape), filter_headers=["Authorization"]):
        connect(settings, token_source=lambda: "hush-hush").get(gateway.url + "/account")
    assert "hush-hush" not in tape.read_text(encoding="utf-8")
