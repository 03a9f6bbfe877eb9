"""What users import is what the contract names, no more and no less."""

from __future__ import annotations

import importlib
import pickle

import pytest
import requests

import resilient_adapter

PUBLIC = {
    "ResilientAdapter", "Settings", "install", "uninstall", "explain", "resilience_of", "Token", "HmacSigner",
    "OrderReconciler", "Event",
    "ResilienceError", "ApiError", "UnauthorizedError", "RateLimitError", "ServerBusyError", "TransientError",
    "InvalidRequestError", "SignatureError", "OrderError", "PositionError", "MarginError", "StreamError",
    "CircuitOpenError", "DeadlineExceededError", "OutcomeUnknownError", "TokenRefreshError", "JournalError",
    "SettingsError",
}  # fmt: skip


def test_all_names_are_there_and_no_others() -> None:
    """``__all__`` is the list of public names, and each of them exists."""
    assert set(resilient_adapter.__all__) == PUBLIC
    assert len(resilient_adapter.__all__) == len(PUBLIC)
    assert all(hasattr(resilient_adapter, name) for name in PUBLIC)


def test_everything_else_at_the_top_is_a_module_or_private() -> None:
    """Nothing public slips in beside the list."""
    others = {name for name in dir(resilient_adapter) if not name.startswith("_")} - PUBLIC
    modules = {name for name in others if importlib.util.find_spec(f"resilient_adapter.{name}") is not None}
    assert others == modules


def test_what_is_imported_late_is_as_public_as_the_rest() -> None:
    """``dir()``, a star import and pickling know every name; what is no name of ours is an AttributeError as ever."""
    assert set(dir(resilient_adapter)) >= PUBLIC
    namespace: dict[str, object] = {}
    exec("from resilient_adapter import *", namespace)
    assert namespace.keys() >= PUBLIC
    for name in PUBLIC:
        assert pickle.loads(pickle.dumps(getattr(resilient_adapter, name))) is namespace[name]
    with pytest.raises(AttributeError, match="has no attribute 'HmacSinger'"):
        _ = resilient_adapter.HmacSinger  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_public_names_have_docstrings(name: str) -> None:
    """Each public name says what it is for."""
    assert (getattr(resilient_adapter, name).__doc__ or "").strip()


def test_a_response_without_the_adapter_has_no_story() -> None:
    """``resilience_of`` says that a response did not come through the adapter, rather than to return None."""
    with pytest.raises(AttributeError, match="did not come through a ResilientAdapter"):
        resilient_adapter.resilience_of(requests.Response())


def test_explain_knows_codes_and_statuses_and_nothing_else() -> None:
    """``explain`` returns the table's record; a code that nobody lists is a KeyError."""
    assert resilient_adapter.explain(-1003).recovery == "throttle"
    assert resilient_adapter.explain(503).executed == "unknown"
    with pytest.raises(KeyError):
        resilient_adapter.explain(-9999)


def test_a_token_does_not_show_its_value() -> None:
    """A token's repr is safe to log, and it pickles whole."""
    token = resilient_adapter.Token("very-secret", expires_at=12.0)
    assert "very-secret" not in repr(token)
    assert pickle.loads(pickle.dumps(token)) == token
