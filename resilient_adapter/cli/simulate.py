"""``simulate``: what settings do to a server in an outage, beside what else repeats requests."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import CommandError, load_settings

if TYPE_CHECKING:
    from ..settings.schema import Settings
    from ..simulation.record import Record
    from ..simulation.world import Scenario

_DESCRIPTION = """\
Simulate an outage: clients that call a server on timers, before, during and after it. The adapter is simulated with
its own decisions, circuits, budgets and pacing, under your settings (in all of them mode = "enforce"), in one process
and in several that share nothing; beside it the others, modelled by the formulas that they document. Nothing is sent,
and no time is waited for. Everything is the same each time for the same arguments.
"""

_EPILOG = """\
columns:
  in outage   requests at the server in the outage, over the calls that began in it (1: no retries)
  peak after  most requests in a second after the outage, over the demand
  recovered   seconds after the outage from which on 99 % of the calls that end in any second succeed
  failed      calls that failed in the end, over all the time
  sends/call  requests that a call which began in the outage was sent as
"""

_MOST_PROCESSES = 200


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "simulate",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--settings", metavar="FILE", help="read this settings file instead of looking for one")
    add("--clients", metavar="N", type=_count, required=True, help="how many clients call the server")
    add("--rate", metavar="R", type=_positive, required=True, help="calls per second that each of them begins")
    add("--outage", metavar="S", type=_positive, required=True, help="seconds that the outage lasts")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--hang", action="store_true", help="in the outage the server does not answer at all")
    how.add_argument(
        "--answer",
        metavar="CODE",
        type=int,
        default=-1008,
        help="what it answers at once in the outage: a code, or an HTTP status (default: -1008, with status 503)",
    )
    add(
        "--timeout",
        metavar="S",
        type=_positive,
        help="seconds that everybody waits for an answer (default: read_timeout of the settings)",
    )
    add("--partial", metavar="P", type=_share, default=1.0, help="share of requests that the outage hits (default: 1)")
    add(
        "--capacity",
        metavar="X",
        type=_positive,
        default=1.2,
        help="requests per second that the server can do, over the demand, N × R (default: 1.2)",
    )
    add(
        "--processes",
        metavar="P",
        type=_count,
        help=f"processes that the clients are spread over (default: as many as clients, at most {_MOST_PROCESSES})",
    )
    add("--seed", metavar="N", type=int, default=1, help="seed of all that is left to chance (default: 1)")
    add("--json", action="store_true", help="write JSON")
    add("--plot", metavar="FILE", type=Path, help="draw requests per second at the server, as .svg or .png")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    # Not sooner: --help need not wait for it.
    from ..simulation.contenders import contenders, simulate

    settings = load_settings(args.settings)
    scenario = _scenario(args, settings)
    write = None if args.plot is None else _writer(args.plot)
    table = _Table(scenario)
    rows = []
    for contender in contenders(settings, scenario):
        record = simulate(scenario, contender)
        rows.append((contender.name, record))
        if not args.json:
            table.add(contender.name, record)
    if args.json:
        print(json.dumps(_document(scenario, rows), indent=2))
    if write is not None:
        write(scenario, rows)
    return 0
