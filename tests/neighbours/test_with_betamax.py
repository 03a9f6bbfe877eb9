"""betamax: it mounts an adapter of its own, above us where we are mounted, beneath us where we are given it."""

from __future__ import annotations

from pathlib import Path

import pytest
from adapter_support import connect, numbers, plain

import resilient_adapter as ra
from resilient_adapter.testing import Fault, Gateway

betamax = pytest.importorskip("betamax")

pytestmark = pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow:DeprecationWarning")


def test_above(gateway: Gateway, tmp_path: Path) -> None:
    """``Betamax(session)``: what we deliver is recorded, once; played, it does not come through us."""
    gateway.script(Fault.code(-1008, 503), Fault.code(-1001))
    for mode in ("once", "none"):
        session = connect()
        with betamax.Betamax(session, str(tmp_path)) as recorder:
            recorder.use_cassette("above", record=mode)
            response = session.get(gateway.url + "/account")
            assert response.json()["code"] == 0
            assert len(recorder.current_cassette.interactions) == 1
            assert not hasattr(response, "resilience")
    assert numbers(gateway) == 3


def test_beneath(gateway: Gateway, tmp_path: Path) -> None:
    """``transport=recorder.betamax_adapter``: every attempt is recorded, and played to us one by one."""
    gateway.script(Fault.code(-1008, 503), Fault.code(-1001))
    stories = []
    for mode in ("once", "none"):
        recorder = betamax.Betamax(plain(), str(tmp_path))
        recorder.use_cassette("beneath", record=mode, allow_playback_repeats=False)
        with recorder:
            response = connect(transport=recorder.betamax_adapter).get(gateway.url + "/account")
            stories.append([(one.status, one.code) for one in ra.resilience_of(response).attempts])
    assert stories == [[(503, -1008), (200, -1001), (200, 0)]] * 2
    assert numbers(gateway) == 3


def test_what_the_tape_lacks(gateway: Gateway, tmp_path: Path) -> None:
    """A request that is not on the tape, and must not be recorded, is betamax's own error, at once."""
    recorder = betamax.Betamax(plain(), str(tmp_path))
    with recorder.use_cassette("tape", record="once"):
        connect(transport=recorder.betamax_adapter).get(gateway.url + "/account")
    recorder = betamax.Betamax(plain(), str(tmp_path))
    with recorder.use_cassette("tape", record="none"), pytest.raises(betamax.BetamaxError):
        connect(transport=recorder.betamax_adapter).get(gateway.url + "/other")
    assert [entry.path for entry in gateway.journal] == ["/account"]
