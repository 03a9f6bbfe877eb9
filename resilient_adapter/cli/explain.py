"""``explain`` and ``codes``: what the API's codes mean, from the table that the runtime uses."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ..core.classify import READ_ONLY_METHODS, SERVER_TIMEOUT, Outcome, Rules, classify_response
from ..core.codes import CUSTOM_GROUP, GROUPS, STATUSES, lookup, with_policies
from ..core.decide import Action, Repair, Situation, Why, decide
from ..core.model import CodeInfo, Executed, Recovery
from . import load_settings

if TYPE_CHECKING:
    from ..settings.schema import Settings

_REPAIRS: Mapping[Recovery, Repair] = {
    Recovery.REFRESH_TOKEN: Repair.REFRESH_TOKEN,
    Recovery.RESYNC_CLOCK: Repair.RESYNC_CLOCK,
    Recovery.RENEW_LISTEN_KEY: Repair.USER,
}


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the two commands."""
    explain = subparsers.add_parser(
        "explain",
        description="Say what codes (-1003) and HTTP statuses (429) mean, what to do about them, and whether the "
        "request may have been executed. Exit status 1 where nobody lists one of them.",
    )
    explain.add_argument("codes", metavar="CODE", nargs="+", type=_code, help="an envelope's code or an HTTP status")
    explain.add_argument(
        "--method", type=_method, help="say as well what the adapter does when that answers a request with this method"
    )
    explain.set_defaults(run=_explain)
    codes = subparsers.add_parser(
        "codes",
        description="List the codes: how the adapter recovers, and whether the request may have been executed.",
    )
    codes.add_argument(
        "--group",
        choices=(*GROUPS, CUSTOM_GROUP),
        metavar="GROUP",
        help=f"only this section of the reference: {', '.join(GROUPS)} (its HTTP statuses), or {CUSTOM_GROUP} "
        "(what only the settings list)",
    )
    codes.set_defaults(run=_codes)
    for command in (explain, codes):
        command.add_argument("--json", action="store_true", help="print JSON")
        command.add_argument("--settings", metavar="FILE", help="the settings file that may change the table")


def advice(info: CodeInfo, method: str, settings: Settings) -> str:
    """Return in a sentence what the adapter does when a request is answered with a code.

    The sentence words what the runtime's own rule book decides for a first send with everything else in order.

    Args:
        info: the code's record.
        method: the request's method, upper case.
        settings: the settings in effect.
    """
    if settings.mode == "off":
        return 'delivered as plain requests would (mode = "off")'
    outcome = _outcome(info, method, settings)
    decision = decide(
        Situation(
            outcome,
            mode=settings.mode,
            read_only=method in READ_ONLY_METHODS,
            repeatable=method in settings.retry.methods,
            max_attempts=settings.retry.max_attempts,
            repairs={_REPAIRS[outcome.recovery]} if outcome.recovery in _REPAIRS else frozenset(),
            reconcilable=True,
        )
    )
    if decision.action is Action.REPEAT:
        limit = f"up to {settings.retry.max_attempts} sends in all"
        sentence = f"{_repeated(outcome, settings)}, {limit}: {_why(outcome, method)}"
    elif decision.action is Action.REPAIR:
        sentence = {
            Repair.REFRESH_TOKEN: "sent again at once with a fresh token, where there is a token source",
            Repair.RESYNC_CLOCK: "sent again at once, signed afresh by the server's clock, where there is a signer",
            Repair.USER: "sent again at once if a recovery of your own for the code returns True",
        }[_REPAIRS[outcome.recovery]]
        sentence += "; otherwise, and the second time in a call, delivered"
    elif decision.action is Action.RECONCILE:
        sentence = (
            f"not sent again without an idempotency header: it may have been executed, and {method} is not among "
            "retry.methods; the reconciler finds out where there is one, else it is delivered as outcome_unknown"
        )
    elif decision.why is Why.NOT_RECOVERABLE and outcome.recovery is not Recovery.FIX_REQUEST:
        sentence = f"delivered at once: there is nothing to be gained by sending the {method} again"
    elif decision.why is Why.DONE:
        sentence = "delivered at once: it is no error"
    else:
        sentence = f"delivered at once: {decision.why}"
    return f'reported only (mode = "shadow"); else {sentence}' if decision.shadowed else sentence


def _outcome(info: CodeInfo, method: str, settings: Settings) -> Outcome:
    rules = Rules({info.code: info}, frozenset(settings.success_codes), frozenset(), frozenset())
    if info.group == "http":
        return classify_response(rules, method=method, status=info.code, code=None, msg=None)
    return classify_response(rules, method=method, status=200, code=info.code, msg=None)


def _repeated(outcome: Outcome, settings: Settings) -> str:
    if outcome.recovery is Recovery.THROTTLE:
        return f"sent again after Retry-After, or {settings.rate_limit.wait:g} s without one"
    if outcome.recovery is Recovery.BREAK:
        return "sent again after a backoff while the circuit is closed"
    if outcome.code == SERVER_TIMEOUT:
        return "sent again after a backoff and with longer timeouts"
    return "sent again after a backoff"


def _why(outcome: Outcome, method: str) -> str:
    if outcome.executed is Executed.NO:
        return "it was not executed, so any method may be repeated"
    if method in READ_ONLY_METHODS:
        return f"{method} changes nothing"
    return f"it may have been executed, but {method} is among retry.methods"


def _explain(args: argparse.Namespace) -> int:
    settings = load_settings(args.settings)
    table = _table(settings)
    known, unlisted = [], []
    for code in args.codes:
        try:
            known.append(lookup(code, table))
        except KeyError:
            unlisted.append(code)
    if args.json:
        records = [info._asdict() for info in known]
        if args.method is not None:
            for record, info in zip(records, known, strict=True):
                record |= {"method": args.method, "advice": advice(info, args.method, settings)}
        _print_json(records)
    elif known:
        texts = [str(info) for info in known]
        if args.method is not None:
            texts = [
                f"{text}\n  {args.method:<8}  {advice(info, args.method, settings)}"
                for text, info in zip(texts, known, strict=True)
            ]
        print("\n\n".join(texts))
    for code in unlisted:
        meant = f"; did you mean {-code}?" if code > 0 and -code in table else ""
        print(f"{code}: nobody lists this code{meant}", file=sys.stderr)
    return 1 if unlisted else 0


def _codes(args: argparse.Namespace) -> int:
    table = _table(load_settings(args.settings))
    shown = STATUSES if args.group == "http" else table
    infos = [info for info in shown.values() if args.group in (None, info.group)]
    if args.json:
        _print_json([info._asdict() for info in infos])
        return 0
    rows = [("CODE", "GROUP", "NAME", "RECOVERY", "EXECUTED")]
    rows += [(str(info.code), info.group, info.name, str(info.recovery), str(info.executed)) for info in infos]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0


def _table(settings: Settings) -> Mapping[int, CodeInfo]:
    return with_policies({code: (policy.recovery, policy.executed) for code, policy in settings.codes.items()})


def _print_json(records: Iterable[Mapping[str, Any]]) -> None:
    print(json.dumps(records, indent=2))


def _code(text: str) -> int:
    if not re.fullmatch("[-+]?[0-9]{1,18}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no code (an integer such as -1003)")
    return int(text)


def _method(text: str) -> str:
    if not re.fullmatch("[A-Za-z]+", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no HTTP method")
    return text.upper()
