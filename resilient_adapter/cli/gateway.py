"""``gateway``: the gateway that the tests use, as a server to develop against."""

from __future__ import annotations

import argparse
import math
import re

from ..core.rates import Rate, parse_rate
from . import CommandError


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "gateway",
        description="Serve a gateway on loopback that speaks the API's envelope and fails as it is told to. It prints "
        "its URL and runs until it is interrupted. GET /api/gateway/time tells its time, POST /login gives out tokens, "
        "and every other path answers with a success that says what was asked for.",
    )
    parser.add_argument("--port", type=_port, default=8088, help="the port (default 8088); 0: any free one")
    parser.add_argument(
        "--rate-limit", metavar="RATE", type=_rate, help="answer what exceeds this rate with -1003: 10/s, 1200/min"
    )
    parser.add_argument(
        "--token-ttl",
        metavar="SECONDS",
        type=_positive,
        help="answer requests without a token with -1002; tokens are valid for so long",
    )
    parser.add_argument(
        "--fault-rate",
        metavar="SHARE",
        type=_share,
        default=0.0,
        help="let this share of the requests (0 to 1) fail: error codes, 5xx, resets, cut bodies; some were executed",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the random faults: the same seed, the same faults")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from ..testing import Fault, Gateway
    from ..testing.serve import run

    tokens = {} if args.token_ttl is None else {"require_token": True, "token_ttl": args.token_ttl}
    gateway = Gateway(port=args.port, rate_limit=args.rate_limit, **tokens)
    faults = (
        Fault.code(-1000, executed=True),
        Fault.code(-1001),
        Fault.code(-1003, status=429, retry_after=1),
        Fault.code(-1007, executed=True),
        Fault.code(-1008, status=503),
        Fault.status(500),
        Fault.status(502, executed=True),
        Fault.status(504, executed=True),
        Fault.reset("before"),
        Fault.reset("after"),
        Fault.close("after"),
        Fault.cut_body(),
    )
    gateway.random_faults(args.fault_rate, faults, args.seed)
    try:
        run(gateway)
    except OSError as error:
        raise CommandError(f"port {args.port}: {error.strerror}", status=1) from None
    return 0


def _port(text: str) -> int:
    if not re.fullmatch("[0-9]{1,5}", text) or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port (0 to 65535)")
    return int(text)


def _rate(text: str) -> Rate:
    try:
        return parse_rate(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None


def _share(text: str) -> float:
    share = _number(text)
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not between 0 and 1")
    return share


def _positive(text: str) -> float:
    number = _number(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not more than 0 seconds")
    return number


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from None
