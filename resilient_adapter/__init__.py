"""Resilience for `requests`: an adapter to mount, and the calls above it survive their API."""

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
from .repairs.reconcile import OrderReconciler
from .repairs.signing import HmacSigner
from .repairs.token import Token
from .settings import Settings
from .telemetry.events import Event

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
