"""The command line's frame, and the commands that look codes up or serve the gateway."""

from __future__ import annotations

import errno
import importlib.metadata
import io
import json
import os
import re
import runpy
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from resilient_adapter import cli
from resilient_adapter.core.codes import CODES, STATUSES

RUN = [sys.executable, "-m", "resilient_adapter"]
ROOT = Path(__file__).parents[1]
NAMES = [name for commands in cli.COMMANDS.values() for name in commands]


@pytest.fixture
def environment() -> dict[str, str]:
    """Return an environment in which a process of its own finds the package."""
    return {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.fixture
def settings(tmp_path: Path) -> Any:
    """Write a settings file and return its path."""

    def write(text: str) -> str:
        path = tmp_path / "settings.toml"
        path.write_text(text)
        return str(path)

    return write


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make ``resilient-adapter fake`` run a function."""

    def install(run: Any, *arguments: tuple[str, dict[str, Any]]) -> None:
        def register(subparsers: Any) -> None:
            parser = subparsers.add_parser("fake")
            for name, options in arguments:
                parser.add_argument(name, **options)
            parser.set_defaults(run=run)

        module = ModuleType("resilient_adapter.cli.fake")
        module.register = register  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setattr(cli, "COMMANDS", {"Fakes": {"fake": cli.Command("fake", "a command for tests")}})

    return install


def collect(seen: list[Namespace]) -> Callable[[Namespace], int]:
    """Return a command's function that only keeps its arguments."""

    def run(args: Namespace) -> int:
        seen.append(args)
        return 0

    return run


# The frame


def test_help_lists_every_command_with_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    """``--help`` names every command beside what it is for, and ends well."""
    assert cli.main(["--help"]) == 0
    out = capsys.readouterr().out
    for commands in cli.COMMANDS.values():
        for name, command in commands.items():
            assert f"  {name:<10}{command.summary}\n" in out


def test_listing_the_commands_imports_none_of_them(environment: dict[str, str]) -> None:
    """Only the module of the command that was asked for is loaded: ``--help`` is quick."""
    code = (
        "import sys; from resilient_adapter.cli import main; main(['--help']);"
        "main(['explain', '--help']); print([m for m in sys.modules if m.startswith('resilient_adapter.cli.')])"
    )
    argv = [sys.executable, "-c", code]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.splitlines()[-1] == "['resilient_adapter.cli.explain']"


@pytest.mark.parametrize("name", NAMES)
def test_every_command_has_help_of_its_own(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each listed command exists, and ``NAME --help`` says how it is used."""
    assert cli.main([name, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"usage: resilient-adapter {name} ")


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "no command given"),
        (["explian", "-1003"], "'explian' is no command"),
        (["--bogus"], "unrecognized arguments: --bogus"),
        (["--bogus", "explain", "-1003"], "unrecognized arguments: --bogus"),
        (["--vers"], "unrecognized arguments: --vers"),
        (["explain"], "CODE"),
        (["explain", "abc"], "'abc' is no code"),
        (["explain", "-1003", "-1.5"], "'-1.5' is no code"),
        (["explain", "-1003", "1_000"], "'1_000' is no code"),
        (["explain", "-1003", "\u0665"], "is no code"),
        (["explain", "1003\nx"], "is no code"),
        (["explain", "9" * 5000], "is no code"),
        (["explain", "-1003", "--method"], "--method"),
        (["explain", "-1003", "--method", "P0ST"], "'P0ST' is no HTTP method"),
        (["explain", "-1003", "--bogus"], "--bogus"),
        (["explain", "-1003", "--js"], "--js"),
        (["codes", "--group", "orders"], "websocket"),
        (["codes", "-1003"], "-1003"),
        (["gateway", "--port", "65536"], "'65536' is no port"),
        (["gateway", "--port", "http"], "'http' is no port"),
        (["gateway", "--rate-limit", "10"], "'10': a rate is"),
        (["gateway", "--rate-limit", "0/s"], "'0/s': a rate lets"),
        (["gateway", "--rate-limit", "10/month"], "'10/month': a rate is"),
        (["gateway", "--token-ttl", "0"], "'0' is not more than 0 seconds"),
        (["gateway", "--token-ttl", "inf"], "'inf' is not more than 0 seconds"),
        (["gateway", "--token-ttl", "long"], "'long' is no number"),
        (["gateway", "--fault-rate", "1.1"], "'1.1' is not between 0 and 1"),
        (["gateway", "--fault-rate", "nan"], "'nan' is not between 0 and 1"),
        (["gateway", "--fault-rate", "often"], "'often' is no number"),
        (["gateway", "--seed", "x"], "--seed"),
    ],
)
def test_a_usage_error_is_one_line(argv: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What cannot be understood is said in one line on stderr, with exit status 2 and no traceback."""
    assert cli.main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("resilient-adapter") and err.count("\n") == 1 and err.endswith("\n")
    assert said in err


def test_the_version_is_that_of_the_installed_package(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``--version`` prints the version, and says so where nothing is installed."""
    monkeypatch.setattr(importlib.metadata, "version", lambda name: {"resilient_adapter": "1.2.3"}[name])
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == "resilient-adapter 1.2.3\n"

    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    assert cli.main(["--version"]) == 0
    assert "not installed" in capsys.readouterr().out


def test_the_exit_status_is_the_commands_own(command: Any) -> None:
    """What a command returns is what the process ends with."""
    command(lambda args: args.number, ("number", {"type": int}))
    assert cli.main(["fake", "7"]) == 7


def test_options_may_stand_between_positionals(command: Any) -> None:
    """Options and positional arguments come in any order."""
    seen: list[Namespace] = []
    command(collect(seen), ("words", {"nargs": "+"}), ("--option", {}))
    assert cli.main(["fake", "a", "--option", "x", "b"]) == 0
    assert (seen[0].words, seen[0].option) == (["a", "b"], "x")


def test_arguments_that_belong_to_a_script_are_handed_on(command: Any) -> None:
    """A command may take everything after its first argument as it stands, options too."""
    seen: list[Namespace] = []
    command(collect(seen), ("script", {}), ("rest", {"nargs": "..."}))
    assert cli.main(["fake", "script.py", "--json", "-x", "1"]) == 0
    assert (seen[0].script, seen[0].rest) == ("script.py", ["--json", "-x", "1"])


def test_a_commands_own_exit_is_not_touched(command: Any) -> None:
    """SystemExit from a running command (a script's sys.exit) passes as it is."""

    def leave(args: object) -> int:
        raise SystemExit("the script's own words")

    command(leave)
    with pytest.raises(SystemExit, match="the script's own words"):
        cli.main(["fake"])


@pytest.mark.parametrize("status", [1, 2])
def test_a_command_that_cannot_go_on_says_so_in_one_line(
    status: int, command: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """CommandError carries a message and a status; line breaks in the message are folded."""

    def fail(args: object) -> int:
        raise cli.CommandError("the journal\n  is missing", status=status)

    command(fail)
    assert cli.main(["fake"]) == status
    assert capsys.readouterr() == ("", "resilient-adapter: the journal is missing\n")


def test_an_interrupt_ends_with_130(command: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Ctrl-C is no error to be reported: no traceback, and the status that shells give it."""

    def interrupted(args: object) -> int:
        raise KeyboardInterrupt

    command(interrupted)
    assert cli.main(["fake"]) == 130
    assert capsys.readouterr() == ("", "")


def test_any_other_error_is_not_hidden(command: Any) -> None:
    """A bug of ours keeps its traceback."""

    def broken(args: Namespace) -> int:
        raise ZeroDivisionError

    command(broken)
    with pytest.raises(ZeroDivisionError):
        cli.main(["fake"])


@pytest.mark.parametrize("stdout", ["a pipe with a reader", "a file", "no file at all", "closed"])
def test_another_pipe_that_breaks_is_not_hidden(
    stdout: str, command: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A script's own broken pipe is its own error, as long as our output can still be read."""

    def broken(args: Namespace) -> int:
        raise BrokenPipeError

    command(broken)
    reading, writing = os.pipe()
    with os.fdopen(reading), os.fdopen(writing, "w") as pipe, (tmp_path / "out").open("w") as file:
        other = io.StringIO()
        if stdout == "closed":
            other.close()
        monkeypatch.setattr(sys, "stdout", {"a pipe with a reader": pipe, "a file": file}.get(stdout, other))
        with pytest.raises(BrokenPipeError):
            cli.main(["fake"])


def test_what_nobody_reads_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the reader has gone, what is still buffered goes nowhere, and closing stdout does not fail for it."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        assert cli.main(["codes"]) == 141
        print("more", flush=True)


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_leaves_early_is_no_error(unbuffered: str, environment: dict[str, str]) -> None:
    """``resilient-adapter codes | head`` ends quietly, with the status of a process stopped by SIGPIPE."""
    environment["PYTHONUNBUFFERED"] = unbuffered
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as stdout:
        done = subprocess.run(
            [*RUN, "codes"], env=environment, stdout=stdout, stderr=subprocess.PIPE, timeout=60, check=False
        )
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the system has no full device")
@pytest.mark.parametrize("argv", [["codes"], ["settings", "--template"], ["explain", "--help"]])
def test_output_that_cannot_be_written_is_one_line(argv: list[str], environment: dict[str, str]) -> None:
    """A full disk ends a command with exit status 1 and without a traceback."""
    environment.pop("PYTHONUNBUFFERED", None)  # with it argparse itself hides that its help was lost
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*RUN, *argv], env=environment, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False
        )
    assert (done.returncode, done.stderr) == (1, f"resilient-adapter: cannot write: {os.strerror(errno.ENOSPC)}\n")


def test_output_is_dropped_only_where_it_is_a_file(
    command: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A full disk is told of though stdout is no file; an error of another kind passes, for it is nobody's output."""
    errors = iter([OSError(errno.ENOSPC, "full"), OSError(errno.EPERM, "not allowed")])

    def fail(args: object) -> int:
        raise next(errors)

    command(fail)
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert cli.main(["fake"]) == 1
    assert capsys.readouterr().err == "resilient-adapter: cannot write: full\n"
    with pytest.raises(PermissionError):
        cli.main(["fake"])


@pytest.mark.parametrize(
    ("argv", "status", "said"),
    [
        ("codes", 1, "resilient-adapter: standard output is closed\n"),
        ("codes --bogus", 2, "resilient-adapter codes: unrecognized arguments: --bogus\n"),
        ("run -c", 2, "resilient-adapter run: unrecognized arguments: -c\n"),
        ("run script.py", 7, ""),
    ],
)
def test_a_process_without_a_stdout(
    argv: str, status: int, said: str, environment: dict[str, str], tmp_path: Path
) -> None:
    """What a command would print has nowhere to go: one line, exit status 1. A script need not print."""
    (tmp_path / "script.py").write_text("raise SystemExit(7)")
    line = f'"{sys.executable}" -m resilient_adapter {argv} >&-'
    done = subprocess.run(
        ["bash", "-c", line], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (status, said)


IN_ASCII = """
import sys
from resilient_adapter.cli import COMMANDS, main

names = [name for commands in COMMANDS.values() for name in commands]
for argv in (
    ["--help"], *([name, "--help"] for name in names),
    ["explain", "-1003", "429"], ["codes"], ["settings"], ["settings", "--template"],
    ["simulate", "--clients", "10", "--outage", "1", "--processes", "2"], ["state"], ["orders", "none"],
):
    print(f"<{' '.join(argv)}> {main(argv)}")
"""


@pytest.mark.parametrize("more", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}])
def test_every_command_can_be_told_in_ascii(more: dict[str, str], environment: dict[str, str], tmp_path: Path) -> None:
    """Where only ASCII can be shown each help and each output is whole, and nothing in them had to be escaped."""
    done = subprocess.run(
        [sys.executable, "-c", IN_ASCII],
        cwd=tmp_path,
        env={**environment, "PYTHONCOERCECLOCALE": "0", **more},
        capture_output=True,
        timeout=60,
        check=False,
    )
    text = done.stdout.decode("ascii")
    assert done.returncode == 0 and b"Traceback" not in done.stderr
    ended = dict(re.findall(r"^<(.*)> (\d)$", text, re.MULTILINE))
    assert {argv for argv, status in ended.items() if status != "0"} == {"state", "orders none"}
    assert len(ended) == 1 + len(NAMES) + 7
    assert not re.search(r"\\[xuU]", text)


def test_what_ascii_lacks_is_escaped(environment: dict[str, str], tmp_path: Path) -> None:
    """A value in the user's own letters ends nothing; in JSON it is JSON's escape."""
    (tmp_path / "resilient_adapter.toml").write_text('orders.journal = "b\u00fccher"', encoding="utf-8")
    told = [
        subprocess.run(
            [*RUN, "settings", *more], cwd=tmp_path, env={**environment, "PYTHONIOENCODING": "ascii"},
            stdout=subprocess.PIPE, timeout=60, check=True,
        ).stdout.decode("ascii")
        for more in ([], ["--json"])
    ]  # fmt: skip
    assert '"b\\xfccher"' in told[0]
    assert {"b\u00fccher"} <= {str(record["value"]) for record in json.loads(told[1])}


def test_a_closed_stdout_is_left_alone(command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A script that closed its stdout does not fail for it."""
    monkeypatch.setattr(sys, "stdout", io.StringIO())

    def close(args: Namespace) -> int:
        sys.stdout.close()
        return 0

    command(close)
    assert cli.main(["fake"]) == 0


def test_the_module_is_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """``python -m resilient_adapter`` takes the process's arguments and ends with the command's status."""
    monkeypatch.setattr(sys, "argv", ["resilient_adapter", "explain", "-9999"])
    with pytest.raises(SystemExit) as end:
        runpy.run_module("resilient_adapter", run_name="__main__")
    assert end.value.code == 1
    assert capsys.readouterr() == ("", "-9999: nobody lists this code\n")


def test_a_spawned_child_does_not_run_the_command_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """multiprocessing imports the main module once more in each child, under another name: nothing may happen."""
    monkeypatch.setattr(sys, "argv", ["resilient_adapter", "explain", "-9999"])
    assert "main" in runpy.run_module("resilient_adapter.__main__", run_name="__mp_main__")


# explain


def test_explain_prints_the_record(capsys: pytest.CaptureFixture[str]) -> None:
    """One code: the text of its record, and nothing else."""
    assert cli.main(["explain", "-1003"]) == 0
    assert capsys.readouterr() == (f"{CODES[-1003]}\n", "")


def test_explain_takes_several_codes_and_statuses(capsys: pytest.CaptureFixture[str]) -> None:
    """Records come in the order asked for, with a blank line between them; statuses are positive."""
    assert cli.main(["explain", "-2011", "503", "-1003"]) == 0
    assert capsys.readouterr().out == f"{CODES[-2011]}\n\n{STATUSES[503]}\n\n{CODES[-1003]}\n"


@pytest.mark.parametrize(
    "argv",
    [
        ["-1003", "-1008", "--json"],
        ["--json", "-1003", "-1008"],
        ["-1003", "--json", "-1008"],
        ["--json", "--", "-1003", "-1008"],
    ],
)
def test_negative_numbers_and_options_mix(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A code is never taken for an option, wherever it stands."""
    assert cli.main(["explain", *argv]) == 0
    assert [record["code"] for record in json.loads(capsys.readouterr().out)] == [-1003, -1008]


def test_where_nothing_is_listed_nothing_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """A success code is none of the table's: stdout stays empty, stderr says so."""
    assert cli.main(["explain", "0"]) == 1
    assert capsys.readouterr() == ("", "0: nobody lists this code\n")


def test_explain_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    """JSON is a list of records with the fields of CodeInfo, also for one code."""
    assert cli.main(["explain", "-1002", "--json"]) == 0
    info = CODES[-1002]
    assert json.loads(capsys.readouterr().out) == [
        {
            "code": -1002, "group": "general", "name": "Unauthorized", "meaning": info.meaning,
            "solution": info.solution, "recovery": "refresh_token", "executed": "no",
        }
    ]  # fmt: skip


@pytest.mark.parametrize("json_too", [False, True])
def test_unlisted_codes_are_named_and_end_with_1(json_too: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """The others are printed first; each unlisted code is named on stderr, with its sign set right if that helps."""
    assert cli.main(["explain", "-9999", "-1003", "1008", "418"] + ["--json"] * json_too) == 1
    out, err = capsys.readouterr()
    if json_too:
        assert [record["code"] for record in json.loads(out)] == [-1003]
    else:
        assert out == f"{CODES[-1003]}\n"
    assert err.splitlines() == [
        "-9999: nobody lists this code",
        "1008: nobody lists this code; did you mean -1008?",
        "418: nobody lists this code",
    ]


THRICE = "up to 3 sends in all: "
NO_REPEAT = (
    "not sent again without an idempotency header: it may have been executed, and POST is not among retry.methods; "
    "the reconciler finds out where there is one, else it is delivered as outcome_unknown"
)


@pytest.mark.parametrize(
    ("code", "method", "sentence"),
    [
        (-1001, "GET", f"sent again after a backoff, {THRICE}GET changes nothing"),
        (
            -1001,
            "PUT",
            f"sent again after a backoff, {THRICE}it may have been executed, but PUT is among retry.methods",
        ),
        (-1001, "POST", NO_REPEAT),
        (-2027, "post", NO_REPEAT),
        (-1007, "GET", f"sent again after a backoff and with longer timeouts, {THRICE}GET changes nothing"),
        (
            -1003,
            "POST",
            f"sent again after Retry-After, or 60 s without one, {THRICE}it was not executed, so any method",
        ),
        (429, "POST", f"sent again after Retry-After, or 60 s without one, {THRICE}it was not executed"),
        (-1008, "POST", f"sent again after a backoff while the circuit is closed, {THRICE}it was not executed"),
        (503, "POST", NO_REPEAT),
        (503, "GET", "sent again after a backoff while the circuit is closed"),
        (
            -1002,
            "POST",
            "sent again at once with a fresh token, where there is a token source; otherwise, and the second",
        ),
        (401, "GET", "sent again at once with a fresh token"),
        (-1021, "POST", "sent again at once, signed afresh by the server's clock, where there is a signer;"),
        (-1125, "GET", "sent again at once if a recovery of your own for the code returns True;"),
        (-1102, "GET", "delivered at once: the request itself has to be changed"),
        (400, "POST", "delivered at once: the request itself has to be changed"),
        (-2012, "POST", "delivered at once: there is nothing to be gained by sending the POST again"),
        (-2012, "DELETE", "delivered at once: it is no error"),
        (-2100, "POST", "delivered at once: it is no error"),
        (-3000, "GET", "delivered at once: there is nothing to be gained by sending the GET again"),
        (200, "POST", "delivered at once: it is no error"),
    ],
)
def test_what_the_adapter_does(code: int, method: str, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    """``--method`` adds a line: whether the request is sent again, after what, and why or why not."""
    assert cli.main(["explain", str(code), "--method", method]) == 0
    *record, line = capsys.readouterr().out.splitlines()
    assert record == str(CODES.get(code) or STATUSES[code]).splitlines()
    assert line.startswith(f"  {method.upper():<8}  {sentence}")


@pytest.mark.parametrize(
    ("text", "code", "sentence"),
    [
        ('[retry]\nmethods = ["POST"]', -1001, f"sent again after a backoff, {THRICE}it may have been executed"),
        ("[retry]\nmax_attempts = 1", -1003, "delivered at once: no attempts left"),
        ("[rate_limit]\nwait = 1.5", -1003, "sent again after Retry-After, or 1.5 s without one"),
        ('mode = "off"', -1003, 'delivered as plain requests would (mode = "off")'),
        ('mode = "shadow"', -1003, 'reported only (mode = "shadow"); else sent again after Retry-After'),
        ('mode = "shadow"', -1102, "delivered at once: the request itself has to be changed"),
        ("success_codes = [0, -1102]", -1102, "delivered at once: it is no error"),
        ('[codes]\n-1002 = {recovery = "refresh_token", executed = "unknown"}', -1002, NO_REPEAT),
        (
            '[codes]\n-2010 = {recovery = "retry", executed = "no"}',
            -2010,
            f"sent again after a backoff, {THRICE}it was not",
        ),
    ],
)
def test_what_the_adapter_does_depends_on_the_settings(
    text: str, code: int, sentence: str, settings: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """The sentence is what the settings in effect lead to, for a POST here; JSON carries it too."""
    assert cli.main(["explain", str(code), "--method", "POST", "--json", "--settings", settings(text)]) == 0
    (record,) = json.loads(capsys.readouterr().out)
    assert record["method"] == "POST"
    assert record["advice"].startswith(sentence)


def test_the_table_is_that_of_the_settings(settings: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Policies of the settings show in both commands, for codes that the reference has and for others."""
    path = settings(
        '[codes]\n-1999 = {recovery = "retry", executed = "unknown"}\n-1008 = {recovery = "none", executed = "no"}\n'
    )
    assert cli.main(["explain", "-1999", "-1008", "--settings", path]) == 0
    out = capsys.readouterr().out
    assert "-1999  Custom code  (custom)" in out and "recovery  none" in out
    assert cli.main(["codes", "--settings", path, "--group", "custom", "--json"]) == 0
    assert [record["code"] for record in json.loads(capsys.readouterr().out)] == [-1999]


def test_settings_come_from_the_environment_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without ``--settings`` the table is the one that an adapter made here and now would use."""
    monkeypatch.setenv("RESILIENT_ADAPTER__CODES", '{"-1999": {"recovery": "retry", "executed": "no"}}')
    assert cli.main(["explain", "-1999"]) == 0
    assert "recovery  retry" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["explain", "codes"])
def test_settings_that_cannot_be_used_are_one_line(
    name: str, settings: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """An invalid settings file ends both commands with status 2 and the SettingsError's line."""
    argv = [name, *(["-1003"] if name == "explain" else []), "--settings", settings("[retry]\nmax_atempts = 5")]
    assert cli.main(argv) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert "max_atempts" in err and "max_attempts" in err


def test_a_settings_file_that_is_missing_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that was named and is not there is an error, not a reason to use the defaults."""
    assert cli.main(["codes", "--settings", str(tmp_path / "none.toml")]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "none.toml" in err


# codes


def test_codes_lists_every_code(capsys: pytest.CaptureFixture[str]) -> None:
    """One line for each code, under a heading, in columns that line up, without trailing blanks."""
    assert cli.main(["codes"]) == 0
    heading, *lines = capsys.readouterr().out.splitlines()
    assert heading.split() == ["CODE", "GROUP", "NAME", "RECOVERY", "EXECUTED"]
    assert [int(line.split()[0]) for line in lines] == list(CODES)
    for line, info in zip(lines, CODES.values(), strict=True):
        assert line[heading.index("GROUP") :].startswith(f"{info.group} ")
        assert line[heading.index("NAME") :].startswith(f"{info.name} ")
        assert line[heading.index("RECOVERY") :].startswith(f"{info.recovery} ")
        assert line[heading.index("EXECUTED") :] == str(info.executed)


@pytest.mark.parametrize(
    ("group", "codes"),
    [("signature", [-1021, -1022]), ("http", list(STATUSES)), ("custom", [])],
)
@pytest.mark.parametrize("json_too", [False, True])
def test_codes_of_a_group(group: str, codes: list[int], json_too: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """``--group`` keeps one section; ``http`` is that of the statuses, ``custom`` that of the settings."""
    assert cli.main(["codes", "--group", group] + ["--json"] * json_too) == 0
    out = capsys.readouterr().out
    if json_too:
        assert [record["code"] for record in json.loads(out)] == codes
    else:
        assert [int(line.split()[0]) for line in out.splitlines()[1:]] == codes


def test_codes_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    """JSON has every code with every field."""
    assert cli.main(["codes", "--json"]) == 0
    records = json.loads(capsys.readouterr().out)
    assert [record["code"] for record in records] == list(CODES)
    assert all(list(record) == [
        "code", "group", "name", "meaning", "solution", "recovery", "executed",
    ] for record in records)  # fmt: skip


# gateway


def ask(url: str, **headers: str) -> dict[str, Any]:
    """Return the JSON that a URL answers with."""
    request = urllib.request.Request(url, headers=headers)
    with urllib.request.urlopen(request, timeout=10) as response:
        document: dict[str, Any] = json.load(response)
    return document


@pytest.fixture
def serving(environment: dict[str, str]) -> Any:
    """Start ``resilient-adapter gateway`` and return its URL."""
    processes = []

    def start(*argv: str) -> str:
        command = [*RUN, "gateway", "--port", "0", *argv]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        processes.append(process)
        assert process.stdout is not None
        return process.stdout.readline().strip()

    yield start
    for process in processes:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
        assert process.returncode == 0


def test_the_gateway_serves_until_it_is_interrupted(serving: Any) -> None:
    """It prints its URL, answers with the API's envelope, and ends well on Ctrl-C."""
    url = serving()
    assert url.startswith("http://127.0.0.1:")
    assert ask(f"{url}/api/v1/ping")["code"] == 0


def test_the_gateway_fails_as_it_is_told(serving: Any) -> None:
    """Tokens are asked for with ``--token-ttl``, and a rate limit is kept."""
    url = serving("--token-ttl", "60", "--rate-limit", "2/h")
    assert ask(f"{url}/api/v1/ping")["code"] == -1002
    assert ask(f"{url}/api/v1/ping", Authorization="Bearer wrong")["code"] == -1002
    with pytest.raises(urllib.error.HTTPError) as caught:
        ask(f"{url}/api/v1/ping")
    with caught.value as response:
        assert (response.code, json.load(response)["code"]) == (429, -1003)


def test_the_gateway_can_be_made_unreliable(monkeypatch: pytest.MonkeyPatch) -> None:
    """``--fault-rate`` and ``--seed`` become random faults of several kinds, some of them after the execution."""
    from resilient_adapter.testing import Gateway, serve

    started: list[Gateway] = []
    asked: list[tuple[Any, ...]] = []
    monkeypatch.setattr(Gateway, "random_faults", lambda self, *args: asked.append(args))
    monkeypatch.setattr(serve, "run", started.append)
    assert cli.main(["gateway", "--port", "0", "--fault-rate", "0.25", "--seed", "7"]) == 0
    ((rate, faults, seed),) = asked
    assert (len(started), rate, seed) == (1, 0.25, 7)
    assert {fault.executed for fault in faults} == {True, False}
    assert len(set(faults)) == len(faults) > 5


def test_a_port_that_is_taken_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """The gateway says which port it could not have, with exit status 1."""
    from resilient_adapter.testing import Gateway

    with Gateway() as gateway:
        assert cli.main(["gateway", "--port", str(gateway.port)]) == 1
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith(f"resilient-adapter: port {gateway.port}: ") and err.count("\n") == 1
