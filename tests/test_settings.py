"""The settings: their defaults, where they come from, and what may be done with them."""

from __future__ import annotations

import copy
import json
import os
import pickle
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient_adapter.core.frozen import Frozen
from resilient_adapter.core.model import Executed, Recovery
from resilient_adapter.core.rates import Rate
from resilient_adapter.errors import SettingsError
from resilient_adapter.settings import CodePolicy, Settings
from resilient_adapter.settings.names import known_keys, variable
from resilient_adapter.settings.schema import ROOT
from resilient_adapter.settings.sources import explain_settings
from resilient_adapter.settings.template import template

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DEFAULTS: dict[str, Any] = {
    "mode": "enforce",
    "origins": (),
    "on_error": "return",
    "success_codes": (0, 200),
    "connect_timeout": 5.0,
    "read_timeout": 30.0,
    "deadline": 180.0,
    "retry.max_attempts": 3,
    "retry.base": 1.0,
    "retry.factor": 2.0,
    "retry.jitter": 1.0,
    "retry.max_wait": 60.0,
    "retry.timeout_factor": 2.0,
    "retry.methods": ("GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"),
    "retry.idempotency_headers": ("Idempotency-Key",),
    "retry.budget": 0.2,
    "retry.budget_floor": 10.0,
    "rate_limit.wait": 60.0,
    "rate_limit.max_wait": 120.0,
    "rate_limit.rate": None,
    "rate_limit.adaptive": True,
    "circuit.fail_max": 5,
    "circuit.reset_timeout": 2.0,
    "circuit.success_threshold": 1,
    "circuit.reset_factor": 2.0,
    "circuit.reset_max": 30.0,
    "circuit.failure_rate": 0.5,
    "circuit.window": 30.0,
    "circuit.min_calls": 20,
    "circuit.scope": "origin",
    "circuit.when_open": "raise",
    "circuit.codes": (-1008,),
    "circuit.statuses": (503,),
    "circuit.exempt.methods": ("DELETE",),
    "circuit.exempt.params": ("reduceOnly", "closePosition"),
    "token.url": None,
    "token.method": "POST",
    "token.json": {},
    "token.field": "data.token",
    "token.refresh_ahead": 30.0,
    "token.source": None,
    "token.header": "Authorization",
    "token.scheme": "Bearer",
    "token.origins": (),
    "signing.api_key": None,
    "signing.secret": None,
    "signing.key_header": "X-MBX-APIKEY",
    "signing.recv_window": 5000,
    "signing.paths": ("*",),
    "signing.time_path": "/api/gateway/time",
    "signing.time_field": None,
    "orders.paths": (),
    "orders.client_id": "newClientOrderId",
    "orders.query_path": None,
    "orders.query_param": "origClientOrderId",
    "orders.carry": ("symbol",),
    "orders.not_found": (-2011,),
    "orders.settle": 2.0,
    "orders.give_up": 30.0,
    "orders.add_client_id": False,
    "orders.journal": None,
    "codes": {},
    "per_origin": {},
    "shared.url": None,
    "shared.namespace": "resilient_adapter",
    "shared.tokens": False,
    "shared.token_key": None,
    "log.level": "info",
}


def at(settings: Settings, key: str) -> Any:
    """Return the value of a dotted key."""
    value: Any = settings
    for name in key.split("."):
        value = getattr(value, name)
    return value


def nested(key: str, value: Any) -> dict[str, Any]:
    """Return a mapping that gives one dotted key."""
    for name in reversed(key.split(".")):
        value = {name: value}
    return value  # type: ignore[no-any-return]


def env(key: str, text: str) -> dict[str, str]:
    """Return an environment that gives one dotted key."""
    return {variable(tuple(key.split("."))): text}


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def full() -> Settings:
    """Return settings with something in every kind of place."""
    return Settings.from_mapping(
        {
            "origins": ["https://api.example"],
            "rate_limit": {"rate": ["10/s", "1200/min"]},
            "token": {"url": "https://api.example/login", "json": {"user": "u", "deep": {"pins": [1, {"a": None}]}}},
            "signing": {"api_key": "k", "secret": "s"},
            "codes": {-1999: {"recovery": "retry", "executed": "unknown"}},
            "per_origin": {"https://b.example": {"retry": {"max_attempts": 9}, "token": {"json": {"x": 1}}}},
            "shared": {"url": "redis://:pw@localhost/0"},
        }
    )


# ---------------------------------------------------------------------------------------------------- defaults


@pytest.mark.parametrize(("key", "default"), DEFAULTS.items())
def test_every_key_has_the_default_that_is_documented(key: str, default: Any) -> None:
    """Without any source, a key has its documented default, of exactly that type."""
    value = at(Settings.from_mapping({}), key)
    assert value == default
    assert type(value) is type(default) or isinstance(default, dict)


def test_there_is_no_key_beside_the_documented_ones() -> None:
    """The documented keys are all there are."""
    leaves = {row.key for row in ROOT.rows((), Settings(), {})}
    assert leaves == set(DEFAULTS)


def test_an_empty_environment_without_a_file_gives_the_defaults(directory: Path) -> None:
    """Where nothing is given, load() and from_mapping() agree."""
    assert Settings.load(environ={}) == Settings.from_mapping({}) == Settings()


# -------------------------------------------------------------------------------------------------- precedence

VALUES: dict[str, st.SearchStrategy[Any]] = {
    "on_error": st.sampled_from(["return", "raise"]),
    "connect_timeout": st.floats(0, 1e6),
    "success_codes": st.lists(st.integers(-9999, 9999), max_size=3, unique=True),
    "retry.max_attempts": st.integers(1, 99),
    "retry.idempotency_headers": st.lists(st.sampled_from(["A", "X-B", "c"]), unique=True),
    "rate_limit.adaptive": st.booleans(),
    "circuit.exempt.params": st.lists(st.sampled_from(["a", "b"]), unique=True),
    "token.scheme": st.sampled_from(["", "Bearer", "JWT"]),
    "codes.-7.executed": st.sampled_from(["no", "unknown"]),
}
LAYERS = ("file", "environment", "argument")


def written(key: str, value: Any) -> str:
    """Return a line of TOML."""
    return f"{'.'.join(json.dumps(name) for name in key.split('.'))} = {json.dumps(value)}\n"


@given(
    st.fixed_dictionaries(
        {}, optional={key: st.fixed_dictionaries({}, optional=dict.fromkeys(LAYERS, v)) for key, v in VALUES.items()}
    )
)
def test_each_key_is_taken_from_the_strongest_source_that_gives_it(given_in: dict[str, dict[str, Any]]) -> None:
    """Arguments outrank the environment, that outranks the file, that outranks the defaults: key by key."""
    environ: dict[str, str] = {}
    overrides: dict[str, Any] = {}
    lines = []
    for key, layers in given_in.items():
        if "file" in layers:
            lines.append(written(key, layers["file"]))
        if "environment" in layers:
            value = layers["environment"]
            environ |= env(key, value if isinstance(value, str) else json.dumps(value))
        if "argument" in layers:
            table = overrides
            *tables, name = key.split(".")
            for part in tables:
                table = table.setdefault(part, {})
            table[name] = layers["argument"]
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "s.toml")
        path.write_text("".join(lines))
        settings = Settings.load(path, environ, overrides=overrides)
        rows = {row.key: row for row in explain_settings(path, environ, overrides)}
    for key, layers in given_in.items():
        if key.startswith("codes"):
            strongest = [layers[layer] for layer in LAYERS if layer in layers]
            assert not strongest or settings.codes[-7].executed == strongest[-1]
            continue
        expected, origin = DEFAULTS[key], "default"
        for layer in LAYERS:
            if layer in layers:
                expected, origin = layers[layer], layer
        value = at(settings, key)
        assert (list(value) if isinstance(value, tuple) else value) == (
            list(expected) if isinstance(expected, tuple) else expected
        )
        assert rows[key].origin.startswith(origin)


def test_tables_merge_key_by_key_and_lists_replace(directory: Path) -> None:
    """A key of a table outranks only the same key beneath it; a list takes the place of the whole list."""
    Path("resilient_adapter.toml").write_text(
        """
        success_codes = [0, 1]
        token.json = {user = "file", password = "file", deep = {a = 1, b = 1}, shape = {c = 1}}
        codes."-7" = {recovery = "retry", executed = "no"}
        per_origin."https://A.example:443".retry = {max_attempts = 7, jitter = 0}
        """
    )
    settings = Settings.load(
        environ={
            "RESILIENT_ADAPTER__TOKEN__JSON": '{"password": "env", "deep": {"b": 2}, "shape": 3}',
            "RESILIENT_ADAPTER__SUCCESS_CODES": "[2]",
        },
        overrides={
            "codes": {-7: {"executed": "unknown"}},
            "per_origin": {"https://a.example/": {"retry": {"jitter": 2}}},
        },
    )
    assert settings.success_codes == (2,)
    assert settings.token.json == {"user": "file", "password": "env", "deep": {"a": 1, "b": 2}, "shape": 3}
    assert settings.codes == {-7: (Recovery.RETRY, Executed.UNKNOWN)}
    assert settings.per_origin == {"https://a.example": {"retry": {"max_attempts": 7, "jitter": 2.0}}}


# -------------------------------------------------------------------------------------------------------- files


def test_the_file_is_looked_for_in_order(directory: Path) -> None:
    """The argument, then the variable, then resilient_adapter.toml, then pyproject.toml."""
    Path("pyproject.toml").write_text("[tool.resilient_adapter]\ndeadline = 1")
    found = [Settings.load(environ={}).deadline]
    Path("resilient_adapter.toml").write_text("deadline = 2")
    found.append(Settings.load(environ={}).deadline)
    Path("other.toml").write_text("deadline = 3")
    found.append(Settings.load(environ={"RESILIENT_ADAPTER_SETTINGS": "other.toml"}).deadline)
    Path("argument.toml").write_text("deadline = 4")
    found.append(Settings.load("argument.toml", {"RESILIENT_ADAPTER_SETTINGS": "missing.toml"}).deadline)
    assert found == [1, 2, 3, 4]


def test_an_empty_variable_names_no_file(directory: Path) -> None:
    """RESILIENT_ADAPTER_SETTINGS without a text is as good as none."""
    assert Settings.load(environ={"RESILIENT_ADAPTER_SETTINGS": ""}) == Settings()


def test_a_pyproject_may_be_named(directory: Path) -> None:
    """A pyproject.toml that is named is read at its own table."""
    Path("sub").mkdir()
    path = Path("sub", "pyproject.toml")
    path.write_text("[tool.resilient_adapter.retry]\nmax_attempts = 8")
    assert Settings.load(path, {}).retry.max_attempts == 8
    row = next(row for row in explain_settings(path, {}) if row.key == "retry.max_attempts")
    assert row == ("retry.max_attempts", 8, f"file {path} [tool.resilient_adapter]")


@pytest.mark.parametrize(
    "text",
    [
        "[project]\nname = 'x'",
        "[project]\nname = 'resilient_adapter'",
        "tool = 'resilient_adapter'",
        "this is [not TOML, and none of our business",
    ],
)
def test_a_pyproject_that_is_just_there_need_not_have_settings(directory: Path, text: str) -> None:
    """Most pyproject.toml files are not for us, and do not have to be valid either."""
    Path("pyproject.toml").write_text(text)
    assert Settings.load(environ={}) == Settings()


def test_a_byte_order_mark_is_no_part_of_the_file(directory: Path) -> None:
    """Some editors begin a file with one."""
    Path("resilient_adapter.toml").write_bytes(b"\xef\xbb\xbfdeadline = 2")
    assert Settings.load(environ={}).deadline == 2


# -------------------------------------------------------------------------------------------------- environment


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("retry.max_attempts", "5", 5),
        ("retry.base", "2", 2.0),
        ("retry.base", " 0.5 ", 0.5),
        ("mode", "off", "off"),
        *[("shared.tokens", text, False) for text in ("false", "0", "no", "off", "FALSE", " Off ")],
        *[("rate_limit.adaptive", text, True) for text in ("true", "1", "yes", "on", "True", "YES")],
        ("success_codes", "[0, 1]", (0, 1)),
        ("success_codes", "[]", ()),
        ("retry.methods", '["get", "GET", "post"]', ("GET", "POST")),
        ("rate_limit.rate", "10/s", "10/s"),
        ("rate_limit.rate", '["10/s", "1200/min"]', ("10/s", "1200/min")),
        ("rate_limit.rate", "", None),
        ("token.url", "", None),
        ("token.scheme", "", ""),
        ("token.json", '{"a": {"b": [1, "c"]}}', {"a": {"b": (1, "c")}}),
        ("codes", '{"-7": {"recovery": "none"}}', {-7: CodePolicy(Recovery.NONE, Executed.UNKNOWN)}),
        ("orders.journal", "{not json", "{not json"),
        ("orders.journal", '{"a": 1}', '{"a": 1}'),
        ("orders.journal", '{"env": "ELSEWHERE"}', "found"),
        ("orders.journal", '{env = "ELSEWHERE"}', "found"),  # as in a file
        ("orders.journal", '{ env="ELSEWHERE" }', "found"),
        ("orders.journal", "{env = ELSEWHERE}", "{env = ELSEWHERE}"),  # neither JSON nor TOML: a name like any other
    ],
)
def test_a_variable_is_read_by_the_type_of_its_key(key: str, text: str, value: Any) -> None:
    """Scalars as text, lists and tables as JSON; an empty text is none where none may be."""
    with tempfile.NamedTemporaryFile(suffix=".toml") as empty:
        settings = Settings.load(empty.name, env(key, text) | {"ELSEWHERE": "found"})
    assert at(settings, key) == value


def test_variables_are_found_in_any_case(directory: Path) -> None:
    """Windows writes all of them in capitals, other shells need not."""
    assert Settings.load(environ={"resilient_adapter__Retry__max_attempts": "7"}).retry.max_attempts == 7


def test_a_key_of_its_own_outranks_its_tables_variable(directory: Path) -> None:
    """Whatever order the environment has, the variable of a key is laid over that of its table."""
    settings = Settings.load(
        environ={
            "RESILIENT_ADAPTER__RETRY__BASE": "3",
            "RESILIENT_ADAPTER__RETRY": '{"base": 2, "jitter": 2}',
            "RESILIENT_ADAPTER__CODES__-7__RECOVERY": "retry",
            "RESILIENT_ADAPTER__PER_ORIGIN__HTTPS://A.EXAMPLE__RETRY__JITTER": "0",
        }
    )
    assert (settings.retry.base, settings.retry.jitter) == (3.0, 2.0)
    assert settings.codes[-7].recovery is Recovery.RETRY
    assert settings.for_origin("https://a.example").retry.jitter == 0.0


def test_the_process_environment_is_the_default(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """load() reads os.environ; from_mapping() does not."""
    monkeypatch.setenv("RESILIENT_ADAPTER__MODE", "off")
    assert Settings.load().mode == "off"
    assert Settings.from_mapping({}).mode == "enforce"


def test_every_key_has_a_variable_of_its_own() -> None:
    """No two keys share a variable, not even one in which an underscore is missing or doubled."""
    names = [variable(path).replace("_", "") for path in known_keys()]
    assert len(names) == len(set(names)) > 60


# ---------------------------------------------------------------------------------------- values kept elsewhere


def test_a_text_may_be_kept_in_a_variable_or_a_file(directory: Path) -> None:
    """{env = NAME} and {file = PATH} stand in place of any text, in lists and in token.json too."""
    Path("conf").mkdir()
    Path("conf", "secret").write_bytes(b"from-file\r\n")
    Path("conf", "lines").write_text("a\n\n")
    Path("conf", "s.toml").write_text(
        """
        mode = {env = "MODE"}
        origins = ["https://a.example", {env = "ORIGIN"}]
        rate_limit.rate = {env = "RATE"}
        signing = {api_key = {env = "KEY"}, secret = {file = "secret"}}
        [token.json]
        a = {env = "KEY"}
        deep = {b = {file = "lines"}}
        list = [{env = "KEY"}, {c = {env = "KEY"}}]
        plain = {env = "KEY", file = "a"}
        """
    )
    environ = {"MODE": "shadow", "ORIGIN": "https://B.example:443", "KEY": "from-env", "RATE": "3/s"}
    settings = Settings.load(Path("conf", "s.toml"), environ)
    assert (settings.mode, settings.origins) == ("shadow", ("https://a.example", "https://b.example"))
    assert (settings.signing.api_key, settings.signing.secret) == ("from-env", "from-file")
    assert settings.rate_limit.rates == (Rate(3, 1.0),)
    assert json.loads(json.dumps(settings.token.json)) == {
        "a": "from-env",
        "deep": {"b": "a\n"},
        "list": ["from-env", {"c": "from-env"}],
        "plain": {"env": "KEY", "file": "a"},
    }


def test_a_file_named_in_a_mapping_is_sought_from_the_working_directory(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Relative paths in arguments and variables are relative to where the process is; {env} reads its environment."""
    Path("secret").write_text("x")
    monkeypatch.setenv("SOME_KEY", "k")
    mapping = {"origins": ["http://h"], "signing": {"api_key": {"env": "SOME_KEY"}, "secret": {"file": "secret"}}}
    assert Settings.from_mapping(mapping).signing == Settings.load(environ={"SOME_KEY": "k"}, overrides=mapping).signing
    assert Settings.from_mapping(mapping).signing.secret == "x"


# ------------------------------------------------------------------------------------------------------- values


def test_values_are_kept_in_one_form() -> None:
    """Origins and methods are normalised, integers become floats where seconds are meant, lists become tuples."""
    settings = Settings.from_mapping(
        {
            "origins": ["HTTPS://API.example:443/", "https://api.example"],
            "retry": {"base": 2, "methods": ("get",)},
            "token": {"method": "put"},
        }
    )
    assert settings.origins == ("https://api.example",)
    assert type(settings.retry.base) is float
    assert settings.retry.methods == ("GET",)
    assert settings.token.method == "PUT"


@pytest.mark.parametrize(
    ("rate", "rates"),
    [
        (None, ()),
        ([], ()),
        ("10/s", (Rate(10, 1.0),)),
        (["10/s", "100/10s"], (Rate(10, 1.0), Rate(100, 10.0))),
    ],
)
def test_rates_are_read_as_numbers(rate: Any, rates: tuple[Rate, ...]) -> None:
    """rate_limit.rate is kept as it was given; rates is what it means."""
    settings = Settings.from_mapping({"rate_limit": {"rate": rate}})
    assert settings.rate_limit.rate == (tuple(rate) if isinstance(rate, list) else rate)
    assert settings.rate_limit.rates == rates


@pytest.mark.parametrize(
    ("code", "given_part", "policy"),
    [
        (-1999, {}, (Recovery.NONE, Executed.UNKNOWN)),
        (-1999, {"recovery": "retry"}, (Recovery.RETRY, Executed.UNKNOWN)),
        ("-1999", {"executed": "no"}, (Recovery.NONE, Executed.NO)),
        (-1003, {"executed": Executed.UNKNOWN}, (Recovery.THROTTLE, Executed.UNKNOWN)),
        ("-1003", {"recovery": Recovery.RETRY}, (Recovery.RETRY, Executed.NO)),
        (0, {"recovery": "none", "executed": "yes"}, (Recovery.NONE, Executed.YES)),
    ],
)
def test_half_a_policy_is_completed_from_the_reference(code: Any, given_part: Any, policy: Any) -> None:
    """What is not given of a policy is the reference's; of a code that it lacks, the careful half."""
    assert Settings.from_mapping({"codes": {code: given_part}}).codes == {int(code): CodePolicy(*policy)}


@pytest.mark.parametrize(
    ("given_keys", "origins"),
    [
        ({}, ()),
        ({"token": {"url": "https://Login.example:443/x"}}, ("https://login.example",)),
        ({"token": {"url": "https://login.example/"}, "origins": ["http://a"]}, ("http://a",)),
        ({"token": {"origins": ["http://b"]}, "origins": ["http://a", "http://b"]}, ("http://b",)),
        ({"origins": ["http://a"]}, ("http://a",)),
    ],
)
def test_the_origins_of_the_token_are_the_nearest_that_were_given(given_keys: Any, origins: tuple[str, ...]) -> None:
    """token.origins, else origins, else the origin of token.url."""
    assert Settings.from_mapping(given_keys).token_origins == origins


# ---------------------------------------------------------------------------------------------------- per origin


def test_an_origin_may_have_settings_of_its_own() -> None:
    """Its table is laid over the settings for that origin, and for no other."""
    settings = Settings.from_mapping(
        {
            "retry": {"max_attempts": 4, "jitter": 0},
            "codes": {-7: {"recovery": "retry"}, -8: {"recovery": "break"}},
            "token": {"json": {"user": "u", "password": "p"}},
            "per_origin": {
                "https://A.example:443": {
                    "mode": "shadow",
                    "retry": {"max_attempts": 9, "methods": []},
                    "circuit": {"exempt": {"methods": ["PUT"]}},
                    "codes": {"-7": {"executed": "no"}, -9: {"recovery": "throttle"}},
                    "token": {"json": {"user": "v"}},
                    "log": {"level": "debug"},
                }
            },
        }
    )
    assert settings.for_origin("https://b.example") is settings
    own = settings.for_origin("https://a.example")
    assert own is settings.for_origin("https://a.example") is own.for_origin("https://a.example")
    assert (own.mode, own.retry.max_attempts, own.retry.jitter, own.retry.methods) == ("shadow", 9, 0.0, ())
    assert own.circuit.exempt.methods == ("PUT",)
    assert own.circuit.exempt.params == ("reduceOnly", "closePosition")
    assert own.codes == {
        -7: CodePolicy(Recovery.RETRY, Executed.NO),
        -8: CodePolicy(Recovery.BREAK, Executed.UNKNOWN),
        -9: CodePolicy(Recovery.THROTTLE, Executed.UNKNOWN),
    }
    assert own.token.json == {"user": "v", "password": "p"}
    assert own.per_origin == {}
    assert settings.retry.max_attempts == 4


def test_an_origin_may_have_a_login_and_a_key_of_its_own() -> None:
    """A token source and a signing key of an origin are taken where they can reach it."""
    settings = Settings.from_mapping(
        {
            "origins": ["https://a.example"],
            "per_origin": {
                "https://a.example": {
                    "token": {"source": "m:f"},
                    "signing": {"api_key": "k", "secret": "s"},
                }
            },
        }
    )
    assert settings.token.source is None
    assert settings.for_origin("https://a.example").token.source == "m:f"


# ------------------------------------------------------------------------------------------- immutable and equal


def test_settings_are_compared_and_hashed_by_value() -> None:
    """Equal settings are equal keys, whoever made them and wherever their values came from."""
    assert full() == full()
    assert hash(full()) == hash(full())
    assert len({full(), full(), Settings()}) == 2
    assert full() != full()._replace(mode="off")
    elsewhere = Settings.load(os.devnull, {"M": "off"}, overrides={"mode": {"env": "M"}})
    assert elsewhere == Settings.load(os.devnull, {"RESILIENT_ADAPTER__MODE": "off"})
    assert hash(elsewhere) == hash(Settings.from_mapping({"mode": "off"}))


@pytest.mark.parametrize("again", [lambda s: pickle.loads(pickle.dumps(s)), copy.deepcopy, copy.copy])
def test_settings_survive_pickling_and_copying(again: Any) -> None:
    """A copy is equal, hashes alike, hides what was hidden and cannot be changed either."""
    settings = again(full())
    assert settings == full()
    assert hash(settings) == hash(full())
    assert repr(settings) == repr(full())
    assert settings.for_origin("https://b.example").retry.max_attempts == 9
    with pytest.raises(TypeError, match="cannot be changed"):
        settings.token.json["user"] = "x"


def containers(value: Any) -> Iterator[Any]:
    """Yield every table and group in the settings."""
    if isinstance(value, Mapping):
        yield value
        for item in value.values():
            yield from containers(item)
    elif isinstance(value, Frozen):
        yield value
        for item in value._asdict().values():
            yield from containers(item)
    elif isinstance(value, (list, tuple)):
        yield value
        for item in value:
            yield from containers(item)


def test_nothing_in_the_settings_can_be_changed() -> None:
    """Groups are frozen, tables refuse every change, and there is no list."""
    seen = set()
    for container in containers(full()):
        seen.add(type(container).__name__)
        assert not isinstance(container, list)
        if isinstance(container, dict):
            for change in (
                lambda c: c.__setitem__("x", 1),
                lambda c: c.__delitem__("x"),
                lambda c: c.update(x=1),
                lambda c: c.setdefault("x", 1),
                lambda c: c.pop("x"),
                lambda c: c.popitem(),
                lambda c: c.clear(),
                lambda c: c.__ior__({"x": 1}),
            ):
                with pytest.raises(TypeError, match="cannot be changed"):
                    change(container)
        elif isinstance(container, Frozen):
            with pytest.raises(AttributeError, match="cannot be changed"):
                container.anything = 1
    assert {"Settings", "RetrySettings", "ExemptSettings", "FrozenDict", "SecretDict", "CodePolicy"} <= seen


# --------------------------------------------------------------------------------------- explanation and template


def test_each_setting_in_effect_is_explained(directory: Path) -> None:
    """Every key with its value and where that came from; for the free tables, what was given."""
    Path("resilient_adapter.toml").write_text('deadline = 2\nretry.base = 9\ntoken.json = {user = "u"}')
    rows = explain_settings(
        environ={
            "RESILIENT_ADAPTER__RETRY__MAX_ATTEMPTS": "5",
            "RESILIENT_ADAPTER__CODES": '{"-1003": {"recovery": "retry"}}',
            "MY_URL": "redis://h",
        },
        overrides={
            "retry": {"base": 1},
            "rate_limit": {"rate": ["1/s"]},
            "per_origin": {"http://h:80": {"mode": "off", "token": {"json": {"pin": 1}}}},
            "shared": {"url": {"env": "MY_URL"}},
        },
    )
    explained = {row.key: (row.value, row.origin) for row in rows}
    assert len(explained) == len(rows)
    variable_ = "environment variable RESILIENT_ADAPTER__"
    assert {
        "mode": ("enforce", "default"),
        "origins": ([], "default"),
        "token.url": (None, "default"),
        "deadline": (2.0, "file resilient_adapter.toml"),
        "retry.max_attempts": (5, f"{variable_}RETRY__MAX_ATTEMPTS"),
        "retry.base": (1.0, "argument"),
        "rate_limit.rate": (["1/s"], "argument"),
        "token.json.user": ("<hidden>", "file resilient_adapter.toml"),
        'codes."-1003".recovery': ("retry", f"{variable_}CODES"),
        'codes."-1003".executed': ("no", "default"),
        'per_origin."http://h".mode': ("off", "argument"),
        'per_origin."http://h".token.json.pin': ("<hidden>", "argument"),
        "shared.url": ("<hidden>", "argument: environment variable MY_URL"),
    }.items() <= explained.items()


def test_the_template_changes_nothing(tmp_path: Path) -> None:
    """As it stands, the template is a valid settings file that gives the defaults."""
    path = tmp_path / "s.toml"
    path.write_text(template(), encoding="utf-8")
    assert Settings.load(path, {}) == Settings()


def test_the_template_states_the_defaults(tmp_path: Path) -> None:
    """With every key uncommented it names each that has a default, and still gives the defaults."""
    path = tmp_path / "s.toml"
    path.write_text(re.sub(r"^#(?=\S)", "", template(), flags=re.MULTILINE), encoding="utf-8")
    assert Settings.load(path, {}) == Settings()
    stated = {row.key for row in explain_settings(path, {}) if row.origin != "default"}
    without = {key for key, value in DEFAULTS.items() if value is None} | {"codes", "per_origin", "token.json"}
    assert stated == set(DEFAULTS) - without
    assert "\n#json = {}\n" in template()


def test_the_examples_of_the_template_are_valid() -> None:
    """Each key without a default is shown by an example that can be used as it is."""
    table, examples = "", {}
    for line in template().splitlines():
        header = re.fullmatch(r"\[(.+)\]", line)
        table = f"{header[1]}." if header else table
        example = re.fullmatch(r"# No default\. Example: ((\w+) = .+)", line)
        if example:
            examples[table + example[2]] = tomllib.loads(example[1])[example[2]]
    assert set(examples) == {k for k, value in DEFAULTS.items() if value is None} | {"codes", "per_origin"}
    for key, example in examples.items():
        if not (isinstance(example, dict) and example.keys() & {"env", "file"}):
            needs = {"origins": ["https://a.example"]} if key == "token.source" else {}
            value = at(Settings.from_mapping({**nested(key, example), **needs}), key)
            assert value, key


def test_every_key_says_what_it_means() -> None:
    """No line of the template is longer than a screen is wide, and no key stands without a comment."""
    lines = template().splitlines()
    assert max(map(len, lines)) <= 120
    for above, line in pairwise(lines):
        if re.match(r"#\S", line):
            assert above.startswith("# ")


def test_heavy_modules_are_not_imported_with_the_settings() -> None:
    """A reader of TOML is imported where there is a file to read."""
    code = (
        "import sys; sys.modules.pop('tomllib', None); from resilient_adapter.settings import Settings; "
        "Settings.load(environ={}); print('tomllib' in sys.modules or 'tomli' in sys.modules)"
    )
    root = Path(__file__).parents[1]
    with tempfile.TemporaryDirectory() as empty:
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=empty,
            env={**os.environ, "PYTHONPATH": str(root)},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
    assert done.stdout == "False\n"


def test_settings_errors_are_value_errors() -> None:
    """Whoever catches ValueError catches them."""
    with pytest.raises(ValueError, match="unknown key") as caught:
        Settings.from_mapping({"nope": 1})
    assert isinstance(caught.value, SettingsError)
