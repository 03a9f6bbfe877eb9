"""What settings are read into: origins, rates, and tables that cannot change."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient_adapter.core.origin import normalize_origin, origin_of
from resilient_adapter.core.rates import Rate, parse_rate, parse_used_weight, used_weight_header
from resilient_adapter.settings.values import CredentialUrl, FrozenDict, Secret, SecretDict

# ------------------------------------------------------------------------------------------------------ origins

ORIGINS = [
    ("https://gateway.example", "https://gateway.example"),
    ("HTTPS://Gateway.EXAMPLE", "https://gateway.example"),
    ("https://gateway.example/", "https://gateway.example"),
    ("https://gateway.example:443", "https://gateway.example"),
    ("https://gateway.example:0443/", "https://gateway.example"),
    ("https://gateway.example:", "https://gateway.example"),
    ("http://gateway.example:80", "http://gateway.example"),
    ("http://gateway.example:443", "http://gateway.example:443"),
    ("http://127.0.0.1:8088", "http://127.0.0.1:8088"),
    ("http://[::1]:8088", "http://[::1]:8088"),
    ("http://[FE80::1%25eth0]:80", "http://[fe80::1%25eth0]"),
    ("http://my_service", "http://my_service"),
    ("http://exämple.com", "http://xn--exmple-cua.com"),
    ("http://EXÄMPLE.com", "http://xn--exmple-cua.com"),
    ("http://xn--exmple-cua.com", "http://xn--exmple-cua.com"),
]
NO_URLS = [
    "",
    "gateway.example",
    "//gateway.example",
    "/path",
    "https:",
    "https://",
    "https:///path",
    "https://:443",
    "https://user@",
    "https://a b/",
    "https://a\n/",
    " https://a/",
    "https://a:x/",
    "https://a:99999/",
    "https://a:65536/",
    "https://[::1/",
    "https://[gateway.example]/",
    "https://::1/",
    "https://a\\@b/",
    "https://a\\b/",
    "https://straße.de/",
    "https://a。example/",
    "https://" + "ä" * 64,
    "5://a/",
]


@pytest.mark.parametrize(("text", "origin"), ORIGINS)
def test_an_origin_is_written_in_one_way(text: str, origin: str) -> None:
    """Lower case, ASCII, without a default port; written so, it stays as it is."""
    assert normalize_origin(text) == origin_of(text) == origin
    assert normalize_origin(origin) == origin


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://user:pa:ss@Gateway.example:443/a/b?x=1#y", "https://gateway.example"),
        ("https://user@other@gateway.example:8443", "https://gateway.example:8443"),
        ("https://gateway.example?q=@evil.example/", "https://gateway.example"),
        ("https://gateway.example#@evil.example/", "https://gateway.example"),
        ("https://gateway.example/@evil.example:1/", "https://gateway.example"),
        ("wss://gateway.example:443/stream", "wss://gateway.example"),
        ("ws://gateway.example:80", "ws://gateway.example"),
        ("http+unix://%2Fvar%2Frun.sock/x", "http+unix://%2fvar%2frun.sock"),
    ],
)
def test_a_url_belongs_to_an_origin(url: str, origin: str) -> None:
    """User, password, path, query and fragment are no part of it."""
    assert origin_of(url) == origin


@pytest.mark.parametrize("text", NO_URLS)
def test_what_is_no_clear_url_has_no_origin(text: str) -> None:
    """Above all not what two parsers read in two ways."""
    with pytest.raises(ValueError, match=r"^(not an|a host|a port)") as caught:
        origin_of(text)
    assert not text or text not in str(caught.value)
    with pytest.raises(ValueError, match=r"^(not an|a host|a port)"):
        normalize_origin(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("https://u:hunter2@a", "an origin holds no user name or password"),
        ("https://@a", "an origin holds no user name or password"),
        ("https://a/path", "an origin ends after the host and port"),
        ("https://a//", "an origin ends after the host and port"),
        ("https://a?", "an origin ends after the host and port"),
        ("https://a#", "an origin ends after the host and port"),
        ("wss://a", "not an origin of the form"),
        ("file:///a", "not an origin of the form"),
    ],
)
def test_more_than_an_origin_is_none(text: str, message: str) -> None:
    """Where an origin is asked for, a URL that has more to it is a mistake; the error does not repeat it."""
    with pytest.raises(ValueError, match=message) as caught:
        normalize_origin(text)
    assert "hunter2" not in str(caught.value)


@given(st.text())
def test_an_origin_is_found_once_or_never(text: str) -> None:
    """Whatever the text, there is a ValueError or an origin that is its own origin."""
    for url in (text, f"https://{text}"):
        try:
            origin = origin_of(url)
        except ValueError:
            continue
        assert origin_of(origin) == origin == origin.lower()
        assert origin.isascii() and "@" not in origin


# -------------------------------------------------------------------------------------------------------- rates


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("10/s", Rate(10, 1.0)),
        ("10/sec", Rate(10, 1.0)),
        ("10/second", Rate(10, 1.0)),
        ("1200/min", Rate(1200, 60.0)),
        ("1200/minute", Rate(1200, 60.0)),
        ("5/h", Rate(5, 3600.0)),
        ("5/hour", Rate(5, 3600.0)),
        ("9/d", Rate(9, 86400.0)),
        ("9/day", Rate(9, 86400.0)),
        ("100/10s", Rate(100, 10.0)),
        ("3/0.5s", Rate(3, 0.5)),
        ("6000/5min", Rate(6000, 300.0)),
        (" 10 / 2 S ", Rate(10, 2.0)),
    ],
)
def test_a_rate_is_requests_per_time(text: str, rate: Rate) -> None:
    """The unit may have a number of its own."""
    assert parse_rate(text) == rate


@pytest.mark.parametrize(
    "text",
    [
        "",
        "10",
        "10/",
        "/s",
        "10/m",
        "10/ms",
        "10/fortnight",
        "ten/s",
        "1.5/s",
        "-1/s",
        "0/s",
        "1/0s",
        "10/s/s",
        "10/-1s",
        pytest.param("1" * 5000 + "/s", id="long"),
        "10/1.s",
        "10s",
        "10 per s",
        "\N{ARABIC-INDIC DIGIT ONE}/s",
    ],
)
def test_what_is_no_rate_is_refused(text: str) -> None:
    """The error says what one looks like."""
    with pytest.raises(ValueError, match=r'a rate .*"1'):
        parse_rate(text)


@pytest.mark.parametrize(
    ("text", "header"),
    [
        ("1200/min", "X-MBX-USED-WEIGHT-1M"),
        ("1200/60s", "X-MBX-USED-WEIGHT-1M"),
        ("6000/5min", "X-MBX-USED-WEIGHT-5M"),
        ("10/s", "X-MBX-USED-WEIGHT-1S"),
        ("100/10s", "X-MBX-USED-WEIGHT-10S"),
        ("100/90s", "X-MBX-USED-WEIGHT-90S"),
        ("5/h", "X-MBX-USED-WEIGHT-1H"),
        ("9/day", "X-MBX-USED-WEIGHT-1D"),
        ("3/0.5s", None),
        ("3/1.5s", None),
    ],
)
def test_a_period_has_a_header(text: str, header: str | None) -> None:
    """It names the period in its largest unit; a period of no whole seconds has none."""
    assert used_weight_header(parse_rate(text).period) == header


@pytest.mark.parametrize(
    ("value", "used"),
    [
        ("0", 0),
        ("834", 834),
        (" 834 ", 834),
        ("999999999", 999_999_999),
        ("1000000000", None),
        (None, None),
        ("", None),
        ("-1", None),
        ("+1", None),
        ("8.5", None),
        ("1e3", None),
        ("834, 835", None),
        ("many", None),
        ("\N{ARABIC-INDIC DIGIT ONE}", None),
        (b"834", None),
        (834, None),
    ],
)
def test_a_used_weight_is_a_number_or_nothing(value: object, used: int | None) -> None:
    """What is malformed, negative or absurd is passed over: it never raises."""
    assert parse_used_weight(value) == used


@given(st.integers(1, 10**9 - 1), st.integers(1, 10**6), st.sampled_from([("s", 1), ("min", 60), ("h", 3600)]))
def test_a_rate_keeps_its_numbers(limit: int, count: int, unit: tuple[str, int]) -> None:
    """Nothing is rounded or reduced: 60/min is not 1/s, whose windows are shorter."""
    name, seconds = unit
    assert parse_rate(f"{limit}/{count}{name}") == (limit, count * seconds)


# ------------------------------------------------------------------------------------------- tables and secrets

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner).map(tuple) | st.dictionaries(st.text(), inner).map(FrozenDict),
    max_leaves=5,
)


@given(st.dictionaries(st.text(), JSON, max_size=4))
def test_a_frozen_table_is_a_dict_with_a_hash(table: dict[str, object]) -> None:
    """It equals the dict it was made from, in any order, and pickles."""
    frozen = FrozenDict(table)
    assert frozen == table
    assert hash(frozen) == hash(FrozenDict(reversed(list(table.items()))))
    assert pickle.loads(pickle.dumps(frozen)) == frozen
    assert repr(frozen) == repr(table)


@given(st.text(min_size=1))
def test_a_secret_is_its_text_and_does_not_show_it(text: str) -> None:
    """Equal, hashed and joined as the text; its repr is always the same."""
    secret = Secret(text)
    assert secret == text
    assert hash(secret) == hash(text)
    assert "".join([secret]) == str(secret) == text
    assert repr(pickle.loads(pickle.dumps(secret))) == repr([secret])[1:-1] == "<hidden>"


def test_a_secret_table_shows_its_names_only() -> None:
    """Numbers, lists and empty texts are as secret as the rest."""
    table = SecretDict({"pin": 1234, "list": (1,), "none": None, "deep": SecretDict({"a": ""})})
    assert repr(table) == str({**dict.fromkeys(("pin", "list", "none"), "<hidden>"), "deep": {"a": "<hidden>"}})


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("https://a.example/login", "https://a.example/login"),
        ("https://u:p@a.example/login", "https://***@a.example/login"),
        ("https://u:p@q@a.example", "https://***@a.example"),
        ("redis://:p@h:6379/0?password=x", "redis://***@h:6379/0?***"),
        ("redis+sentinel://u:p@h:1,g:2/s/0?ssl_password=x", "redis+sentinel://***@h:1,g:2/s/0?***"),
        ("unix://u:p@/run/redis.sock?db=0&password=x", "unix://***@/run/redis.sock?***"),
        ("https://a.example/#x", "https://a.example/?***"),
        ("file:///tmp/a@b", "file:///tmp/a@b"),
    ],
)
def test_a_url_is_shown_without_its_credentials(url: str, told: str) -> None:
    """User, password, query and fragment may each hold one."""
    assert repr(CredentialUrl(url)) == repr(told)
    assert CredentialUrl(url) == url
