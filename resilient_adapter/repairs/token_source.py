"""Token sources made of settings alone: a login over HTTP, or a function named in the settings."""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import requests
from requests.adapters import HTTPAdapter

from .. import transport
from ..clock import SYSTEM_CLOCK, Clock
from ..core.envelope import read_envelope
from ..errors import SettingsError, TokenRefreshError
from .token import CutOffError, Token

if TYPE_CHECKING:
    from ..settings.schema import Settings


def source_from_settings(settings: Settings) -> Callable[[], str | Token] | None:
    """Return the token source that the settings describe, or None where they describe none.

    Raises:
        SettingsError: ``token.source`` names what cannot be imported.
    """
    token = settings.token
    if token.source is not None:
        return _imported(token.source)
    if token.url is None:
        return None
    return UrlTokenSource(
        token.url,
        method=token.method,
        body=token.json,
        field=token.field,
        success_codes=frozenset(settings.success_codes),
        timeout=(settings.connect_timeout or None, settings.read_timeout or None),
    )


def _imported(path: str) -> Callable[[], str | Token]:
    module_name, _, attribute = path.partition(":")
    try:
        source = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise SettingsError(f"token.source: {path!r} cannot be imported: {error}") from error
    if not callable(source):
        raise SettingsError(f"token.source: {path!r} is not callable")
    result: Callable[[], str | Token] = source
    return result


class UrlTokenSource:
    """Logs in by one request, on a transport of its own: through the adapter it would wait for itself.

    Args:
        url: where to log in.
        method: the request's method.
        body: sent as JSON where it is not empty.
        field: dotted path of the token in the answer's JSON.
        success_codes: envelope codes that are no error.
        timeout: connect and read timeout in seconds, None for none.
    """

    def __init__(
        self,
        url: str,
        *,
        method: str,
        body: Mapping[str, Any],
        field: str,
        success_codes: frozenset[int],
        timeout: tuple[float | None, float | None],
    ) -> None:
        self._url = url
        self._method = method
        self._body = body
        self._field = field
        self._success_codes = success_codes
        self._timeout = timeout

    def __call__(self) -> str:
        """Log in and return the token, as :meth:`log_in` does, without a deadline."""
        return self.log_in(SYSTEM_CLOCK, math.inf)

    @transport.unlogged
    def log_in(self, clock: Clock, deadline: float) -> str:
        """Log in and return the token.

        Args:
            clock: the clock that the deadline is on.
            deadline: monotonic instant at which the call that needs the token ends; infinity without one.

        Raises:
            TokenRefreshError: no answer came, it was an error, or it held no token. Shows nothing of what was sent or
                received. A :class:`CutOffError` where the deadline ended it.
        """
        left = deadline - clock.monotonic()
        if left <= 0:
            raise CutOffError("there was no time left to log in")
        # A session for what the environment says (proxies, certificates, .netrc), but not to send through: under
        # install() its adapters are ours.
        session = requests.Session()
        request = session.prepare_request(requests.Request(self._method, self._url, json=self._body or None))
        options: Any = session.merge_environment_settings(self._url, {}, True, None, None)
        own = HTTPAdapter()
        failure = ""
        try:
            timeout = transport.within(self._timeout, left)
            response = own.send(request, timeout=timeout, **options)  # type: ignore[arg-type]
            content = transport.read_body(response, clock=clock, deadline=deadline)
        except requests.RequestException as error:
            failure = type(error).__name__
        finally:
            own.close()
        if failure and clock.monotonic() >= deadline:
            raise CutOffError(f"the login got no answer within the call's deadline: {failure}")
        if failure:
            # Not chained: its text names the whole URL, and its request holds the password.
            raise TokenRefreshError(f"the login got no answer: {failure}")
        code = read_envelope(content).code
        if response.status_code >= 400 or (code is not None and code not in self._success_codes):
            raise TokenRefreshError(
                f"the login was refused: status {response.status_code}" + (f", code {code}" if code is not None else "")
            )
        try:
            value: Any = json.loads(content)
        except (ValueError, RecursionError):
            raise TokenRefreshError("the login's answer is not JSON") from None
        for name in self._field.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        if not isinstance(value, str):
            raise TokenRefreshError(f"the login's answer has no string at {self._field!r}")
        return value
