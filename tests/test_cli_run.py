"""``resilient-adapter run``: a script runs as under python itself, with the adapter installed."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import requests

import resilient_adapter as ra
from resilient_adapter import cli
from resilient_adapter.cli import run as command
from resilient_adapter.cli import startup
from resilient_adapter.testing import Fault, Gateway

ROOT = Path(__file__).parents[1]
RUN = ["-m", "resilient_adapter", "run"]
FAST = "retry = {base = 0.01, jitter = 0.0}\n"

PROBE = """
import json, os, signal, sys
print(json.dumps({
    "argv": sys.argv, "orig_argv": sys.orig_argv[1:], "name": __name__, "file": globals().get("__file__"),
    "package": __package__, "spec": __spec__ and __spec__.name, "doc": __doc__, "path": sys.path, "cwd": os.getcwd(),
    "env": dict(os.environ), "flags": str(sys.flags), "warn": sys.warnoptions, "xoptions": sys._xoptions,
    "signals": [str(signal.getsignal(s)) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE)],
    "main": sys.modules["__main__"].__dict__ is globals(), "sitecustomize": "sitecustomize" in sys.modules,
    "package_seen": "resilient_adapter" in sys.modules, "hook": str(sys.excepthook), "stdin": sys.stdin.read(),
}, indent=1, sort_keys=True))
print("to stderr", file=sys.stderr)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder of one's own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


Seen = tuple[int, bytes, bytes]


def started(*arguments: str, **variables: str) -> subprocess.Popen[bytes]:
    """Start Python."""
    pipe = subprocess.PIPE
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    return subprocess.Popen([sys.executable, *arguments], stdin=pipe, stdout=pipe, stderr=pipe, env=environment)


def ended(process: subprocess.Popen[bytes], typed: bytes = b"") -> Seen:
    """Wait for its end, and return exit status, output and errors."""
    with process:
        output, errors = process.communicate(typed, timeout=60)
    return process.returncode, output, errors


def python(*arguments: str, **variables: str) -> Seen:
    """Run Python to its end."""
    return ended(started(*arguments, **variables))


def same(*arguments: str, options: tuple[str, ...] = (), typed: bytes = b"", **variables: str) -> Seen:
    """Run something both ways, compare, and return what was seen."""
    plain = started(*options, *arguments, **variables)
    ours = started(*options, *RUN, *arguments, **variables)
    seen = ended(plain, typed)
    assert ended(ours, typed) == seen
    return seen


class TestAsPythonItself:
    def test_a_script(self, folder: Path) -> None:
        """argv, names, ``sys.path``, environment, signals, flags and streams are the same byte for byte."""
        (folder / "sub").mkdir()
        (folder / "sub" / "probe.py").write_text('"""Its doc."""\n' + PROBE)
        status, output, errors = same("sub/probe.py", "--settings", "x", "-m", "--", "-", typed=b"typed")
        seen = json.loads(output)
        assert (status, errors) == (0, b"to stderr\n")
        assert seen["argv"] == ["sub/probe.py", "--settings", "x", "-m", "--", "-"]
        assert (seen["name"], seen["stdin"], seen["sitecustomize"], seen["main"]) == ("__main__", "typed", False, True)
        assert seen["path"][0] == str(folder / "sub")
        assert not seen["package_seen"]

    def test_options_of_the_interpreter(self, folder: Path) -> None:
        """``python -X dev -W error -m resilient_adapter run …`` hands them on."""
        (folder / "probe.py").write_text(PROBE)
        status, output, _ = same("probe.py", options=("-X", "dev", "-W", "error::UserWarning", "-B"))
        assert status == 0
        assert json.loads(output)["xoptions"] == {"dev": True}

    @pytest.mark.parametrize("arguments", [("-m", "tools.probe", "-x"), ("-m", "tools", "-m", "y")])
    def test_modules_and_packages(self, folder: Path, arguments: tuple[str, ...]) -> None:
        """``-m`` runs a module, or a package's ``__main__``."""
        (folder / "tools").mkdir()
        (folder / "tools" / "__init__.py").touch()
        (folder / "tools" / "__main__.py").write_text(PROBE)
        (folder / "tools" / "probe.py").write_text(PROBE)
        status, output, _ = same(*arguments)
        assert status == 0
        assert json.loads(output)["package"] == "tools"

    def test_a_module_in_one_word(self, folder: Path) -> None:
        """``-mMODULE`` is understood too."""
        (folder / "tool.py").write_text("import sys; print(sys.argv[1:])")
        assert python(*RUN, "-mtool", "1", "2") == (0, b"['1', '2']\n", b"")

    def test_standard_input(self, folder: Path) -> None:
        """``-`` reads the script from standard input."""
        status, output, _ = same("-", "--flag", typed=PROBE.encode())
        assert status == 0
        assert json.loads(output)["argv"] == ["-", "--flag"]

    @pytest.mark.parametrize("kind", ["folder", "zip"])
    def test_a_folder_or_zip_file(self, folder: Path, kind: str) -> None:
        """Either is run by the ``__main__.py`` in it."""
        if kind == "zip":
            with zipfile.ZipFile(folder / "app", "w") as archive:
                archive.writestr("__main__.py", PROBE)
        else:
            (folder / "app").mkdir()
            (folder / "app" / "__main__.py").write_text(PROBE)
        status, _, _ = same("app", "1")
        assert status == 0

    @pytest.mark.parametrize(
        ("script", "status"),
        [
            ("import sys; sys.exit(7)", 7),
            ("import sys; sys.exit('in words')", 1),
            ("import sys; sys.exit()", 0),
            ("import os; print('flushed', flush=True); os._exit(9)", 9),
            ("def f():\n    1 / 0\nf()", 1),
            ("raise KeyboardInterrupt", -signal.SIGINT),
            ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM),
            ("import sys; sys.stdout.close(); sys.stderr.close()", 0),
            ("def f(:\n", 1),
            (
                "import atexit, threading\natexit.register(print, 1)\nthreading.Timer(.05, print, [2]).start()",
                0,
            ),
            ("import warnings; warnings.warn('old', DeprecationWarning)", 0),
            ("import nosuchmodule", 1),
        ],
    )
    def test_how_it_ends(self, folder: Path, script: str, status: int) -> None:
        """Exit statuses, signals and tracebacks, which show no frame of ours."""
        (folder / "script.py").write_text(script)
        assert same("script.py")[0] == status

    def test_what_python_itself_refuses(self, folder: Path) -> None:
        """A module that is not there, or a folder that cannot be run, is Python's to refuse."""
        (folder / "empty").mkdir()
        assert same("-m", "nosuchmodule")[0] == 1
        assert same("empty")[0] == 1

    def test_an_interrupt_reaches_the_script(self, folder: Path) -> None:
        """There is but one process: a signal to it is a signal to the script, handled or not."""
        (folder / "script.py").write_text(
            "import signal, time\n"
            "signal.signal(signal.SIGTERM, lambda *_: print('terminated', flush=True))\n"
            "print('ready', flush=True)\n"
            "while True: time.sleep(10)\n"
        )
        with started(*RUN, "script.py") as process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline() == b"ready\n"
                process.send_signal(signal.SIGTERM)
                assert process.stdout.readline() == b"terminated\n"
                process.send_signal(signal.SIGINT)
                assert process.wait(10) == -signal.SIGINT
            finally:
                process.kill()

    def test_a_sitecustomize_that_was_there_still_runs(self, folder: Path) -> None:
        """What an administrator has put there is found beneath ours."""
        (folder / "sitecustomize.py").write_text("import builtins; builtins.here = 'before the script'")
        (folder / "script.py").write_text("import sys; print(here, sys.modules['sitecustomize'].__file__)")
        status, output, errors = same("script.py", PYTHONPATH=f"{folder}{os.pathsep}{ROOT}")
        assert (status, errors) == (0, b"")
        assert output.startswith(b"before the script ")

    def test_failures_of_requests_show_no_frame_of_ours(self, folder: Path, gateway: Gateway) -> None:
        """What kills a script plain kills it with the same traceback, in its threads too."""
        (folder / "s.toml").write_text("retry.max_attempts = 1")
        (folder / "script.py").write_text(
            "import sys, threading, requests\n"
            "def f(): requests.post(sys.argv[1], timeout=3)\n"
            "thread = threading.Thread(target=f, name='T')\nthread.start()\nthread.join()\nf()\n"
        )
        gateway.script(*[Fault.close("before")] * 4)
        plain = python("script.py", gateway.url)
        assert python(*RUN, "--settings", "s.toml", "script.py", gateway.url) == plain
        assert plain[0] == 1
        assert plain[2].count(b"RemoteDisconnected") > 4
        assert len(gateway.journal) == 4


class TestWhatItBrings:
    SCRIPT = "import sys, requests\nprint(requests.get(sys.argv[1]).json()['code'])\n"

    def test_the_adapter(self, folder: Path, gateway: Gateway) -> None:
        """The script's calls survive, by the settings that were named; it prints what it always prints."""
        (folder / "s.toml").write_text(FAST)
        (folder / "script.py").write_text(self.SCRIPT)
        gateway.script(Fault.status(502), Fault.reset("before"), None)
        assert python(*RUN, "--settings", "s.toml", "script.py", gateway.url) == (0, b"0\n", b"")
        assert len(gateway.journal) == 3

    def test_settings_of_where_it_was_started(self, folder: Path, gateway: Gateway) -> None:
        """They stay the same when the script goes elsewhere before it imports requests."""
        (folder / "resilient_adapter.toml").write_text(FAST)
        (folder / "elsewhere").mkdir()
        (folder / "elsewhere" / "resilient_adapter.toml").write_text("not valid")
        script = "import os; os.chdir('elsewhere'); os.environ['RESILIENT_ADAPTER__DEADLINE'] = 'not valid'\n"
        (folder / "script.py").write_text(script + self.SCRIPT)
        gateway.script(*[Fault.code(-1001)] * 4)
        seen = python(*RUN, "script.py", gateway.url, RESILIENT_ADAPTER__RETRY__MAX_ATTEMPTS="4")
        assert seen == (0, b"-1001\n", b"")
        assert len(gateway.journal) == 4

    def test_children_only_where_asked(self, folder: Path, gateway: Gateway) -> None:
        """Python processes that the script starts are plain, and covered with ``--children``, theirs too."""
        (folder / "s.toml").write_text(FAST)
        (folder / "script.py").write_text(self.SCRIPT)
        (folder / "parent.py").write_text(
            "import os, subprocess, sys\n"
            "print('PYTHONPATH' in os.environ, flush=True)\n"
            "nested = 'import subprocess, sys; sys.exit(subprocess.call([sys.executable, *sys.argv[1:]]))'\n"
            "sys.exit(subprocess.call([sys.executable, '-c', nested, 'script.py', sys.argv[1]]))\n"
        )
        gateway.script(Fault.code(-1001), Fault.code(-1001), None)
        options = [*RUN, "--settings", "s.toml"]
        assert python(*options, "parent.py", gateway.url) == (0, b"True\n-1001\n", b"")
        assert python(*options, "--children", "parent.py", gateway.url) == (0, b"True\n0\n", b"")
        assert len(gateway.journal) == 3

    def test_the_log(self, folder: Path, gateway: Gateway) -> None:
        """``--log`` collects what was done, without the script having to configure anything, for ``report``."""
        (folder / "s.toml").write_text(FAST + 'mode = "shadow"')
        (folder / "script.py").write_text(self.SCRIPT)
        gateway.script(Fault.code(-1001))
        for _ in range(2):
            assert python(*RUN, "--settings", "s.toml", "--log", "a.log", "script.py", gateway.url)[0] == 0
        (entry,) = map(json.loads, (folder / "a.log").read_text().splitlines())
        assert (entry["event"], entry["code"], entry["shadow"]) == ("retry", -1001, True)

    def test_a_token_source_of_the_scripts_own(self, folder: Path, gateway: Gateway) -> None:
        """``token.source`` may name a module beside the script; where it does not, that is said in one line."""
        (folder / "s.toml").write_text(f'origins = ["{gateway.url}"]\ntoken.source = "login:token"\n')
        (folder / "app").mkdir()
        (folder / "app" / "script.py").write_text(self.SCRIPT)
        status, output, errors = python(*RUN, "--settings", "s.toml", "app/script.py", gateway.url)
        assert (status, output, errors.count(b"\n")) == (2, b"", 1)
        assert b"token.source: 'login:token' cannot be imported: No module named 'login'" in errors
        (folder / "app" / "login.py").write_text("def token(): return 't'")
        assert python(*RUN, "--settings", "s.toml", "app/script.py", gateway.url) == (0, b"0\n", b"")
        assert gateway.journal[0].headers["Authorization"] == "Bearer t"


class TestRefused:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["run"], "a script, -m MODULE or - is needed"),
            (["run", "-m"], "a script, -m MODULE or - is needed"),
            (["run", "nosuch.py", "1"], "there is no script nosuch.py"),
            (["run", "--settings", "nosuch.toml", "s.py"], "settings file nosuch.toml (argument) does not exist"),
            (["run", "--settings", "bad.toml", "s.py"], "retry.max_attempts"),
            (["run", "--settings", "signing.toml", "s.py"], "origins"),
            (["run", "--log", "no/such/folder", "s.py"], "log file no/such/folder: No such file or directory"),
            (["run", "--nosuch", "s.py"], "unrecognized arguments: --nosuch"),
        ],
    )
    def test_it_is_said_in_one_line(
        self, folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
    ) -> None:
        """Exit status 2, and nothing is run."""
        (folder / "s.py").write_text("print('ran')")
        (folder / "bad.toml").write_text("retry.max_attempts = 0")
        (folder / "signing.toml").write_text('signing = {api_key = "k", secret = "s"}')
        assert cli.main(arguments) == 2
        seen = capsys.readouterr()
        assert (seen.out, seen.err.count("\n")) == ("", 1)
        assert message in seen.err


class TestInProcess:
    """What happens in processes that tests cannot look into."""

    def test_called_from_a_program_it_starts_another(self, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
        """``main(["run", …])`` leaves the calling program alive, and returns what a shell would show."""
        (folder / "s.py").write_text("import sys; print(*sys.argv); sys.exit(int(sys.argv[1]))")
        assert cli.main(["run", "s.py", "3"]) == 3
        assert capfd.readouterr().out == "s.py 3\n"
        (folder / "s.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
        assert cli.main(["run", "s.py"]) == 128 + 9

    @pytest.mark.parametrize(
        ("argv", "options"),
        [
            (["python", "-X", "dev", "-m", "resilient_adapter", "run", "s.py"], ["-X", "dev"]),
            (["python", "-mresilient_adapter", "run", "s.py"], []),
            (["python", "-B", "/bin/resilient-adapter", "run", "s.py"], ["-B"]),
        ],
    )
    def test_as_a_program_it_becomes_the_script(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, argv: list[str], options: list[str]
    ) -> None:
        """The process turns into the interpreter with the script, given the same options; with a stdout or without."""
        (folder / "s.py").touch()
        became: list[Any] = []
        monkeypatch.setattr(os, "execve", lambda *args: became.append(args))
        monkeypatch.setattr(subprocess, "call", lambda *args, **_: 0)
        monkeypatch.setattr(sys, "orig_argv", argv)
        monkeypatch.setattr(sys, "argv", ["/bin/resilient-adapter", "run", "s.py"])
        program = ModuleType("__main__")
        if "/bin/resilient-adapter" not in argv:
            program.__spec__ = importlib.util.spec_from_loader("resilient_adapter.__main__", None)
        monkeypatch.setitem(sys.modules, "__main__", program)
        assert cli.main(["run", "--log", "a.log", "s.py"]) == 0
        ((path, arguments, environment),) = became
        assert arguments == [path, *options, "s.py"]
        assert environment["PYTHONPATH"].split(os.pathsep)[0] == str(Path(startup.__file__).parent)
        plan = json.loads(environment[command.VARIABLE])
        assert (plan["settings"], plan["log"]) == (os.devnull, str(folder / "a.log"))
        monkeypatch.setattr(sys, "stdout", None)
        assert cli.main(["run", "s.py"]) == 0 and len(became) == 2

    @pytest.mark.parametrize(
        ("files", "named", "variable", "found"),
        [
            ({"a.toml": ""}, "a.toml", "", "a.toml"),
            ({"a.toml": "", "b.toml": ""}, "a.toml", "b.toml", "a.toml"),
            ({"b.toml": "", "resilient_adapter.toml": ""}, None, "b.toml", "b.toml"),
            ({"resilient_adapter.toml": "", "pyproject.toml": "[tool.resilient_adapter]"}, None, "", None),
            ({"pyproject.toml": "[tool.resilient_adapter]"}, None, "", "pyproject.toml"),
            ({"pyproject.toml": "[tool.other]  # not resilient_adapter's"}, None, "", os.devnull),
            ({"a.toml": 'origins = ["http://a.example"]\ntoken.source = "login:token"'}, "a.toml", "", "a.toml"),
            ({}, None, "", os.devnull),
        ],
    )
    def test_which_settings_file_it_is(
        self,
        folder: Path,
        monkeypatch: pytest.MonkeyPatch,
        files: dict[str, str],
        named: str | None,
        variable: str,
        found: str | None,
    ) -> None:
        """The one that the adapter itself would read, by a path that holds wherever the script goes."""
        for name, text in files.items():
            (folder / name).write_text(text)
        if variable:
            monkeypatch.setenv("RESILIENT_ADAPTER_SETTINGS", variable)
        assert command._settings_file(named) == str(folder / (found or next(iter(files))))

    def test_options_that_would_keep_it_out(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Where Python does not heed its environment the command refuses, rather than run a script unprotected."""
        (folder / "s.py").touch()
        monkeypatch.setattr(sys, "flags", SimpleNamespace(ignore_environment=0, no_site=1))
        assert cli.main(["run", "s.py"]) == 2
        assert "without -E, -I and -S" in capsys.readouterr().err

    def test_inside_the_script(self, folder: Path, gateway: Gateway, hooks: None) -> None:
        """Settings, log and hooks are in place once ``begin()`` has run."""
        (folder / "s.toml").write_text(FAST)
        gateway.script(Fault.reset("before"), None)
        startup.begin(str(folder / "s.toml"), str(folder / "log"), {})
        try:
            assert requests.get(gateway.url).ok
        finally:
            ra.uninstall()
        assert json.loads((folder / "log").read_text())["event"] == "retry"
        assert sys.excepthook is not sys.__excepthook__
        assert threading.excepthook is not threading.__excepthook__

    def test_hooks_of_the_scripts_own_stay(self, folder: Path, hooks: None, monkeypatch: pytest.MonkeyPatch) -> None:
        """What shows tracebacks already is not replaced."""
        monkeypatch.setattr(sys, "excepthook", print)
        monkeypatch.setattr(threading, "excepthook", print)
        startup.begin(os.devnull, None, {})
        ra.uninstall()
        assert sys.excepthook is threading.excepthook is print

    def test_settings_that_show_their_fault_late(self, capsys: pytest.CaptureFixture[str], hooks: None) -> None:
        """One line on stderr, and the script ends with 2."""
        with pytest.raises(SystemExit) as end:
            startup.begin(os.devnull, None, {"RESILIENT_ADAPTER__TOKEN__SOURCE": "nosuch:thing"})
        assert end.value.code == 2
        assert capsys.readouterr().err.count("\n") == 1

    def test_frames_are_hidden_from_the_whole_chain(self, capsys: pytest.CaptureFixture[str], hooks: None) -> None:
        """Causes and contexts too, a chain that bites its tail included."""
        startup.begin(os.devnull, None, {"RESILIENT_ADAPTER__RETRY__MAX_ATTEMPTS": "1"})
        try:
            with pytest.raises(requests.ConnectionError) as caught:
                requests.get("http://nosuch.invalid/")
        finally:
            ra.uninstall()
        error = caught.value
        assert error.__context__ is not None
        error.__context__.__cause__.__context__ = error  # type: ignore[union-attr]
        sys.excepthook(type(error), error, error.__traceback__)
        args = (type(error), error, error.__traceback__, None)
        threading.excepthook(threading.ExceptHookArgs(args))
        threading.excepthook(threading.ExceptHookArgs((SystemExit, None, None, None)))
        shown = capsys.readouterr().err
        assert shown.count("nosuch.invalid") > 2 and "test_cli_run.py" in shown
        assert str(Path(ra.__file__).parent) not in shown

    @pytest.fixture
    def hooks(self) -> Iterator[None]:
        """Begin with the interpreter's own hooks, and put pytest's back."""
        before = sys.excepthook, threading.excepthook
        sys.excepthook, threading.excepthook = sys.__excepthook__, threading.__excepthook__
        yield
        sys.excepthook, threading.excepthook = before


class TestSitecustomize:
    """The module that Python finds as it starts, run in this process."""

    @pytest.fixture
    def python_starts(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
        """Return a function that runs it as site.py would, in a world that is put back afterwards."""
        path = Path(startup.__file__).with_name("sitecustomize.py")
        monkeypatch.setattr(sys, "path", [str(path.parent), str(folder), *sys.path])
        monkeypatch.setattr(sys, "meta_path", sys.meta_path[:])
        monkeypatch.setenv("PYTHONPATH", str(path.parent))
        monkeypatch.delitem(sys.modules, "sitecustomize", raising=False)

        def start(**plan: Any) -> ModuleType:
            defaults = {"settings": os.devnull, "log": None, "children": False, "path": None}
            defaults["python"] = [sys.prefix, *sys.version_info[:2]]  # type: ignore[assignment]
            if plan.pop("told", True):
                monkeypatch.setenv(command.VARIABLE, json.dumps({**defaults, **plan}))
            spec = importlib.util.spec_from_file_location("sitecustomize", path)
            assert spec is not None and spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            with contextlib.suppress(ImportError):  # how it says that there is no other
                spec.loader.exec_module(module)
            return module

        yield start
        sys.modules.pop("sitecustomize", None)

    def hooks(self) -> list[Any]:
        """Return those that wait for requests."""
        return [finder for finder in sys.meta_path if type(finder).__name__ == "_AfterRequests"]

    def test_it_leaves_no_trace(self, python_starts: Any, folder: Path) -> None:
        """Path and environment are what they would have been."""
        python_starts()
        assert sys.path[0] == str(folder)
        assert "PYTHONPATH" not in os.environ and command.VARIABLE not in os.environ
        python_starts(path="a:b")
        assert os.environ["PYTHONPATH"] == "a:b"

    def test_it_stays_for_children(self, python_starts: Any) -> None:
        """With ``--children`` the environment keeps what they need."""
        python_starts(children=True)
        assert command.VARIABLE in os.environ and "startup" in os.environ["PYTHONPATH"]

    def test_it_does_nothing_elsewhere(self, python_starts: Any) -> None:
        """In a Python of another environment, and where nobody told it to."""
        python_starts(python=["/elsewhere", 3, 11])
        python_starts(told=False)
        assert self.hooks() == []

    def test_another_sitecustomize_is_run(self, python_starts: Any, folder: Path) -> None:
        """The one that ours was found in place of."""
        (folder / "sitecustomize.py").write_text("ran = True")
        python_starts()
        assert sys.modules["sitecustomize"].ran

    def test_it_waits_for_requests(self, python_starts: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Whatever else is imported passes; requests is covered once it is whole; then nothing is left behind."""
        module = python_starts()
        (folder / "requests").mkdir()
        (folder / "requests" / "__init__.py").write_text("import json, requests.models\nwhole = True")
        (folder / "requests" / "models.py").touch()
        seen: list[bool] = []
        monkeypatch.setattr(module, "_begin", lambda *_: seen.append(sys.modules["requests"].whole))
        for name in [name for name in sys.modules if name.partition(".")[0] == "requests"]:
            monkeypatch.delitem(sys.modules, name)
        import requests as local

        assert seen == [True]
        assert self.hooks() == []
        assert "exec_module" not in vars(local.__loader__)

    @pytest.mark.parametrize("found", [None, "a folder without __init__"])
    def test_requests_that_is_not_there(
        self, python_starts: Any, monkeypatch: pytest.MonkeyPatch, found: str | None
    ) -> None:
        """It goes on waiting: the script may find it later."""
        module = python_starts()
        spec = None if found is None else importlib.util.spec_from_loader("requests", None)
        monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: spec)
        (hook,) = self.hooks()
        assert hook.find_spec("requests") is spec
        assert self.hooks() == [hook]

    def test_the_package_is_the_one_that_was_run(self, python_starts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """It is loaded from its own place where the script's path does not lead to it."""
        began: list[Any] = []
        module = python_starts()
        monkeypatch.setattr(startup, "begin", lambda *args: began.append(args))
        module._begin({"settings": "s", "log": None}, {})
        kept = {name: one for name, one in sys.modules.items() if name.partition(".")[0] == "resilient_adapter"}
        with monkeypatch.context() as patch:
            for name in kept:
                patch.delitem(sys.modules, name)
            stub = ModuleType("resilient_adapter.cli.startup")
            stub.begin = lambda *args: began.append(args)  # type: ignore[attr-defined]
            patch.setitem(sys.modules, "resilient_adapter.cli", ModuleType("resilient_adapter.cli"))
            patch.setitem(sys.modules, "resilient_adapter.cli.startup", stub)
            executed: list[Any] = []

            def execute(spec: Any) -> None:
                executed.append(spec)
                patch.setitem(sys.modules, spec.name, ModuleType(spec.name))

            patch.setattr(module, "_execute", execute)
            module._begin({"settings": "s", "log": None}, {})
        (spec,) = executed
        assert spec.origin == ra.__file__
        assert spec.submodule_search_locations == [str(Path(ra.__file__).parent)]
        assert began == [("s", None, {})] * 2


def test_standard_output_that_nobody_reads(folder: Path) -> None:
    """A reader that has gone shows as under python itself."""
    (folder / "s.py").write_text("for n in range(100000): print(n)")
    results = []
    for way in ([], RUN):
        with started(*way, "s.py") as process:
            assert process.stdout is not None and process.stderr is not None
            process.stdout.readline()
            process.stdout.close()
            results.append((process.stderr.read(), process.wait()))
    assert results[0] == results[1]
    assert b"BrokenPipeError" in results[0][0]
