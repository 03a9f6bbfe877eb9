"""``report``: what a log says that was done, or in shadow mode would have been."""

from __future__ import annotations

import argparse
import ast
import json
import re
import sys
from collections import Counter
from collections.abc import Iterable
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass
from typing import Any

from ..telemetry.events import EventName
from . import CommandError

# The text that telemetry.log writes, after whatever a formatter puts before it: a name, then fields, origin first.
_TEXT = re.compile(rf"\b({'|'.join(EventName)}) (origin=.*)")
_FIELD = re.compile(r"""(\w+)=('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|\S+)""")
_NAMES = frozenset(name.value for name in EventName)

_REPEATED = (EventName.RETRY, EventName.THROTTLE, EventName.REFRESH, EventName.RESYNC, EventName.RECOVER)


@dataclass(frozen=True)
class Kind:
    """What events are counted by.

    Attributes:
        shadow: it was only watched: nothing was done.
        event: one of :class:`EventName`'s values.
        origin: scheme, host and port.
        cause: the envelope's code, else ``HTTP`` and the status, else the reason in words.
    """

    shadow: bool
    event: str
    origin: str
    cause: str


@dataclass
class Total:
    """How often something was met.

    Attributes:
        count: the number of events.
        wait: seconds waited, or that would have been, together.
    """

    count: int = 0
    wait: float = 0.0


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "report",
        description="Sum up a log: what the adapter did, and what it would have done in shadow mode. The log may be "
        "JSON lines, the text that goes to the standard library's logging, or both; all other lines are passed over.",
    )
    parser.add_argument("log", metavar="LOG", help="the file; -: standard input")
    parser.add_argument("--json", action="store_true", help="write JSON")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    try:
        with nullcontext(sys.stdin) if args.log == "-" else open(args.log, encoding="utf-8", errors="replace") as log:
            totals, others = sum_up(log)
    except OSError as error:
        raise CommandError(f"log {args.log}: {error.strerror}") from None
    if args.json:
        print(json.dumps(_document(totals, others), indent=2))
    else:
        print("\n".join(_text(totals, others)))
    return 0


# --- reading


def sum_up(lines: Iterable[str]) -> tuple[dict[Kind, Total], int]:
    """Return what the lines of a log come to, and how many of them are none of ours."""
    totals: dict[Kind, Total] = {}
    others = 0
    for line in lines:
        event = _from_json(line) or _from_text(line)
        kind = _kind(event) if event else None
        if event is None or kind is None:
            others += bool(line.strip())
            continue
        total = totals.setdefault(kind, Total())
        total.count += 1
        with suppress(TypeError, ValueError):
            total.wait += float(event.get("wait", 0.0))
    return totals, others


def _from_json(line: str) -> dict[str, Any] | None:
    if not line.lstrip().startswith("{"):
        return None
    try:
        document = json.loads(line)
    except (ValueError, RecursionError):
        return None
    # A JSON formatter of the standard library writes what the record carries beside its message.
    nested = document.get("resilient_adapter")
    return nested if isinstance(nested, dict) else document


def _from_text(line: str) -> dict[str, Any] | None:
    found = _TEXT.search(line)
    if found is None:
        return None
    return {**{key: _unquoted(text) for key, text in _FIELD.findall(found[2])}, "event": found[1]}


def _unquoted(text: str) -> str:
    if text[0] in "'\"":
        with suppress(SyntaxError, ValueError):  # it only looks like ours
            return str(ast.literal_eval(text))
    return text


def _kind(event: dict[str, Any]) -> Kind | None:
    """Return what an event is counted by; None for one of somebody else's, which may well have a name like ours."""
    name, origin, method = event.get("event"), event.get("origin"), event.get("method")
    if not (isinstance(name, str) and isinstance(origin, str) and isinstance(method, str) and name in _NAMES):
        return None
    code, status = event.get("code"), event.get("status")
    cause = event.get("detail", "")
    if name in (EventName.REFUSED, EventName.GIVE_UP):
        pass  # the reason says more than the answer before it
    elif code is not None:
        cause = code
    elif status is not None:
        cause = f"HTTP {status}"
    return Kind(str(event.get("shadow", False)) == "True", name, origin, str(cause))


# --- telling


def _document(totals: dict[Kind, Total], others: int) -> dict[str, Any]:
    return {
        "events": [{**asdict(kind), **asdict(total)} for kind, total in _in_order(totals)],
        "other_lines": others,
        "shadow": _saved(totals, shadow=True),
        "done": _saved(totals, shadow=False),
    }


def _saved(totals: dict[Kind, Total], *, shadow: bool) -> dict[str, float]:
    counts: Counter[str] = Counter()
    wait = 0.0
    for kind, total in totals.items():
        if kind.shadow is shadow:
            counts[kind.event] += total.count
            wait += total.wait if kind.event in _REPEATED else 0.0
    return {
        "repeated": sum(counts[name] for name in _REPEATED),
        "reconciled": counts[EventName.RECONCILE],
        "refused": counts[EventName.REFUSED],
        "given_up": counts[EventName.GIVE_UP],
        "waited": round(wait, 3),
    }


def _in_order(totals: dict[Kind, Total]) -> list[tuple[Kind, Total]]:
    order = {name.value: number for number, name in enumerate(EventName)}
    return sorted(
        totals.items(), key=lambda item: (not item[0].shadow, item[0].origin, order[item[0].event], -item[1].count)
    )


def _text(totals: dict[Kind, Total], others: int) -> Iterable[str]:
    for shadow, heading in ((True, "Shadow mode: what would have been done"), (False, "What was done")):
        rows = [(kind, total) for kind, total in _in_order(totals) if kind.shadow is shadow]
        if not rows:
            continue
        yield heading
        table = [(kind.event, kind.origin, kind.cause, str(total.count), f"{total.wait:.1f}") for kind, total in rows]
        table.insert(0, ("event", "origin", "code or cause", "times", "wait (s)"))
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        for event, origin, cause, times, wait in table:
            yield (
                f"  {event:<{widths[0]}}  {origin:<{widths[1]}}  {cause:<{widths[2]}}"
                f"  {times:>{widths[3]}}  {wait:>{widths[4]}}"
            )
        yield from _summary(_saved(totals, shadow=shadow), shadow)
        yield ""
    if not totals:
        yield "Nothing was done, and nothing would have been: the log has no event of the adapter's."
    yield f"{others} other line{'' if others == 1 else 's'} passed over."


def _summary(saved: dict[str, float], shadow: bool) -> Iterable[str]:
    repeated, refused, reconciled = saved["repeated"], saved["refused"], saved["reconciled"]
    if shadow:
        yield (
            f"  {_times(repeated, 'failure')} that the script was given would have been repeated instead,"
            f" after {saved['waited']:.1f} s of waiting."
        )
        if reconciled:
            yield f"  {_times(reconciled, 'request')} of unknown outcome would have been looked up."
        if refused:
            yield f"  {_times(refused, 'request')} would not have been sent."
        return
    yield (
        f"  {_times(repeated, 'failure')} repeated, after {saved['waited']:.1f} s of waiting;"
        f" {_times(saved['given_up'], 'time')} given up."
    )
    if reconciled:
        yield f"  {_times(reconciled, 'request')} of unknown outcome looked up."
    if refused:
        yield f"  {_times(refused, 'request')} not sent."


def _times(count: float, noun: str) -> str:
    return f"{count:.0f} {noun}{'' if count == 1 else 's'}"
