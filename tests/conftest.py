"""What every test runs under: loopback only, a clean environment, no thread left behind."""

from __future__ import annotations

import ipaddress
import os
import shutil
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest
from hypothesis.configuration import set_hypothesis_home_dir

if TYPE_CHECKING:
    from resilient_adapter.testing import FakeClock, Gateway

ADDRESSES = {"socket.connect": 1, "socket.sendto": 1, "socket.sendmsg": 1}
NAMES = {"socket.getaddrinfo": 0, "socket.gethostbyname": 0, "socket.gethostbyaddr": 0}
PROXIES = {"http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy"}
THREAD_GRACE = 5.0


def is_local(host: Any) -> bool:
    """Tell whether a host, by name or by number, is this machine."""
    if isinstance(host, (bytes, bytearray)):
        host = host.decode("ascii", "replace")
    if host is None or host in ("", "localhost"):
        return True
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def loopback_only(event: str, args: tuple[Any, ...]) -> None:
    """Stop what would leave this machine, however low the call is made.

    The outcome of pytest.fail() is no Exception, so that no retry can take it for a dropped connection.
    """
    if event in ADDRESSES:
        address = args[ADDRESSES[event]]
        if isinstance(address, tuple) and not is_local(address[0]):
            pytest.fail(f"{event}: {address!r} is beyond loopback; tests must not leave this machine")
    elif event in NAMES:
        host = args[NAMES[event]]
        if str(host).endswith(".invalid"):
            # RFC 6761, section 6.4: such a name never exists, and nobody need be asked.
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        if not is_local(host):
            pytest.fail(f"{event}: {host!r} is beyond loopback; tests must not leave this machine")


def pytest_configure(config: pytest.Config) -> None:
    """Close this process off before the first test is imported."""
    sys.addaudithook(loopback_only)
    for name in list(os.environ):
        if name.upper().startswith("RESILIENT_ADAPTER") or name.lower() in PROXIES:
            del os.environ[name]
    set_hypothesis_home_dir(config.rootpath / ".hypothesis")
    # A slow machine is no bug. CI tries the same examples each time, and so never fails by chance.
    no_hurry = {"deadline": None, "suppress_health_check": [hypothesis.HealthCheck.too_slow]}
    hypothesis.settings.register_profile("local", **no_hurry)
    hypothesis.settings.register_profile("ci", **no_hurry, derandomize=True, print_blob=True)
    hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "local")


@pytest.fixture(scope="session")
def empty_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder without any settings file in it."""
    return tmp_path_factory.mktemp("cwd")


@pytest.fixture(autouse=True)
def working_directory(empty_directory: Path) -> Iterator[None]:
    """Run each test in an empty folder: what lies in the project's own is not the test's settings."""
    before = Path.cwd()
    os.chdir(empty_directory)
    yield
    os.chdir(before)
    left = []
    for path in empty_directory.iterdir():
        left.append(path.name)
        shutil.rmtree(path) if path.is_dir() else path.unlink()  # or the tests after it would read them
    assert not left, f"the test left files in the working directory: {left}; write to tmp_path"


@pytest.fixture(autouse=True)
def no_thread_left_behind() -> Iterator[None]:
    """Fail a test that leaves threads behind which would keep a program from ending."""
    before = set(threading.enumerate())
    yield
    give_up = time.monotonic() + THREAD_GRACE
    left = [thread for thread in threading.enumerate() if thread not in before and not thread.daemon]
    for thread in left:
        thread.join(max(0.0, give_up - time.monotonic()))
    alive = [thread.name for thread in left if thread.is_alive()]
    assert not alive, f"threads left behind: {alive}"


@pytest.fixture(autouse=True)
def nothing_remembered() -> Iterator[None]:
    """Forget what a test has left in doubt: else that stays, and what others learn has to make room for it."""
    yield
    if (runtime := sys.modules.get("resilient_adapter.runtime")) is not None:
        runtime._shared.runtimes.clear()


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    """Serve the API's envelope on loopback for one test."""
    from resilient_adapter.testing import Gateway

    with Gateway() as serving:
        yield serving


@pytest.fixture
def clock() -> FakeClock:
    """Return a clock that moves only when told, or slept on."""
    from resilient_adapter.testing import FakeClock

    return FakeClock()
