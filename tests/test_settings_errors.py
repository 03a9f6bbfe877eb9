"""Settings that cannot be used: what is refused, how it is said, and that no secret is ever told."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient_adapter.errors import SettingsError
from resilient_adapter.settings import Settings
from resilient_adapter.settings.names import known_keys
from resilient_adapter.settings.schema import ROOT, RetrySettings, TokenSettings
from resilient_adapter.settings.sources import explain_settings

NAN, INF = float("nan"), float("inf")
KEY = "A" * 42 + "A="
A, B = "https://a.example", "https://b.example"
SIGNING = {"api_key": "k", "secret": "s"}


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def nested(key: str, value: Any) -> dict[str, Any]:
    """Return a mapping that gives one dotted key."""
    for name in reversed(key.split(".")):
        value = {name: value}
    return value  # type: ignore[no-any-return]


UNKNOWN: list[tuple[dict[Any, Any], str]] = [
    (
        {"retry": {"max_attemps": 3}},
        "retry.max_attemps (argument): unknown key; the nearest known key is retry.max_att",
    ),
    ({"Retry": {}}, "Retry (argument): unknown key; the nearest known key is retry"),
    ({"max_attempts": 3}, "max_attempts (argument): unknown key; the nearest known key is retry.max_attempts"),
    ({"retry": {"api_key": 3}}, "retry.api_key (argument): unknown key; the nearest known key is signing.api_key"),
    ({"retry.base": 3}, '"retry.base" (argument): unknown key; the nearest known key is retry.base; a table stands'),
    (
        {"circuit": {"exempt": {"method": []}}},
        "circuit.exempt.method (argument): unknown key; the nearest known key is",
    ),
    ({"xyzzy": 1}, "xyzzy (argument): unknown key; the nearest known key is "),
    ({"": 1}, '"" (argument): unknown key; the nearest known key is '),
    ({5: 1}, "5 (argument): unknown key; the nearest known key is "),
    (
        {"codes": {"-7": {"recover": "x"}}},
        'codes."-7".recover (argument): unknown key; the nearest known key is codes."-7',
    ),
    (
        {"per_origin": {"http://h:80": {"retry": {"bas": 1}}}},
        'per_origin."http://h".retry.bas (argument): unknown key; the nearest known key is per_origin."http://h".retry.bas',
    ),
]

WRONG: list[tuple[str, Any, str]] = [
    # key, value, what the message says beside the key and "argument"
    ("mode", "enforc", 'must be one of "enforce", "shadow", "off", not "enforc"'),
    ("mode", None, "not none"),
    ("mode", True, "not true"),
    ("mode", {"env": 5}, "not a table"),
    ("on_error", "ignore", '"return", "raise"'),
    ("origins", A, "must be a list, each item an origin"),
    ("origins", b"x", "must be a list, each item an origin"),
    ("origins", {"http://h"}, "not a set"),
    ("origins", [A + "/v1"], "an origin ends after the host and port"),
    ("origins", [A + "?x=1"], "an origin ends after the host and port"),
    ("origins", ["https://user:hunter2@a.example"], "no user name or password"),
    ("origins", ["a.example"], "not an origin of the form http[s]://host[:port]"),
    ("origins", ["ftp://a.example"], "not an origin"),
    ("origins", ["https://a.example:99999"], "a port is at most 65535"),
    ("origins", [A, 5], "origins[1]"),
    ("success_codes", [0, "200"], 'success_codes[1] (argument): must be an integer, not "200"'),
    ("success_codes", [True], "must be an integer, not true"),
    ("success_codes", [0.0], "must be an integer, not 0.0"),
    ("success_codes", 0, "must be a list"),
    ("connect_timeout", -1, "must be a number of at least 0, not -1"),
    ("connect_timeout", "5", 'must be a number of at least 0, not "5"'),
    ("read_timeout", True, "not true"),
    ("deadline", NAN, "not nan"),
    ("deadline", INF, "not inf"),
    ("deadline", 10**400, "not a number"),
    ("deadline", None, "not none"),
    ("deadline", {"env": "X"}, "not a table"),
    ("retry", 3, "must be a table, not a number"),
    ("retry", [], "must be a table, not a list"),
    ("retry", None, "must be a table, not none"),
    ("retry.max_attempts", 0, "must be an integer of at least 1, not 0"),
    ("retry.max_attempts", 3.0, "must be an integer of at least 1, not 3.0"),
    ("retry.max_attempts", True, "not true"),
    ("retry.base", -0.1, "not -0.1"),
    ("retry.factor", 0.9, "must be a number of at least 1, not 0.9"),
    ("retry.jitter", -1, "not -1"),
    ("retry.max_wait", -1, "not -1"),
    ("retry.timeout_factor", 0, "must be a number of at least 1"),
    ("retry.methods", "GET", 'must be a list, each item an HTTP method, not "GET"'),
    ("retry.methods", ["GET", "B AD"], 'retry.methods[1] (argument): must be an HTTP method, not "B AD"'),
    ("retry.idempotency_headers", ["A:"], "must be the name of an HTTP header"),
    ("retry.budget", -1, "not -1"),
    ("retry.budget_floor", -1, "not -1"),
    ("rate_limit.wait", -1, "not -1"),
    ("rate_limit.rate", "10/m", "a rate is a number of requests per time"),
    ("rate_limit.rate", "0/s", "at least one request"),
    ("rate_limit.rate", ["1/s", "fast"], "rate_limit.rate[1]"),
    ("rate_limit.rate", 10, "must be a rate, not 10"),
    ("rate_limit.adaptive", 1, "must be true or false, not 1"),
    ("rate_limit.adaptive", "yes", 'must be true or false, not "yes"'),
    ("circuit.fail_max", 0, "at least 1"),
    ("circuit.reset_timeout", -1, "not -1"),
    ("circuit.success_threshold", 0, "at least 1"),
    ("circuit.reset_factor", 0.5, "at least 1"),
    ("circuit.failure_rate", 0, "must be a number above 0 and at most 1, not 0"),
    ("circuit.failure_rate", 1.1, "must be a number above 0 and at most 1, not 1.1"),
    ("circuit.window", 0, "must be a number above 0, not 0"),
    ("circuit.min_calls", 0, "at least 1"),
    ("circuit.scope", "host", '"origin", "endpoint"'),
    ("circuit.when_open", "queue", '"raise", "respond", "wait"'),
    ("circuit.statuses", [99], "must be an integer from 100 to 599, not 99"),
    ("circuit.statuses", [600], "must be an integer from 100 to 599, not 600"),
    ("circuit.exempt.params", ["a b"], "must be a name without spaces"),
    ("token.url", "/login", "must be an absolute URL with http or https, not this text"),
    ("token.url", "https://:1", "not an absolute URL"),
    ("token.url", "https://user:hunter/2@a.example", "not an absolute URL"),
    ("token.url", "ftp://a.example/", "must be an absolute URL with http or https"),
    ("token.url", 5, "not a number"),
    ("token.method", "", "must be an HTTP method"),
    ("token.json", [], "must be a table, not a list"),
    ("token.json", "hunter2", "must be a table, not this text"),
    ("token.json", {5: "hunter2"}, "must have texts as its keys"),
    ("token.json", {"a": NAN}, "token.json.a (argument): must be something that JSON can hold, not a number"),
    ("token.json", {"a": [1, {"b": [object()]}]}, "must be something that JSON can hold, not a object"),
    ("token.field", "data..token", "must be names joined by dots"),
    ("token.refresh_ahead", -1, "not -1"),
    ("token.source", "module.function", 'must be "module:function"'),
    ("token.header", "Auth orization", "must be the name of an HTTP header"),
    ("token.scheme", "Bea\nrer", "must be a word that may stand in a header"),
    ("token.origins", ["a"], "not an origin"),
    ("signing.api_key", "", "must be ASCII text without spaces, not this text"),
    ("signing.api_key", "hunter2\n", "must be ASCII text without spaces, not this text"),
    ("signing.secret", "", "not this text"),
    ("signing.secret", True, "not true or false"),
    ("signing.secret", 12345, "not a number"),
    ("signing.secret", {"envv": "X"}, 'not a table; {env = "NAME"} or {file = "PATH"} says where it is'),
    ("signing.secret", {"env": "X", "file": "Y"}, 'not a table; {env = "NAME"} or {file = "PATH"} says where it is'),
    ("signing.recv_window", 0, "at least 1"),
    ("signing.recv_window", 5000.0, "must be an integer"),
    ("signing.paths", ["api"], 'must be a path that begins with "/", or a pattern'),
    ("signing.time_path", "time", 'must be a path that begins with "/"'),
    ("signing.time_field", "", "must be names joined by dots"),
    ("orders.paths", ["api/order"], "orders.paths[0]"),
    ("orders.client_id", "", "must be a name without spaces"),
    ("orders.query_path", "order", 'must be a path that begins with "/"'),
    ("orders.not_found", ["-2011"], "must be an integer"),
    ("orders.settle", -1, "not -1"),
    ("orders.give_up", -1, "not -1"),
    ("orders.add_client_id", 1, "must be true or false"),
    ("orders.journal", "", "must be the path of a file"),
    ("codes", [], "must be a table"),
    ("codes", {"x": {}}, "codes.x (argument): a code is an integer"),
    ("codes", {"1.5": {}}, "a code is an integer"),
    ("codes", {"01": {}}, "a code is an integer"),
    ("codes", {True: {}}, "a code is an integer"),
    ("codes", {-7: {}, "-7": {}}, 'codes."-7" (argument): is given twice'),
    ("codes", {-7: "retry"}, "must be a table, not this text"),
    ("codes.-7.recovery", "rety", 'must be one of "retry", "throttle"'),
    ("codes.-7.executed", "maybe", 'must be one of "no", "unknown", "yes", not "maybe"'),
    ("per_origin", [], "must be a table"),
    ("per_origin", {"a.example": {}}, "not an origin"),
    ("per_origin", {5: {}}, "must be an origin"),
    ("per_origin", {"https://user:hunter2@a.example": {}}, 'per_origin."…" (argument): an origin holds no user name'),
    ("per_origin", {A: {}, A + ":443": {}}, "is given twice"),
    ("per_origin", {A: {"origins": []}}, f'per_origin."{A}".origins (argument): cannot be another for one origin'),
    ("per_origin", {A: {"per_origin": {}}}, "cannot be another for one origin"),
    ("per_origin", {A: {"shared": {}}}, "cannot be another for one origin"),
    ("per_origin", {A: {"retry": {"base": -1}}}, f'per_origin."{A}".retry.base (argument): must be a number'),
    ("shared.url", "memcached://h", "must be redis://HOST, rediss://HOST, redis+sentinel://HOST,HOST/SERVICE, unix://"),
    ("shared.url", "redis://:hunter/2@h", "not an absolute URL"),
    ("shared.url", "redis://h/hunter2", "the number of a database"),
    ("shared.url", "redis+sentinel://:hunter2@h:1", "not an address of the form"),
    ("shared.url", "redis+sentinel://h:hunter2/s", "not an absolute URL"),
    ("shared.url", "unix://hunter2", "not an address of the form"),
    ("shared.url", "file://relative", "must be redis://HOST"),
    ("shared.namespace", "a b", "must be a name without spaces"),
    ("shared.tokens", "true", "must be true or false"),
    ("shared.token_key", "hunter2", "must be a Fernet key"),
    ("shared.token_key", "A" * 42 + "B=", "must be a Fernet key"),
    ("log.level", "INFO", 'must be one of "debug", "info"'),
    ("orders.client_id", "x y" * 99, "not this text"),
]

CONTRADICTIONS: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    ({"retry": {"base": 2, "max_wait": 1}}, ("retry.base (argument) contradicts retry.max_wait", "2 is more than 1")),
    ({"rate_limit": {"wait": 2, "max_wait": 1}}, ("rate_limit.wait", "rate_limit.max_wait")),
    ({"circuit": {"reset_timeout": 2, "reset_max": 1}}, ("circuit.reset_timeout", "circuit.reset_max")),
    ({"orders": {"settle": 2, "give_up": 1}}, ("orders.settle", "orders.give_up")),
    (
        {"token": {"url": A, "source": "m:f"}, "origins": [A]},
        ("token.url (argument) contradicts token.source (argument)", "one source"),
    ),
    ({"token": {"source": "m:f"}}, ("token.source", "needs token.origins or origins")),
    ({"origins": [A], "token": {"origins": [A, B]}}, ("token.origins", "contradicts origins")),
    ({"origins": [A], "signing": {"api_key": "hunter2"}}, ("signing.api_key", "needs signing.secret")),
    ({"origins": [A], "signing": {"secret": "hunter2"}}, ("signing.secret", "needs signing.api_key")),
    ({"signing": SIGNING}, ("signing.api_key", "needs origins")),
    ({"shared": {"tokens": True, "url": "redis://h"}}, ("shared.tokens", "needs shared.token_key")),
    ({"shared": {"tokens": True, "token_key": KEY}}, ("shared.tokens", "needs shared.url")),
    ({"success_codes": [0, -1], "circuit": {"codes": [-1]}}, ("circuit.codes", "contradicts success_codes")),
    ({"success_codes": [-9], "orders": {"not_found": [-9]}}, ("orders.not_found", "contradicts success_codes (arg")),
    # Two of which one is a default, for once: an order that was found would be sent again.
    ({"orders": {"not_found": [-9, 0]}}, ("orders.not_found (argument)", "contradicts success_codes (default)")),
    ({"orders": {"add_client_id": True}}, ("orders.add_client_id (argument) needs orders.paths or",)),
    (
        {"success_codes": [0, 1], "codes": {1: {"recovery": "retry"}}},
        ("codes.1.recovery (argument) contradicts success_codes",),
    ),
    (
        {"codes": {-7: {"executed": "yes", "recovery": "retry"}}},
        ('codes."-7".executed (argument): "retry" would repeat what was executed',),
    ),
    ({"codes": {-1000: {"executed": "yes"}}}, ('codes."-1000".executed',)),
    (
        {"retry": {"base": 2}, "per_origin": {A: {"retry": {"max_wait": 1}}}},
        ("retry.base (argument)", f'per_origin."{A}".retry.max_wait'),
    ),
    ({"per_origin": {A: {"retry": {"base": 2, "max_wait": 1}}}}, (f'per_origin."{A}".retry.base',)),
    ({"per_origin": {A: {"signing": SIGNING}}}, (f'per_origin."{A}".signing.api_key', "needs origins")),
    ({"origins": [B], "per_origin": {A: {"signing": SIGNING}}}, (f'per_origin."{A}".signing.api_key', f"needs {A} in")),
    ({"per_origin": {A: {"token": {"url": B}}}}, (f'per_origin."{A}".token.url', f"needs {A} in token.origins")),
    ({"origins": [B], "per_origin": {A: {"token": {"source": "m:f"}}}}, (f'per_origin."{A}".token.source',)),
]

FINE: list[dict[str, Any]] = [
    # What looks like a contradiction, and is none: only one of two keys is given, or they agree.
    {"retry": {"max_wait": 0.5}},
    {"retry": {"base": 100}},
    {"retry": {"base": 1, "max_wait": 1}},
    {"rate_limit": {"max_wait": 1}},
    {"circuit": {"reset_max": 1}},
    {"orders": {"give_up": 1}},
    {"orders": {"settle": 99}},
    {"orders": {"add_client_id": True, "paths": ["/order"]}},
    {"orders": {"add_client_id": True, "query_path": "/order"}},
    {"orders": {"add_client_id": False}},
    {"success_codes": [0, -2011]},  # then what is absent by default is not
    {"token": {"url": A, "source": None}},
    {"token": {"source": "m:f", "origins": [A]}},
    {"token": {"source": "m:f"}, "origins": [A]},
    {"token": {"origins": [B]}, "origins": []},
    {"signing": {"api_key": None, "secret": None}},
    {"signing": SIGNING, "origins": [A]},
    {"shared": {"token_key": KEY}},
    {"shared": {"tokens": True, "token_key": KEY, "url": "file:///tmp/s"}},
    {"shared": {"tokens": False, "url": "rediss://user:p@h:1/0?x=1"}},
    {"success_codes": [0, -1008]},
    {"circuit": {"codes": [0]}},
    {"codes": {0: {"recovery": "retry"}}},
    {"codes": {0: {}}, "success_codes": [0]},
    {"codes": {-7: {"executed": "yes"}}},
    {"per_origin": {A: {"token": {"url": A + "/login"}}}},
    {"per_origin": {A: {"token": {"header": "X-Token"}, "signing": {"recv_window": 1}}}},
    {"per_origin": {}},
]


@pytest.mark.parametrize(("mapping", "message"), UNKNOWN)
def test_an_unknown_key_is_refused_with_the_nearest_known_one(mapping: dict[Any, Any], message: str) -> None:
    """The error names the key, where it came from, and what may have been meant."""
    with pytest.raises(SettingsError) as caught:
        Settings.from_mapping(mapping)
    assert message in str(caught.value)


@pytest.mark.parametrize(("key", "value", "message"), WRONG)
def test_an_impossible_value_is_refused(key: str, value: Any, message: str) -> None:
    """The error names the key, where it came from, what is wrong, and what is allowed; in one line, without secrets."""
    with pytest.raises(SettingsError) as caught:
        Settings.from_mapping(nested(key, value))
    text = str(caught.value)
    assert message in text
    assert "(argument)" in text and text.startswith(key.partition(".")[0])
    assert "hunter" not in text and "\n" not in text
    # Neither is the value to be found in what led to the error.
    assert caught.value.__context__ is None


CONSTRUCTED: list[tuple[Callable[[], Settings], str]] = [
    (lambda: Settings(mode="Shadow"), 'mode (argument): must be one of "enforce", "shadow", "off", not "Shadow"'),  # type: ignore[arg-type]
    (lambda: Settings("shdow"), 'mode (argument): must be one of "enforce", "shadow", "off", not "shdow"'),  # type: ignore[arg-type]
    (lambda: Settings(deadline=-1), "deadline (argument): must be a number of at least 0, not -1"),
    (lambda: Settings(origins=("a.example",)), "not an origin of the form"),
    (lambda: Settings(retry=RetrySettings(max_attempts=0)), "retry.max_attempts (argument): must be an integer of at"),
    (lambda: Settings(retry={"base": 1}), "retry (argument): must be RetrySettings here; Settings.from_mapping takes"),  # type: ignore[arg-type]
    (lambda: Settings()._replace(on_error="rise"), 'on_error (argument): must be one of "return", "raise", not "rise"'),
]


@pytest.mark.parametrize(("make", "message"), CONSTRUCTED)
def test_the_constructor_refuses_an_impossible_value(make: Callable[[], Settings], message: str) -> None:
    """The error is that of a mapping; a table is no group of settings."""
    with pytest.raises(SettingsError) as caught:
        make()
    assert message in str(caught.value)


def test_the_constructor_keeps_values_as_a_mapping_would() -> None:
    """What is equal is equal however it was made, nested groups, secrets and whole settings included."""
    mapping: dict[str, Any] = {
        "origins": ["https://A.example:443/"],
        "token": {"url": "https://u:hunter2@a.example/login", "json": {"password": "hunter2"}},
        "codes": {-7: {"recovery": "retry"}},
        "per_origin": {A: {"deadline": 1}},
    }
    made = Settings.from_mapping(mapping)
    token = TokenSettings(url=mapping["token"]["url"], json=mapping["token"]["json"])
    same = Settings(origins=mapping["origins"], token=token, codes=made.codes, per_origin=made.per_origin)
    assert same == made and repr(same) == repr(made) and "hunter2" not in repr(same)
    assert same._replace(mode="off").token == made.token
    assert repr(Settings(**made._asdict())) == repr(made)


@pytest.mark.parametrize(("mapping", "parts"), CONTRADICTIONS)
def test_two_keys_that_contradict_each_other_are_refused(mapping: dict[str, Any], parts: tuple[str, ...]) -> None:
    """The error names both keys, or the key and what it lacks."""
    with pytest.raises(SettingsError) as caught:
        Settings.from_mapping(mapping)
    assert all(part in str(caught.value) for part in parts)
    assert "hunter" not in str(caught.value)


@pytest.mark.parametrize("mapping", FINE)
def test_a_default_contradicts_nothing(mapping: dict[str, Any]) -> None:
    """Only keys that were given can contradict each other."""
    settings = Settings.from_mapping(mapping)
    assert all(settings.for_origin(origin) != settings for origin in settings.per_origin)


def test_contradicting_keys_may_come_from_different_sources(directory: Path) -> None:
    """The error says of each where it came from."""
    Path("s.toml").write_text("retry.max_wait = 1")
    with pytest.raises(SettingsError) as caught:
        Settings.load("s.toml", {"RESILIENT_ADAPTER__RETRY__BASE": "2"})
    assert str(caught.value) == (
        "retry.base (environment variable RESILIENT_ADAPTER__RETRY__BASE) contradicts "
        "retry.max_wait (file s.toml): 2 is more than 1"
    )


@pytest.mark.parametrize("mapping", [[], "x", 5, None, [("mode", "off")], Path("x")])
def test_settings_are_a_mapping(mapping: Any) -> None:
    """Nothing else is taken for one; who gave a file's path is told how files are given."""
    with pytest.raises(SettingsError, match=r"settings \(argument\): must be a table") as caught:
        Settings.from_mapping(mapping)
    assert ("; for a file give Settings.load(PATH)" in str(caught.value)) == isinstance(mapping, (str, Path))


# -------------------------------------------------------------------------------------------------- environment


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        (
            {"RESILIENT_ADAPTER_RETRY__MAX_ATTEMPTS": "5"},
            "the nearest known is RESILIENT_ADAPTER__RETRY__MAX_ATTEMPTS (retry.max_attempts; two underscores ",
        ),
        ({"RESILIENT_ADAPTER_RETRY_MAX_ATTEMPTS": "5"}, "the nearest known is RESILIENT_ADAPTER__RETRY__MAX_ATTEMPTS "),
        ({"RESILIENT_ADAPTER__RETRY_MAX_ATTEMPTS": "5"}, "known is RESILIENT_ADAPTER__RETRY__MAX_ATTEMPTS "),
        ({"RESILIENT_ADAPTER__RETRY__MAX__ATTEMPTS": "5"}, "known is RESILIENT_ADAPTER__RETRY__MAX_ATTEMPTS "),
        ({"RESILIENT_ADAPTER__RETRY__MAX_ATEMPTS": "5"}, "known is RESILIENT_ADAPTER__RETRY__MAX_ATTEMPTS "),
        ({"RESILIENT_ADAPTER_MODE": "off"}, "the nearest known is RESILIENT_ADAPTER__MODE "),
        (
            {"resilient_adapter_mode": "off"},
            "variable resilient_adapter_mode: unknown key; the nearest known is RESILIEN",
        ),
        ({"RESILIENT_ADAPTER___MODE": "off"}, "the nearest known is RESILIENT_ADAPTER__MODE "),
        ({"RESILIENT_ADAPTER__SETTINGS": "x"}, "the nearest known is RESILIENT_ADAPTER_SETTINGS "),
        ({"RESILIENT_ADAPTER_SETTING": "x"}, "the nearest known is RESILIENT_ADAPTER_SETTINGS (the settings file;"),
        ({"RESILIENT_ADAPTER__": "x"}, "unknown key"),
        ({"RESILIENT_ADAPTER_": "x"}, "unknown key"),
        ({"RESILIENT_ADAPTER__MODE__X": "x"}, "the nearest known is RESILIENT_ADAPTER__MODE "),
        ({"RESILIENT_ADAPTER__TOKEN__JSON__USER": "x"}, "the nearest known is RESILIENT_ADAPTER__TOKEN__JSON "),
        ({"RESILIENT_ADAPTER__MODE": "off", "resilient_adapter__mode": "off"}, "are the same setting"),
        ({"RESILIENT_ADAPTER__MODE": ""}, 'not ""'),
        ({"RESILIENT_ADAPTER__RETRY__MAX_ATTEMPTS": "five"}, 'not "five"'),
        ({"RESILIENT_ADAPTER__RETRY__MAX_ATTEMPTS": "5.0"}, 'not "5.0"'),
        ({"RESILIENT_ADAPTER__RETRY__MAX_ATTEMPTS": ""}, 'not ""'),
        ({"RESILIENT_ADAPTER__RETRY__BASE": "nan"}, "not nan"),
        ({"RESILIENT_ADAPTER__RETRY__BASE": "1e999"}, "not inf"),
        ({"RESILIENT_ADAPTER__RETRY__BASE": "1s"}, 'not "1s"'),
        ({"RESILIENT_ADAPTER__SHARED__TOKENS": "maybe"}, 'must be true or false, not "maybe"'),
        ({"RESILIENT_ADAPTER__SUCCESS_CODES": "0,200"}, "each item an integer, written as JSON: [0, 200]"),
        ({"RESILIENT_ADAPTER__SUCCESS_CODES": "[" * 100_000}, "each item an integer, written as JSON: [0, 200]"),
        ({"RESILIENT_ADAPTER__ORIGINS": "https://u:hunter2@a"}, 'gateway.example", written as JSON: ["A", "B"]'),
        ({"RESILIENT_ADAPTER__RETRY__METHODS": "GET,POST"}, 'an HTTP method, written as JSON: ["A", "B"]'),
        ({"RESILIENT_ADAPTER__RETRY__METHODS": ""}, 'an HTTP method, written as JSON: ["A", "B"]'),
        ({"RESILIENT_ADAPTER__SUCCESS_CODES": "5"}, "must be a list, each item an integer, not 5"),
        ({"RESILIENT_ADAPTER__RATE_LIMIT__RATE": "[1"}, "a rate is"),
        ({"RESILIENT_ADAPTER__CODES": "-1999"}, "must be a table, not a number"),
        ({"RESILIENT_ADAPTER__TOKEN__JSON": '{"a": "hunter2"'}, "token.json (environment variable"),
        ({"RESILIENT_ADAPTER__TOKEN__JSON": '{"a": "hunter2"'}, "must be a table, written as JSON"),
        ({"RESILIENT_ADAPTER__TOKEN": '"hunter2"'}, "must be a table, not"),
        ({"RESILIENT_ADAPTER__CODES": "[" * 100_000}, "must be a table, written as JSON"),
        ({"RESILIENT_ADAPTER__SIGNING__SECRET": "hunter2\n"}, "RESILIENT_ADAPTER__SIGNING__SECRET): must be a text in"),
        ({"RESILIENT_ADAPTER__SIGNING__SECRET": '{"env": "NOPE"}'}, "the environment variable NOPE that it names is"),
    ],
)
def test_a_variable_that_cannot_be_used_is_refused(directory: Path, environ: dict[str, str], message: str) -> None:
    """The error names the variable, and for a misspelt one the right spelling."""
    with pytest.raises(SettingsError) as caught:
        Settings.load(environ=environ)
    text = str(caught.value)
    assert message in text
    assert next(iter(environ)) in text
    assert "hunter" not in text


@pytest.mark.parametrize("name", ["RESILIENT_ADAPTERS_HOME", "MY_RESILIENT_ADAPTER_X", "RESILIENT_ADAPTER"])
def test_other_variables_are_none_of_our_business(directory: Path, name: str) -> None:
    """Only names that begin with RESILIENT_ADAPTER_ are ours."""
    assert Settings.load(environ={name: "x"}) == Settings()


# -------------------------------------------------------------------------------------------------------- files


def test_a_named_file_has_to_be_there(directory: Path) -> None:
    """A missing file is an error where somebody named it, and the error says who."""
    with pytest.raises(SettingsError, match=r"settings file nope.toml \(argument\) does not exist"):
        Settings.load("nope.toml", {})
    with pytest.raises(SettingsError, match=r"nope.toml \(environment variable RESILIENT_ADAPTER_SETTINGS\) does not"):
        Settings.load(environ={"RESILIENT_ADAPTER_SETTINGS": "nope.toml"})


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("s.toml", b"deadline = ", "settings file s.toml is not valid TOML: "),
        pytest.param("s.toml", b"a = " + b"[" * 100_000, "settings file s.toml is not valid TOML: ", id="deep"),
        ("s.toml", b"\xff", r"settings file s.toml \(argument\) is not UTF-8"),
        ("s.toml", b"deadline = -1", r"deadline \(file s.toml\): must be a number of at least 0, not -1"),
        ("s.toml", b"deadline = 1979-05-27", r"deadline \(file s.toml\): must be a number of at least 0, not a date"),
        ("s.toml", b"token.json.a = 1979-05-27", r"token.json.a \(file s.toml\): must be something that JSON can hold"),
        (
            "s.toml",
            b"[tool.resilient_adapter]",
            r"\(argument\): keys stand at the top level here, and not in a table \[t",
        ),
        (
            "s.toml",
            b"[resilient-adapter]",
            r"\(argument\): keys stand at the top level here, and not in a table \[tool",
        ),
        ("s.toml", b"[tols]", r"tols \(file s.toml\): unknown key"),
        ("pyproject.toml", b"[tool.resilient-adapter]", r"t-adapter\]: did you mean \[tool.resilient_adapter\]\?"),
        ("pyproject.toml", b"[project]", r"\(argument\) has no table \[tool.resilient_adapter\]"),
        ("pyproject.toml", b"tool = 1", r"\(argument\) has no table \[tool.resilient_adapter\]"),
        (
            "pyproject.toml",
            b"[tool]\nresilient_adapter = 1",
            r"settings \(file .*\[tool.resilient_adapter\]\): must be a t",
        ),
        (
            "pyproject.toml",
            b"[tool.resilient_adapter]\nmod = 1",
            r"mod \(file .*\[tool.resilient_adapter\]\): unknown key",
        ),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(directory: Path, name: str, content: bytes, message: str) -> None:
    """The error names the file, and its table in a pyproject.toml."""
    Path(name).write_bytes(content)
    with pytest.raises(SettingsError, match=message):
        Settings.load(name, {})


def test_a_directory_is_no_settings_file(directory: Path) -> None:
    """What cannot be read is an error, not an absence."""
    Path("s.toml").mkdir()
    with pytest.raises(SettingsError, match=r"settings file s.toml \(argument\) cannot be read: "):
        Settings.load("s.toml", {})


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "resilient_adapter.toml",
            None,
            r"settings file resilient_adapter.toml \(working directory\) cannot be read: ",
        ),
        ("resilient-adapter.toml", "", r"\(working directory\): did you mean resilient_adapter.toml\?"),
        (
            "pyproject.toml",
            "[tool.resilient-adapter]",
            r"file pyproject.toml has a table \[tool.resilient-adapter\]: did you mean \[tool.resilient_adapter\]\?",
        ),
        ("pyproject.toml", "[tool.resilient_adapter]\n[tool.resilient-adapter]", r"did you mean \[tool.resilient_adap"),
        ("pyproject.toml", '[project]\ndependencies = ["resilient-adapter"]', None),
        ("pyproject.toml", "[not TOML, and none of our business", None),
        ("resilient_adapter.toml.old", "", None),
    ],
)
def test_what_lies_in_the_working_directory_is_not_passed_over(
    directory: Path, name: str, content: str | None, message: str | None
) -> None:
    """A file or table under the command's name, or a directory for a file, is an error; other files are not."""
    if content is None:
        Path(name).mkdir()
    else:
        Path(name).write_text(content)
    if message is None:
        assert Settings.load(environ={}) == Settings()
        return
    with pytest.raises(SettingsError, match=message):
        Settings.load(environ={})


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"env": "NOPE"}, "the environment variable NOPE that it names is not set"),
        ({"file": "nope"}, "the file nope that it names does not exist"),
        ({"file": "binary"}, "the file binary that it names cannot be read as UTF-8 text"),
        ({"file": "."}, "the file . that it names cannot be read as UTF-8 text"),
    ],
)
@pytest.mark.parametrize("key", ["signing.secret", "token.json.password", "mode", "rate_limit.rate"])
def test_a_secret_that_is_not_where_it_should_be_is_an_error(
    directory: Path, key: str, value: dict[str, str], message: str
) -> None:
    """The error names the key, its source, and the variable or file that was sought."""
    Path("binary").write_bytes(b"\xff")
    with pytest.raises(SettingsError) as caught:
        Settings.load(environ={}, overrides=nested(key, value))
    assert f"{key} (argument): {message}" in str(caught.value)


def test_a_value_kept_elsewhere_is_not_told_when_it_is_wrong(directory: Path) -> None:
    """The error says where it was found, and not what was found there."""
    environ = {"MODE": "hunter2", "RESILIENT_ADAPTER__MODE": '{"env": "MODE"}'}
    with pytest.raises(SettingsError) as caught:
        Settings.load(environ=environ)
    text = str(caught.value)
    assert text.startswith(
        "mode (environment variable RESILIENT_ADAPTER__MODE: environment variable MODE): must be one of"
    )
    assert text.endswith("not this text")


# ------------------------------------------------------------------------------------------------------ secrets

SECRETS = st.text("0123456789abcdef", min_size=8, max_size=20).map("s3cr3t".__add__)


@given(SECRETS, st.data())
def test_no_secret_is_shown(secret: str, data: st.DataObject) -> None:
    """Neither repr nor explanation shows a secret, a credential in a URL, or what was kept elsewhere."""
    kept = data.draw(st.sampled_from([secret, {"env": "WHERE"}]))
    mapping: dict[str, Any] = {
        "origins": [A, B],
        "retry": {"idempotency_headers": ["X", {"env": "WHERE"}]},
        "token": {
            "url": f"https://u:{secret}@a.example/login/?key={secret}#{secret}",
            "json": {"password": kept, "deep": {"list": [kept, [kept], {"a": kept}]}},
        },
        "signing": {"api_key": kept, "secret": kept, "time_field": {"env": "WHERE"}},
        "orders": {"journal": {"env": "WHERE"}},
        "shared": {"url": f"redis://:{secret}@h/0?password={secret}"},
        "per_origin": {B: {"signing": {"secret": kept}, "token": {"json": {"x": kept, "y": [kept]}}}},
    }
    settings = Settings.load("/dev/null", {"WHERE": secret}, overrides=mapping)
    assert settings.signing.secret == settings.token.json["password"] == settings.orders.journal == secret
    rows = explain_settings("/dev/null", {"WHERE": secret}, mapping)
    for told in (repr(settings), str(settings), repr(settings.for_origin(B)), repr(rows), json.dumps(rows)):
        assert secret not in told
    assert "secret=<hidden>" in repr(settings)
    assert "token_key=None" in repr(settings)
    assert "json={'password': '<hidden>', 'deep': {'list': '<hidden>'}}" in repr(settings)
    assert "url='https://***@a.example/login/?***'" in repr(settings)
    assert "url='redis://***@h/0?***'" in repr(settings)


PLACES = [".".join(path) for path in known_keys()] + ["token.json.a", "codes.-7.recovery", "nope", "signing.nope"]
SECRET_KEYS = ("token.json", "token.url", "signing.api_key", "signing.secret", "shared.url", "shared.token_key")


def outcome(environ: dict[str, str], overrides: dict[str, Any]) -> tuple[str, BaseException | None]:
    """Return the settings' repr, or the error's traceback and what is behind it."""
    try:
        return repr(Settings.load("/dev/null", environ, overrides=overrides)), None
    except SettingsError as error:
        return "".join(traceback.format_exception(error)), error.__context__


@given(
    SECRETS, st.sampled_from(PLACES), st.sampled_from(["{}", "https://u:{}@h/ x", "https://u:a/{}@h", "\n{}", "{}@"])
)
def test_no_error_tells_a_secret(secret: str, key: str, shape: str) -> None:
    """Whatever is wrong with it, a secret key's value, or one kept elsewhere, is in no error and no traceback."""
    text = shape.format(secret)
    values: list[Any] = [{"env": "WHERE"}, [{"env": "WHERE"}], {"a": {"env": "WHERE"}}]
    if key in SECRET_KEYS:
        values += [text, [text], {5: text}, {"a": {5: text}}]
    for value in values:
        told, context = outcome({"WHERE": text}, nested(key, value))
        assert secret not in told
        assert context is None


def test_every_secret_key_is_known_to_the_test_above() -> None:
    """A key that is added as a secret has to be tested as one."""
    secret = set()
    for path in known_keys():
        kind: Any = ROOT
        for name in path:
            kind = kind.child(name)
        if kind.secret:
            secret.add(".".join(path))
    assert secret == set(SECRET_KEYS)
