"""What ``shared.url`` says: every form that is taken, and none that is nearly one; no password is ever shown."""

from __future__ import annotations

import sys

import pytest

from resilient_adapter import Settings, SettingsError
from resilient_adapter.state.address import RedisAddress, check_store_url, file_path, redis_address
from resilient_adapter.state.file import FileBackend
from resilient_adapter.state.opening import open_backend
from resilient_adapter.state.redis import RedisBackend

SERVERS = [
    ("redis://h", RedisAddress("redis://h", "h:6379")),
    ("redis://h:1", RedisAddress("redis://h:1", "h:1")),
    ("redis://h/", RedisAddress("redis://h/", "h:6379")),
    ("redis://u:p@h:1/3?client_name=x", RedisAddress("redis://u:p@h:1/3?client_name=x", "h:1")),
    ("redis://[::1]:7/0", RedisAddress("redis://[::1]:7/0", "[::1]:7")),
    ("rediss://:p@h?ssl_ca_certs=/ca", RedisAddress("rediss://:p@h?ssl_ca_certs=/ca", "h:6379")),
    ("unix:///run/r.sock", RedisAddress("unix:///run/r.sock", "/run/r.sock")),
    ("unix://u:p@/run/a%20b?db=2", RedisAddress("unix://u:p@/run/a%20b?db=2", "/run/a b")),
    (
        "redis+sentinel://h/main",
        RedisAddress("redis://{}/0", "main (sentinels h:26379)", (("h", 26379),), "main"),
    ),
    (
        "rediss+sentinel://u:p%40{}@a:1,[::1]:2/my%20main/3?ssl_cert_reqs=none",
        RedisAddress(
            "rediss://u:p%40{{}}@{}/3?ssl_cert_reqs=none",
            "my main (sentinels a:1, [::1]:2)",
            (("a", 1), ("::1", 2)),
            "my main",
        ),
    ),
]
NO_SERVERS = [
    "",
    "redis:",
    "redis://",
    "redis://:secret@",
    "redis://h:x",
    "redis://h:99999",
    "redis://h/secret",
    "redis://h/0/1",
    "redis://h/0#secret",
    "redis://:se/cret@h",
    "redis://a,b/0",
    "rediss://h:1,g:2",
    "http://h",
    "unix://",
    "unix://run/r.sock",
    "unix://:se/cret@/run/r.sock",
    "redis+sentinel://h",
    "redis+sentinel://h/",
    "redis+sentinel:///main",
    "redis+sentinel://a,,b/main",
    "redis+sentinel://a:x/main",
    "redis+sentinel://h/main/secret",
    "redis+sentinel://h/main/0/1",
    "redis+sentinel://:se/cret@h/main",
    "redis+sentinel://:1/cret@h/main",
    "redis+sentinel://h/main#secret",
    "unix+sentinel://h/main",
]


@pytest.mark.parametrize(("url", "address"), SERVERS)
def test_the_address_of_a_server(url: str, address: RedisAddress) -> None:
    """Host, port, sentinels and service; the rest is redis-py's to read. The settings take it too."""
    assert redis_address(url) == address
    assert repr(address) == f"RedisAddress({address.shown})"
    check_store_url(url)
    assert Settings.from_mapping({"shared": {"url": url}}).shared.url == url
    assert isinstance(open_backend(url, "n"), RedisBackend)


@pytest.mark.parametrize("url", NO_SERVERS)
def test_what_is_no_address_of_a_server(url: str) -> None:
    """It is refused, here and by the settings, and the error repeats nothing of it."""
    with pytest.raises(ValueError, match=r"^not a|^the path|^a port") as refused:
        redis_address(url)
    assert "cret" not in str(refused.value)
    for refuse in (lambda: Settings.from_mapping({"shared": {"url": url}}), lambda: open_backend(url, "n")):
        with pytest.raises(SettingsError, match=r"shared.url") as error:
            refuse()
        assert "cret" not in str(error.value) and "cret" not in repr(error.value.__context__)


@pytest.mark.parametrize(
    ("url", "posix", "windows"),
    [
        ("file:///tmp/state", "/tmp/state", "/tmp/state"),
        ("file:///tmp/a%20b%25", "/tmp/a b%", "/tmp/a b%"),
        ("file:///C:/Users/me/state", "/C:/Users/me/state", "C:/Users/me/state"),
        ("file:///c%3A/state", "/c:/state", "c:/state"),
        ("file:///Cc:/state", "/Cc:/state", "/Cc:/state"),
    ],
)
def test_the_path_of_a_file(url: str, posix: str, windows: str) -> None:
    """Percent-encoding is undone; on Windows, a drive's path begins with its letter."""
    check_store_url(url)
    assert (file_path(url, windows=False), file_path(url, windows=True)) == (posix, windows)


@pytest.mark.parametrize("url", ["file:state", "file://state", "file:///", "file:///a?b", "file:///a#b", "file://h/a"])
def test_what_is_no_address_of_a_file(url: str) -> None:
    """A relative path, another machine's, or something after the path is refused."""
    with pytest.raises(ValueError, match="begins with file:///"):
        check_store_url(url)


def test_a_file_is_opened_by_its_url() -> None:
    """The scheme says which kind of store it is."""
    backend = open_backend("file:///tmp/a%20b", "n")
    assert isinstance(backend, FileBackend) and str(backend.path).endswith("a b")


def test_redis_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where redis-py is not installed, the error says how to get it; a file needs nothing."""
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(SettingsError, match=r"pip install 'resilient_adapter\[redis\]'"):
        open_backend("redis://h", "n")
    open_backend("file:///tmp/state", "n")
