"""One token for many processes, or one login at a time: a record with a lease, and the token, encrypted, where allowed.

Whoever needs a token takes the lease and asks the source; the others wait for the record. Where tokens are shared they
find the new one in it. Where they are not, they log in one after the other, each only if its own is stale.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import SettingsError
from ..state.store import Change, Store, time_left
from .token import Token

if TYPE_CHECKING:
    from ..clock import Clock

#: Seconds that a login may take before another process may begin one: its own may have died.
LEASE = 15.0
#: Seconds for which a token is kept of which nobody knows when it ends.
_KEPT = 86_400.0
#: Seconds between looks at the deadline, while another process logs in; and the least that is waited.
_LOOK, _LEAST = 0.25, 0.01


class Cipher(Protocol):
    """Encrypts what is kept of a token."""

    def encrypt(self, text: bytes) -> bytes:
        """Return the text, unreadable without the key."""
        ...

    def decrypt(self, token: bytes) -> bytes:
        """Return the text again.

        Raises:
            Exception: it is not what the same key has encrypted.
        """
        ...


def fernet(key: str) -> Cipher:
    """Return the cipher of ``shared.token_key`` (the Fernet specification: AES-128-CBC and HMAC-SHA256).

    Raises:
        SettingsError: cryptography is not installed.
    """
    try:
        from cryptography.fernet import Fernet
    except ImportError:
        raise SettingsError(
            "shared.tokens needs the package cryptography: pip install 'resilient_adapter[redis]'"
        ) from None
    return Fernet(key)


class SharedToken:
    """What one process does to the record of a token.

    Args:
        store: where the record is.
        key: its name.
        cipher: encrypts tokens; None: they are not shared, only the turns in which they are fetched.
        clock: tells the time.
        heard: given each token that another process has fetched, from whatever thread.
    """

    def __init__(
        self, store: Store, key: str, cipher: Cipher | None, clock: Clock, heard: Callable[[Token], object]
    ) -> None:
        self._cipher = cipher
        self._clock = clock
        self._heard = heard
        self._record = store.record(key, self._changed)

    def fetch(self, usable: Callable[[Token], bool], ask: Callable[[], Token], deadline: float) -> Token | None:
        """Return a token: the one that is there, else one from the source, asked by one process at a time.

        Args:
            usable: whether a token that is there will do: it is not the one that was refused.
            ask: asks the source. What it raises passes through.
            deadline: monotonic instant until which another process's login is waited for.

        Returns:
            the token; None where another process still had the lease at the deadline.
        """
        name = uuid.uuid4().hex

        def lease(value: Any, now: float) -> Change | None:
            if self._usable(value, usable) is not None or leased(value, now) > 0:
                return None
            return Change({**_parts(value), "lease": {"id": name, "until": now + LEASE, "for": LEASE}}, _KEPT)

        while True:
            try:
                result = self._record.update(lease)
            except BaseException:
                # An interrupt. The store may have given the lease all the same.
                self._record.look()
                self._give_back(None, name)
                raise
            if result.changed:
                break
            token = self._usable(result.value, usable)
            if token is not None:
                return token
            left = deadline - self._clock.monotonic()
            if left <= 0:
                return None
            self._record.wait(min(left, _LOOK, max(leased(result.value, result.now), _LEAST)))
        fresh: Token | None = None
        try:
            fresh = ask()
        finally:
            # Also where it raised, or an interrupt passes: nobody may wait for a lease that is of no use.
            kept = self._give_back(fresh, name)
        # One that took too long may have been overtaken; then the other login's token is the one that holds.
        return fresh if kept is None else self._usable(kept, usable) or fresh

    def read(self, value: Any) -> Token | None:
        """Return the token that a record holds, None where it holds none that our key opens."""
        if self._cipher is None:
            return None
        try:
            text, expires_at = json.loads(self._cipher.decrypt(value["token"].encode()))
            return Token(text, expires_at)
        except Exception:
            return None  # none yet, another key's, or no record of ours

    def _usable(self, value: Any, usable: Callable[[Token], bool]) -> Token | None:
        token = self.read(value)
        return token if token is not None and usable(token) else None

    def _changed(self, value: Any, now: float) -> None:
        token = self.read(value)
        if token is not None:
            self._heard(token)

    def _give_back(self, fresh: Token | None, name: str) -> Any:
        """Give the lease back, with a token if there is one; return what the record says where it was lost."""

        def change(value: Any, now: float) -> Change | None:
            if _lease(value).get("id") != name:
                return None
            kept = {**value, "lease": None}
            if fresh is not None:
                kept["at"] = now
                if self._cipher is not None:
                    text = json.dumps([fresh.value, fresh.expires_at]).encode()
                    kept["token"] = self._cipher.encrypt(text).decode()
            return Change(kept, _KEPT)

        result = self._record.update(change)
        return None if result.changed else _parts(result.value)


def _parts(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}  # none yet, or no record of ours


def leased(value: Any, now: float) -> float:
    """Return seconds for which somebody's lease lasts, 0 without one."""
    return time_left(_lease(value), now)


def _lease(value: Any) -> dict[str, Any]:
    return _parts(_parts(value).get("lease"))
