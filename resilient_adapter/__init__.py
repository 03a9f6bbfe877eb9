"""Resilience for `requests`: an adapter to mount, and the calls above it survive their API."""

from typing import TYPE_CHECKING

from .adapter import ResilientAdapter, resilience_of
from .core.codes import explain
from .errors import (
    ApiError,
    CircuitOpenError,
    DeadlineExceededError,
    InvalidRequestError,
    JournalError,
    MarginError,
    OrderError,
    OutcomeUnknownError,
    PositionError,
    RateLimitError,
    ResilienceError,
    ServerBusyError,
    SettingsError,
    SignatureError,
    StreamError,
    TokenRefreshError,
    TransientError,
    UnauthorizedError,
)
from .install import install, uninstall
from .settings import Settings
from .telemetry.events import Event

if TYPE_CHECKING:
    from .repairs.reconcile import OrderReconciler
    from .repairs.signing import HmacSigner
    from .repairs.token import Token
else:
    # What many programs never use is imported when it is asked for (PEP 562).
    _ELSEWHERE = {"HmacSigner": ".repairs.signing", "OrderReconciler": ".repairs.reconcile", "Token": ".repairs.token"}

    def __getattr__(name: str) -> object:
        if name not in _ELSEWHERE:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        value = globals()[name] = getattr(import_module(_ELSEWHERE[name], __name__), name)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__} - {"TYPE_CHECKING"})


__all__ = [
    "ApiError",
    "CircuitOpenError",
    "DeadlineExceededError",
    "Event",
    "HmacSigner",
    "InvalidRequestError",
    "JournalError",
    "MarginError",
    "OrderError",
    "OrderReconciler",
    "OutcomeUnknownError",
    "PositionError",
    "RateLimitError",
    "ResilienceError",
    "ResilientAdapter",
    "ServerBusyError",
    "Settings",
    "SettingsError",
    "SignatureError",
    "StreamError",
    "Token",
    "TokenRefreshError",
    "TransientError",
    "UnauthorizedError",
    "explain",
    "install",
    "resilience_of",
    "uninstall",
]
__version__ = "0.1.0"
