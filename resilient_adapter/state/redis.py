"""Records in Redis or Valkey, for processes on many machines.

A record is a string with an expiry, "VERSION VALUE". It is changed by one script, which compares, writes and tells the
listeners, all of it by the server's clock. A version is the time in microseconds, but never less than one more than
the last; so it grows from one life of a name to the next as long as the server's clock is not set back.

redis-py's connections are used, not its clients: those try again, wait for a pool, and connect within the call, where
a name server alone can take many seconds. Here somebody else connects, and the call waits for :data:`TIMEOUT` only.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import re
import socket
import ssl
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any, NamedTuple, Protocol, TypeVar

from ..clock import SYSTEM_CLOCK
from .address import Host, redis_address, written
from .backend import TIMEOUT, Seen, StoreError

T = TypeVar("T")

_KEPT_OPEN = 8  # connections
_BATCH = 500  # names in one round trip, and changes that are heard at a time
_SILENCE = 2.0  # seconds after which a silent server is asked whether it is still there
_PATIENCE = 1.0  # seconds that it has for the answer


class _Connection(Protocol):
    """What is used of redis-py's connections."""

    def connect(self) -> None: ...

    def send_command(self, *parts: object) -> None: ...

    def read_response(self) -> Any: ...

    def can_read(self, timeout: float = 0) -> bool: ...

    def disconnect(self) -> None: ...


class _Script(NamedTuple):
    text: str
    sha: str


def _script(text: str) -> _Script:
    return _Script(text, hashlib.sha1(text.encode("ascii"), usedforsecurity=False).hexdigest())


# KEYS: the record. ARGV: the version that it is taken to be at, its milliseconds to live, the channel of those who are
# told (empty: nobody), its name for them, its value (missing: it is removed). Numbers stay texts where they can: Lua
# would round and shorten them.
_SWAP = _script("""
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local stamp = string.format('%.0f', now)
local version, value = '0', false
local record = redis.call('GET', KEYS[1])
if record then
    local space = string.find(record, ' ', 1, true)
    version, value = string.sub(record, 1, space - 1), string.sub(record, space + 1)
end
if version ~= ARGV[1] then
    return {0, version, value, stamp}
end
version = string.format('%.0f', math.max(version + 1, now))
value = ARGV[5] or false
if value then
    redis.call('SET', KEYS[1], version .. ' ' .. value, 'PX', ARGV[2])
else
    version = '0'
    redis.call('DEL', KEYS[1])
end
if ARGV[3] ~= '' then
    redis.call('PUBLISH', ARGV[3], cjson.encode({ARGV[4], version, value, stamp}))
end
return {1, version, value, stamp}
""")

_READ = _script("""
local time = redis.call('TIME')
return {string.format('%.0f', time[1] * 1000000 + time[2]), redis.call('MGET', unpack(KEYS))}
""")


class RedisBackend:
    """Keeps records in a Redis or Valkey server.

    In a cluster, all names of a namespace are on one node (they share a hash tag), which is found by asking another.

    Args:
        url: ``redis://``, ``rediss://``, ``unix://``, ``redis+sentinel://`` or ``rediss+sentinel://``.
        namespace: what the names of its keys and its channel begin with.

    Raises:
        ValueError: the URL is none of these.
    """

    def __init__(self, url: str, namespace: str) -> None:
        self._address = redis_address(url)
        self._namespace = namespace
        self._prefix = f"{{{namespace}}}:"
        self._idle: list[_Connection] = []
        self._node: Host | None = None  # of a cluster, where our names are
        self._channel: str | None = None

    def __str__(self) -> str:
        return f"Redis at {self._address.shown}"

    def swap(self, key: str, version: int, value: str | None, ttl: float, *, tell: bool = True) -> Seen:
        def swap() -> Seen:
            channel = self._channel_name() if tell else ""
            args = [version, max(1, round(ttl * 1000)), channel, key, *([] if value is None else [value])]
            swapped, found, now_value, now = self._run(_SWAP, [key], *args)
            return Seen(key, int(found), now_value, int(now) / 1e6, swapped == 1)

        return self._attempt(swap)

    def read(self, keys: Sequence[str]) -> list[Seen]:
        def read() -> list[Seen]:
            found: list[Seen] = []
            for start in range(0, len(keys), _BATCH):
                batch = keys[start : start + _BATCH]
                now, records = self._run(_READ, batch)
                found += (_seen(key, record, int(now) / 1e6) for key, record in zip(batch, records, strict=True))
            return found

        return self._attempt(read)

    def keys(self) -> list[str]:
        def scan() -> list[str]:
            self._run(_READ, [""])  # unlike SCAN, it is sent on to the node of a cluster that has our names
            pattern = re.sub(r"([\[\]*?\\^])", r"\\\1", self._prefix) + "*"
            found: dict[str, None] = {}  # SCAN may tell of one twice
            cursor = ""
            while cursor != "0":
                cursor, names = self._call("SCAN", cursor or "0", "MATCH", pattern, "COUNT", 1000)
                found.update(dict.fromkeys(name[len(self._prefix) :] for name in names))
            return list(found)

        return self._attempt(scan)

    def listen(self) -> RedisListener:
        def subscribe() -> RedisListener:
            connection = self._connected()
            try:
                connection.send_command("SUBSCRIBE", self._channel_name())
                connection.read_response()
            except BaseException:
                connection.disconnect()
                raise
            return RedisListener(self, connection)

        return self._attempt(subscribe)

    def reset_after_fork(self) -> None:
        self._idle = []  # redis-py closes its copy of a parent's socket, and says nothing on it

    def close(self) -> None:
        with contextlib.suppress(IndexError):  # another thread may close them too
            while True:
                self._idle.pop().disconnect()

    def _attempt(self, operation: Callable[[], T]) -> T:
        """Return what an operation returns. What goes wrong is a StoreError, and whoever comes next connects afresh."""
        errors = _exceptions()
        try:
            return operation()
        except StoreError as error:
            failure = error
        # ValueError: a record that is not ours. TypeError: a URL that is not quite redis-py's.
        except (errors.RedisError, OSError, ValueError, TypeError, FutureTimeoutError) as error:
            failure = StoreError(f"{self} cannot be used: {trouble(error, self._namespace)}")
        self.close()
        # Out here, lest the server's own text hang on in the error's context: it may repeat a password.
        raise failure

    def _run(self, script: _Script, keys: Sequence[str], *args: object) -> Any:
        rest = (len(keys), *(self._prefix + key for key in keys), *args)
        command: tuple[object, ...] = ("EVALSHA", script.sha, *rest)
        for _ in range(2):
            try:
                return self._call(*command)
            except _exceptions().ResponseError as error:
                # Neither has been executed.
                node = _moved_to(error)
                if node is not None:
                    self.close()
                    self._node = node
                elif isinstance(error, _exceptions().NoScriptError):
                    command = ("EVAL", script.text, *rest)
                else:
                    raise
        return self._call(*command)

    def _call(self, *command: object) -> Any:
        connection = self._connected()
        try:
            connection.send_command(*command)
            answer = connection.read_response()
        except _exceptions().ResponseError:
            self._keep(connection)  # an answer too
            raise
        except BaseException:
            connection.disconnect()
            raise
        self._keep(connection)
        return answer

    # --- connections

    def _connected(self) -> _Connection:
        """Return a connection for one thread: one that is not in use, or a new one."""
        with contextlib.suppress(IndexError):
            while True:
                connection = self._idle.pop()
                if _is_fresh(connection):
                    return connection
                connection.disconnect()
        _redis()  # importing it takes longer than a connection may
        future: Future[_Connection] = Future()
        try:
            threading.Thread(target=self._connect, args=(future,), name="redis-connect", daemon=True).start()
        except RuntimeError as error:  # at the end of the program
            raise StoreError(f"{self} cannot be used: {error}") from error
        try:
            return future.result(TIMEOUT)
        except FutureTimeoutError:
            future.add_done_callback(self._keep_late)
            raise

    def _connect(self, future: Future[_Connection]) -> None:
        try:
            future.set_result(self._new_connection())
        except BaseException as error:
            future.set_exception(error)

    def _new_connection(self) -> _Connection:
        url = self._address.url
        options = _options(url.format(written(self._primary())) if self._address.sentinels else url)
        if self._node is not None:
            # Where it is gone, the one that the URL names may know who has taken its place.
            with contextlib.suppress(_exceptions().RedisError, OSError):
                return _opened({**options, "host": self._node.name or options.get("host"), "port": self._node.port})
        return _opened(options)

    def _primary(self) -> Host:
        """Ask the sentinels, one after the other, where the server is."""
        failure: Exception | None = None
        unknown = False
        for sentinel in self._address.sentinels:
            options = _options(self._address.url.format(written(sentinel)))
            for name in ("username", "password", "db"):
                options.pop(name, None)  # the server's
            try:
                connection = _opened(options)
                try:
                    connection.send_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._address.service)
                    found = connection.read_response()
                finally:
                    connection.disconnect()
            except (_exceptions().RedisError, OSError) as error:
                failure = error
                continue
            if found is not None:
                return Host(found[0], int(found[1]))
            unknown = True
        if failure is None or unknown:
            raise StoreError(f"{self} cannot be used: no sentinel that answers knows a service of this name")
        raise failure

    def _channel_name(self) -> str:
        if self._channel is None:
            url = self._address.url
            db = _options(url.format("localhost:1") if self._address.sentinels else url).get("db", 0)
            # Channels know no databases: two namespaces of the same name must not hear each other.
            self._channel = f"{self._prefix}changes@{db}"
        return self._channel

    def _keep_late(self, future: Future[_Connection]) -> None:
        if future.exception() is None:
            self._keep(future.result())

    def _keep(self, connection: _Connection) -> None:
        if len(self._idle) < _KEPT_OPEN:
            self._idle.append(connection)
        else:
            connection.disconnect()


class RedisListener:
    """Is subscribed to the channel of a :class:`RedisBackend`."""

    def __init__(self, backend: RedisBackend, connection: _Connection) -> None:
        self._backend = backend
        self._connection: _Connection | None = connection
        self._closed = False
        self._due = SYSTEM_CLOCK.monotonic() + _SILENCE  # when something has to have been heard
        self._asked = False

    def heard(self, timeout: float) -> list[Seen]:
        if self._closed:
            return []
        if self._connection is None:
            raise StoreError(f"{self._backend} is not listened to any more")
        connection, self._connection = self._connection, None
        try:
            changes = self._backend._attempt(lambda: self._heard(connection, timeout))
        except BaseException:
            connection.disconnect()  # for good: it would connect again by itself, and not be subscribed
            raise
        self._connection = connection
        if self._closed:  # meanwhile, by another thread
            self.close()
        return changes

    def _heard(self, connection: _Connection, timeout: float) -> list[Seen]:
        now = SYSTEM_CLOCK.monotonic
        end = now() + timeout
        changes: list[Seen] = []
        while True:
            # What has begun to arrive is waited for, but not what comes after it.
            wait = 0.0 if changes else max(0.0, min(end, self._due) - now())
            if len(changes) < _BATCH and connection.can_read(wait):
                changes += _changes(connection.read_response())
                self._due, self._asked = now() + _SILENCE, False
            elif changes:
                return changes
            elif now() < self._due:
                return []
            elif self._asked:
                raise StoreError(f"{self._backend} cannot be used: the connection is dead")
            else:
                connection.send_command("PING")
                self._due, self._asked = now() + _PATIENCE, True

    def close(self) -> None:
        self._closed = True
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.disconnect()


def _seen(key: str, record: str | None, now: float) -> Seen:
    if record is None:
        return Seen(key, 0, None, now)
    version, _, value = record.partition(" ")
    return Seen(key, int(version), value, now)


def _changes(message: Any) -> list[Seen]:
    if message[0] != "message":
        return []  # the answer to a PING
    try:
        key, version, value, now = json.loads(message[2])
        return [Seen(str(key), int(version), str(value) if value is not False else None, int(now) / 1e6)]
    except (ValueError, TypeError, OverflowError, RecursionError):
        return []  # somebody else's


def _moved_to(error: Exception) -> Host | None:
    """Return the node of a cluster that an error names, as "MOVED 1234 host:port"; redis-py may leave out the word."""
    if type(error).__name__ != "MovedError" and not str(error).startswith("MOVED "):
        return None
    match = re.search(r"(?:^|\s)[0-9]+ (\S*):([0-9]+)$", str(error))
    return Host(match[1].strip("[]"), int(match[2])) if match else None


# --- redis-py ---------------------------------------------------------------------------------------------------------


def _redis() -> Any:
    return importlib.import_module("redis.connection")


def _exceptions() -> Any:
    return importlib.import_module("redis.exceptions")


def _options(url: str) -> dict[str, Any]:
    """Return what redis-py reads out of a URL, but for what would make it wait, or try again."""
    kept = ("connection_class", "host", "port", "path", "db", "username", "password", "client_name")
    try:
        found = _redis().parse_url(url)
    except ValueError:
        raise TypeError from None  # as for a parameter that does not exist
    return {name: value for name, value in found.items() if name in kept or name.startswith("ssl_")}


def _opened(options: dict[str, Any]) -> _Connection:
    kind = options.get("connection_class", _redis().Connection)
    connection: _Connection = kind(
        **{name: value for name, value in options.items() if name != "connection_class"},
        socket_timeout=TIMEOUT,
        socket_connect_timeout=TIMEOUT,
        decode_responses=True,
        protocol=2,
    )
    connection.connect()
    return connection


def _is_fresh(connection: _Connection) -> bool:
    # Where there is something to read, it is the end: the server has closed it, or was restarted.
    try:
        return not connection.can_read()
    except (_exceptions().RedisError, OSError):
        return False


def trouble(error: BaseException, namespace: str) -> str:
    """Return what is wrong with a server, and what to do about it. Nothing of the URL is in it.

    Args:
        error: redis-py's, or the operating system's.
        namespace: the namespace, whose keys and channel may be forbidden.
    """
    if isinstance(error, TypeError):
        return "the URL has a parameter that redis-py does not take"
    if isinstance(error, ValueError):
        return "a record there is none of this package; choose another shared.namespace"
    # redis-py cuts the server's word off where it has a class for it, and servers put it into longer texts.
    text = f"{type(error).__name__}: {error}"
    for pattern, answer in _TROUBLES:
        if re.search(pattern, text):
            return answer.format(namespace=f"{{{namespace}}}:*")
    # redis-py's own text repeats the address in forms of its own: the cause is plainer.
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, socket.gaierror):
            return "its name cannot be resolved"
        if isinstance(cause, ssl.SSLError):
            reasons = (getattr(cause, name, None) for name in ("verify_message", "reason"))
            return f"TLS failed: {next(filter(None, reasons), 'no reason given')}"
        if isinstance(cause, OSError) and cause.strerror:
            return f"it cannot be reached: {cause.strerror}"
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, _exceptions().ResponseError):
        # What follows may be a record: "unknown command 'EVALSHA', with args beginning with: ..."
        return f"it refuses: {str(error).partition(', with args')[0]}"
    return "the connection was closed"


_TROUBLES = (
    ("Authentication required|NOAUTH", "it wants a password, and the URL has none"),
    ("without any password|no password is set", "it has no password, and the URL has one"),
    ("AuthenticationError|WRONGPASS", "it does not know this user and password"),
    (
        "NoPermissionError|NOPERM|ACL failure|can't (run this command|access)",
        "its user may not do what is needed on {namespace}: EVALSHA EVAL TIME GET MGET SET DEL SCAN PUBLISH SUBSCRIBE",
    ),
    ("ReadOnlyError|READONLY", "it is a read-only replica; name the primary, or the sentinels"),
    ("NOREPLICAS", "it has too few replicas to be written to"),
    ("OutOfMemoryError|OOM command", "it is out of memory, and takes nothing new (maxmemory)"),
    ("BusyLoadingError|LOADING", "it is still loading its data"),
    ("MISCONF", "it cannot save its data, and takes nothing new"),
    ("MasterDownError|MASTERDOWN|ClusterDownError|CLUSTERDOWN", "its cluster is down"),
    ("MovedError|AskError|TryAgainError|MOVED|ASK |TRYAGAIN", "its cluster is moving these names to another node"),
    ("max number of clients", "it has too many clients (maxclients)"),
    ("BUSY ", "it is busy with somebody's script"),
    ("InvalidResponse", "what answers there is no Redis server, or one that is spoken to by TLS (rediss://)"),
    ("TimeoutError", f"it did not answer within {TIMEOUT:g} s"),
)
