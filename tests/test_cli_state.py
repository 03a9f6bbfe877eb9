"""``resilient-adapter state``: what processes share at the moment, and a person's word that it is over."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from state_support import ValkeyServer, free_port, valkey

from resilient_adapter.cli import main
from resilient_adapter.clock import SYSTEM_CLOCK
from resilient_adapter.core.model import Health
from resilient_adapter.guards.circuit import Ticket
from resilient_adapter.guards.shared_circuit import SharedCircuit
from resilient_adapter.guards.shared_rate_limit import SharedRateLimit
from resilient_adapter.guards.shared_retry_budget import SharedRetryBudget
from resilient_adapter.repairs.shared_token import SharedToken, fernet
from resilient_adapter.repairs.token import Token
from resilient_adapter.settings.schema import Settings
from resilient_adapter.state.opening import open_backend
from resilient_adapter.state.store import Change, Store

A, B, C = "https://a.example", "https://b.example", "https://c.example"
KEY = "A" * 43 + "="
PASSWORD = "hunter2"
CLOSED = "nothing is shared at the moment: all circuits are closed, and no origin is cooling down\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    """Run one server that wants a password."""
    with valkey(tmp_path_factory.mktemp("valkey"), "--requirepass", PASSWORD) as running:
        yield running


@pytest.fixture(params=["file", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the address of an empty store of each kind."""
    if request.param == "file":
        return (tmp_path / "state").as_uri()
    import redis

    running: ValkeyServer = request.getfixturevalue("server")
    with redis.Redis(port=running.port, password=PASSWORD) as client:
        client.flushall()
    return running.url.replace("redis://", f"redis://:{PASSWORD}@")


def settings_file(folder: Path, url: str | None, more: str = "") -> str:
    """Write settings that share there."""
    file = folder / "settings.toml"
    file.write_text((f'[shared]\nurl = "{url}"\n' if url else "") + more)
    return str(file)


@pytest.fixture
def shared(url: str) -> Iterator[Store]:
    """Return the store, as a process has it that has the default namespace."""
    store = Store(open_backend(url, "resilient_adapter"), SYSTEM_CLOCK, pytest.fail, threaded=False)
    yield store
    store.close()


def circuit(store: Store, name: str, **settings: Any) -> SharedCircuit:
    """Return a circuit that a first failure opens."""
    values = Settings.from_mapping({"circuit": {"fail_max": 1, "reset_timeout": 30, **settings}}).circuit
    one = SharedCircuit(name, values, SYSTEM_CLOCK, store=store, key=f"circuit:{name}")
    ticket = one.admit(30.0)
    assert isinstance(ticket, Ticket)
    one.record(ticket, Health.FAILURE)
    return one


def fill(store: Store) -> None:
    """Put one of each there."""
    settings = Settings.from_mapping({"rate_limit": {"rate": ["100/min", "1000/h"]}})
    circuit(store, A)
    assert isinstance(circuit(store, B, reset_timeout=0).admit(30.0), Ticket)
    circuit(store, C, reset_timeout=0)
    limit = SharedRateLimit(settings.rate_limit, SYSTEM_CLOCK, store=store, name=A)
    waiter = limit.enter(2)
    while limit.poll(waiter):
        pass  # for as long as the store's time is not known any better
    limit.throttled(60.0)
    assert SharedRetryBudget(settings.retry, SYSTEM_CLOCK, store=store, name=A).spend()
    for name, key in (("kept", KEY), ("turns", None)):
        token = SharedToken(store, f"token:{name}", None if key is None else fernet(key), SYSTEM_CLOCK, print)
        assert token.fetch(lambda one: False, lambda: Token("s3cr3t"), 0.0) == Token("s3cr3t")
    now = store.now()
    store.record("token:busy").update(lambda *_: Change({"lease": {"id": "x", "until": now + 9, "for": 9.0}}, 60.0))


def seconds_taken_out(text: str) -> list[str]:
    """Return the lines of an output without what depends on when it was printed."""
    lines = []
    for line in text.splitlines():
        head, number, unit = line.rsplit(" ", 2)
        if unit == "s" and "." in number:
            assert 0 <= float(number) <= 61.0
            lines.append(f"{head} s")
        else:
            lines.append(line)
    return lines


def test_it_shows_all_that_is_shared(
    url: str, shared: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line each: what, where, how it is and for how long; no token and no password."""
    fill(shared)
    more = '[rate_limit]\nrate = ["100/min", "1000/h"]\n'
    assert main(["state", "--settings", settings_file(tmp_path, url, more)]) == 0
    out, err = capsys.readouterr()
    assert [line.split(maxsplit=2) for line in seconds_taken_out(out)] == [
        ["budget", A, "1 repeats in the last 10 s"],
        ["circuit", A, "open, the next probe in s"],
        ["circuit", B, "half-open, a probe is on its way for at most s"],
        ["circuit", C, "open, the next call probes"],
        ["cooldown", A, "closed for s"],
        ["pace", A, "1 of 100 slots in 60 s, 1 of 1000 slots in 3600 s"],
        ["token", "busy", "being fetched, for at most s"],
        ["token", "kept", "kept, the latest since s"],
        ["token", "turns", "fetched by each process, the latest since s"],
    ]
    assert err == "" and "s3cr3t" not in out and PASSWORD not in out
    assert main(["state", "--settings", settings_file(tmp_path, url)]) == 0
    assert "pace" not in capsys.readouterr().out  # these settings have no rate


def test_json_has_every_field(url: str, shared: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """For programs; an empty list where there is nothing."""
    file = settings_file(tmp_path, url)
    assert main(["state", "--settings", file, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    circuit(shared, A)
    assert main(["state", "--settings", file, "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert 0 < row.pop("seconds") <= 31.0
    assert row == {"kind": "circuit", "name": A, "state": "open, the next probe in"}


def test_nothing_is_shared(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It says so; a namespace of another account is none of these settings' business."""
    other = Store(open_backend(url, "another"), SYSTEM_CLOCK, pytest.fail, threaded=False)
    circuit(other, A)
    other.close()
    assert main(["state", "--settings", settings_file(tmp_path, url)]) == 0
    assert capsys.readouterr() == (CLOSED, "")


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_reset_closes_circuits_and_ends_cooldowns(
    url: str, shared: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    """In every process that listens; slots, repeats and tokens end by themselves."""
    fill(shared)
    shared.listen(0)
    opened = circuit(shared, A + "#0123")
    limit = SharedRateLimit(Settings().rate_limit, SYSTEM_CLOCK, store=shared, name=A)
    assert opened.state == "open" and limit.remaining() > 50
    file = settings_file(tmp_path, url, '[rate_limit]\nrate = ["100/min", "1000/h"]\n')
    assert main(["state", "--settings", file, "--reset", *options]) == 0
    out = capsys.readouterr().out
    assert [kind for kind in ("budget", "circuit", "cooldown", "pace", "token") if kind in out] == [
        "budget", "pace", "token"
    ]  # fmt: skip
    for _ in range(100):
        shared.listen(0.1)
        if opened.state == "closed" and limit.remaining() == 0:
            break
    assert opened.state == "closed" and limit.remaining() == 0


GARBAGE = ["5", '"x"', "[]", "{}", "nonsense", '{"until": "x", "for": 1}', '{"until": 1e999, "for": 1e999, "at": "x"}']


def test_what_is_no_record_of_ours_is_passed_over(
    url: str, shared: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever is kept there, under whatever name: no traceback, and the rest is shown, and reset."""
    circuit(shared, A)
    for kind in ("circuit", "cooldown", "pace", "budget", "token", "writable", "unknown", ""):
        for number, text in enumerate(GARBAGE):
            assert shared.backend.swap(f"{kind}:https://{number}.example", 0, text, 60.0).swapped
    assert shared.backend.swap("nameless", 0, "{}", 60.0).swapped
    for number, text in enumerate(["[[1e300, 1e999]]", '{"windows": [[1e999]]}', '[["x"]]']):
        assert shared.backend.swap(f"budget:{number}", 0, text, 60.0).swapped
    file = settings_file(tmp_path, url, '[rate_limit]\nrate = "10/s"\n')
    assert main(["state", "--settings", file]) == 0
    out, err = capsys.readouterr()
    assert ["circuit", A] in [line.split()[:2] for line in out.splitlines()] and err == ""
    assert main(["state", "--settings", file, "--reset"]) == 0
    assert A not in capsys.readouterr().out


@pytest.mark.parametrize("options", [[], ["--json"], ["--reset"]])
def test_a_store_that_cannot_be_reached(tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str]) -> None:
    """One line on stderr that says where and why, exit status 1; no password."""
    port = free_port()
    file = settings_file(tmp_path, f"redis://user:{PASSWORD}@127.0.0.1:{port}/0")
    assert main(["state", "--settings", file, *options]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("resilient-adapter: ")
    assert f"127.0.0.1:{port}" in err and PASSWORD not in err


def test_a_wrong_password(server: ValkeyServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line on stderr that says so and shows neither, exit status 1."""
    file = settings_file(tmp_path, server.url.replace("redis://", "redis://:wr0ng@"))
    assert main(["state", "--settings", file]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "password" in err
    assert "wr0ng" not in err and PASSWORD not in err


def test_a_store_that_fails_during_a_reset(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not said to be done: exit status 1."""
    from resilient_adapter.state.backend import StoreError
    from resilient_adapter.state.file import FileBackend

    url = (tmp_path / "state").as_uri()
    store = Store(open_backend(url, "resilient_adapter"), SYSTEM_CLOCK, pytest.fail, threaded=False)
    circuit(store, A)
    store.close()

    def swap(*args: Any, **options: Any) -> Any:
        raise StoreError("the disk is full")

    monkeypatch.setattr(FileBackend, "swap", swap)
    assert main(["state", "--settings", settings_file(tmp_path, url), "--reset"]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("resilient-adapter: the disk is full")


def test_settings_that_share_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line on stderr, exit status 2."""
    assert main(["state", "--settings", settings_file(tmp_path, None)]) == 2
    assert capsys.readouterr() == ("", "resilient-adapter: shared.url is not set: these settings share nothing\n")


def test_without_redis_py(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """One line on stderr that says what to install, exit status 2."""
    monkeypatch.setitem(sys.modules, "redis", None)
    assert main(["state", "--settings", settings_file(tmp_path, "redis://127.0.0.1:1/0")]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "pip install 'resilient_adapter[redis]'" in err


@pytest.mark.parametrize("arguments", [["x"], ["--settings"], ["--res"], ["--reset", "now"]])
def test_usage_errors(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """One line on stderr, exit status 2."""
    assert main(["state", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
