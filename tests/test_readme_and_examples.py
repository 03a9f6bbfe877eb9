"""What a newcomer tries first runs as it is printed: the README's code, the examples, the demo."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from inspect import signature
from pathlib import Path
from textwrap import dedent

import pytest

from resilient_adapter import Event, ResilientAdapter, Settings, errors
from resilient_adapter.core.model import CodeInfo
from resilient_adapter.core.report import Attempt, Resilience
from resilient_adapter.telemetry.events import EventName
from resilient_adapter.testing import Fault, Gateway

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"


def run(*args: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python with warnings as errors, in a folder without settings of its own."""
    return subprocess.run(
        [sys.executable, "-W", "error", *args],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Gateway, Path]]:
    """A gateway that asks for tokens, and a folder with the examples, its address in them."""
    (tmp_path / "examples").mkdir()
    with Gateway(require_token=True) as gateway:
        for file in EXAMPLES.iterdir():
            if file.is_file():
                text = file.read_text(encoding="utf-8").replace("http://127.0.0.1:8088", gateway.url)
                (tmp_path / "examples" / file.name).write_text(text, encoding="utf-8")
        yield gateway, tmp_path


def as_printed(folder: Path, script: str) -> subprocess.CompletedProcess[str]:
    """Run the indented lines of an example's docstring in a shell."""
    text = (folder / "examples" / script).read_text(encoding="utf-8")
    commands = re.findall(r"^    (\S.*)$", text.split('"""')[1], re.MULTILINE)
    assert commands
    names = f'python() {{ "{sys.executable}" "$@"; }}; resilient-adapter() {{ python -m resilient_adapter "$@"; }}'
    return subprocess.run(
        ["bash", "-c", "\n".join((names, *commands))],
        cwd=folder,
        env={**os.environ, "PYTHONWARNINGS": "error"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_code_in_the_readme_runs(tmp_path: Path) -> None:
    """The README's first block of Python prints what its last line promises."""
    code = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[0]
    fast = 'ResilientAdapter({"retry": {"base": 0.01, "jitter": 0}})'
    done = run("-c", code.replace("ResilientAdapter()", fast), cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "success after 3 sends\n", "")


def test_the_other_code_in_the_readme_runs(tmp_path: Path) -> None:
    """The lines of the three ways to use it, as they are printed."""
    _, mount, install = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    before = "import requests, resilient_adapter; from resilient_adapter import ResilientAdapter\n"
    done = run("-c", f"{before}session, log_in = requests.Session(), lambda: 'x'\n{mount}{install}", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("page", ["README.md", "docs/orders.md", "docs/shared.md"])
def test_the_settings_in_the_documentation_are_good(page: str, tmp_path: Path) -> None:
    """Every settings file that is shown can be loaded."""
    environ = {"API_KEY": "k", "API_SECRET": "s"}
    files = re.findall(r"```toml\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    assert files
    for text in files:
        (tmp_path / "shown.toml").write_text(text)
        assert Settings.load(tmp_path / "shown.toml", environ) != Settings.from_mapping({})


def test_the_page_of_errors_is_whole() -> None:
    """It has the exceptions as the source draws them, every event, and each field and argument by its name."""
    page = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    tree = (errors.__doc__ or "").partition("::\n\n")[2]
    assert f"```\n{dedent(tree)}```\n" in page
    arguments = set(signature(ResilientAdapter).parameters) - {"http_adapter_options"} | {"**http_adapter_options"}
    fields = {*Event.__struct_fields__, *Attempt._fields, *Resilience._fields, *CodeInfo.__struct_fields__}
    for name in {*arguments, *fields, *(name.value for name in EventName), "retry_after", "client_order_id"}:
        assert f"`{name}`" in page, name


def test_mounting_on_a_session(tmp_path: Path) -> None:
    """The example survives an expired token and a rate limit, and shows each send."""
    done = run(str(EXAMPLES / "mount_on_a_session.py"), cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "account: success",
        "positions: success",
        "  send 1: code -1002, after 0 s",
        "  send 2: code -1003, after 0 s",
        "  send 3: code 0, after 1 s",
    ]


def test_dropping_into_a_legacy_script(served: tuple[Gateway, Path]) -> None:
    """As its docstring says: the old script fails by itself, and under ``run`` prints what it prints on a good day."""
    gateway, folder = served
    gateway.script(None, Fault.reset(), path="/api/*")
    done = as_printed(folder, "legacy_script.py")
    assert done.returncode == 0
    assert done.stderr.startswith("BTCUSDT: API error -1002") and done.stderr.count("\n") == 1
    assert done.stdout == "BTCUSDT success\nETHUSDT success\nSOLUSDT success\n"


def test_configuring_by_settings(served: tuple[Gateway, Path]) -> None:
    """As its docstring says: settings alone bring the token, and the log says what was done."""
    gateway, folder = served
    gateway.script(None, Fault.code(-1001), path="/api/*")
    done = as_printed(folder, "configured_by_settings.py")
    assert done.returncode == 0
    assert done.stdout == "account success\npositions success\nopenOrders success\n"
    assert "INFO retry" in done.stderr and "code=-1001" in done.stderr
    assert "Bearer" not in done.stderr


def test_the_demo_loses_nothing(tmp_path: Path) -> None:
    """The demo ends with exit status 0, having shown what plain requests lose and the adapter does not."""
    done = run("-m", "resilient_adapter", "demo", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    left, right = re.findall(r"^calls lost +(\d+) +(\d+)$", done.stdout, re.MULTILINE)[0]
    assert int(left) > 0 and int(right) == 0


def test_the_demo_says_when_something_was_lost(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A call that the adapter loses makes the demo end with exit status 1."""
    from resilient_adapter.cli import demo, main

    monkeypatch.setitem(demo.SETTINGS, "retry", {"max_attempts": 1})
    monkeypatch.setitem(demo.SETTINGS, "circuit", {"fail_max": 3, "when_open": "raise"})
    assert main(["demo"]) == 1
    assert "gives up" in capsys.readouterr().out
