"""A fleet for tests of what processes share: real processes, each of many threads that call an API again and again.

The processes live as long as the fleet, and make a new adapter for each run: what a run costs is its calls alone.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from typing_extensions import Self

PATH = "/api/v1/p"  # and the number of the process


class Call(NamedTuple):
    """One call, as the thread saw it that made it.

    Attributes:
        began: the monotonic time, which is that of the gateway's journal too.
        took: seconds.
        what: the code that was delivered, or the name of the exception.
    """

    began: float
    took: float
    what: int | str | None


class Done(NamedTuple):
    """What one process has to say of a run.

    Attributes:
        calls: its calls, in the order in which they ended.
        warnings: when it warned of its store, and with what text.
        operations: how many changes and reads its store was asked for.
        cpu: processor seconds, of all threads.
    """

    calls: Sequence[Call]
    warnings: Sequence[tuple[float, str]]
    operations: Mapping[str, int]
    cpu: float


class Fleet:
    """So many processes, numbered from ``first``. A context manager.

    Args:
        size: how many processes.
        first: the number of the first.
    """

    def __init__(self, size: int, first: int = 0) -> None:
        command = [sys.executable, __file__]
        self.processes = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(size)
        ]
        self._first = first

    def start(self, url: str, settings: Mapping[str, Any], *, threads: int = 8, gap: float = 0.05, **job: Any) -> None:
        """Let every process begin to call, each to a path of its own.

        Args:
            url: the API's origin.
            settings: of the adapter.
            threads: in each process.
            gap: seconds that each thread pauses between two calls.
            job: ``patience``: seconds that the store may take in place of 0.2; ``lease``: those of a refresh.
        """
        for number, process in enumerate(self.processes, self._first):
            own = {"url": url + PATH + str(number), "settings": dict(settings), "threads": threads, "gap": gap, **job}
            self._tell(process, own)

    def stop(self) -> list[Done]:
        """Let the calls under way end, and return what each process has to say."""
        for process in self.processes:
            self._tell(process, None)
        return [self._hear(process) for process in self.processes]

    def run(self, seconds: float, url: str, settings: Mapping[str, Any], **job: Any) -> list[Done]:
        """Let every process call for so many seconds."""
        self.start(url, settings, **job)
        time.sleep(seconds)
        return self.stop()

    def kill(self) -> None:
        """Kill all processes, as machines that fail."""
        for process in self.processes:
            process.kill()
            process.communicate()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.communicate()  # closes its input

    @staticmethod
    def _tell(process: subprocess.Popen[str], what: object) -> None:
        assert process.stdin is not None
        process.stdin.write(json.dumps(what) + "\n")
        process.stdin.flush()

    @staticmethod
    def _hear(process: subprocess.Popen[str]) -> Done:
        assert process.stdout is not None
        said = json.loads(process.stdout.readline())
        return Done([Call(*call) for call in said["calls"]], said["warnings"], said["operations"], said["cpu"])


def delivered(results: Sequence[Done]) -> Counter[int | str | None]:
    """Return how many calls ended in what way."""
    return Counter(call.what for one in results for call in one.calls)


def warned(results: Sequence[Done]) -> list[list[str]]:
    """Return the warnings of each process."""
    return [[text for _, text in one.warnings] for one in results]


# --- one of the processes ---------------------------------------------------------------------------------------------


class _Run:
    def __init__(self, job: Mapping[str, Any]) -> None:
        import requests

        from resilient_adapter import ResilientAdapter, Settings

        self._session, self._error = requests.Session, requests.RequestException
        self._url, self._gap = job["url"], job["gap"]
        self._calls: list[tuple[float, float, int | str | None]] = []
        self._over = threading.Event()
        self._adapter = ResilientAdapter(Settings.from_mapping(job["settings"]))
        self._cpu = time.process_time()
        self._threads = [threading.Thread(target=self._call) for _ in range(job["threads"])]
        for thread in self._threads:
            thread.start()

    def stop(self) -> dict[str, Any]:
        self._over.set()
        for thread in self._threads:
            thread.join()
        return {"calls": self._calls, "cpu": time.process_time() - self._cpu}

    def _call(self) -> None:
        session = self._session()
        session.trust_env = False
        session.mount("http://", self._adapter)
        while not self._over.is_set():
            began = time.monotonic()
            try:
                what: int | str | None = session.get(self._url).resilience.code  # type: ignore[attr-defined]
            except self._error as error:
                what = type(error).__name__
            self._calls.append((began, time.monotonic() - began, what))
            self._over.wait(self._gap)


def _count(operations: Counter[str]) -> None:
    """Count what stores are asked for."""
    from resilient_adapter.state.file import FileBackend
    from resilient_adapter.state.redis import RedisBackend

    def counted(method: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            operations[method.__name__] += 1
            return method(*args, **options)

        return call

    for kind in (FileBackend, RedisBackend):
        for name in ("swap", "read"):
            setattr(kind, name, counted(getattr(kind, name)))


def _set(patience: float = 0.2, lease: float = 15.0, **_: Any) -> None:
    from resilient_adapter.repairs import shared_token
    from resilient_adapter.state import file, redis

    vars(file)["TIMEOUT"] = vars(redis)["TIMEOUT"] = patience
    vars(redis)["_PATIENCE"] = max(1.0, patience)
    vars(shared_token)["LEASE"] = lease


def main() -> None:
    """Begin and end runs as the lines of the input say: a job, or null."""
    from resilient_adapter.telemetry import log

    warnings: list[tuple[float, str]] = []
    operations: Counter[str] = Counter()

    def write(level: str, name: str, fields: Mapping[str, object]) -> None:
        if name == "shared_store":
            warnings.append((time.monotonic(), str(fields["detail"])))

    log.write = write
    _count(operations)
    run: _Run | None = None
    for line in sys.stdin:
        job = json.loads(line)
        if run is not None:
            print(json.dumps({**run.stop(), "warnings": warnings, "operations": operations}), flush=True)
            run = None
        if job is not None:
            warnings.clear()
            operations.clear()
            _set(**job)
            run = _Run(job)
    if run is not None:
        run.stop()


if __name__ == "__main__":
    main()
