"""``install()``: the adapter for code that nobody wants to touch.

One attribute of requests is replaced, ``Session.mount``. Every session passes through it while it is made, in any
module and of any subclass, and again with whatever a script mounts itself; a session that exists already does not.
What else was considered: another ``HTTPAdapter`` in ``requests.sessions`` is not seen by what a script mounts;
``Session.__init__`` is not either, and subclasses call it early, late or twice; ``Session.get_adapter`` and
``HTTPAdapter.send`` are what requests-mock and responses replace, and they see old sessions too.

What is mounted is not exchanged but made into an :class:`InstalledAdapter` where it stands: the script may hold on to
it, compare it with what ``get_adapter()`` returns, tune or close it, and it stays the object with the options that it
was. Only a ``session.adapters`` written to directly goes unnoticed, and gets plain requests.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

import requests
from requests import PreparedRequest, Response
from requests.adapters import BaseAdapter, HTTPAdapter

from . import transport
from .adapter import ResilientAdapter, repeats_beneath
from .settings.schema import Settings
from .telemetry import log

if TYPE_CHECKING:
    from typing_extensions import Self

_POOLS = 256
_CONNECTIONS = 64
_CLASS = "it is an adapter of a class of its own"
_REPEATS = "its max_retries would repeat requests beneath us, orders included; the setting is retry.max_attempts"


def install(settings: Settings | Mapping[str, Any] | None = None, **arguments: Any) -> Installation:
    """Put a resilient adapter into every session made from now on, and so behind ``requests.get()`` and its kin.

    All of them share one pool of connections, which a session's ``close()`` does not close. What may not be repeated
    (a POST), and what logs in for a connection (NTLM, Negotiate), has its session's own, as without us. Sessions that
    exist already stay as they are. A plain ``HTTPAdapter`` that a script mounts itself is covered too, with its own
    pool where it has options of its own; one with ``max_retries``, and an adapter of any other class, is left alone,
    with one warning in the log.

    Args:
        settings: as :class:`ResilientAdapter`'s.
        **arguments: as :class:`ResilientAdapter`'s.

    Returns:
        The installation: a context manager that takes it out again, as :func:`uninstall` does. Installations nest;
        the innermost serves the sessions made under it, for as long as they live. A pickled session is covered where
        it is unpickled under an installation, by that; its pickle holds neither settings nor secrets.

    Raises:
        SettingsError: the settings cannot be used.
    """
    # One pool for what would have been many: of more hosts, and for more threads.
    arguments.setdefault("pool_connections", _POOLS)
    arguments.setdefault("pool_maxsize", _CONNECTIONS)
    installation = Installation(ResilientAdapter(settings, **arguments))
    _patch.add(installation)
    return installation


def uninstall() -> None:
    """Take out the innermost installation, if there is one: sessions made from now on are as they were before it."""
    _patch.remove()


class Installation:
    """What :func:`install` returns.

    Attributes:
        adapter: what the sessions share: its settings, its state and its pool of connections.
    """

    def __init__(self, adapter: ResilientAdapter) -> None:
        self.adapter = adapter
        self._warned: set[tuple[type, str]] = set()
        self._usual = _pool_options(HTTPAdapter())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _patch.remove(self)

    def cover(self, adapter: BaseAdapter) -> None:
        """Make an adapter that is about to be mounted resilient, where it is a plain one."""
        if isinstance(adapter, ResilientAdapter):
            return
        if type(adapter) is not HTTPAdapter:
            self.leave_alone(type(adapter), _CLASS)
        elif repeats_beneath(adapter.max_retries):
            self.leave_alone(HTTPAdapter, _REPEATS)
        else:
            adapter.__class__ = InstalledAdapter
            cast(InstalledAdapter, adapter).join(self)

    def leave_alone(self, kind: type, reason: str) -> None:
        """Say once, for each class of adapter and reason, that it is not covered."""
        if (kind, reason) not in self._warned:
            self._warned.add((kind, reason))
            if log.LEVELS[self.adapter.settings.log.level] <= log.LEVELS["warning"]:
                log.write("warning", "left_alone", {"adapter": f"{kind.__module__}.{kind.__qualname__}", "why": reason})

    def lends_to(self, adapter: HTTPAdapter) -> bool:
        """Return whether an adapter takes its connections from the shared pool: it has no options of its own."""
        return _pool_options(adapter) == self._usual


class InstalledAdapter(ResilientAdapter):
    """A session's own adapter, covered by an installation. Never made, but what a plain one turns into."""

    _installation: Installation
    _logs_in = False

    def join(self, installation: Installation) -> None:
        """Begin to be resilient as an installation's adapter is, sharing its state."""
        self._installation = installation
        self._configure_as(installation.adapter)

    def send(
        self,
        request: PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: bool | str = True,
        cert: Any = None,
        proxies: Mapping[str, str] | None = None,
    ) -> Response:
        """Send a request as :class:`ResilientAdapter` does; as plain requests does, once it was given retries."""
        if repeats_beneath(self.max_retries):
            self._installation.leave_alone(HTTPAdapter, _REPEATS)
            return HTTPAdapter.send(self, request, stream, timeout, verify, cert, proxies)
        return super().send(request, stream, timeout, verify, cert, proxies)

    def get_connection_with_tls_context(
        self,
        request: PreparedRequest,
        verify: bool | str | None,
        proxies: Mapping[str, str] | None = None,
        cert: Any = None,
    ) -> Any:
        """Return the pool for a request: one that all sessions share, or the adapter's own where it was tuned."""
        # Asked anew each time: scripts tune an adapter after it was mounted (a source address, an SSL context).
        if self._may_share(request) and self._installation.lends_to(self):
            return self._installation.adapter.get_connection_with_tls_context(request, verify, proxies, cert)
        return super().get_connection_with_tls_context(request, verify, proxies, cert)

    def _may_share(self, request: PreparedRequest) -> bool:
        # A kept connection may have been closed by the server a moment ago. What may be repeated loses nothing by that;
        # an order would be in doubt, in a script that has made a new connection for each of them.
        if request.method not in self.settings.retry.methods:
            return False
        # These log in for the connection: whoever got it next would be who did.
        self._logs_in = self._logs_in or transport.logs_in(request)
        return not self._logs_in

    def close(self) -> None:
        """Close the adapter's own connections. The shared pool, and a transport handed to install(), stay open."""
        self._pools.clear()
        HTTPAdapter.close(self)

    # By reference: a script's session pickles whatever install() was given (a lambda, say), no secret gets into the
    # pickle, and it can be read where nothing is installed.
    def __reduce__(self) -> tuple[Callable[..., HTTPAdapter], tuple[object]]:
        return _unpickled, (cast(Any, HTTPAdapter).__getstate__(self),)


def _unpickled(state: object) -> HTTPAdapter:
    adapter = HTTPAdapter.__new__(HTTPAdapter)
    adapter.__setstate__(state)  # type: ignore[attr-defined]
    if _patch.installations:
        _patch.installations[-1].cover(adapter)
    return adapter


def _pool_options(adapter: HTTPAdapter) -> tuple[Any, ...]:
    """Return what two adapters must agree in to share a pool."""
    manager = adapter.poolmanager
    return type(manager), adapter._pool_connections, manager.connection_pool_kw, adapter.proxy_manager  # type: ignore[attr-defined]


class _Patch:
    """Whose turn it is, and what was there before."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.installations: tuple[Installation, ...] = ()
        self._owner: Any = None
        self._before: Any = None
        self._ours: Any = None

    def add(self, installation: Installation) -> None:
        with self.lock:
            if not self.installations:
                # Another package may have put a subclass in the place of requests.Session.
                self._owner = next(cls for cls in requests.Session.__mro__ if "mount" in vars(cls))
                self._before = self._owner.mount
                self._ours = self._owner.mount = _covering(self._before)
            self.installations = (*self.installations, installation)

    def remove(self, installation: Installation | None = None) -> None:
        """Take one out, the innermost where None; one that is out already stays so."""
        with self.lock:
            if installation is None:
                installation = self.installations[-1] if self.installations else None
            if installation is None or installation not in self.installations:
                return
            self.installations = tuple(one for one in self.installations if one is not installation)
            # What somebody else has put over ours meanwhile is not ours to take away; beneath it ours does nothing.
            if not self.installations and vars(self._owner)["mount"] is self._ours:
                self._owner.mount = self._before
        installation.adapter.close()

    def for_session(self, session: requests.Session) -> Installation | None:
        """Return the installation that a session belongs to: the one it is made under, for life."""
        mounted = getattr(session, "adapters", None)
        if not mounted:
            return self.installations[-1] if self.installations else None
        # One of an older session has adapters, and none of them is ours.
        return next((one._installation for one in mounted.values() if isinstance(one, InstalledAdapter)), None)


def _covering(before: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(before)
    def mount(self: requests.Session, prefix: str, adapter: BaseAdapter) -> None:
        installation = _patch.for_session(self) if _patch.installations else None
        if installation is not None:
            installation.cover(adapter)
        before(self, prefix, adapter)

    return mount


_patch = _Patch()


def _reset_after_fork() -> None:
    _patch.lock = threading.Lock()


if hasattr(os, "register_at_fork"):  # pragma: no branch - Windows has no fork
    os.register_at_fork(after_in_child=_reset_after_fork)
