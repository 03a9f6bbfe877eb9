"""The store that ``shared.url`` names."""

from __future__ import annotations

from ..errors import SettingsError
from .address import file_path
from .backend import Backend
from .file import FileBackend
from .redis import RedisBackend


def open_backend(url: str, namespace: str) -> Backend:
    """Return what keeps records where a URL says. It connects when it is first used.

    Args:
        url: ``file:///…``, or one of the forms of a Redis server's address.
        namespace: what the names there begin with.

    Raises:
        SettingsError: the URL is neither, or redis-py is not installed.
    """
    if url.startswith("file:"):
        return FileBackend(file_path(url), namespace)
    try:
        backend = RedisBackend(url, namespace)
    except ValueError as error:
        raise SettingsError(f"shared.url: {error}") from None
    try:
        # Now, by one thread: those that need parts of it later might each hold what the other waits for.
        import redis  # noqa: F401
    except ImportError:
        raise SettingsError("shared.url: this needs redis-py: pip install 'resilient_adapter[redis]'") from None
    return backend
