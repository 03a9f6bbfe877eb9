"""Tokens: held for all threads, refreshed by one of them, set on requests to their origins."""

from __future__ import annotations

import base64
import json
import math
import threading
from collections import OrderedDict
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol

from requests import PreparedRequest

from ..clock import Clock
from ..core.backoff import backoff
from ..core.frozen import Frozen
from ..errors import TokenRefreshError, told_of, without_frames

if TYPE_CHECKING:
    from .shared_token import SharedToken

#: How many tokens that were refused are remembered, to tell a request that merely carries an older one.
_STALE_KEPT = 16
#: Seconds of the year 5138; as milliseconds, of 1973.
_MILLISECONDS_FROM = 1e11
#: How long a thread waits for another thread's refresh between looks at its own deadline.
_LOOK = 0.5


class Token(Frozen):
    """A token and its end.

    Args:
        value: what is sent, without the scheme.
        expires_at: seconds since the epoch; read from a JWT's ``exp`` (RFC 7519, section 4.1.4) where not given, and
            None where it is not known.

    Raises:
        ValueError: the value is empty or cannot be a header's, or the end is no such number. The message does not show
            the value.
    """

    value: str
    expires_at: float | None = None

    def __init__(self, value: str, expires_at: float | None = None) -> None:
        if not isinstance(value, str) or not value or not value.isascii():
            raise ValueError("a token must be a string of ASCII characters, and not empty")
        if any(character <= " " or character == "\x7f" for character in value):
            raise ValueError("a token must not contain white space (it comes without its scheme) or control characters")
        if expires_at is not None:
            _check_end(expires_at)
        super().__init__(value, jwt_expiry(value) if expires_at is None else expires_at)

    def __repr__(self) -> str:
        return f"Token(expires_at={self.expires_at!r})"


def _check_end(expires_at: Any) -> None:
    # APIs write the end as a text, too, and in milliseconds: taken as it is, the token would never be refreshed.
    number = isinstance(expires_at, (int, float)) and not isinstance(expires_at, bool)
    if not (number and math.isfinite(expires_at)):
        raise ValueError("expires_at must be a number of seconds since the epoch")
    if expires_at >= _MILLISECONDS_FROM:
        raise ValueError("expires_at must be in seconds since the epoch, not in milliseconds")


def jwt_expiry(value: str) -> float | None:
    """Return the ``exp`` of a JWT in seconds since the epoch, unverified; None for what is no JWT or has none."""
    parts = value.split(".")
    if len(parts) != 3:
        return None
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (ValueError, RecursionError):
        return None
    expiry = claims.get("exp") if isinstance(claims, dict) else None
    if isinstance(expiry, bool) or not isinstance(expiry, (int, float)):
        return None
    try:
        return float(expiry)
    except OverflowError:
        return None


class CutOffError(TokenRefreshError):
    """A login that took longer than the call that it was made for has time: no sign that the next one will."""


class TimedSource(Protocol):
    """A token source that can be told until when the call that asks it has time."""

    def log_in(self, clock: Clock, deadline: float) -> str | Token:
        """Return a token.

        Args:
            clock: the clock that the deadline is on.
            deadline: monotonic instant until which the call has time; infinity without one.

        Raises:
            CutOffError: it took until then.
        """
        ...


class Refreshed(str, Enum):
    """How a refresh ended."""

    BY_US = "by_us"  # this thread asked the source
    BY_ANOTHER = "by_another"  # another thread asked the source, and this one waited for it
    NOT_NEEDED = "not_needed"  # the token in hand is another than the one refused: that was merely older
    FAILED = "failed"  # this thread asked the source, in vain
    HELD_BACK = "held_back"  # a refresh failed a moment ago, or takes too long: the source is not asked again yet


Shared = Callable[[Callable[["Token"], object]], "SharedToken"]


class TokenKeeper:
    """Holds the token of one source, and refreshes it single-flight: one thread asks the source, the others wait.

    No lock is held while the source is asked.

    Args:
        source: returns a token, or raises.
        header: the header it is sent in.
        scheme: what stands before it in the header; empty for nothing.
        refresh_ahead: seconds before a known expiry at which it is refreshed.
        clock: the clock that expiries and backoffs go by.
        random: uniform random numbers in [0, 1), for the backoff's jitter.
        wait: the backoff recipe after a failed refresh: base, factor, jitter and max_wait, in seconds.
        login_url: where the source logs in, where that is known: a request to it is given no token.
        shared: called when a token is first needed, with what is to be told of other processes' tokens; returns what
            fetches one for all of them. None: this process fetches its own.
    """

    def __init__(
        self,
        source: Callable[[], str | Token],
        *,
        header: str,
        scheme: str,
        refresh_ahead: float,
        clock: Clock,
        random: Callable[[], float],
        wait: tuple[float, float, float, float],
        login_url: str | None = None,
        shared: Shared | None = None,
    ) -> None:
        self._source = source
        self.header = header
        self._prefix = f"{scheme} " if scheme else ""
        self._refresh_ahead = refresh_ahead
        self._clock = clock
        self._random = random
        self._wait = wait
        self._login_url = login_url
        self._share = shared
        self._shared: SharedToken | None = None
        self._token: Token | None = None
        self._due = 0.0  # epoch seconds from which the token is refreshed ahead of time
        self._ends = float("inf")  # epoch seconds at which it is known to end
        self._stale: OrderedDict[str, None] = OrderedDict()
        self._failures = 0
        self._held_back_until = float("-inf")
        self.last_error: BaseException | None = None
        self.last_failure = ""
        self.reset_after_fork()

    def reset_after_fork(self) -> None:
        """Start with fresh locks: in a child process nobody may be left to release the old ones."""
        self._lock = threading.Lock()
        self._landed = threading.Condition(self._lock)
        self._leader: int | None = None  # the thread that is asking the source

    # --- on every call

    def value(self) -> str | None:
        """Return the token's value, or None where there is none yet. No lock, no refresh."""
        token = self._token
        return None if token is None else token.value

    def due(self) -> bool:
        """Return whether a send should be preceded by :meth:`prepare`. Cheap; a question."""
        return self._clock.time() >= self._due and self._leader != threading.get_ident()

    def concerns(self, request: PreparedRequest) -> bool:
        """Return whether a request is one that needs a token: all but a login itself."""
        return self._login_url is None or request.url != self._login_url

    def wants(self, request: PreparedRequest) -> bool:
        """Return whether a request has no token, or one known to be stale. A question."""
        carried = self.carried(request)
        return carried is None or carried in self._stale

    def stamp(self, request: PreparedRequest) -> str | None:
        """Set the token on a request, in place of one that is missing or known to be stale.

        Returns the value that the request carries now under our header, ours or the caller's own, or None.
        """
        value = self.value()
        if self._leader == threading.get_ident():
            return None  # the source's own login, through the same adapter
        if value is not None and self.wants(request):
            request.headers[self.header] = self._prefix + value
            return value
        return self.carried(request)

    def carried(self, request: PreparedRequest) -> str | None:
        """Return what a request carries under our header, without our scheme, or None."""
        text = request.headers.get(self.header)
        if text is None:
            return None
        if isinstance(text, bytes):
            text = text.decode("latin-1")
        return text.removeprefix(self._prefix)

    # --- when a token is needed

    def prepare(self, deadline: float) -> Refreshed | None:
        """See to it that a send has a token, ahead of time where its end is known.

        The first token, and one that is past its end, are waited for. A token that is still good is refreshed by one
        thread while the others go on with it. A failure stops nothing: the server is asked with what there is.

        Args:
            deadline: monotonic instant until which a refresh, another thread's too, is waited for.

        Returns None where there was nothing to do.
        """
        if not self.due():
            return None
        token = self._token
        good = token is not None and self._clock.time() < self._ends
        if good and (self._leader is not None or self._clock.monotonic() < self._held_back_until):
            return None
        return self.refresh(None if token is None else token.value, deadline, expired=not good)

    def refresh(self, refused: str | None, deadline: float, *, expired: bool = True) -> Refreshed:
        """Get a token newer than the one refused.

        Args:
            refused: the token's value that the server would not take (or that is due), None for none.
            deadline: monotonic instant until which a refresh, another thread's too, is waited for. (A source that is a
                function of the user's takes what time it takes.)
            expired: False where the token is merely due: it is not stale yet.
        """
        waited = False
        with self._lock:
            while True:
                if refused is not None and expired:
                    self._remember_stale(refused)
                token = self._token
                if (
                    token is not None
                    and token.value != refused
                    and token.value not in self._stale
                    and self._clock.time() < self._ends
                ):
                    return Refreshed.BY_ANOTHER if waited else Refreshed.NOT_NEEDED
                if self._leader is None:
                    break
                if self._leader == threading.get_ident():
                    return Refreshed.HELD_BACK
                left = deadline - self._clock.monotonic()
                if left <= 0:
                    return Refreshed.HELD_BACK
                failures = self._failures
                waited = True
                self._landed.wait(min(left, _LOOK))
                if self._failures > failures:
                    return Refreshed.HELD_BACK
            if self._clock.monotonic() < self._held_back_until:
                return Refreshed.HELD_BACK
            self._leader = threading.get_ident()
        fresh: Token | None = None
        error: BaseException | None = None
        asked = False

        def ask() -> Token:
            nonlocal asked
            asked = True
            return self._ask(refused, deadline)

        try:
            fresh = ask() if self._share is None else self._fetch(self._share, refused, ask, deadline)
        except Exception as caught:
            error = caught
        finally:
            # Also where a KeyboardInterrupt passes through: nobody may wait for a leader that is gone.
            with self._lock:
                self._leader = None
                if fresh is not None:
                    self._take(fresh, refused)
                elif error is not None:
                    self._failed(error)
                self._landed.notify_all()
        if fresh is not None:
            return Refreshed.BY_US if asked else Refreshed.BY_ANOTHER
        return Refreshed.FAILED if error is not None else Refreshed.HELD_BACK

    def _fetch(self, share: Shared, refused: str | None, ask: Callable[[], Token], deadline: float) -> Token | None:
        if self._shared is None:
            self._shared = share(self._hear)

        return self._shared.fetch(lambda token: token.value != refused and self._usable(token), ask, deadline)

    def _hear(self, fresh: Token) -> None:
        """Take another process's token. The one in hand may be good for a while yet, so it is not stale."""
        with self._lock:
            if fresh != self._token and self._usable(fresh):
                self._take(fresh, None)

    def _usable(self, token: Token) -> bool:
        """Return whether another process's token is neither one that was refused nor past its end."""
        return token.value not in self._stale and (token.expires_at is None or self._clock.time() < token.expires_at)

    def _ask(self, refused: str | None, deadline: float) -> Token:
        timed: TimedSource | None = self._source if hasattr(self._source, "log_in") else None
        answer = self._source() if timed is None else timed.log_in(self._clock, deadline)
        fresh = answer if isinstance(answer, Token) else Token(answer)
        if fresh.value == refused or fresh.value in self._stale:
            raise ValueError("the token source returned a token that had been refused")
        return fresh

    def _take(self, fresh: Token, refused: str | None) -> None:
        self._token = fresh
        self._failures = 0
        self._held_back_until = float("-inf")
        self.last_error = None
        if refused is not None:
            self._remember_stale(refused)
        now = self._clock.time()
        # An end that has passed on arrival says that the clocks differ: such a token is used until it is refused.
        # One that lives for less than twice refresh_ahead is refreshed at half its life, not before every call.
        if fresh.expires_at is None or fresh.expires_at <= now:
            self._ends = self._due = float("inf")
        else:
            self._ends = fresh.expires_at
            self._due = fresh.expires_at - min(self._refresh_ahead, (fresh.expires_at - now) / 2)

    def _failed(self, error: BaseException) -> None:
        self.last_failure = told_of(error)
        self.last_error = without_frames(error)
        if isinstance(error, CutOffError):
            return  # whoever waits with more time left may try at once
        base, factor, jitter, max_wait = self._wait
        pause = backoff(self._failures, base=base, factor=factor, jitter=jitter, max_wait=max_wait, u=self._random())
        self._failures += 1
        self._held_back_until = self._clock.monotonic() + pause

    def _remember_stale(self, value: str) -> None:
        self._stale[value] = None
        while len(self._stale) > _STALE_KEPT:
            self._stale.popitem(last=False)
