"""``orders``: what the order journal knows, and what is still to be found out."""

from __future__ import annotations

import argparse
import json
import math
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..clock import SYSTEM_CLOCK
from ..errors import JournalError
from . import CommandError, load_settings

if TYPE_CHECKING:
    from requests import PreparedRequest, Response

    from ..adapter import ResilientAdapter
    from ..settings.schema import Settings
    from ..state.journal import Entry, Journal


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "orders",
        description="List what an order journal knows: each order with what became of it. An order that was sent by a "
        "process that is gone, without an outcome, is unknown.",
    )
    parser.add_argument("journal", metavar="JOURNAL", help="the file that orders.journal names; it is not made")
    parser.add_argument("--unresolved", action="store_true", help="only the orders that are unknown")
    parser.add_argument("--json", action="store_true", help="print JSON")
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--resolve",
        metavar="ID",
        help="give your word that this order may be sent again; exit status 1 where the journal does not have it",
    )
    what.add_argument(
        "--reconcile",
        action="store_true",
        help="ask the server about each order that is unknown; exit status 1 where one of them still is",
    )
    parser.add_argument("--settings", metavar="FILE", help="the settings file that says how to look orders up")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from ..state.journal import Journal

    path = Path(args.journal)
    if not path.is_file():
        problem = "that is no file" if path.exists() else "there is no such journal"
        raise CommandError(f"{path}: {problem}", status=1)
    journal = Journal(args.journal, SYSTEM_CLOCK, create=False)
    try:
        if args.resolve is not None:
            return _resolve(journal, args.resolve)
        left = _reconcile(journal, load_settings(args.settings)) if args.reconcile else 0
        _print(journal.entries(unresolved=args.unresolved), as_json=args.json)
    except JournalError as error:
        raise CommandError(str(error), status=1) from None
    finally:
        journal.close()
    return 1 if left else 0


def _resolve(journal: Journal, identity: str) -> int:
    entries = journal.entries(id=identity)
    if not entries:
        raise CommandError(f"{identity}: the journal has no such order", status=1)
    if journal.resolve(identity):
        print(f"{identity}: resolved; it may be sent again")
    else:
        print(f"{identity}: nothing to resolve; it is {entries[-1].state}")
    return 0


def _reconcile(journal: Journal, settings: Settings) -> int:
    """Ask the server about each order that is unknown. Returns how many still are."""
    from ..adapter import ResilientAdapter
    from ..core.order import State
    from ..repairs.reconcile import StillUnknownError, reconciler_from_settings
    from ..state.journal import this_process

    left = 0
    holder = this_process()
    for entry in journal.entries(unresolved=True):
        what = f"{entry.intent.id}: "
        # An adapter that raised would hide the codes by which a look-up says "no such order".
        own = settings.for_origin(entry.intent.origin)._replace(mode="enforce", on_error="return")
        reconciler = reconciler_from_settings(own)
        if reconciler is None:
            raise CommandError("orders.query_path is not set: there is no way to look an order up")
        if not journal.hold([entry.number], holder):
            print(f"{what}another process is finding out", file=sys.stderr)
            left += 1
            continue
        try:
            found = reconciler(_order(entry, own), _Send(ResilientAdapter(own), entry))
        except StillUnknownError as error:
            print(f"{what}still unknown: {error}", file=sys.stderr)
            journal.release(holder)
            left += 1
        else:
            journal.note([entry.number], State.NOT_EXECUTED if found is None else State.EXECUTED)
            print(f"{what}{'not executed' if found is None else 'executed'}", file=sys.stderr)
    return left


class _Send:
    """Sends look-ups, as a call would let a reconciler do."""

    def __init__(self, adapter: ResilientAdapter, entry: Entry) -> None:
        self._adapter = adapter
        self.clock = SYSTEM_CLOCK
        self.deadline = math.inf
        now = SYSTEM_CLOCK.monotonic()
        self.sent_at = min(now, now - (SYSTEM_CLOCK.time() - entry.sent_at))
        signing = adapter.settings.signing
        self.recv_window = None if signing.api_key is None else signing.recv_window

    def __call__(self, request: PreparedRequest) -> Response:
        return self._adapter.send(request)


def _order(entry: Entry, settings: Settings) -> PreparedRequest:
    """Return the order, as far as the journal has written it down."""
    import requests

    intent = entry.intent
    named = {} if intent.client_id is None else {settings.orders.client_id: intent.client_id}
    params = {**intent.carry, **named}
    return requests.Request(intent.method, intent.origin + intent.path, params=params).prepare()


def _print(entries: list[Entry], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps([_fields(entry) for entry in entries], indent=2))
        return
    rows = [_row(_fields(entry)) for entry in entries]
    if not rows:
        return
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


def _fields(entry: Entry) -> dict[str, Any]:
    intent = entry.intent
    return {
        "id": intent.id,
        "client_id": intent.client_id,
        "state": entry.state.value,
        "origin": intent.origin,
        "method": intent.method,
        "path": intent.path,
        "carry": dict(intent.carry),
        "sent_at": _instant(entry.sent_at),
        "updated_at": _instant(entry.updated_at),
        "pid": entry.pid,
        "code": entry.code,
        "status": entry.status,
    }


def _row(fields: dict[str, Any]) -> tuple[str, ...]:
    answer = fields["code"] if fields["code"] is not None else fields["status"]
    return (
        fields["id"],
        fields["state"],
        fields["sent_at"],
        f"{fields['method']} {fields['origin']}{fields['path']}",
        " ".join(f"{name}={value}" for name, value in fields["carry"].items()),
        "" if answer is None else str(answer),
    )


def _instant(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
