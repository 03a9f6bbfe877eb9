"""The names of all settings, and which of them a misspelt one is nearest to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import cast

from .kinds import Group, dotted
from .schema import ROOT
from .sources import FILE_VARIABLE, PREFIX

Path = tuple[str, ...]


def variable(path: Path) -> str:
    """Return the environment variable that gives a key."""
    return "__".join((PREFIX, *path)).upper()


@lru_cache(maxsize=1)
def known_keys() -> tuple[Path, ...]:
    """Return the path of every key and every table."""

    def walk(group: Group, above: Path) -> Iterator[Path]:
        for name, kind in group.keys.items():
            yield (*above, name)
            if isinstance(kind, Group):
                yield from walk(kind, (*above, name))

    return tuple(walk(ROOT, ()))


def nearest_key(path: Path) -> str:
    """Return the dotted name of the known key nearest to an unknown one in a table that is known.

    A neighbour in the same table, else a key of that name in another one, else the least unlike neighbour.
    """
    from difflib import get_close_matches

    *parents, name = path
    group = ROOT
    for parent in parents:
        group = cast(Group, group.child(parent))
    neighbours = get_close_matches(name, group.keys, 1)
    if neighbours and "." not in name:
        return dotted((*parents, neighbours[0]))
    elsewhere = {spelling: key for key in reversed(known_keys()) for spelling in (key[-1], ".".join(key))}
    spellings = get_close_matches(name, elsewhere, 1, cutoff=0.8)
    if spellings:
        return dotted(elsewhere[spellings[0]])
    return dotted((*parents, _likest(name, group.keys)))


def nearest_variable(name: str) -> tuple[str, str]:
    """Return the name of the known environment variable that is nearest to an unknown one, and what it gives."""
    # Underscores are what is got wrong: without them the right one is found though every one is missing or doubled.
    spellings = {variable(path).replace("_", ""): (variable(path), dotted(path)) for path in known_keys()}
    spellings[FILE_VARIABLE.replace("_", "")] = FILE_VARIABLE, "the settings file"
    return spellings[_likest(name.upper().replace("_", ""), spellings)]


def _likest(name: str, known: Iterable[str]) -> str:
    from difflib import SequenceMatcher

    return max(known, key=lambda other: SequenceMatcher(None, other, name).ratio())
