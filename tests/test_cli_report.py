"""``resilient-adapter report``: what a log comes to."""

from __future__ import annotations

import io
import json
import logging
import sys
from pathlib import Path
from typing import Any

import pytest
import requests
import structlog

from resilient_adapter import ResilientAdapter, Settings, cli
from resilient_adapter.cli.report import Kind, Total, sum_up
from resilient_adapter.testing import FakeClock, Fault, Gateway

A = "https://a.example"


def line(event: str = "retry", **fields: Any) -> str:
    """Return an event as structlog writes it."""
    return json.dumps({"origin": A, "method": "GET", "path": "/x", "attempt": 1, "event": event, **fields})


LOG = "\n".join(
    [
        "Traceback (most recent call last):",
        line(code=-1001, wait=1.5, detail="-1001 Disconnected", shadow=True),
        "2026-01-01 10:00:00 [app] retry of the upload",
        "",
        f"INFO retry origin={A} method=GET path=/x code=-1001 wait=0.500 detail='-1001 Disconnected' shadow=True",
        line("throttle", code=-1003, status=429, wait=60.0, shadow=True, level="warning"),
        line("retry", status=502, wait=2.0, shadow=True, detail="status 502"),
        line("retry", wait=1.0, detail="reset", shadow=True),
        line("refused", code=-1008, detail="the circuit is open", shadow=True, wait=2.0),
        line("reconcile", code=-1007, shadow=True),
        line("give_up", code=-1001, detail="no attempts left"),
        line("refresh", code=-1002),
        line("reconcile", detail="reset"),
        line("refused", detail="the circuit is open"),
        '{"event": "retry", "queue": "mails"}',
        '{"event": "retry", "origin": "warehouse"}',
        '{"event": ["retry"], "origin": 1, "method": 2}',
        '{"broken": ',
        "[1, 2]",
        '"retry"',
    ]
)


class TestReading:
    @pytest.mark.parametrize(
        ("text", "kind", "wait"),
        [
            (line(code=-1001, wait=1.5), Kind(False, "retry", A, "-1001"), 1.5),
            (line(status=502, shadow=True), Kind(True, "retry", A, "HTTP 502"), 0.0),
            ("  " + line(detail="read timeout"), Kind(False, "retry", A, "read timeout"), 0.0),
            (line(wait="soon"), Kind(False, "retry", A, ""), 0.0),
            (
                line("give_up", code=-1001, detail="no attempts left"),
                Kind(False, "give_up", A, "no attempts left"),
                0.0,
            ),
            (
                json.dumps({"message": "…", "resilient_adapter": json.loads(line(code=-1000))}),
                Kind(False, "retry", A, "-1000"),
                0.0,
            ),
            (f"retry origin={A} method=GET code=-1001 wait=0.250", Kind(False, "retry", A, "-1001"), 0.25),
            (
                f"x:y [z] refresh_failed origin={A} method=GET code=-1002",
                Kind(False, "refresh_failed", A, "-1002"),
                0.0,
            ),
            (f"retry origin={A} method=GET detail='it\\'s cut' wait=1", Kind(False, "retry", A, "it's cut"), 1.0),
            (f'retry origin={A} method=GET detail="it\'s" wait=1', Kind(False, "retry", A, "it's"), 1.0),
            (f"retry origin={A} method=GET detail='\\x' wait=1", Kind(False, "retry", A, "'\\x'"), 1.0),
            (f"retry origin={A} method=GET detail=' cut off", Kind(False, "retry", A, "'"), 0.0),
        ],
    )
    def test_lines_of_ours(self, text: str, kind: Kind, wait: float) -> None:
        """Both forms, whatever a formatter put around them."""
        assert sum_up([text]) == ({kind: Total(1, wait)}, 0)

    @pytest.mark.parametrize(
        "text",
        [
            "retry",
            "retry origin=warehouse",
            f"retrying origin={A} method=GET",
            f"pre_retry origin={A} method=GET",
            '{"event": "retry"}',
            '{"event": ["retry"], "origin": "o", "method": "GET"}',
            '{"event": "retry", "origin": 1, "method": "GET"}',
            '{"resilient_adapter": 7}',
            "{" * 5000,
            '{"a":' * 100_000,
            "[]",
            "\ufffd",
        ],
    )
    def test_other_lines(self, text: str) -> None:
        """They are passed over and counted; nothing in a log makes the report fail."""
        assert sum_up([text]) == ({}, 1)

    def test_empty_lines_are_nobodys(self) -> None:
        """They are not counted."""
        assert sum_up(["", " \n"]) == ({}, 0)

    @pytest.mark.parametrize("how", ["structlog", "logging"])
    def test_what_the_adapter_really_writes(self, gateway: Gateway, clock: FakeClock, how: str) -> None:
        """A log of shadow mode is read back, through either of the ways that it is written."""
        out = io.StringIO()
        handler = logging.StreamHandler(out)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        logger = logging.getLogger("resilient_adapter")
        try:
            if how == "structlog":
                structlog.configure(
                    processors=[structlog.processors.add_log_level, structlog.processors.JSONRenderer()],
                    logger_factory=structlog.PrintLoggerFactory(out),
                )
            else:
                logger.addHandler(handler)
                logger.setLevel("INFO")
            session = requests.Session()
            session.mount("http://", ResilientAdapter(Settings.from_mapping({"mode": "shadow"}), clock=clock))
            gateway.script(Fault.code(-1003, status=429, retry_after=7), Fault.reset("before"))
            assert session.get(gateway.url).status_code == 429
            with pytest.raises(requests.ConnectionError):
                session.get(gateway.url)
            session.close()
        finally:
            structlog.reset_defaults()
            logger.removeHandler(handler)
            logger.setLevel("NOTSET")
        totals, others = sum_up(out.getvalue().splitlines())
        assert others == 0
        assert totals[Kind(True, "throttle", gateway.url, "-1003")] == Total(1, 7.0)
        (retry,) = (kind for kind in totals if kind.event == "retry")
        assert (retry.shadow, retry.cause) == (True, "reset")


class TestTelling:
    def test_in_words(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """What would have been done, what was, and what that comes to."""
        (tmp_path / "log").write_text(LOG)
        assert cli.main(["report", str(tmp_path / "log")]) == 0
        lines = capsys.readouterr().out.splitlines()
        shadow, done = lines[: lines.index("")], lines[lines.index("") + 1 :]
        assert shadow[0] == "Shadow mode: what would have been done"
        assert [row.split() for row in shadow[1:3]] == [
            ["event", "origin", "code", "or", "cause", "times", "wait", "(s)"],
            ["retry", A, "-1001", "2", "2.0"],
        ]
        assert shadow[-3:] == [
            "  5 failures that the script was given would have been repeated instead, after 65.0 s of waiting.",
            "  1 request of unknown outcome would have been looked up.",
            "  1 request would not have been sent.",
        ]
        assert done[0] == "What was done"
        assert done[-5:] == [
            "  1 failure repeated, after 0.0 s of waiting; 1 time given up.",
            "  1 request of unknown outcome looked up.",
            "  1 request not sent.",
            "",
            "8 other lines passed over.",
        ]

    def test_in_json(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """The same as a document."""
        (tmp_path / "log").write_text(LOG)
        assert cli.main(["report", "--json", str(tmp_path / "log")]) == 0
        document = json.loads(capsys.readouterr().out)
        assert document["shadow"] == {"repeated": 5, "reconciled": 1, "refused": 1, "given_up": 0, "waited": 65.0}
        assert document["done"] == {"repeated": 1, "reconciled": 1, "refused": 1, "given_up": 1, "waited": 0.0}
        assert document["other_lines"] == 8
        assert document["events"][0] == {
            "shadow": True, "event": "retry", "origin": A, "cause": "-1001", "count": 2, "wait": 2.0,
        }  # fmt: skip

    def test_a_log_without_events(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        """Standard input will do; that nothing happened is worth saying."""
        monkeypatch.setattr(sys, "stdin", io.StringIO("hello\n"))
        assert cli.main(["report", "-"]) == 0
        assert capsys.readouterr().out.splitlines() == [
            "Nothing was done, and nothing would have been: the log has no event of the adapter's.",
            "1 other line passed over.",
        ]

    def test_only_repeats(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        """What did not occur is not mentioned."""
        monkeypatch.setattr(sys, "stdin", io.StringIO(line(code=-1001, shadow=True) + "\n" + line(code=-1001)))
        cli.main(["report", "-"])
        out = capsys.readouterr().out
        assert "looked up" not in out and "sent" not in out

    @pytest.mark.parametrize(
        ("name", "message"), [("nosuch.log", "No such file or directory"), (".", "Is a directory")]
    )
    def test_a_log_that_cannot_be_read(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, message: str
    ) -> None:
        """One line, exit status 2."""
        assert cli.main(["report", str(tmp_path / name)]) == 2
        seen = capsys.readouterr()
        assert (seen.out, seen.err.count("\n")) == ("", 1)
        assert message in seen.err
