"""What ``resilient-adapter run`` does inside the script's process, once that has imported requests."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from ...errors import SettingsError
from ...install import install
from ...settings.schema import Settings
from ...telemetry.events import Event, fields
from .. import PROG

_PACKAGE = str(Path(__file__).parents[2]) + os.sep


def begin(settings: str, log: str | None, environ: Mapping[str, str]) -> None:
    """Install the adapter, and have tracebacks leave our frames out.

    Args:
        settings: path of the settings file.
        log: path of the file that events are added to, or None.
        environ: the environment that the process began with.

    Raises:
        SystemExit: the settings cannot be used, which shows only here (``token.source`` is the script's own); it has
            been said in one line.
    """
    try:
        install(Settings.load(settings, environ), listeners=() if log is None else (EventLog(log),))
    except SettingsError as error:
        print(f"{PROG}: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from None
    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = _excepthook
    if threading.excepthook is threading.__excepthook__:
        threading.excepthook = _thread_excepthook


class EventLog:
    """A listener that adds each event to a file, as a line of JSON.

    The file is opened for each: events are rare, and what is inherited by a fork, or held open for a day, is trouble.

    Args:
        path: the file.
    """

    def __init__(self, path: str) -> None:
        self._path = path

    def __call__(self, event: Event) -> None:
        """Write one event. One write of a short line, appended: several processes may share the file."""
        line = json.dumps({"time": round(event.time, 3), "event": event.name, **fields(event)})
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(line + "\n")


def _excepthook(kind: type[BaseException], error: BaseException, _: TracebackType | None) -> None:
    hide_frames(error)
    sys.__excepthook__(kind, error, error.__traceback__)


def _thread_excepthook(args: threading.ExceptHookArgs) -> None:
    error = args.exc_value
    if error is not None:
        hide_frames(error)
        args = threading.ExceptHookArgs((args.exc_type, error, error.__traceback__, args.thread))
    threading.__excepthook__(args)


def hide_frames(error: BaseException) -> None:
    """Take this package's frames out of the tracebacks of an exception and of those that led to it."""
    seen: set[int] = set()
    todo: list[BaseException | None] = [error]
    while todo:
        one = todo.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            one.__traceback__ = _without_ours(one.__traceback__)
            todo += (one.__cause__, one.__context__)


def _without_ours(traceback: TracebackType | None) -> TracebackType | None:
    kept = []
    while traceback is not None:
        if not traceback.tb_frame.f_code.co_filename.startswith(_PACKAGE):
            kept.append(traceback)
        traceback = traceback.tb_next
    for entry in reversed(kept):
        traceback = TracebackType(traceback, entry.tb_frame, entry.tb_lasti, entry.tb_lineno)
    return traceback
