"""``simulate``: what settings do to a server in an outage, beside what else repeats requests."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import CommandError, load_settings

if TYPE_CHECKING:
    from ..settings.schema import Settings
    from ..simulation.picture import Picture
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

# Measured: 10^5 clients with a call per second each, 12 million calls in all, take a minute and 65 MB, and where they
# hang for 30 seconds, 3 million of them at once, two minutes and 1.7 GB. 10^4 seconds are 200 MB of counts; 10^5
# processes, 560 MB.
_MOST_CALLS = 50_000_000
_MOST_AT_ONCE = 4_000_000
_MOST_SECONDS = 10_000.0
_MOST_OF_THEM = 100_000


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
    add("--clients", metavar="N", type=_count, default=200, help="how many clients call the server (default: 200)")
    add(
        "--rate",
        metavar="R",
        type=_positive,
        default=1.0,
        help="calls per second that each of them begins (default: 1)",
    )
    add("--outage", metavar="S", type=_outage, default=30.0, help="seconds that the outage lasts (default: 30)")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--hang", action="store_true", help="in the outage the server does not answer at all")
    how.add_argument(
        "--answer",
        metavar="CODE",
        type=_answer,
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
        help="requests per second that the server can do, over the demand, N * R (default: 1.2)",
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
    from ..simulation.contenders import contenders, simulate
    from ..simulation.picture import draw

    settings = load_settings(args.settings)
    scenario = _scenario(args, settings)
    write = None if args.plot is None else _writer(args.plot)
    rows = []
    if not args.json:
        print(_heading(scenario))
    for contender in contenders(settings, scenario):
        record = simulate(scenario, contender)
        rows.append((contender.name, record))
        if not args.json:
            print(_line(contender.name, record), flush=True)  # with many clients, the next one takes a while
    if args.json:
        print(json.dumps(_document(scenario, rows), indent=2))
    if write is not None:
        try:
            args.plot.write_bytes(write(draw(scenario, rows)))
        except OSError as error:
            raise CommandError(f"--plot {args.plot}: {error.strerror}") from None
    return 0


def _scenario(args: argparse.Namespace, settings: Settings) -> Scenario:
    from ..simulation.process import is_failure
    from ..simulation.world import Scenario

    if not is_failure(settings, args.answer):
        raise CommandError(f"--answer {args.answer}: under these settings that is no failure")
    timeout = settings.read_timeout if args.timeout is None else args.timeout
    if not timeout:
        raise CommandError("read_timeout is 0: say with --timeout how long everybody waits for an answer")
    _check_size(args, timeout, waits=settings.circuit.when_open == "wait")
    if args.clients * args.rate * args.outage < 2:  # there may be gaps of twice the mean
        raise CommandError("no call may begin in so short an outage: more clients, calls or seconds are needed")
    return Scenario(
        clients=args.clients,
        rate=args.rate,
        outage=args.outage,
        timeout=timeout,
        answer=args.answer,
        hang=args.hang,
        partial=args.partial,
        capacity=args.capacity,
        processes=min(args.clients, args.processes or _MOST_PROCESSES),
        seed=args.seed,
    )


def _check_size(args: argparse.Namespace, timeout: float, *, waits: bool) -> None:
    """Refuse what would take memory without bound. ``waits``: calls wait until the outage is over."""
    from ..simulation.world import AFTER, WARM_UP

    longest = max(args.outage, timeout)
    if longest > _MOST_SECONDS:
        raise CommandError(
            f"an outage or a timeout of {longest:g} s is too long to simulate: {_MOST_SECONDS:g} at most"
        )
    if (args.processes or 0) > _MOST_OF_THEM:
        raise CommandError(f"{args.processes} processes are too many to simulate: {_MOST_OF_THEM} at most")
    demand = args.clients * args.rate
    calls = args.clients + demand * (WARM_UP + args.outage + AFTER)  # each client costs something, calls or none
    if calls > _MOST_CALLS:
        raise CommandError(f"{calls:.3g} calls are too many to simulate: {_MOST_CALLS} at most")
    pending = demand * (args.outage if waits else min(args.outage, timeout) if args.hang else 0)
    if pending > _MOST_AT_ONCE:
        raise CommandError(f"{pending:.3g} calls that wait at once are too many to simulate: {_MOST_AT_ONCE} at most")


def _writer(path: Path) -> Callable[[Picture], bytes]:
    """Return what writes a picture in the format of a file. What cannot work is said before it is simulated."""
    from ..simulation import picture

    if not path.parent.is_dir():
        raise CommandError(f"--plot {path}: there is no such directory")
    if path.suffix == ".svg":
        return picture.svg
    if path.suffix != ".png":
        raise CommandError(f"--plot {path}: the name has to end in .svg or .png")
    if importlib.util.find_spec("matplotlib") is None:
        raise CommandError(
            f"--plot {path}: PNG needs matplotlib: pip install 'resilient_adapter[simulate]'; SVG needs nothing"
        )
    return picture.png


# --- telling

_COLUMNS = ("in outage", "peak after", "recovered", "failed", "sends/call")


def _heading(scenario: Scenario) -> str:
    what = "unanswered" if scenario.hang else f"answered {scenario.answer} at once"
    share = "" if scenario.partial == 1 else f"{scenario.partial:.0%} of requests "
    return (
        f"{scenario.clients} clients x {scenario.rate:g}/s = {scenario.demand:g} calls/s; the server can do"
        f" {scenario.capacity * scenario.demand:g}/s; timeout {scenario.timeout:g} s\n"
        f"outage of {scenario.outage:g} s, {share}{what};"
        f" {round(scenario.demand * scenario.outage)} calls begin in it\n\n"
        f"{'':<32}" + "".join(f"{column:>12}" for column in _COLUMNS)
    )


def _line(name: str, record: Record) -> str:
    from ..simulation.world import AFTER

    recovery = f"> {AFTER:g} s" if record.recovery is None else f"{record.recovery:.1f} s"
    return (
        f"{name:<32}{record.amplification:>12.3f}{record.peak:>12.2f}{recovery:>12}"
        f"{record.failures:>12}{record.sends_per_call:>12.3f}"
    )


def _document(scenario: Scenario, rows: list[tuple[str, Record]]) -> dict[str, Any]:
    return {
        "scenario": {**dataclasses.asdict(scenario), "demand": scenario.demand},
        "rows": [
            {
                "name": name,
                "amplification": round(record.amplification, 4),
                "peak": round(record.peak, 4),
                "recovery": record.recovery,
                "failed": record.failures,
                "sends_per_call": round(record.sends_per_call, 4),
            }
            for name, record in rows
        ],
    }


# --- reading


def _count(text: str) -> int:
    if not re.fullmatch("0*[1-9][0-9]{0,8}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def _answer(text: str) -> int:
    if not re.fullmatch("[-+]?[0-9]{1,18}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is neither a code (-1008) nor an HTTP status (500)")
    return int(text)


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return number


def _outage(text: str) -> float:
    number = _positive(text)
    if number < 0.1:
        raise argparse.ArgumentTypeError(f"{text!r} is too short to be seen: at least 0.1")
    return number


def _share(text: str) -> float:
    number = _positive(text)
    if number > 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no share: at most 1")
    return number
