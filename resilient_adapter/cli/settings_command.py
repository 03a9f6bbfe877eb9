"""``resilient-adapter settings``: each setting in effect, and where it came from."""

from __future__ import annotations

import argparse
import json
from typing import Any

from ..errors import SettingsError
from . import CommandError


def register(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the command to a parser's commands."""
    parser = subparsers.add_parser(
        "settings",
        help="show each setting in effect and where it came from",
        description="Show each setting in effect, secrets hidden, and where it came from.",
    )
    parser.add_argument("--settings", metavar="FILE", help="read this settings file instead of looking for one")
    parser.add_argument("--json", action="store_true", help="write JSON")
    parser.add_argument("--template", action="store_true", help="write a settings file with every key and its meaning")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Carry the command out and return 0.

    Raises:
        CommandError: the settings cannot be used.
    """
    from ..settings.sources import explain_settings
    from ..settings.template import template
    from ..settings.values import HIDDEN

    if args.template:
        print(template(), end="")
        return 0
    try:
        rows = explain_settings(args.settings)
    except SettingsError as error:
        raise CommandError(str(error)) from None
    if args.json:
        print(json.dumps([row._asdict() for row in rows], indent=2))
        return 0
    width = max(len(row.key) for row in rows)
    for row in rows:
        value = (
            "none"
            if row.value is None
            else HIDDEN
            if row.value == HIDDEN
            else json.dumps(row.value, ensure_ascii=False)
        )
        print(f"{row.key:<{width}}  {value}  # {row.origin}")
    return 0
