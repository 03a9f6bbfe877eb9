"""``run``: an unchanged script with the adapter installed.

The interpreter replaces this process with itself, given the script as anybody would give it. So whatever a program
can see of how it was started (argv, ``__main__``, ``sys.path``, signals, exit status, tracebacks) is right without
being imitated. What brings the adapter in is a ``sitecustomize`` (:mod:`.startup`), the module that every Python looks
for as it starts: its folder is first on ``PYTHONPATH``. It takes itself out of there at once, or leaves itself to the
script's children where they are to be covered too. It waits until the program imports requests, and then calls
``install()``; a program that never does so pays nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from . import PROG, CommandError, load_settings

VARIABLE = "_RESILIENT_ADAPTER_RUN"  # with RESILIENT_ADAPTER_ in front it would be a setting that nobody knows
_STARTUP = str(Path(__file__).with_name("startup"))
_PYTHONPATH = "PYTHONPATH"


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "run",
        usage=f"{PROG} run [--settings FILE] [--log FILE] [--children] SCRIPT|-m MODULE|- [ARGUMENTS]",
        description="Run a Python script with the adapter installed: every session that it makes, and requests.get() "
        "and its kin, go through it. For all the rest the script runs as under python itself.",
    )
    parser.add_argument("--settings", metavar="FILE", help="read this settings file instead of looking for one")
    parser.add_argument("--log", metavar="FILE", help=f"add what the adapter does to this file, for {PROG} report")
    parser.add_argument("--children", action="store_true", help="cover the Python processes too that the script starts")
    parser.add_argument("-m", dest="module", metavar="MODULE", nargs=argparse.REMAINDER, help="run a module")
    parser.add_argument(
        "script", metavar="SCRIPT", nargs=argparse.REMAINDER, help="a script, a folder or zip file; -: standard input"
    )
    parser.set_defaults(run=_run, prints=False)


def _run(args: argparse.Namespace) -> int:
    if not (args.module or args.script):
        raise CommandError("run: a script, -m MODULE or - is needed")
    if args.module is None and args.script[0] != "-" and not os.path.exists(args.script[0]):
        raise CommandError(f"there is no script {args.script[0]}")
    program = args.script if args.module is None else ["-m", *args.module, *args.script]
    plan = {
        "settings": _settings_file(args.settings),
        "log": _writable(args.log),
        "children": args.children,
        "path": os.environ.get(_PYTHONPATH),
        "python": [sys.prefix, *sys.version_info[:2]],
    }
    environment = {**os.environ, VARIABLE: json.dumps(plan)}
    environment[_PYTHONPATH] = os.pathsep.join(filter(None, (_STARTUP, os.environ.get(_PYTHONPATH))))
    if sys.flags.ignore_environment or sys.flags.no_site:
        raise CommandError("this needs a Python that heeds its environment: without -E, -I and -S")
    return _become([sys.executable, *_interpreter_options(), *program], environment)


def _settings_file(path: str | None) -> str:
    """Check the settings, and return the file that they come from: the script may change its working directory."""
    load_settings(path)
    named = path or next(
        (text for name, text in os.environ.items() if name.upper() == "RESILIENT_ADAPTER_SETTINGS"), ""
    )
    if named:
        return os.path.abspath(named)
    if os.path.isfile("resilient_adapter.toml"):
        return os.path.abspath("resilient_adapter.toml")
    if os.path.isfile("pyproject.toml"):
        try:
            load_settings("pyproject.toml")
        except CommandError:
            pass  # the same settings were good above, so what is wrong is that it has no table for us
        else:
            return os.path.abspath("pyproject.toml")
    return os.devnull  # an empty file: no settings, wherever the script goes


def _writable(path: str | None) -> str | None:
    if path is None:
        return None
    try:
        with open(path, "a", encoding="utf-8"):
            return os.path.abspath(path)
    except OSError as error:
        raise CommandError(f"log file {path}: {error.strerror}") from None


def _is_program() -> bool:
    """Return whether this process is there for the command alone, not for a program that called ``main()``."""
    spec = sys.modules["__main__"].__spec__
    name = Path(sys.argv[0]).stem if spec is None else spec.name
    return name in (PROG, "resilient_adapter.__main__")


def _interpreter_options() -> list[str]:
    """Return what the interpreter itself was given: ``python -X dev -m resilient_adapter run …``."""
    if not _is_program():
        return []
    head = sys.orig_argv[1 : len(sys.orig_argv) - len(sys.argv[1:])]
    return head[:-2] if head[-2:-1] == ["-m"] else head[:-1]


def _become(command: list[str], environment: dict[str, str]) -> int:
    if _is_program() and os.name == "posix":
        if sys.stdout is not None:  # nor need the script have one
            sys.stdout.flush()
        os.execve(command[0], command, environment)
    # Elsewhere exec() begins a new process and ends this one before it.
    status = subprocess.call(command, env=environment)
    return status if status >= 0 else 128 - status  # as a shell tells of a signal
