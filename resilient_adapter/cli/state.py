"""``state``: what processes share at the moment: circuits, cooldowns, pacing, retry budgets and the age of tokens."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from ..clock import SYSTEM_CLOCK
from . import CommandError, load_settings

if TYPE_CHECKING:
    from ..settings.schema import Settings
    from ..state.backend import Backend

#: What a reset makes to be as if nothing had happened. Slots and tokens end by themselves.
_RESET = ("circuit", "cooldown")


class Row(NamedTuple):
    """One record, in words.

    Attributes:
        kind: ``circuit``, ``cooldown``, ``pace``, ``budget`` or ``token``.
        name: the origin that it is about; of an endpoint's circuit and of a token, with a digest.
        state: what is so.
        seconds: for how long it will be, or of a token, has been; None where that is not known.
    """

    kind: str
    name: str
    state: str
    seconds: float | None


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "state",
        description="Show what the processes share that have these settings: open circuits, cooldowns, slots taken, "
        "repeats, and how old tokens are. What is not listed is closed, open to all, or not used.",
    )
    parser.add_argument("--settings", metavar="FILE", help="read this settings file instead of looking for one")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--reset",
        action="store_true",
        help="close all circuits and end all cooldowns, in every process that is listening; then show what is left",
    )
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from ..errors import SettingsError
    from ..state.backend import StoreError
    from ..state.opening import open_backend

    settings = load_settings(args.settings)
    shared = settings.shared
    if shared.url is None:
        raise CommandError("shared.url is not set: these settings share nothing")
    try:
        backend = open_backend(shared.url, shared.namespace)
        try:
            if args.reset:
                _reset(backend)
            rows = sorted(_rows(backend, settings))
        finally:
            backend.close()
    except SettingsError as error:
        raise CommandError(str(error)) from None
    except StoreError as error:
        raise CommandError(str(error), status=1) from None
    if args.json:
        print(json.dumps([row._asdict() for row in rows], indent=2))
        return 0
    if not rows:
        print("nothing is shared at the moment: all circuits are closed, and no origin is cooling down")
    widths = [max((len(str(row[column])) for row in rows), default=0) for column in range(2)]
    for row in rows:
        print(f"{row.kind:<{widths[0]}}  {row.name:<{widths[1]}}  {_text(row)}")
    return 0


def _text(row: Row) -> str:
    return row.state if row.seconds is None else f"{row.state} {row.seconds:.1f} s"


def _reset(backend: Backend) -> None:
    from ..state.store import Change, Store

    store = Store(backend, SYSTEM_CLOCK, _refuse, threaded=False)
    for key in list(backend.keys()):
        if key.partition(":")[0] in _RESET:
            store.record(key).update(lambda value, _: None if value is None else Change(None))


def _refuse(text: str) -> None:
    from ..state.backend import StoreError

    raise StoreError(text)


def _rows(backend: Backend, settings: Settings) -> Iterator[Row]:
    from ..state.store import every

    for key, value, now in every(backend):
        kind, _, name = key.partition(":")
        try:
            row = _READERS[kind](name, value, now, settings)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            continue  # no record of ours, or of another version
        if row is not None:
            yield row


def _circuit(name: str, value: Any, now: float, _: Settings) -> Row | None:
    from ..guards.shared_circuit import view

    seen = view(value, now)
    if seen is None:
        return None
    if seen.probe is not None:
        return Row("circuit", name, "half-open, a probe is on its way for at most", seen.lease)
    if seen.wait > 0:
        return Row("circuit", name, "open, the next probe in", seen.wait)
    return Row("circuit", name, "open, the next call probes", None)


def _cooldown(name: str, value: Any, now: float, _: Settings) -> Row | None:
    from ..state.store import remaining

    return Row("cooldown", name, "closed for", remaining(value["until"], value["for"], now))


def _pace(name: str, value: Any, now: float, settings: Settings) -> Row | None:
    from ..guards.shared_pace import windows

    rates = settings.for_origin(name).rate_limit.rates
    used = (
        f"{window.used(now)} of {rate.limit} slots in {rate.period:g} s"
        for rate, window in zip(rates, windows(rates, value), strict=True)
    )
    return Row("pace", name, ", ".join(used), None) if rates else None


def _budget(name: str, value: Any, now: float, _: Settings) -> Row | None:
    from ..guards.retry_budget import SPAN
    from ..guards.shared_retry_budget import repeats

    return Row("budget", name, f"{repeats(value, now)} repeats in the last {SPAN:g} s", None)


def _token(name: str, value: Any, now: float, _: Settings) -> Row | None:
    from ..repairs.shared_token import leased

    if leased(value, now) > 0:
        return Row("token", name, "being fetched, for at most", leased(value, now))
    shared = "kept" if "token" in value else "fetched by each process"
    return Row("token", name, f"{shared}, the latest since", max(0.0, now - value["at"]))


_READERS = {"circuit": _circuit, "cooldown": _cooldown, "pace": _pace, "budget": _budget, "token": _token}
