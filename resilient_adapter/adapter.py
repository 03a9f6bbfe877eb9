"""Where requests meets the package: an HTTPAdapter that survives what the error reference describes."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from requests import PreparedRequest, Response
from requests.adapters import BaseAdapter, HTTPAdapter

from .call import Call, Equipment, Recoveries
from .clock import SYSTEM_CLOCK, Clock
from .core.report import Resilience
from .errors import SettingsError
from .pools import hasten
from .runtime import Signer, shared_runtime
from .settings.schema import Settings
from .telemetry.events import Event, Telemetry
from .transport import make_response

if TYPE_CHECKING:
    from .inquiry import Lookup
    from .repairs.token import Token

_INNER_RETRIES = (
    "max_retries: it would repeat requests beneath the adapter, orders included; use the setting retry.max_attempts"
)


class ResilientAdapter(HTTPAdapter):
    """Makes the calls above it survive expired tokens, rate limits, dropped connections, overload and clock drift.

    Mount it on a session; the code above does not change::

        session = requests.Session()
        session.mount("https://gateway.example/", ResilientAdapter())

    Args:
        settings: a :class:`Settings`, taken as it is; a mapping, laid over environment and file; None for
            ``Settings.load()``.
        token_source: returns a token, as a string or a :class:`Token`.
        signer: called with a fresh copy of the request before every send, which it changes in place.
        reconciler: ``reconciler(request, send)``: given a request whose outcome is unknown and a way to send others,
            finds out. A response: it was executed, deliver this. None: proven not executed, safe to repeat. Raising:
            still unknown.
        recoveries: the user's own repair by code: given a copy of the request, which it may change, and the response;
            True repeats once.
        listeners: callables given each :class:`Event`.
        transport: another adapter to send through, in place of this one's own pool.
        clock: the clock that every wait and expiry goes by.
        **http_adapter_options: as HTTPAdapter's own. ``max_retries`` stays 0: it would repeat beneath us.

    Raises:
        SettingsError: settings that cannot be used; ``max_retries``; a token source with no origin known.
        TypeError: an argument that is not of the kind named here.
    """

    def __init__(
        self,
        settings: Settings | Mapping[str, Any] | None = None,
        *,
        token_source: Callable[[], str | Token] | None = None,
        signer: Signer | None = None,
        reconciler: Callable[[PreparedRequest, Lookup], Response | None] | None = None,
        recoveries: Recoveries | None = None,
        listeners: Sequence[Callable[[Event], object]] = (),
        transport: BaseAdapter | None = None,
        clock: Clock | None = None,
        **http_adapter_options: Any,
    ) -> None:
        if repeats_beneath(http_adapter_options.get("max_retries", 0)):
            raise SettingsError(_INNER_RETRIES)
        recoveries = _by_code(recoveries or {})
        listeners = tuple(listeners)
        _check_callable("token_source", token_source)
        _check_callable("signer", signer)
        _check_callable("reconciler", reconciler)
        for listener in listeners:
            _check_callable("listeners", listener)
        _check_methods("transport", transport, "send", "close")
        if isinstance(transport, HTTPAdapter) and repeats_beneath(transport.max_retries):
            raise SettingsError(f"transport: {_INNER_RETRIES}")
        _check_methods("clock", clock, "monotonic", "time", "sleep")
        self._configure(
            {
                "settings": settings if isinstance(settings, Settings) else Settings.load(overrides=settings),
                "token_source": token_source,
                "signer": signer,
                "reconciler": reconciler,
                "recoveries": recoveries,
                "listeners": listeners,
                "transport": transport,
                "clock": SYSTEM_CLOCK if clock is None else clock,
            }
        )
        super().__init__(**http_adapter_options)

    def _configure(self, arguments: dict[str, Any]) -> None:
        self._arguments = arguments
        self.settings: Settings = arguments["settings"]
        self._runtime = shared_runtime(
            self.settings,
            token_source=arguments["token_source"],
            signer=arguments["signer"],
            reconciler=arguments["reconciler"],
            clock=arguments["clock"],
        )
        self._transport: BaseAdapter | None = arguments["transport"]
        self._pools: dict[str, Any] = {}
        self._pools_of: object = None
        # A subclass may give requests to one origin different pools: for it there is no usual one.
        self._usual_pools = _pool_key_of(type(self)) is _pool_key_of(HTTPAdapter)
        self._equipment = Equipment(
            own=self._transport is None,
            clock=arguments["clock"],
            telemetry=Telemetry(arguments["listeners"], self.settings.log.level),
            recoveries=arguments["recoveries"],
            reconciler=arguments["reconciler"],
        )
        _adapters.add(self)

    def _configure_as(self, other: ResilientAdapter) -> None:
        """Be configured as another adapter of the same kind of pools, sharing its state: without looking for that."""
        self._arguments, self.settings, self._runtime = other._arguments, other.settings, other._runtime
        self._transport, self._equipment = other._transport, other._equipment
        self._pools, self._pools_of, self._usual_pools = {}, None, other._usual_pools
        _adapters.add(self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} mode={self.settings.mode!r}>"

    # Adapters keep only what __attrs__ names, and __attrs__ is HTTPAdapter's: ours travels beside it.
    def __getstate__(self) -> dict[str, Any]:
        parent: Any = super()
        state: dict[str, Any] = parent.__getstate__()
        return {**state, "_arguments": self._arguments}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # First, as in __init__: a subclass may want the settings to make its pools.
        self._configure(state["_arguments"])
        super().__setstate__(  # type: ignore[misc]
            {name: value for name, value in state.items() if name != "_arguments"}
        )

    def send(
        self,
        request: PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: bool | str = True,
        cert: Any = None,
        proxies: Mapping[str, str] | None = None,
    ) -> Response:
        """Send a request, and again where the settings and the rules allow it.

        Arguments are HTTPAdapter's own. The request is left as it is; the response carries ``resilience``.

        Raises:
            requests.RequestException: what plain requests raises, with ``resilience`` added; and the exceptions of
                :mod:`resilient_adapter.errors`.
        """
        origin = self._runtime.origin(request.url or "")
        options = {"verify": verify, "cert": cert, "proxies": proxies}
        if origin.plain:
            return self.transmit(request, stream=stream, timeout=timeout, options=options)
        return Call(self, self._equipment, origin, request, stream=stream, timeout=timeout, options=options).run()

    def resolve(self, identity: str) -> bool:
        """Take a person's word that an order in doubt may be sent again.

        Args:
            identity: the order's client id (``OutcomeUnknownError.client_order_id``); of one without, its fingerprint
                as the journal shows it.

        Returns whether an order by that name was in doubt.

        Raises:
            JournalError: the journal could not be written.
        """
        return self._runtime.orders.resolve(identity)

    def transmit(self, request: PreparedRequest, *, stream: bool, timeout: Any, options: Mapping[str, Any]) -> Response:
        """Send a request once, as plain requests would: through the transport handed in, else our own pool.

        Args:
            request: the request.
            stream: as for :meth:`send`.
            timeout: as for :meth:`send`.
            options: ``verify``, ``cert`` and ``proxies``, as for :meth:`send`.
        """
        # Looked up at each call, not bound once: mocks patch HTTPAdapter.send on the class.
        if self._transport is None:
            if repeats_beneath(self.max_retries):  # set since the adapter was made
                raise SettingsError(_INNER_RETRIES)
            # By name: what mocks put in its place may take no others. One by one: two dicts less.
            return super().send(
                request,
                stream=stream,
                timeout=timeout,
                verify=options["verify"],
                cert=options["cert"],
                proxies=options["proxies"],
            )
        return self._transport.send(request, stream=stream, timeout=timeout, **options)

    def close(self) -> None:
        """Close pooled connections. The adapter stays usable; what is shared with others is not forgotten."""
        self._pools.clear()
        if self._transport is not None:
            self._transport.close()
        super().close()

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **pool_kwargs: Any) -> None:
        """Make the manager of pools; HTTPAdapter's own, of pools that cost less."""
        super().init_poolmanager(connections, maxsize, block=block, **pool_kwargs)
        hasten(getattr(self, "poolmanager", None))

    def get_connection_with_tls_context(
        self,
        request: PreparedRequest,
        verify: bool | str | None,
        proxies: Mapping[str, str] | None = None,
        cert: Any = None,
    ) -> Any:
        """Return the pool for a request; HTTPAdapter's own answer, remembered where it is the usual one.

        Building a pool's key anew for every request costs 22 µs. Only default TLS without a proxy is remembered.
        """
        url = request.url or ""
        end = url.find("/", 8)
        # A URL without a path is not one of a session's making.
        if end < 0 or verify is not True or cert is not None or proxies or not self._usual_pools:
            return super().get_connection_with_tls_context(request, verify, proxies=proxies, cert=cert)
        if self._pools_of is not self.poolmanager:
            # init_poolmanager was called again, with other options perhaps.
            self._pools, self._pools_of = {}, self.poolmanager
        key = url[:end]
        pool = self._pools.get(key)
        # A pool that was closed has lost its queue.
        if pool is None or pool.pool is None:
            pool = super().get_connection_with_tls_context(request, verify, proxies=proxies, cert=cert)
            # The manager keeps as many; what is remembered beyond them would keep their connections open.
            if len(self._pools) >= self._pool_connections:  # type: ignore[attr-defined]
                self._pools.clear()
            self._pools[key] = pool
        return pool

    def request_url(self, request: PreparedRequest, proxies: Mapping[str, str] | None) -> str:
        """Return what goes into the request line; HTTPAdapter's own answer, without parsing where there is no proxy."""
        path = request.path_url
        # What begins with two slashes has been sent in different ways by different releases of requests.
        return super().request_url(request, proxies) if proxies or path.startswith("//") else path

    def build_response(self, req: PreparedRequest, resp: Any) -> Response:
        """Return a response; HTTPAdapter's own, kept from looking for cookies where the server set none."""
        return make_response(super().build_response, req, resp)

    def _reset_after_fork(self) -> None:
        # A connection shared with the parent would mix up whose answer is whose. The pools are replaced, not closed:
        # a thread of the parent's may have held their locks.
        self._pools.clear()
        if hasattr(self, "poolmanager"):
            self.proxy_manager = {}
            self.init_poolmanager(
                self._pool_connections,  # type: ignore[attr-defined]
                self._pool_maxsize,  # type: ignore[attr-defined]
                block=self._pool_block,  # type: ignore[attr-defined]
            )


def resilience_of(outcome: Response | BaseException) -> Resilience:
    """Return what a response, or an exception, went through: its ``resilience``, typed.

    Raises:
        AttributeError: it did not come through a :class:`ResilientAdapter`.
    """
    report = getattr(outcome, "resilience", None)
    if not isinstance(report, Resilience):
        raise AttributeError(f"this {type(outcome).__name__} did not come through a ResilientAdapter")
    return report


def _by_code(recoveries: Mapping[Any, Any]) -> Recoveries:
    """Return recoveries by code, with codes written as texts read as the settings read them."""
    by_code = {}
    for key, recovery in recoveries.items():
        try:
            code = None if isinstance(key, (bool, float)) else int(key)
        except (TypeError, ValueError):
            code = None
        if code is None:
            raise TypeError(f"recoveries: {key!r} is no code")
        _check_callable(f"recoveries[{code}]", recovery)
        by_code[code] = recovery
    return by_code


def _check_callable(name: str, value: object) -> None:
    if value is not None and not callable(value):
        raise TypeError(f"{name} must be callable, not {type(value).__name__}")


def _check_methods(name: str, value: object, *methods: str) -> None:
    missing = [method for method in methods if value is not None and not callable(getattr(value, method, None))]
    if missing:
        raise TypeError(f"{name} must have {', '.join(missing)}, which {type(value).__name__} has not")


def _pool_key_of(kind: type[HTTPAdapter]) -> object:
    return getattr(kind, "build_connection_pool_key_attributes", None)


def repeats_beneath(max_retries: Any) -> bool:
    """Return whether a ``max_retries``, a number or a Retry, has urllib3 repeat requests by itself."""
    total = getattr(max_retries, "total", max_retries)
    # None is not none: as an argument it stands for urllib3's own default, in a Retry for no limit on the sum.
    return total is None or bool(total)


_adapters: weakref.WeakSet[ResilientAdapter] = weakref.WeakSet()


def _reset_after_fork() -> None:
    for adapter in list(_adapters):
        adapter._reset_after_fork()


if hasattr(os, "register_at_fork"):  # pragma: no branch - Windows has no fork
    os.register_at_fork(after_in_child=_reset_after_fork)
