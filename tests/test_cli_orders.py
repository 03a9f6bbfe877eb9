"""``resilient-adapter orders``: what the journal says, a person's word, and asking the server."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from resilient_adapter.cli import main
from resilient_adapter.clock import SYSTEM_CLOCK
from resilient_adapter.state.journal import Intent, Journal, State, this_process
from resilient_adapter.testing.orders import ORDER_PATH, OrderGateway

ORIGIN = "http://127.0.0.1:1"


def an_intent(name: str, client_id: str | None = None, origin: str = ORIGIN) -> Intent:
    """Return an order."""
    return Intent(name, name, client_id, origin, "POST", ORDER_PATH, {"symbol": "B"})


class Past:
    """A clock that is behind: what it dates happened long ago."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def time(self) -> float:
        """Return a time in the past."""
        return time.time() - self._seconds

    def monotonic(self) -> float:
        """Return the time since some instant."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a journal with one order of each state."""
    path = tmp_path / "journal"
    journal = Journal(path, SYSTEM_CLOCK)
    for state in State:
        line = journal.intend(an_intent(state.value, state.value))
        if state is not State.SENT:
            journal.note([line], state, code=0 if state is State.EXECUTED else None, status=200)
    journal.close()
    return path


def test_it_lists_the_orders(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A line each: id, state, when, where, what it carries and what was answered."""
    assert main(["orders", str(path)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[:2] for line in lines] == [[state.value, state.value] for state in State]
    assert lines[1][2].endswith("Z") and lines[1][3:] == ["POST", ORIGIN + ORDER_PATH, "symbol=B", "0"]
    assert lines[2][-1] == "200" and lines[0][-1] == "symbol=B"


def test_unresolved_lists_what_is_unknown(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit status 0, and nothing else."""
    assert main(["orders", str(path), "--unresolved"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["unknown"]


def test_json_has_every_field(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """For programs; an empty list where there is nothing."""
    assert main(["orders", str(path), "--unresolved", "--json"]) == 0
    (order,) = json.loads(capsys.readouterr().out)
    assert (order["id"], order["client_id"], order["state"], order["status"]) == ("unknown", "unknown", "unknown", 200)
    assert (order["origin"], order["method"], order["path"]) == (ORIGIN, "POST", ORDER_PATH)
    assert order["carry"] == {"symbol": "B"}
    assert set(order) >= {"sent_at", "updated_at", "pid", "code"}
    main(["orders", str(path), "--resolve", "unknown"])
    capsys.readouterr()
    assert main(["orders", str(path), "--unresolved", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    assert main(["orders", str(path), "--unresolved"]) == 0
    assert capsys.readouterr().out == ""


def test_resolve_takes_a_persons_word(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is unknown may be sent again; of what is settled there is nothing to resolve."""
    assert main(["orders", str(path), "--resolve", "unknown"]) == 0
    assert capsys.readouterr().out == "unknown: resolved; it may be sent again\n"
    assert main(["orders", str(path), "--resolve", "executed"]) == 0
    assert capsys.readouterr().out == "executed: nothing to resolve; it is executed\n"


def test_an_id_that_is_not_in_the_journal(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line on stderr, exit status 1."""
    assert main(["orders", str(path), "--resolve", "nobody"]) == 1
    assert capsys.readouterr() == ("", "resilient-adapter: nobody: the journal has no such order\n")


@pytest.mark.parametrize("options", [[], ["--unresolved", "--json"], ["--resolve", "x"], ["--reconcile"]])
def test_a_journal_that_is_missing_is_not_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    """One line on stderr, exit status 1."""
    missing = tmp_path / "missing"
    assert main(["orders", str(missing), *options]) == 1
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"resilient-adapter: {missing}: there is no such journal\n")
    assert list(tmp_path.iterdir()) == []


def test_a_directory_is_no_journal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is there, so it is not said to be missing."""
    assert main(["orders", str(tmp_path)]) == 1
    assert capsys.readouterr() == ("", f"resilient-adapter: {tmp_path}: that is no file\n")


def test_a_file_that_is_no_journal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line on stderr that says so, and the file is left as it is."""
    file = tmp_path / "notes.txt"
    file.write_text("buy low, sell high\n" * 100)
    assert main(["orders", str(file)]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "not a database" in err and str(file) in err
    assert file.read_text().startswith("buy low")


@pytest.mark.parametrize("arguments", [[], ["a", "b"], ["a", "--resolve"], ["a", "--resolve", "x", "--reconcile"]])
def test_usage_errors(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """One line on stderr, exit status 2."""
    assert main(["orders", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1


# --- asking the server ---


@pytest.fixture
def exchange() -> Iterator[OrderGateway]:
    """Take orders."""
    with OrderGateway() as serving:
        yield serving


def settings_file(folder: Path) -> str:
    """Write settings by which orders can be looked up there."""
    file = folder / "settings.toml"
    file.write_text(f'on_error = "raise"\n[orders]\nquery_path = "{ORDER_PATH}"\n[retry]\nmax_attempts = 1\n')
    return str(file)


def test_reconcile_asks_the_server(tmp_path: Path, exchange: OrderGateway, capsys: pytest.CaptureFixture[str]) -> None:
    """Found: executed. Absent, long after its send: not executed. Neither: unknown, and exit status 1."""
    journal = Journal(tmp_path / "journal", Past(3600))
    requests.post(exchange.url + ORDER_PATH, params={"symbol": "B", "newClientOrderId": "there"}, timeout=5)
    lines = [
        journal.intend(an_intent("there", "there", exchange.url)),
        journal.intend(an_intent("absent", "absent", exchange.url)),
        journal.intend(an_intent("nameless", None, exchange.url)),
        journal.intend(an_intent("held", "held", exchange.url)),
    ]
    journal.note(lines, State.UNKNOWN)
    assert journal.hold(lines[3:], this_process() + ":another")
    file = settings_file(tmp_path)
    command = ["orders", str(tmp_path / "journal"), "--reconcile", "--unresolved", "--json", "--settings", file]
    assert main(command) == 1
    out, err = capsys.readouterr()
    assert [order["id"] for order in json.loads(out)] == ["nameless", "held"]
    assert err.splitlines() == [
        "there: executed",
        "absent: not executed",
        "nameless: still unknown: the order has no client id to look it up by",
        "held: another process is finding out",
    ]
    assert [entry.state for entry in journal.entries()] == [
        State.EXECUTED, State.NOT_EXECUTED, State.UNKNOWN, State.UNKNOWN
    ]  # fmt: skip
    journal.resolve("nameless")
    journal.resolve("held")
    journal.close()
    assert main(command) == 0


def test_reconcile_needs_to_know_how(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without orders.query_path: one line on stderr, exit status 2."""
    assert main(["orders", str(path), "--reconcile"]) == 2
    assert "orders.query_path" in capsys.readouterr().err


def test_reconcile_signs_what_the_server_wants_signed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The adapter's own settings sign the look-up."""
    with OrderGateway(secret="s") as exchange:
        journal = Journal(tmp_path / "journal", Past(3600))
        journal.note([journal.intend(an_intent("x", "x", exchange.url))], State.UNKNOWN)
        journal.close()
        file = tmp_path / "settings.toml"
        file.write_text(
            f'origins = ["{exchange.url}"]\n[orders]\nquery_path = "{ORDER_PATH}"\n'
            '[signing]\napi_key = "k"\nsecret = "s"\n'
        )
        assert main(["orders", str(tmp_path / "journal"), "--reconcile", "--settings", str(file)]) == 0
    assert capsys.readouterr().err == "x: not executed\n"
