"""The settings: every key with its kind, its default and its meaning, and nowhere else.

The template, the ``settings`` command, the environment's names and every check are made from these fields.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

from ..core.codes import CODES
from ..core.frozen import Frozen
from ..core.model import Executed, Recovery
from ..core.origin import origin_of
from ..core.rates import Rate, parse_rate
from .kinds import (
    CODE,
    HEADER,
    METHOD,
    ORIGIN,
    PATTERN,
    RATE,
    STATUS,
    Boolean,
    Choice,
    Codes,
    Group,
    Integer,
    JsonTable,
    Kind,
    ListOf,
    Member,
    Number,
    OneOrMore,
    PerOrigin,
    Place,
    Source,
    Text,
    Url,
    matching,
)
from .values import FrozenDict, SecretDict

Mode = Literal["enforce", "shadow", "off"]
OnError = Literal["return", "raise"]
CircuitScope = Literal["origin", "endpoint"]
WhenOpen = Literal["raise", "respond", "wait"]
LogLevel = Literal["debug", "info", "warning", "error", "critical"]


class Key:
    """What is known of one key. Where a class is asked for it, it has its default.

    Args:
        default: the value that it has where none was given.
        kind: what may be given.
        meaning: what it is for, in a sentence.
        example: TOML for a key whose default cannot be written in it.
    """

    __slots__ = ("default", "example", "kind", "meaning")

    def __init__(self, default: Any, kind: Kind, meaning: str, example: str | None) -> None:
        self.default = default
        self.kind = kind
        self.meaning = meaning
        self.example = example

    def __get__(self, instance: object, owner: type[Any]) -> Any:
        return self.default


def keys_of(cls: type[Frozen]) -> dict[str, Key]:
    """Return what is known of the keys of a group of settings, by name."""
    return {name: key for name, key in vars(cls).items() if isinstance(key, Key)}


def _key(default: Any, kind: Kind, meaning: str, example: str | None = None) -> Any:
    """Return the field of one key; ``example`` is TOML for a key whose default cannot be written in it."""
    return Key(default, kind, meaning, example)


def _group(cls: type[Any], meaning: str) -> Any:
    return _key(cls(), Group(_kinds(cls)), meaning)


def _kinds(cls: type[Frozen]) -> dict[str, Kind]:
    return {name: key.kind for name, key in keys_of(cls).items()}


_NAME = Text("a name without spaces", matching(r"[!-~]+"))
_FIELD = r"[^\s.]+(?:\.[^\s.]+)*"
_KEY = "ASCII text without spaces"  # what a header can carry
_PATH = matching(r"/[!-~]*")


def _check_store_url(url: str) -> None:
    from ..state.address import check_store_url  # few programs share

    check_store_url(url)


class RetrySettings(Frozen):
    """``retry``: when and how often a request is repeated."""

    max_attempts: int = _key(3, Integer(1), "Sends of one request in all, the first one counted.")
    base: float = _key(
        1.0, Number(), "Seconds before the first repeat; repeat n (0, 1, ...) waits base * factor**n + U(0, jitter)."
    )
    factor: float = _key(2.0, Number(1.0), "What the wait grows by from one repeat to the next.")
    jitter: float = _key(1.0, Number(), "Seconds of chance that are added at most to each wait.")
    max_wait: float = _key(60.0, Number(), "Seconds that a wait before a repeat lasts at most.")
    timeout_factor: float = _key(2.0, Number(1.0), "After -1007, what the timeouts grow by with each repeat.")
    methods: tuple[str, ...] = _key(
        ("GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"),
        ListOf(METHOD),
        "Methods that may be sent again when it is unknown whether the request was executed.",
    )
    idempotency_headers: tuple[str, ...] = _key(
        ("Idempotency-Key",), ListOf(HEADER), "A request that carries one of these headers may be sent again, too."
    )
    budget: float = _key(
        0.2, Number(), "Repeats allowed for each first send, counted per origin over 10 seconds; 0: no limit."
    )
    budget_floor: float = _key(10.0, Number(), "Repeats per second that are allowed beside the budget.")


class RateLimitSettings(Frozen):
    """``rate_limit``: what is done about -1003 and 429, and how to stay clear of them."""

    wait: float = _key(60.0, Number(), "Seconds to wait after -1003 or 429 without a usable Retry-After.")
    max_wait: float = _key(
        120.0,
        Number(),
        "Seconds of Retry-After that are waited for; a longer one is delivered, and the origin is closed until then.",
    )
    rate: str | tuple[str, ...] | None = _key(
        None, OneOrMore(RATE), "Pace of the sends, in sliding windows: one rate or several.", '["10/s", "1200/min"]'
    )
    adaptive: bool = _key(True, Boolean(), "Send slower after -1003 or 429, then try faster again.")

    @property
    def rates(self) -> tuple[Rate, ...]:
        """``rate`` as numbers: none, one or several."""
        texts = (self.rate,) if isinstance(self.rate, str) else self.rate or ()
        return tuple(map(parse_rate, texts))


class ExemptSettings(Frozen):
    """``circuit.exempt``: requests that an open circuit does not stop, because they reduce risk."""

    methods: tuple[str, ...] = _key(("DELETE",), ListOf(METHOD), "Methods that always pass.")
    params: tuple[str, ...] = _key(
        ("reduceOnly", "closePosition"),
        ListOf(_NAME),
        "Parameters that let a request pass where they are true, in the query, the form or the JSON body.",
    )


class CircuitSettings(Frozen):
    """``circuit``: when sending is given up for a while."""

    fail_max: int = _key(5, Integer(1), "Failures in a row that open the circuit.")
    reset_timeout: float = _key(2.0, Number(), "Seconds from the opening to the first probe.")
    success_threshold: int = _key(1, Integer(1), "Probes in a row that have to succeed before the circuit closes.")
    reset_factor: float = _key(2.0, Number(1.0), "What reset_timeout grows by with each probe that fails.")
    reset_max: float = _key(30.0, Number(), "Seconds that it grows to at most.")
    failure_rate: float = _key(
        0.5, Number(above=0.0, maximum=1.0), "Share of the calls in the window whose failure opens the circuit, too."
    )
    window: float = _key(30.0, Number(above=0.0), "Seconds that this window reaches back.")
    min_calls: int = _key(20, Integer(1), "Calls in the window below which the share says nothing yet.")
    scope: CircuitScope = _key(
        "origin",
        Choice(*get_args(CircuitScope)),
        '"origin": one circuit for each scheme, host and port; "endpoint": one for each path there.',
    )
    when_open: WhenOpen = _key(
        "raise",
        Choice(*get_args(WhenOpen)),
        '"raise": CircuitOpenError; "respond": a local 503 with code -1008; "wait": until the probe, in the deadline.',
    )
    codes: tuple[int, ...] = _key((-1008,), ListOf(CODE), "Codes that count as a failure of the server.")
    statuses: tuple[int, ...] = _key((503,), ListOf(STATUS), "HTTP statuses that count as one.")
    exempt: ExemptSettings = _group(ExemptSettings, "Requests that reduce risk: an open circuit never stops them.")


class TokenSettings(Frozen):
    """``token``: where tokens come from, and where they go."""

    url: str | None = _key(
        None,
        Url("an absolute URL with http or https", r"(?i:https?)://[!-~]+"),
        "Where a token is fetched.",
        '"https://gateway.example/api/login"',
    )
    method: str = _key("POST", METHOD, "Method of the request that fetches it.")
    json: Mapping[str, Any] = _key(SecretDict(), JsonTable(), "JSON body of that request.")
    field: str = _key(
        "data.token", Text("names joined by dots", matching(_FIELD)), "Where in the response the token is."
    )
    refresh_ahead: float = _key(30.0, Number(), "Seconds before its expiry at which a token is replaced.")
    source: str | None = _key(
        None,
        Text('"module:function"', matching(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*:[^\W\d]\w*(?:\.[^\W\d]\w*)*"), optional=True),
        "A function of yours that returns a token, instead of the url.",
        '"my_package.login:new_token"',
    )
    header: str = _key("Authorization", HEADER, "Header that carries the token.")
    scheme: str = _key(
        "Bearer",
        Text("a word that may stand in a header, or an empty text", matching(r"[!-~]*")),
        "Word before the token in the header; empty: none.",
    )
    origins: tuple[str, ...] = _key(
        (), ListOf(ORIGIN), "Origins that are given the token; empty: the origins above, else that of the url."
    )


class SigningSettings(Frozen):
    """``signing``: HMAC signatures."""

    api_key: str | None = _key(
        None, Text(_KEY, matching(r"[!-~]+"), optional=True, secret=True), "The API key.", '{env = "API_KEY"}'
    )
    secret: str | None = _key(
        None,
        Text("a text in one line, and not empty", matching(r"[^\x00-\x1f\x7f]+"), optional=True, secret=True),
        "The key's secret.",
        '{file = "/run/secrets/api-secret"}',
    )
    key_header: str = _key("X-MBX-APIKEY", HEADER, "Header that carries the API key.")
    recv_window: int = _key(5000, Integer(1), "Milliseconds for which the server accepts a signed request.")
    paths: tuple[str, ...] = _key(("*",), ListOf(PATTERN), "Paths whose requests are signed.")
    time_path: str = _key(
        "/api/gateway/time", Text('a path that begins with "/"', _PATH), "Path at which the server tells its time (ms)."
    )
    time_field: str | None = _key(
        None,
        Text("names joined by dots", matching(_FIELD), optional=True),
        "Where in that response the time is; without it: serverTime, data.serverTime or data.",
        '"data.now"',
    )


class OrdersSettings(Frozen):
    """``orders``: what an order looks like, and how to find out what became of one."""

    paths: tuple[str, ...] = _key((), ListOf(PATTERN), "Paths of orders; empty: every POST with a client id is one.")
    client_id: str = _key("newClientOrderId", _NAME, "Parameter that holds an order's client id.")
    query_path: str | None = _key(
        None,
        Text('a path that begins with "/"', _PATH, optional=True),
        "Path at which an order is looked up; given, unknown outcomes are reconciled.",
        '"/api/v1/order"',
    )
    query_param: str = _key("origClientOrderId", _NAME, "Parameter of the look-up that takes the client id.")
    carry: tuple[str, ...] = _key(("symbol",), ListOf(_NAME), "Parameters of the order that the look-up needs as well.")
    not_found: tuple[int, ...] = _key((-2011,), ListOf(CODE), "Codes by which the look-up says: no such order.")
    settle: float = _key(2.0, Number(), "Seconds from the send to the first look.")
    give_up: float = _key(30.0, Number(), 'Seconds from the send until a clean "not found" is believed.')
    add_client_id: bool = _key(
        False, Boolean(), "Give an order that has no client id one, the same for each of its repeats."
    )
    journal: str | None = _key(
        None,
        Text("the path of a file", matching(r"[^\0]+"), optional=True),
        "SQLite file in which each order is written down before it is sent, and its outcome after it.",
        '"orders.sqlite"',
    )


class SharedSettings(Frozen):
    """``shared``: what processes tell each other."""

    url: str | None = _key(
        None,
        Url(
            "redis://HOST, rediss://HOST, redis+sentinel://HOST,HOST/SERVICE, unix:///SOCKET or file:///PATH",
            r"rediss?(?:\+sentinel)?://[!-~]+|unix://[!-~]+|file:///[^?#\0]+",
            _check_store_url,
        ),
        "Where circuits, cooldowns, pacing and refreshes are shared between processes.",
        '"redis://localhost:6379/0"',
    )
    namespace: str = _key("resilient_adapter", _NAME, "What the names of all that is kept there begin with.")
    tokens: bool = _key(False, Boolean(), "Keep tokens there as well, encrypted.")
    token_key: str | None = _key(
        None,
        Text(
            "a Fernet key: 32 bytes in URL-safe base64, 44 characters",
            matching(r"[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]="),
            optional=True,
            secret=True,
        ),
        "The Fernet key that encrypts them.",
        '{env = "TOKEN_KEY"}',
    )


class LogSettings(Frozen):
    """``log``: what is logged."""

    level: LogLevel = _key("info", Choice(*get_args(LogLevel)), "Lowest level of the events that are logged.")


class CodePolicy(NamedTuple):
    """What is done about a code (``codes``)."""

    recovery: Recovery
    executed: Executed


def _policy(code: int) -> CodePolicy:
    # Where only one half of a policy is given. Of a code that nobody lists, the careful other half.
    info = CODES.get(code)
    return CodePolicy(info.recovery, info.executed) if info else CodePolicy(Recovery.NONE, Executed.UNKNOWN)


_CONSTRUCTOR = Source("argument", Path(), os.environ)


def _checked(group: Frozen, at: Place) -> dict[str, Any]:
    """Return what was given for the keys of a group, as it is kept."""
    values: dict[str, Any] = {}
    for name, key in keys_of(type(group)).items():
        value = getattr(group, name)
        # Most are defaults; and what is kept of a table by code or origin is not what may be given for it.
        if value is key.default or isinstance(key.kind, (Codes, PerOrigin)):
            continue
        inner = at.child(name)
        if not isinstance(key.kind, Group):
            values[name] = key.kind.values(key.kind.read(value, inner))
        elif isinstance(value, type(key.default)):
            values[name] = value._replace(**_checked(value, inner))
        else:
            raise inner.error(f"must be {type(key.default).__name__} here; Settings.from_mapping takes tables")
    return values


class Settings(Frozen):
    """All settings. Immutable, comparable, hashable; they pickle, and no secret is in their ``repr``.

    Made by :meth:`load` or :meth:`from_mapping`. The constructor checks single values as they do, and not whether
    two of them contradict each other.

    Raises:
        SettingsError: a value cannot be used.
    """

    mode: Mode = _key(
        "enforce",
        Choice(*get_args(Mode)),
        '"shadow": report what would be done, and change nothing; "off": plain requests.',
    )
    origins: tuple[str, ...] = _key(
        (),
        ListOf(ORIGIN),
        "The API's own origins. Only they are given tokens, keys and signatures; any other gets plain requests.",
    )
    on_error: OnError = _key(
        "return",
        Choice(*get_args(OnError)),
        '"return": the last response is delivered as it is; "raise": an error response becomes an exception.',
    )
    success_codes: tuple[int, ...] = _key((0, 200), ListOf(CODE), "Top-level codes that are no error.")
    connect_timeout: float = _key(
        5.0, Number(), "Seconds that connecting may take where the caller gave no timeout; 0: any time."
    )
    read_timeout: float = _key(
        30.0, Number(), "Seconds that the server may be silent where the caller gave no timeout; 0: any time."
    )
    deadline: float = _key(
        180.0, Number(), "Seconds that one call may take with all its sends, repairs and waits; 0: any time."
    )
    retry: RetrySettings = _group(RetrySettings, "When and how often a request is repeated.")
    rate_limit: RateLimitSettings = _group(
        RateLimitSettings, "What is done about -1003 and 429, and how to stay clear of them."
    )
    circuit: CircuitSettings = _group(CircuitSettings, "When sending is given up for a while.")
    token: TokenSettings = _group(TokenSettings, "Where tokens come from, and where they go.")
    signing: SigningSettings = _group(SigningSettings, "HMAC signatures; they need origins.")
    orders: OrdersSettings = _group(OrdersSettings, "What an order looks like, and how to find out what became of one.")
    codes: Mapping[int, CodePolicy] = _key(
        FrozenDict(),
        Codes(Group({"recovery": Member(Recovery), "executed": Member(Executed)}), _policy),
        "Codes that the reference lacks, or other policies for those that it has.",
        '{"-1999" = {recovery = "retry", executed = "unknown"}}',
    )
    per_origin: Mapping[str, Mapping[str, Any]] = _key(
        FrozenDict(),
        PerOrigin(lambda: OVERRIDES),
        "Settings that are others for one origin; all but origins, per_origin and shared can be.",
        '{"https://a.example" = {retry = {max_attempts = 5}}}',
    )
    shared: SharedSettings = _group(SharedSettings, "What processes tell each other.")
    log: LogSettings = _group(LogSettings, "What is logged.")

    if TYPE_CHECKING:
        pass  # the fields above say what the constructor takes
    else:

        def __init__(self, *args, **values):
            super().__init__(*args, **values)
            self.__dict__.update(_checked(self, Place(_CONSTRUCTOR)))

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str] | None = None,
        environ: Mapping[str, str] | None = None,
        *,
        overrides: Mapping[str, Any] | None = None,
    ) -> Settings:
        """Return the settings of overrides, environment and file, in this order of precedence, over the defaults.

        Args:
            path: the settings file, TOML; a ``pyproject.toml`` is read at ``[tool.resilient_adapter]``. None: the
                file that ``RESILIENT_ADAPTER_SETTINGS`` names, else ``resilient_adapter.toml`` in the working
                directory, else a ``pyproject.toml`` there, else none.
            environ: the environment; None: that of the process.
            overrides: a mapping of settings that outranks both.

        Raises:
            SettingsError: a key is unknown, a value cannot be used, two given keys contradict each other, or a
                file that was named is missing.
        """
        from .sources import load

        return load(path, environ, overrides).settings

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> Settings:
        """Return the settings of a mapping over the defaults; environment and files are not looked at.

        Raises:
            SettingsError: a key is unknown, a value cannot be used, or two keys contradict each other.
        """
        from .sources import from_mapping

        return from_mapping(mapping)

    def for_origin(self, origin: str) -> Settings:
        """Return the settings that hold for an origin, written as :func:`~..core.origin.origin_of` writes it."""
        return self._overridden.get(origin, self) if self.per_origin else self

    @cached_property
    def _overridden(self) -> Mapping[str, Settings]:
        plain = self._replace(per_origin=FrozenDict())
        return FrozenDict({origin: ROOT.apply(plain, values) for origin, values in self.per_origin.items()})

    @property
    def token_origins(self) -> tuple[str, ...]:
        """The origins that are given the token: ``token.origins``, else ``origins``, else that of ``token.url``."""
        login = (origin_of(self.token.url),) if self.token.url is not None else ()
        return self.token.origins or self.origins or login


ROOT: Group = Group(_kinds(Settings))
"""The table of all settings."""

OVERRIDES: Group = Group(_kinds(Settings), refused=("origins", "per_origin", "shared"))
"""The table of what may be another for one origin. ``shared`` may not: an adapter keeps its state in one place."""
