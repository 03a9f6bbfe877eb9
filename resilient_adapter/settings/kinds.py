"""The kinds of value that a key may have: how one is read, checked, laid over another, and shown.

A kind knows nothing of files and variables. Reading yields a tree of :class:`Given`, one for each key that was
given, so that every later complaint can say where a value came from.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

from ..core.frozen import Frozen
from ..core.origin import normalize_origin, origin_of
from ..core.rates import parse_rate
from ..errors import SettingsError
from .values import HIDDEN, CredentialUrl, FrozenDict, Secret, SecretDict, leaves, merge, parse_toml, shown

Tree = Any
"""A :class:`Given`, or a dict of trees."""

DEFAULT = "default"


class Source(Frozen):
    """Where settings are read from.

    Attributes:
        where: how the source is named to people.
        directory: what the paths in ``{file = …}`` are relative to.
        environ: where ``{env = …}`` looks.
    """

    where: str
    directory: Path
    environ: Mapping[str, str]


class Given(Frozen):
    """A value that somebody gave, under the full name of its key; ``hide`` where it is never to be shown."""

    key: str
    value: Any
    where: str
    hide: bool = False


class Row(NamedTuple):
    """A setting in effect: its dotted key, its value as it may be shown, and where the value came from."""

    key: str
    value: Any
    origin: str


class Place(Frozen):
    """A key in a source, or an item of its list, while it is being read."""

    source: Source
    path: tuple[str, ...] = ()
    item: str = ""

    @property
    def key(self) -> str:
        return dotted(self.path)

    def child(self, name: object) -> Place:
        return self._replace(path=(*self.path, str(name)))

    def given(self, value: Any, hide: bool = False) -> Given:
        return Given(self.key, value, self.source.where, hide)

    def error(self, problem: str) -> SettingsError:
        return SettingsError(f"{self.key or 'settings'}{self.item} ({self.source.where}): {problem}")

    def kept_elsewhere(self, value: object) -> tuple[Secret, Place] | None:
        """Return the text that ``{env = NAME}`` or ``{file = PATH}`` stands for; None where it is neither.

        Raises:
            SettingsError: there is no such variable, or the file cannot be read.
        """
        if not names_a_place(value):
            return None
        ((how, name),) = value.items()
        if how == "env":
            kind, text, problem = "environment variable", self.source.environ.get(name), "is not set"
        else:
            kind, (text, problem) = "file", _content(self.source.directory / name)
        if text is None:
            raise self.error(f"the {kind} {name} that it names {problem}")
        return Secret(text), self._replace(source=self.source._replace(where=f"{self.source.where}: {kind} {name}"))


def names_a_place(value: Any) -> TypeGuard[Mapping[str, str]]:
    """Return whether a value is ``{env = NAME}`` or ``{file = PATH}``."""
    if not (isinstance(value, Mapping) and len(value) == 1):
        return False
    ((how, name),) = value.items()
    return how in ("env", "file") and isinstance(name, str)


def _content(path: Path) -> tuple[str | None, str]:
    """Return a file's text, or none and what is wrong with it."""
    try:
        text = path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        return None, "does not exist"
    except (OSError, ValueError):
        return None, "cannot be read as UTF-8 text"
    return re.sub(r"\r?\n\Z", "", text), ""


def dotted(path: Iterable[str]) -> str:
    """Return a key's path as one name; a part that is no plain word is quoted, as TOML would have it."""
    return ".".join(
        part if re.fullmatch(r"\w+", part, re.ASCII) else json.dumps(_harmless(part), ensure_ascii=False)
        for part in path
    )


def _harmless(text: str) -> str:
    # What looks like a URL may hold a password or a token.
    return text if not re.search("[@?]", text) else "…"


def described(value: object, hide: bool) -> str:
    """Return how an error speaks of a value: its text, or only its type where it may be a secret or is long."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true or false" if hide else json.dumps(value)
    if isinstance(value, str):
        hide = hide or isinstance(value, Secret) or _harmless(value) != value or len(value) > 80
        return "this text" if hide else json.dumps(str(value), ensure_ascii=False)
    if isinstance(value, (int, float)):
        return "a number" if hide or (isinstance(value, int) and abs(value) > 1e80) else repr(value)
    if isinstance(value, Mapping):
        return "a table"
    if isinstance(value, (list, tuple)):
        return "a list"
    return f"a {type(value).__name__}"


# ----------------------------------------------------------------------------------------------- single values


class Kind:
    """A single value. Subclasses say in ``allowed`` what is allowed, and check it in ``check``.

    Args:
        optional: none may be given (in the environment as an empty text).
        secret: the value is never shown.
    """

    allowed: str

    def __init__(self, *, optional: bool = False, secret: bool = False) -> None:
        self.optional = optional
        self.secret = secret

    def check(self, value: Any) -> Any:
        """Return the value as it is kept; ValueError, with a text or without, where it is not allowed."""

    def from_text(self, text: str) -> Any:
        """Return what a text in the environment stands for; ValueError where it stands for nothing."""

    def parse(self, text: str, at: Place) -> Any:
        """Return what a text in the environment stands for, for ``read`` to check."""
        if text == "" and self.optional:
            return None
        try:
            return self.from_text(text)
        except (ValueError, RecursionError):
            return text  # which read() then refuses, and says what is allowed

    def read(self, value: Any, at: Place) -> Tree:
        """Return the value checked, as a :class:`Given`.

        Raises:
            SettingsError: it is not allowed, or not to be found where it is said to be kept.
        """
        if value is None and self.optional:
            return at.given(None)
        return at.given(self.checked(value, at))

    def checked(self, value: Any, at: Place) -> Any:
        try:
            return self.check(value)
        except ValueError as error:
            problem = str(error)
        # Raised out here, lest the value hang on in the error's context.
        raise at.error(problem or f"must be {self.allowed}, not {described(value, self.secret)}")

    def child(self, name: str) -> Kind | None:
        """Return the kind of a key beneath this one."""
        return None

    def values(self, tree: Tree) -> Any:
        """Return a tree's values, without where they came from."""
        return tree.value

    def apply(self, current: Any, values: Any) -> Any:
        """Return the current value with others laid over it."""
        return values

    def rows(self, key: tuple[str, ...], current: Any, tree: Tree) -> Iterator[Row]:
        """Yield the settings in effect at this key and beneath it."""
        yield Row(dotted(key), shown(current), tree.where if tree else DEFAULT)


_WORDS = {
    **dict.fromkeys(("true", "1", "yes", "on"), True),
    **dict.fromkeys(("false", "0", "no", "off"), False),
}


class Boolean(Kind):
    """True or false; in the environment also 1 or 0, yes or no, on or off."""

    allowed = "true or false"

    def check(self, value: Any) -> bool:
        if not isinstance(value, bool):
            raise ValueError
        return value

    def from_text(self, text: str) -> Any:
        return _WORDS.get(text.strip().lower(), text)


class Integer(Kind):
    """An integer, within bounds where there are any."""

    def __init__(self, minimum: int | None = None, maximum: int | None = None) -> None:
        super().__init__()
        self.minimum, self.maximum = minimum, maximum
        self.allowed = "an integer"
        if maximum is not None:
            self.allowed += f" from {minimum} to {maximum}"
        elif minimum is not None:
            self.allowed += f" of at least {minimum}"

    def check(self, value: Any) -> int:
        # bool is a kind of int to Python, and never meant as one.
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError
        if (self.minimum is not None and value < self.minimum) or (self.maximum is not None and value > self.maximum):
            raise ValueError
        return value

    def from_text(self, text: str) -> int:
        return int(text)


class Number(Kind):
    """A finite number.

    Args:
        minimum: the least that is allowed.
        above: what it has to be greater than, instead.
        maximum: the most that is allowed.
    """

    def __init__(self, minimum: float = 0.0, *, above: float | None = None, maximum: float = math.inf) -> None:
        super().__init__()
        self.minimum, self.above, self.maximum = minimum, above, maximum
        self.allowed = "a number " + (f"of at least {minimum:g}" if above is None else f"above {above:g}")
        if maximum < math.inf:
            self.allowed += f" and at most {maximum:g}"

    def check(self, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ValueError
        try:
            number = float(value)
        except OverflowError:
            raise ValueError from None
        enough = number >= self.minimum if self.above is None else number > self.above
        if not (enough and number <= self.maximum and math.isfinite(number)):
            raise ValueError
        return number

    def from_text(self, text: str) -> float:
        return float(text)


class Text(Kind):
    """A text.

    Args:
        allowed: what it has to be, in words.
        convert: returns it as it is kept; ValueError, with a text or without, where it is not allowed.
    """

    def __init__(
        self,
        allowed: str,
        convert: Callable[[str], str],
        *,
        optional: bool = False,
        secret: bool = False,
    ) -> None:
        super().__init__(optional=optional, secret=secret)
        self.allowed = allowed
        self.convert = convert

    def from_text(self, text: str) -> Any:
        if not text.startswith("{"):
            return text
        try:
            table = json.loads(text)
        except ValueError:
            table = parse_toml(f"it = {text}")["it"]  # as it stands in a file
        return table if names_a_place(table) else text

    def read(self, value: Any, at: Place) -> Tree:
        elsewhere = at.kept_elsewhere(value)
        if elsewhere is None and isinstance(value, Mapping):
            raise at.error(
                f'must be {self.allowed}, not a table; {{env = "NAME"}} or {{file = "PATH"}} says where it is'
            )
        return super().read(value, at) if elsewhere is None else super().read(*elsewhere)

    def check(self, value: Any) -> Any:
        if not isinstance(value, str):
            raise ValueError
        text = self.convert(str(value))
        return Secret(text) if self.secret or isinstance(value, Secret) else text


class Url(Text):
    """A URL that may hold credentials: shown without them.

    Args:
        allowed: what it has to be, in words.
        pattern: what it has to look like.
        parse: raises ValueError where it has no clear host. Then it cannot be shown without its password either:
            "https://user:a/b@host".
    """

    def __init__(self, allowed: str, pattern: str, parse: Callable[[str], object] = origin_of) -> None:
        super().__init__(allowed, matching(pattern), optional=True, secret=True)
        self.parse_url = parse

    def check(self, value: Any) -> Any:
        url = super().check(value)
        self.parse_url(str(url))
        # One that was checked before is shown as before; one that was kept elsewhere is not shown at all.
        return url if type(value) is Secret else CredentialUrl(url)


class Choice(Text):
    """One of a few words."""

    def __init__(self, *words: str) -> None:
        super().__init__("one of " + ", ".join(f'"{word}"' for word in words), self._known)
        self.words = words

    def _known(self, text: str) -> str:
        if text not in self.words:
            raise ValueError
        return text


class Member(Choice):
    """One of the words of an enumeration, kept as its member."""

    def __init__(self, enumeration: type[Enum]) -> None:
        super().__init__(*(member.value for member in enumeration))
        self.enumeration = enumeration

    def check(self, value: Any) -> Enum:
        return self.enumeration(str(super().check(value)))


class ListOf(Kind):
    """A list, kept as a tuple; what is named twice is kept once."""

    def __init__(self, item: Kind) -> None:
        super().__init__()
        self.item = item
        self.allowed = f"a list, each item {item.allowed}"

    def parse(self, text: str, at: Place) -> Any:
        value = super().parse(text, at)
        if isinstance(value, str):  # as it came: what was written is no JSON
            example = "[0, 200]" if isinstance(self.item, Integer) else '["A", "B"]'
            raise at.error(f"must be {self.allowed}, written as JSON: {example}")
        return value

    def read(self, value: Any, at: Place) -> Tree:
        if not is_list(value):
            raise at.error(f"must be {self.allowed}, not {described(value, self.secret)}")
        items = (self.item.read(item, at._replace(item=f"[{n}]")) for n, item in enumerate(value))
        return at.given(tuple(dict.fromkeys(given.value for given in items)))

    def from_text(self, text: str) -> Any:
        return json.loads(text)


def is_list(value: Any) -> bool:
    """Return whether a value is a list, a tuple or the like."""
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes, bytearray))


class OneOrMore(ListOf):
    """None, a text, or a list of texts, kept as it was given."""

    def __init__(self, item: Kind) -> None:
        super().__init__(item)
        self.optional = True
        self.allowed = f"{item.allowed}, or a list of them"

    def read(self, value: Any, at: Place) -> Tree:
        if value is None:
            return at.given(None)
        return super().read(value, at) if is_list(value) else self.item.read(value, at)

    parse = Kind.parse  # a text is one

    def from_text(self, text: str) -> Any:
        return json.loads(text) if text.lstrip()[:1] == "[" else self.item.from_text(text)


# ------------------------------------------------------------------------------------------------------ tables


class Table(Kind):
    """Keys with values of their own. Subclasses say which."""

    allowed = "a table"

    def parse(self, text: str, at: Place) -> Any:
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            pass
        raise at.error("must be a table, written as JSON")

    def entries(self, value: Any, at: Place) -> Iterable[tuple[Any, Any]]:
        if not isinstance(value, Mapping):
            # Whatever was put where a table belongs may have been meant for a secret in it.
            path = not at.path and isinstance(value, (str, Path))
            hint = "; for a file give Settings.load(PATH)" if path else ""
            raise at.error(f"must be a table, not {described(value, hide=True)}{hint}")
        return value.items()

    def rows(self, key: tuple[str, ...], current: Any, tree: Tree) -> Iterator[Row]:
        given = list(leaves(tree)) if tree else []
        yield from (Row(g.key, HIDDEN if g.hide else shown(g.value), g.where) for g in given)
        if not given:
            yield Row(dotted(key), {}, DEFAULT)


class Group(Table):
    """A table with known keys: a Frozen, or a NamedTuple.

    Args:
        keys: the kind of each key.
        refused: keys that exist, but not here.
    """

    def __init__(self, keys: Mapping[str, Kind], refused: Iterable[str] = ()) -> None:
        super().__init__()
        self.keys = {name: kind for name, kind in keys.items() if name not in refused}
        self.refused = frozenset(refused)

    def child(self, name: str) -> Kind | None:
        return self.keys.get(name)

    def read(self, value: Any, at: Place) -> Tree:
        tree = {}
        for name, item in self.entries(value, at):
            if name in self.refused:
                raise at.child(name).error("cannot be another for one origin")
            if name not in self.keys:
                raise at.child(name).error(f"unknown key; {_nearest((*at.path, str(name)))}")
            tree[name] = self.keys[name].read(item, at.child(name))
        return tree

    def values(self, tree: Tree) -> Any:
        return FrozenDict({name: self.keys[name].values(branch) for name, branch in tree.items()})

    def apply(self, current: Any, values: Any) -> Any:
        changes = {name: self.keys[name].apply(getattr(current, name), value) for name, value in values.items()}
        return current._replace(**changes)

    def rows(self, key: tuple[str, ...], current: Any, tree: Tree) -> Iterator[Row]:
        for name, kind in self.keys.items():
            yield from kind.rows((*key, name), getattr(current, name), tree.get(name) if tree else None)


def _nearest(path: tuple[str, ...]) -> str:
    from .names import nearest_key  # it knows every key, and so imports the schema, which imports this

    nested = '; a table stands in a table: {"retry": {"max_attempts": 5}}' if "." in path[-1] else ""
    return f"the nearest known key is {nearest_key(path)}{nested}"


class JsonTable(Table):
    """Any table that JSON can hold. Its values are secret."""

    def __init__(self) -> None:
        super().__init__(secret=True)

    def read(self, value: Any, at: Place) -> Tree:
        tree: dict[str, Tree] = {}
        for name, item in self.entries(value, at):
            if not isinstance(name, str):
                raise at.error("must have texts as its keys")
            inner = at.child(name)
            nested = isinstance(item, Mapping) and not names_a_place(item)
            tree[name] = self.read(item, inner) if nested else self._leaf(item, inner)
        return tree

    def _leaf(self, item: Any, at: Place) -> Given:
        elsewhere = at.kept_elsewhere(item)
        if elsewhere is not None:
            text, at = elsewhere
            return at.given(text, hide=True)
        return at.given(self._frozen(item, at), hide=True)

    def _frozen(self, item: Any, at: Place) -> Any:
        if isinstance(item, str):
            return Secret(item)
        if is_list(item):
            inner = ((value, at._replace(item=f"{at.item}[{n}]")) for n, value in enumerate(item))
            return tuple(
                self._leaf(value, place).value if names_a_place(value) else self._frozen(value, place)
                for value, place in inner
            )
        if isinstance(item, Mapping):
            return self.values(self.read(item, at))
        if item is None or isinstance(item, int) or (isinstance(item, float) and math.isfinite(item)):
            return item
        raise at.error(f"must be something that JSON can hold, not {described(item, hide=True)}")

    def values(self, tree: Tree) -> Any:
        if isinstance(tree, Given):
            return tree.value
        return SecretDict({name: self.values(branch) for name, branch in tree.items()})

    def apply(self, current: Any, values: Any) -> Any:
        return _secret(merge(current, values))


def _secret(table: Any) -> Any:
    return SecretDict({name: _secret(item) for name, item in table.items()}) if isinstance(table, dict) else table


class Codes(Table):
    """Policies by code.

    Args:
        policy: the table of one code.
        known: returns the policy that holds for a code of which only a part, or nothing, is given.
    """

    def __init__(self, policy: Group, known: Callable[[int], Any]) -> None:
        super().__init__()
        self.policy = policy
        self.known = known

    def child(self, name: str) -> Kind:
        return self.policy

    def read(self, value: Any, at: Place) -> Tree:
        tree: dict[int, Tree] = {}
        for name, item in self.entries(value, at):
            inner = at.child(name)
            if isinstance(name, bool) or not re.fullmatch(r"0|-?[1-9][0-9]{0,18}", str(name)):
                raise inner.error('a code is an integer, such as "-1999"')
            if int(name) in tree:
                raise inner.error("is given twice")
            tree[int(name)] = self.policy.read(item, inner)
        return tree

    def values(self, tree: Tree) -> Any:
        return FrozenDict({code: self.policy.values(branch) for code, branch in tree.items()})

    def apply(self, current: Any, values: Any) -> Any:
        changed = {
            code: self.policy.apply(current.get(code) or self.known(code), value) for code, value in values.items()
        }
        return FrozenDict({**current, **changed})

    def rows(self, key: tuple[str, ...], current: Any, tree: Tree) -> Iterator[Row]:
        if not current:
            yield Row(dotted(key), {}, DEFAULT)
        for code, policy in current.items():
            yield from self.policy.rows((*key, str(code)), policy, tree[code])


class PerOrigin(Table):
    """Tables of settings by origin.

    Args:
        settings: returns the table of the settings that may be another for one origin.
    """

    def __init__(self, settings: Callable[[], Group]) -> None:
        super().__init__()
        self.settings = settings

    def child(self, name: str) -> Kind:
        return self.settings()

    def read(self, value: Any, at: Place) -> Tree:
        tree: dict[str, Tree] = {}
        for name, item in self.entries(value, at):
            inner = at.child(name)
            origin = ORIGIN.checked(name, inner)
            if origin in tree:
                raise inner.error("is given twice")
            tree[origin] = self.settings().read(item, at.child(origin))
        return tree

    def values(self, tree: Tree) -> Any:
        return FrozenDict({origin: self.settings().values(branch) for origin, branch in tree.items()})


# ------------------------------------------------------------------------------------------------------- texts


def matching(pattern: str) -> Callable[[str], str]:
    """Return a function that returns a text which matches as a whole, and raises ValueError for any other."""

    def convert(text: str) -> str:
        if not re.fullmatch(pattern, text):  # compiled at its first use, of which most patterns see none
            raise ValueError
        return text

    return convert


def _rate(text: str) -> str:
    parse_rate(text)
    return text


_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # RFC 9110, section 5.6.2

ORIGIN = Text('an origin such as "https://gateway.example"', normalize_origin)
HEADER = Text("the name of an HTTP header", matching(_TOKEN))
METHOD = Text("an HTTP method", lambda text: matching(_TOKEN)(text).upper())
PATTERN = Text('a path that begins with "/", or a pattern of paths such as "/api/*"', matching(r"[/*][!-~]*"))
RATE = Text("a rate", _rate)
CODE = Integer()
STATUS = Integer(100, 599)
