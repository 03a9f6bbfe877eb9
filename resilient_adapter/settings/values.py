"""The values that settings are made of: tables that cannot change, and text that does not show itself."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any, NoReturn, TypeVar

K = TypeVar("K")
V = TypeVar("V")

HIDDEN = "<hidden>"
"""What is shown in place of a secret that is set."""


class Secret(str):
    """Text that its ``repr`` hides, wherever it is nested. In every other way it is the text."""

    __slots__ = ()

    def __repr__(self) -> str:
        return self.shown()

    def shown(self) -> str:
        """Return what may be shown of it."""
        return HIDDEN


class CredentialUrl(Secret):
    """A URL whose ``repr`` hides what may hold a credential: user, password, query and fragment."""

    __slots__ = ()

    def __repr__(self) -> str:
        return repr(self.shown())

    def shown(self) -> str:
        """Return the URL without its credentials."""
        masked = re.sub(r"(?<=://)[^/?#]*@", "***@", str(self))
        return re.sub(r"[?#].*", "?***", masked, flags=re.DOTALL)


class FrozenDict(dict[K, V]):
    """A dict that cannot be changed, and so has a hash. A real dict, because ``json.dumps`` wants one."""

    __slots__ = ()

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (dict(self),))

    def _refuse(self, *args: object, **kwargs: object) -> NoReturn:
        raise TypeError(f"{type(self).__name__} cannot be changed")

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse


class SecretDict(FrozenDict[str, Any]):
    """A table of which only the names are shown, never a value."""

    __slots__ = ()

    def __repr__(self) -> str:
        return repr(shown(self))


def merge(beneath: Any, above: Any) -> Any:
    """Return one tree laid over another: tables key by key, everything else replaced."""
    if not (isinstance(beneath, Mapping) and isinstance(above, Mapping)):
        return above
    merged = dict(beneath)
    for name, value in above.items():
        merged[name] = merge(merged[name], value) if name in merged else value
    return merged


def shown(value: Any) -> Any:
    """Return a setting's value as plain JSON-like data, with what is secret hidden."""
    if isinstance(value, Secret):
        return value.shown()
    if isinstance(value, SecretDict):
        return {name: shown(item) if isinstance(item, SecretDict) else HIDDEN for name, item in value.items()}
    if isinstance(value, tuple):
        return [shown(item) for item in value]
    return value.value if isinstance(value, Enum) else value


def leaves(tree: Any) -> Iterator[Any]:
    """Yield what hangs in a tree of tables."""
    if isinstance(tree, Mapping):
        for branch in tree.values():
            yield from leaves(branch)
    else:
        yield tree


def parse_toml(text: str) -> dict[str, Any]:
    """Return a TOML document; ValueError or RecursionError where it is none."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:  # Python 3.10
        import tomli as tomllib
    return tomllib.loads(text)
