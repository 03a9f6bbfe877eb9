"""The command line: ``resilient-adapter COMMAND …``.

A command is a module with ``register(subparsers)``, which adds its parser and sets ``run``, a function from the
parsed arguments to the exit status. Only the module of the command that was asked for is imported.

Exit status: 0 done; 1 what was asked for is not there, or its output cannot be written; 2 the command or the settings
are wrong, said in one line on stderr; 130 interrupted; 141 whoever read our output has gone.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import io
import os
import select
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

if TYPE_CHECKING:
    from ..settings.schema import Settings

PROG = "resilient-adapter"


class Command(NamedTuple):
    """Where a command is, and what it is for."""

    module: str
    summary: str


COMMANDS: Mapping[str, Mapping[str, Command]] = {
    "Run scripts": {
        "run": Command("run", "run an unchanged script with the adapter installed"),
        "report": Command("report", "sum up a log: what was done, or in shadow mode would have been"),
    },
    "Look things up": {
        "explain": Command("explain", "say what a code means, and what the adapter does about it"),
        "codes": Command("explain", "list the codes that the API answers with"),
        "settings": Command("settings_command", "show each setting in effect and where it came from"),
        "state": Command("state", "show what processes share: circuits, cooldowns, pacing and tokens"),
        "orders": Command("orders", "list the orders of a journal, and those that are still unknown"),
    },
    "Try it out": {
        "demo": Command("demo", "watch the adapter at work against a gateway on loopback"),
        "gateway": Command("gateway", "serve that gateway, to develop against"),
        "simulate": Command("simulate", "see what the settings do to a server in an outage"),
    },
}
"""The commands by heading, in the order in which ``--help`` lists them."""

# A full disk, a quota, a broken one: nothing that was to be written can be.
_CANNOT_WRITE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF})


class CommandError(Exception):
    """A command cannot go on: its message is printed as one line on stderr."""

    def __init__(self, message: str, *, status: int = 2) -> None:
        super().__init__(message)
        self.status = status


def load_settings(path: str | None) -> Settings:
    """Return the settings in effect.

    Args:
        path: the settings file; None: the one that the adapter itself would find.

    Raises:
        CommandError: they cannot be used.
    """
    from ..errors import SettingsError
    from ..settings.schema import Settings

    try:
        return Settings.load(path)
    except SettingsError as error:
        raise CommandError(str(error)) from None


class Parser(argparse.ArgumentParser):
    """An argument parser that reports a usage error in one line."""

    def __init__(self, **options: Any) -> None:
        # An abbreviation that works today becomes ambiguous with the next option added.
        super().__init__(**{"allow_abbrev": False, **options})

    def error(self, message: str) -> NoReturn:
        """Print one line and exit with status 2."""
        self.exit(2, f"{self.prog}: {' '.join(message.split())}\n")


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import PackageNotFoundError, version

        try:
            number = version("resilient_adapter")
        except PackageNotFoundError:
            number = "of a source tree that is not installed"
        print(f"{PROG} {number}")
        parser.exit()


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status.

    Args:
        argv: the arguments after the program's name; those of the process where None.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A name from a settings file, say, that the terminal's encoding lacks.
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            args = _parse(sys.argv[1:] if argv is None else argv)
        except SystemExit as end:  # how argparse ends after --help, and after a usage error
            status = int(end.code or 0)
        else:
            if sys.stdout is None and getattr(args, "prints", True):
                raise CommandError("standard output is closed", status=1)
            status = args.run(args)
        if sys.stdout is not None and not sys.stdout.closed:  # a script that was run may have closed it
            sys.stdout.flush()
    except CommandError as error:
        print(f"{PROG}: {' '.join(str(error).split())}", file=sys.stderr)
        return error.status
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        if not _reader_has_gone():
            raise  # some other pipe, or a socket: not ours to hide
        return 141
    except OSError as error:
        if error.errno not in _CANNOT_WRITE:
            raise
        print(f"{PROG}: cannot write: {error.strerror}", file=sys.stderr)
        _drop_output()
        return 1
    return status


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser(
        prog=PROG,
        usage=f"{PROG} COMMAND [ARGUMENTS]",
        description="Resilience for requests: retries, rate limits, circuits, tokens, and no order executed twice.",
        epilog=_listing(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    at = next((at for at, argument in enumerate(argv) if not argument.startswith("-")), len(argv))
    parser.parse_args(argv[:at])
    if at == len(argv):
        parser.error(f"no command given; {PROG} --help lists them")
    name = argv[at]
    command = {name: command for group in COMMANDS.values() for name, command in group.items()}.get(name)
    if command is None:
        parser.error(f"{name!r} is no command; {PROG} --help lists them")
    subparsers = parser.add_subparsers(prog=PROG, parser_class=Parser)
    importlib.import_module(f".{command.module}", __name__).register(subparsers)
    chosen: argparse.ArgumentParser = dict(subparsers.choices)[name]
    try:
        # Options and positionals in any order: explain -1003 --method POST -1008.
        return chosen.parse_intermixed_args(argv[at + 1 :])
    except TypeError:
        # argparse's refusal where what follows the positionals belongs to somebody else (a script's own arguments).
        return chosen.parse_args(argv[at + 1 :])


def _listing() -> str:
    lines = []
    for heading, commands in COMMANDS.items():
        lines.append(f"{heading}:")
        lines += [f"  {name:<10}{command.summary}" for name, command in commands.items()]
        lines.append("")
    lines.append(f"{PROG} COMMAND --help says more about a command.")
    return "\n".join(lines)


def _reader_has_gone() -> bool:
    """Tell whether stdout is the pipe that broke, and if so drop what is still to be written to it."""
    try:
        stdout = sys.stdout.fileno()
        poll = select.poll()
    except (AttributeError, OSError, ValueError):
        return False  # no file, a closed one, or a system that has no poll
    poll.register(stdout, 0)  # errors and hang-ups are told unasked
    if not poll.poll(0):
        return False
    _drop_output()
    return True


def _drop_output() -> None:
    # The interpreter flushes once more as it ends, and would complain.
    try:
        stdout = sys.stdout.fileno()
    except (AttributeError, OSError, ValueError):
        return  # no file, or a closed one
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stdout)
    os.close(nowhere)
