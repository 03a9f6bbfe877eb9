"""What is seldom needed is imported when it is: a program pays for what it uses, and in memory too."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from resilient_adapter.testing import Gateway

_LOADED = """
print(json.dumps(sorted(sys.modules)))
"""


def modules(program: str, *arguments: str) -> set[str]:
    """Return what is loaded in a fresh process after a program has run there."""
    command = [sys.executable, "-c", f"import json, sys\n{program}{_LOADED}", *arguments]
    done = subprocess.run(command, capture_output=True, check=True, timeout=60)
    return set(json.loads(done.stdout.splitlines()[-1]))


def is_ours(module: str) -> bool:
    """Tell a module of the package from others."""
    return module.partition(".")[0] == "resilient_adapter"


PLAIN = "import requests\nsession = requests.Session()\n"
OURS = "from resilient_adapter import ResilientAdapter, Settings\n"
MOUNT = 'session.mount("http://", ResilientAdapter(Settings.from_mapping({})))\n'
CALL = "assert session.get(sys.argv[1]).ok\n"

USUAL = {
    "import": (PLAIN + OURS, PLAIN),
    "adapter": (PLAIN + OURS + MOUNT, PLAIN),
    "call": (PLAIN + OURS + MOUNT + CALL, PLAIN + CALL),
    "every public name": (PLAIN + OURS + MOUNT + "from resilient_adapter import *\n", PLAIN),
}


@pytest.mark.parametrize("name", USUAL)
def test_the_usual_loads_no_module_that_requests_does_not_load(gateway: Gateway, name: str) -> None:
    """Neither libraries (pybreaker, structlog, msgspec, redis) nor parts of the standard one (inspect, sqlite3)."""
    ours, plain = (modules(program, gateway.url) for program in USUAL[name])
    assert {module for module in ours - plain if not is_ours(module)} == set()


SELDOM = {
    "cli", "core.order", "inquiry", "repairs.orders", "repairs.reconcile", "repairs.server_clock",
    "repairs.shared_token", "repairs.signing", "repairs.token", "repairs.token_source", "guards.circuit_storage",
    "guards.shared_circuit", "guards.shared_pace", "simulation", "state.address", "state.journal", "state.sqlite",
    "state.store", "testing",
}  # fmt: skip


def test_a_call_loads_no_part_of_ours_that_it_does_not_use(gateway: Gateway) -> None:
    """Orders, signatures, tokens, a journal, shared state and the commands are for those that have them."""
    loaded = modules(PLAIN + OURS + MOUNT + CALL, gateway.url)
    assert {module for module in SELDOM if f"resilient_adapter.{module}" in loaded} == set()


def test_what_a_failed_call_goes_by_is_there_before_it() -> None:
    """A call may fail because no more files can be opened, and then no module could be read either."""
    judges = {"core.backoff", "core.classify", "core.decide", "errors", "repairs.signed", "telemetry.log"}
    assert {f"resilient_adapter.{name}" for name in judges} <= modules(PLAIN + OURS)


_SOURCE = 'ResilientAdapter(Settings.from_mapping({"origins": ["https://a.example"]}), token_source=lambda: "t")'
_SIGNING = {"api_key": "k", "secret": "s"}

NEEDED = {
    "a token": ("import resilient_adapter; resilient_adapter.Token('t')", {"resilient_adapter.repairs.token"}),
    "a token source": (OURS + _SOURCE, {"resilient_adapter.repairs.token"}),
    "a login": (
        OURS + "ResilientAdapter(Settings.from_mapping({'token': {'url': 'https://a.example/login'}}))",
        {"resilient_adapter.repairs.token", "resilient_adapter.repairs.token_source"},
    ),
    "a signer": (
        "from resilient_adapter import HmacSigner; HmacSigner('k', 's')",
        {"resilient_adapter.repairs.signing", "resilient_adapter.repairs.server_clock"},
    ),
    "signing": (
        f"{OURS}ResilientAdapter(Settings.from_mapping({{'origins': ['https://a.example'], 'signing': {_SIGNING}}}))",
        {"resilient_adapter.repairs.signing", "resilient_adapter.repairs.server_clock"},
    ),
    "a reconciler": (
        "from resilient_adapter import OrderReconciler; OrderReconciler('/order')",
        {"resilient_adapter.repairs.reconcile"},
    ),
    "a POST": (PLAIN + OURS + MOUNT + "session.post(sys.argv[1])", {"resilient_adapter.repairs.orders"}),
    "a journal": (
        PLAIN + OURS + "session.mount('http://', ResilientAdapter(Settings.from_mapping({'orders': {'paths': ['*'], "
        "'journal': sys.argv[2]}})))\nsession.post(sys.argv[1])",
        {"resilient_adapter.state.journal", "sqlite3"},
    ),
    "a code that does not come first": (
        'from resilient_adapter.core.envelope import read_envelope\nread_envelope(b\'{"msg": "", "code": 0}\')',
        {"msgspec"},
    ),
    "a failure": (
        PLAIN + OURS + "session.mount('http://', ResilientAdapter(Settings.from_mapping({'retry': {'max_attempts': "
        "1}})))\nimport contextlib, socket\nlistener = socket.create_server(('127.0.0.1', 0))\n"
        "url = 'http://127.0.0.1:%d' % listener.getsockname()[1]\nlistener.close()\n"
        "with contextlib.suppress(requests.ConnectionError): session.get(url)",
        {"pybreaker"},
    ),
    "a settings file": (
        "import pathlib\npathlib.Path(sys.argv[3]).write_text('deadline = 9')\n" + OURS + "Settings.load(sys.argv[3])",
        {"tomllib" if sys.version_info >= (3, 11) else "tomli"},
    ),
    "a shared store": (
        OURS + "Settings.from_mapping({'shared': {'url': 'redis://localhost'}})",
        {"resilient_adapter.state.address"},
    ),
}


@pytest.mark.parametrize("name", NEEDED)
def test_what_is_needed_is_imported_then(gateway: Gateway, tmp_path: Path, name: str) -> None:
    """The other side of it: nothing that a program does use is left out."""
    program, needed = NEEDED[name]
    url = f"{gateway.url}/api/v1/ping"
    assert needed <= modules(program, url, str(tmp_path / "orders.sqlite"), str(tmp_path / "settings.toml"))


def test_the_function_install_is_not_hidden_by_its_module() -> None:
    """They share a name, so whoever imports the module first must still find the function."""
    modules("import resilient_adapter.install\nimport resilient_adapter\nwith resilient_adapter.install(): pass")
