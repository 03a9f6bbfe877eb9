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
from .repairs.signing import HmacSigner
from .repairs.token import Token
from .settings import Settings
from .telemetry.events import Event

__version__ = "0.1.0"
