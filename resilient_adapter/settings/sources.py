"""Where settings come from: a mapping, over the environment, over a file, over the defaults."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import SettingsError
from .kinds import Kind, Place, Row, Source, Tree
from .schema import ROOT, Settings
from .values import merge, parse_toml

PREFIX = "RESILIENT_ADAPTER"
FILE_VARIABLE = f"{PREFIX}_SETTINGS"

_FILE = "resilient_adapter.toml"
_PYPROJECT = "pyproject.toml"
_TABLE = "[tool.resilient_adapter]"
# The command's name, which a file or a table is easily given too. It would be passed over in silence.
_MISSPELT = "resilient-adapter"


class Loaded(NamedTuple):
    """Settings, and the tree of what was given for them."""

    settings: Settings
    tree: Tree


def load(
    path: str | os.PathLike[str] | None, environ: Mapping[str, str] | None, overrides: Mapping[str, Any] | None
) -> Loaded:
    """Return the settings of all sources; see :meth:`Settings.load`."""
    environ = os.environ if environ is None else environ
    variables = _variables(environ)
    trees = [_file_tree(path, variables, environ), _environment_tree(variables, environ)]
    if overrides is not None:
        trees.append(_argument_tree(overrides, environ))
    return _made(trees)


def from_mapping(mapping: Mapping[str, Any]) -> Settings:
    """Return the settings of a mapping alone; see :meth:`Settings.from_mapping`."""
    return _made([_argument_tree(mapping, os.environ)]).settings


def explain_settings(
    path: str | os.PathLike[str] | None = None,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> list[Row]:
    """Return every setting in effect: its dotted key, its value with secrets hidden, and where that came from.

    The arguments are those of :meth:`Settings.load`.

    Raises:
        SettingsError: as :meth:`Settings.load`.
    """
    settings, tree = load(path, environ, overrides)
    return list(ROOT.rows((), settings, tree))


def _made(trees: list[Tree]) -> Loaded:
    tree: Tree = {}
    for above in trees:
        tree = merge(tree, above)
    settings = ROOT.apply(Settings(), ROOT.values(tree))
    if tree:  # defaults contradict nothing
        from .checks import check

        check(settings, tree)
    return Loaded(settings, tree)


def _argument_tree(mapping: Mapping[str, Any], environ: Mapping[str, str]) -> Tree:
    return ROOT.read(mapping, Place(Source("argument", Path(), environ)))


# ------------------------------------------------------------------------------------------------- environment


def _variables(environ: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Return this package's variables, name and text, by their names in capitals."""
    found: dict[str, tuple[str, str]] = {}
    for name, text in environ.items():
        capitals = name.upper()
        if capitals.startswith(f"{PREFIX}_"):
            if capitals in found:
                raise SettingsError(f"environment variables {found[capitals][0]} and {name} are the same setting")
            found[capitals] = (name, text)
    return found


def _environment_tree(variables: Mapping[str, tuple[str, str]], environ: Mapping[str, str]) -> Tree:
    tree: Tree = {}
    # A table's own variable first, so that one for a key in it is laid over it.
    for capitals, (name, text) in sorted(variables.items(), key=lambda item: (item[0].count("__"), item[0])):
        if capitals == FILE_VARIABLE:
            continue
        path = _key_of(capitals)
        kind = _kind_at(path)
        if kind is None:
            from .names import nearest_variable

            nearest, what = nearest_variable(name)
            raise SettingsError(
                f"environment variable {name}: unknown key; the nearest known is {nearest} "
                f"({what}; two underscores between levels)"
            )
        place = Place(Source(f"environment variable {name}", Path(), environ))
        value = kind.parse(text, place._replace(path=path))
        for part in reversed(path):
            value = {part: value}
        tree = merge(tree, ROOT.read(value, place))
    return tree


def _key_of(capitals: str) -> tuple[str, ...]:
    start = f"{PREFIX}__"
    return tuple(capitals[len(start) :].lower().split("__")) if capitals.startswith(start) else ()


def _kind_at(path: tuple[str, ...]) -> Kind | None:
    kind: Kind | None = ROOT if path else None
    for part in path:
        kind = kind.child(part) if kind is not None else None
    return kind


# ------------------------------------------------------------------------------------------------------- files


def _file_tree(
    path: str | os.PathLike[str] | None, variables: Mapping[str, tuple[str, str]], environ: Mapping[str, str]
) -> Tree:
    if path is not None:
        return _read_file(Path(path), "argument", environ)
    _, named = variables.get(FILE_VARIABLE, ("", ""))
    if named:
        return _read_file(Path(named), f"environment variable {FILE_VARIABLE}", environ)
    if os.path.exists(_FILE):
        return _read_file(Path(_FILE), "working directory", environ)
    if os.path.exists(f"{_MISSPELT}.toml"):
        raise SettingsError(f"settings file {_MISSPELT}.toml (working directory): did you mean {_FILE}?")
    if os.path.isfile(_PYPROJECT):
        return _read_file(Path(_PYPROJECT), None, environ)
    return {}


def _read_file(path: Path, named: str | None, environ: Mapping[str, str]) -> Tree:
    """Return the tree of a file, which somebody named (``named`` says who), or is just there (None)."""
    by = f" ({named})" if named else ""
    try:
        text, problem = path.read_bytes().decode("utf-8-sig"), None
    except FileNotFoundError:
        text, problem = "", "does not exist"
    except OSError as error:
        text, problem = "", f"cannot be read: {error.strerror}"
    except UnicodeDecodeError:
        text, problem = "", "is not UTF-8"
    if problem is not None:
        raise SettingsError(f"settings file {path}{by} {problem}")

    pyproject = path.name == _PYPROJECT
    if pyproject and named is None and "resilient_adapter" not in text and _MISSPELT not in text:
        return {}  # most are not for us, and parsing one takes longer than all the rest
    table: Any = _toml(text, path)
    where = f"file {path}"
    if pyproject:
        where += f" {_TABLE}"
        tool = table.get("tool")
        tool = tool if isinstance(tool, Mapping) else {}
        if _MISSPELT in tool:
            raise SettingsError(f"settings file {path}{by} has a table [tool.{_MISSPELT}]: did you mean {_TABLE}?")
        table = tool.get("resilient_adapter")
        if table is None and named is None:
            return {}
        if table is None:
            raise SettingsError(f"settings file {path}{by} has no table {_TABLE}")
    elif not {"tool", "resilient_adapter", _MISSPELT}.isdisjoint(table):
        raise SettingsError(f"settings file {path}{by}: keys stand at the top level here, and not in a table {_TABLE}")
    return ROOT.read(table, Place(Source(where, path.parent, environ)))


def _toml(text: str, path: Path) -> dict[str, Any]:
    try:
        return parse_toml(text)
    except (ValueError, RecursionError) as error:
        problem = str(error)
    raise SettingsError(f"settings file {path} is not valid TOML: {problem}")
