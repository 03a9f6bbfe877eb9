"""What adapters share: for each origin its guards, its token and its clock, kept once in a process.

``requests.get()`` makes a new session each time, and a state that lived in the adapter would be lost with it. Adapters
with equal settings and the same token source, signer, reconciler and clock therefore share one :class:`Runtime`.
"""

from __future__ import annotations

import copy
import hashlib
import os
import random
import sys
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Set
from contextlib import nullcontext
from itertools import islice
from operator import itemgetter
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from requests import PreparedRequest

from .clock import Clock
from .core.classify import Rules
from .core.codes import with_policies
from .core.model import Recovery
from .core.origin import origin_of
from .errors import SettingsError
from .guards.circuit import Circuit
from .guards.rate_limit import RateLimit
from .guards.retry_budget import RetryBudget
from .settings.schema import Settings
from .telemetry import log

if TYPE_CHECKING:
    from .repairs.orders import OrderRules, Orders, Submission
    from .repairs.reconcile import OrderReconciler
    from .repairs.server_clock import ServerClock
    from .repairs.shared_token import Cipher, SharedToken
    from .repairs.token import Token, TokenKeeper
    from .state.store import Store

#: Bounds of what is shared: a day of calls to ever new hosts and paths must not grow without end.
MAX_RUNTIMES = 64
MAX_ORIGINS = 1024
MAX_CIRCUITS = 1024
_MAX_SPELLINGS = 4 * MAX_ORIGINS
_LOOKED_AT = 128
_INF = float("inf")

Signer = Callable[[Any], object]


class Origin:
    """All that is kept for one origin.

    Attributes:
        name: scheme, host and port.
        settings: the settings in force here, ``per_origin`` applied.
        plain: plain requests: nothing is done for this origin.
        rules: what its responses are judged by.
        token: its token, or None.
        signer: what signs its requests, or None.
        server_clock: the server's time, for a signer that reads it.
        reconciler: finds out about orders, as the settings describe it, or None.
        met: whether a request has come here since :meth:`was_met`.
        timeout: connect and read timeout of a send whose caller gave none, in seconds; None for no limit.
        patience: their sum, the longest that such a send is silent; infinity for no limit.
    """

    __slots__ = (
        "_circuit",
        "_circuits",
        "_clock",
        "_lock",
        "_making",
        "_order_rules",
        "_orders",
        "_store",
        "budget",
        "deadline",
        "exempt_methods",
        "exempt_params",
        "idempotency_headers",
        "lease",
        "met",
        "name",
        "patience",
        "plain",
        "rate_limit",
        "reconciler",
        "rules",
        "server_clock",
        "settings",
        "shadow",
        "signer",
        "timeout",
        "token",
    )

    def __init__(
        self,
        name: str,
        settings: Settings,
        clock: Clock,
        credentials: Credentials,
        orders: Callable[[], Orders],
        store: Store | None,
        *,
        plain: bool,
    ) -> None:
        self.name = name
        self.met = False
        self.settings = settings
        self._clock = clock
        self.plain = plain or settings.mode == "off"
        self.shadow = settings.mode == "shadow"
        self.token = credentials.token_for(name)
        self.signer, self.server_clock = credentials.signer_for(name)
        self.reconciler = _reconciler_from_settings(settings)
        self._orders = orders
        self._order_rules: OrderRules | None = None
        self.rules = rules_of(settings)
        self.timeout = (settings.connect_timeout or None, settings.read_timeout or None)
        self.patience = (self.timeout[0] or _INF) + (self.timeout[1] or _INF)
        self.deadline = settings.deadline or _INF
        # A probe may take as long as one send may.
        self.lease = min((settings.connect_timeout or 60.0) + (settings.read_timeout or 60.0), self.deadline)
        self.idempotency_headers = tuple(settings.retry.idempotency_headers)
        self.exempt_methods = frozenset(settings.circuit.exempt.methods)
        self.exempt_params = frozenset(settings.circuit.exempt.params)
        # What watches only, or does nothing at all, tells nobody and is told nothing.
        self._store = store if settings.mode == "enforce" and not plain else None
        self.rate_limit, self.budget = self._limits()
        self._lock = threading.Lock()
        self._making = threading.RLock()  # who makes a circuit
        # One circuit for the origin, or one for each path of it.
        self._circuit = self._new_circuit(name)
        self._circuits: OrderedDict[str, Circuit] | None = (
            OrderedDict() if settings.circuit.scope == "endpoint" else None
        )

    def serves(self, url: str) -> bool:
        """Return whether a URL is one of this origin's, and may so be given its secrets."""
        return _name_of(_up_to_path(url)) == self.name

    def submission(self, request: PreparedRequest) -> Submission | None:
        """Return a call's dealings with the order that a request asks for, or None where it is no order."""
        if self._order_rules is None:
            from .repairs.orders import OrderRules

            self._order_rules = OrderRules(self.name, self.settings.orders, self.settings.signing.key_header)
        return self._orders().submission(self._order_rules, request)

    def circuit(self, url: str) -> Circuit:
        """Return the circuit that a request to a URL goes through."""
        if self._circuits is None:
            return self._circuit
        path = urlsplit(url).path
        known = self._circuits.get(path)
        # One that is shared asks its store: only those are to wait for that who need a new one too.
        with self._making if known is None else nullcontext():
            made = known or self._circuits.get(path) or self._new_circuit(self.name + path)
            with self._lock:
                circuit = self._circuits.setdefault(path, made)
                self._circuits.move_to_end(path)
                _bound(self._circuits, MAX_CIRCUITS, lambda one: one.state != "closed")
        return circuit

    def _new_circuit(self, name: str) -> Circuit:
        if self._store is None:
            return Circuit(name, self.settings.circuit, self._clock, random.random)
        from .guards.shared_circuit import SharedCircuit

        # A path may hold what is nobody's business (a listen key, say), and names of records can be read by many.
        path = name[len(self.name) :]
        key = f"circuit:{self.name}" + (f"#{_digest(path)}" if path else "")
        return SharedCircuit(name, self.settings.circuit, self._clock, random.random, store=self._store, key=key)

    def _limits(self) -> tuple[RateLimit, RetryBudget]:
        rate_limit, retry, clock = self.settings.rate_limit, self.settings.retry, self._clock
        if self._store is None:
            return RateLimit(rate_limit, clock), RetryBudget(retry, clock)
        from .guards.shared_rate_limit import SharedRateLimit
        from .guards.shared_retry_budget import SharedRetryBudget

        where: Any = {"store": self._store, "name": self.name}
        return SharedRateLimit(rate_limit, clock, **where), SharedRetryBudget(retry, clock, **where)

    def was_met(self) -> bool:
        """Return whether a request has come here since this was asked last."""
        met, self.met = self.met, False
        return met

    def busy(self) -> bool:
        """Return whether there is something here that must not be forgotten to make room."""
        circuits = (self._circuit, *(self._circuits or {}).values())
        return not self.rate_limit.idle or any(circuit.state != "closed" for circuit in circuits)

    def reset_after_fork(self) -> None:
        """Make what threads of the parent may hold usable in a child process."""
        self._lock, self._making = threading.Lock(), threading.RLock()
        self.rate_limit.reset_after_fork()
        self.budget.reset_after_fork()
        for circuit in (self._circuit, *(self._circuits or {}).values()):
            circuit.reset_after_fork()
        if self.token is not None:
            self.token.reset_after_fork()
        if self.server_clock is not None:
            self.server_clock.reset_after_fork()


def rules_of(settings: Settings) -> Rules:
    """Return what responses are judged by under these settings."""
    policies = {code: (policy.recovery, policy.executed) for code, policy in settings.codes.items()}
    # A code that the settings themselves call "break" counts, without being listed a second time.
    breaking = (code for code, (recovery, _) in policies.items() if recovery is Recovery.BREAK)
    return Rules(
        table=with_policies(policies),
        success_codes=frozenset(settings.success_codes),
        circuit_codes=frozenset(settings.circuit.codes).union(breaking),
        circuit_statuses=frozenset(settings.circuit.statuses),
    )


class Runtime:
    """The origins of adapters with equal settings, made as they are met; bounded.

    Args:
        settings: the settings.
        token_source: returns a token; None for that of the settings, if any.
        signer: signs requests; None for that of the settings, if any.
        clock: the clock that everything goes by.

    Attributes:
        store: what is shared with other processes, or None.

    Raises:
        SettingsError: a token source or a signer with no origin known to send its secrets to; a ``shared.url`` for
            which a package is missing.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        token_source: Callable[[], str | Token] | None,
        signer: Signer | None,
        clock: Clock,
    ) -> None:
        self.settings = settings
        self._clock = clock
        self._lock = threading.Lock()
        self._making = threading.RLock()  # who makes an origin
        self._origins: OrderedDict[str, Origin] = OrderedDict()
        self._spellings: dict[str, Origin] = {}
        self._own = frozenset(settings.origins)
        self._given = (token_source, signer)
        self.store = shared_store(settings, clock)
        self._credentials = Credentials(settings, token_source, signer, clock, store=self.store)
        self._orders: Orders | None = None

    @property
    def orders(self) -> Orders:
        """The orders in doubt, and their journals. Made with the first POST: what only reads does without."""
        if self._orders is None:
            from .repairs.orders import Orders

            with self._lock:
                self._orders = self._orders or Orders(self._clock)
        return self._orders

    def in_doubt(self) -> bool:
        """Return whether there is a doubt about an order, which must not be forgotten."""
        return self._orders is not None and self._orders.in_doubt()

    def origin(self, url: str) -> Origin:
        """Return what is kept for the origin of a URL."""
        # The URL up to its path tells the origin, in one of few spellings: no parsing for those seen before.
        spelling = _up_to_path(url)
        origin = self._spellings.get(spelling)
        if origin is None:
            return self._meet(spelling)
        origin.met = True
        return origin

    def _meet(self, spelling: str) -> Origin:
        name = _name_of(spelling)
        known = self._origins.get(name)
        # With a store, that is asked, and where it fails, the log is told, which may send through us in its turn.
        with self._making if known is None else nullcontext():
            made = known or self._origins.get(name) or self._make(name)
            with self._lock:
                origin = self._origins.setdefault(name, made)
                if known is None:
                    gone = _bound(self._origins, MAX_ORIGINS, Origin.busy, Origin.was_met)
                    if gone is not None:
                        self._spellings = {key: one for key, one in self._spellings.items() if one is not gone}
                else:
                    origin.met = True
                if len(self._spellings) >= _MAX_SPELLINGS:
                    self._spellings.clear()
                if "?" not in spelling and "#" not in spelling:
                    self._spellings[spelling] = origin
        return origin

    def _make(self, name: str) -> Origin:
        settings = self.settings.for_origin(name)
        credentials = self._credentials
        if (settings.token, settings.signing) != (self.settings.token, self.settings.signing):
            credentials = Credentials(settings, *self._given, self._clock, only=name, store=self.store)
        plain = bool(self._own) and name not in self._own
        return Origin(name, settings, self._clock, credentials, lambda: self.orders, self.store, plain=plain)

    def reset_after_fork(self) -> None:
        """Make what threads of the parent may hold usable in a child process."""
        self._lock, self._making = threading.Lock(), threading.RLock()
        if self._orders is not None:
            self._orders.reset_after_fork()
        for origin in self._origins.values():
            origin.reset_after_fork()


def _name_of(spelling: str) -> str:
    try:
        return origin_of(spelling)
    except ValueError:
        # Not for us to judge: the transport knows what it can send (http+unix://, mock://).
        return spelling.partition("?")[0].partition("#")[0].rpartition("@")[2]


def _up_to_path(url: str) -> str:
    end = url.find("/", url.find("://") + 3)
    return url[:end] if end > 0 else url


def _bound(
    entries: OrderedDict[Any, Any],
    most: int,
    busy: Callable[[Any], bool],
    met: Callable[[Any], bool] = lambda _: False,
) -> Any:
    """Drop the entry least recently met, one with nothing to remember where there is one; return it.

    Args:
        entries: in the order in which they were met, as far as that is not told by ``met``.
        most: how many there may be.
        busy: whether an entry has something to remember.
        met: whether it was met since that was asked last, where noting the order would cost each call something.
    """
    if len(entries) <= most:
        return None
    best = (True, True), next(iter(entries))
    # Whoever makes room is a caller with a request: only so many are looked at, and those stay for another round.
    for key, one in list(islice(entries.items(), min(len(entries) - 1, _LOOKED_AT))):
        best = min(best, ((busy(one), met(one)), key), key=itemgetter(0))
        if best[0] == (False, False):
            break
        entries.move_to_end(key)
    return entries.pop(best[1])


class Credentials:
    """What may be added to a request, and for which origins: a token, a key, a signature.

    Args:
        settings: the settings that describe them.
        token_source: returns a token; None for that of the settings, if any.
        signer: signs requests; None for that of the settings, if any.
        clock: the clock that everything goes by.
        only: the one origin that these settings are a section for; None: all that they name.
        store: what is shared with other processes, or None.

    Raises:
        SettingsError: no origin is known to send a secret to.
    """

    def __init__(
        self,
        settings: Settings,
        token_source: Callable[[], str | Token] | None,
        signer: Any,
        clock: Clock,
        *,
        only: str | None = None,
        store: Store | None = None,
    ) -> None:
        self._token = self._signer = self._server_clock = None
        self._token_origins: Set[str] = frozenset()
        self._signer_origins: Set[str] = frozenset()
        source = _source_from_settings(settings) if token_source is None else token_source
        if source is not None:
            self._token_origins = {only} if only is not None else frozenset(settings.token_origins)
            self._token = _keeper(settings, source, clock, store, self._token_origins)
            if not self._token_origins:
                raise SettingsError(
                    "token_source (argument): no origin is known to send the token to; "
                    "give `origins` or `token.origins`"
                )
        signer = _signer_from_settings(settings) if signer is None else signer
        if signer is not None:
            own = getattr(signer, "origins", None)
            self._signer_origins = {only} if only is not None and not own else frozenset(own or settings.origins)
            if own is not None and not self._signer_origins:
                raise SettingsError("signer (argument): no origin is known to sign for; give `origins`")
            self._signer = signer
            if hasattr(signer, "server_clock"):
                # A copy of ours that rides our clock: the same signer may serve others, with another clock.
                self._signer = copy.copy(signer)
                from .repairs.server_clock import ServerClock

                self._server_clock = ServerClock(clock, recv_window=signer.recv_window)
                self._signer.server_clock = self._server_clock

    def token_for(self, origin: str) -> TokenKeeper | None:
        """Return what holds the token for an origin, None where it is given none."""
        return self._token if origin in self._token_origins else None

    def signer_for(self, origin: str) -> tuple[Any, ServerClock | None]:
        """Return what signs for an origin, and the server's time for it; None where nothing does."""
        # A function without origins of its own, under settings without any, sees every request and judges itself.
        if self._signer is not None and (not self._signer_origins or origin in self._signer_origins):
            return self._signer, self._server_clock
        return None, None


# What these settings ask for is imported only where they do.


def _source_from_settings(settings: Settings) -> Callable[[], str | Token] | None:
    if settings.token.source is None and settings.token.url is None:
        return None
    from .repairs.token_source import source_from_settings

    return source_from_settings(settings)


def _keeper(
    settings: Settings,
    source: Callable[[], str | Token],
    clock: Clock,
    store: Store | None,
    origins: Set[str],
) -> TokenKeeper:
    token, retry = settings.token, settings.retry
    from .repairs.token import TokenKeeper

    return TokenKeeper(
        source,
        header=token.header,
        scheme=token.scheme,
        refresh_ahead=token.refresh_ahead,
        clock=clock,
        random=random.random,
        wait=(retry.base, retry.factor, retry.jitter, retry.max_wait),
        login_url=token.url,
        shared=None if store is None or settings.mode != "enforce" else _shared_token(settings, store, clock, origins),
    )


def _shared_token(
    settings: Settings, store: Store, clock: Clock, origins: Set[str]
) -> Callable[[Callable[[Token], object]], SharedToken]:
    """Return what connects a keeper to the record of its token, when it first needs one."""
    from .repairs.shared_token import SharedToken, fernet

    shared, token = settings.shared, settings.token
    cipher: Cipher | None = None
    if shared.tokens and shared.token_key is not None:
        cipher = fernet(shared.token_key)
    # Where the token comes from and where it goes tells one from another in a namespace; of a URL no more than its
    # origin and path, for the rest may be secret.
    came_from = token.source or ((token.url or "").partition("?")[0].rpartition("@")[2])
    key = f"token:{_digest(came_from, token.header, *sorted(origins))}"
    return lambda heard: SharedToken(store, key, cipher, clock, heard)


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _reconciler_from_settings(settings: Settings) -> OrderReconciler | None:
    if settings.orders.query_path is None:
        return None
    from .repairs.reconcile import reconciler_from_settings

    return reconciler_from_settings(settings)


def _signer_from_settings(settings: Settings) -> Any:
    signing = settings.signing
    if signing.api_key is None or signing.secret is None:
        return None
    from .repairs.signing import HmacSigner

    return HmacSigner(
        signing.api_key,
        signing.secret,
        recv_window=signing.recv_window,
        key_header=signing.key_header,
        paths=signing.paths,
    )


# --- one for all adapters of a kind ---------------------------------------------------------------------------------


class _Shared:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.runtimes: OrderedDict[tuple[Hashable, ...], Runtime] = OrderedDict()
        self.alive: weakref.WeakSet[Runtime] = weakref.WeakSet()
        self.stores: dict[tuple[Hashable, ...], Store] = {}


_shared = _Shared()


def shared_store(settings: Settings, clock: Clock) -> Store | None:
    """Return the store that ``shared.url`` names, one for all that name it; None where nothing is shared.

    Raises:
        SettingsError: a package that it needs is missing.
    """
    shared = settings.shared
    if shared.url is None or (settings.mode == "off" and not settings.per_origin):
        return None
    from .state.opening import open_backend
    from .state.store import Store

    key = (shared.url, shared.namespace, _hashable(clock))
    store = _shared.stores.get(key)
    if store is None:
        backend = open_backend(shared.url, shared.namespace)
        if len(_shared.stores) >= MAX_RUNTIMES:
            _close_unused_stores()
        store = _shared.stores[key] = Store(backend, clock, _warn_of_store)
    return store


def _close_unused_stores() -> None:
    used = {id(runtime.store) for runtime in _shared.alive}
    for key, store in list(_shared.stores.items()):
        if id(store) not in used:
            del _shared.stores[key]
            # Its thread may be listening for a second yet, and nobody is to wait for that.
            threading.Thread(target=store.close, name="resilient_adapter closing", daemon=True).start()


def _warn_of_store(text: str) -> None:
    log.write("warning", "shared_store", {"detail": text})


class _Same:
    """Stands in a key for an object that cannot be hashed: equal to itself only, and kept alive by the key."""

    __slots__ = ("one",)

    def __init__(self, one: object) -> None:
        self.one = one

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.one is self.one

    def __hash__(self) -> int:
        return id(self.one)


def _hashable(one: object) -> Hashable:
    try:
        hash(one)
    except TypeError:
        return _Same(one)
    return one


def shared_runtime(
    settings: Settings,
    *,
    token_source: Callable[[], str | Token] | None,
    signer: Signer | None,
    reconciler: object,
    clock: Clock,
) -> Runtime:
    """Return the runtime that all adapters with these share; make it where they are the first."""
    key = (settings, *map(_hashable, (token_source, signer, reconciler, clock)))
    with _shared.lock:
        runtime = _shared.runtimes.get(key)
        if runtime is None:
            runtime = Runtime(settings, token_source=token_source, signer=signer, clock=clock)
            _shared.runtimes[key] = runtime
            _shared.alive.add(runtime)
            _make_room()
        else:
            _shared.runtimes.move_to_end(key)
    return runtime


def _make_room() -> None:
    """Let go of the runtime whose settings were used longest ago, but of none that knows of an order in doubt."""
    for key, runtime in list(_shared.runtimes.items())[:-MAX_RUNTIMES]:
        if not runtime.in_doubt():
            del _shared.runtimes[key]


def _reset_after_fork() -> None:
    # Where that is loaded its own hook comes later than ours, and what is reset here uses it.
    reset_sqlite = getattr(sys.modules.get(f"{__package__}.state.sqlite"), "after_fork_in_child", None)
    if reset_sqlite is not None:
        reset_sqlite()
    _shared.lock = threading.Lock()
    for runtime in list(_shared.alive):
        runtime.reset_after_fork()
    # Last: its thread tells the others what it hears.
    for store in _shared.stores.values():
        store.reset_after_fork()


if hasattr(os, "register_at_fork"):  # pragma: no branch - Windows has no fork
    os.register_at_fork(after_in_child=_reset_after_fork)
