"""A settings file to start from, written from the schema."""

from __future__ import annotations

import json
from collections.abc import Iterator
from textwrap import wrap
from typing import Any

from .kinds import Group
from .schema import Settings, keys_of
from .values import shown

_HEAD = """\
# Settings of resilient_adapter: every key with its default. Take away the "#" before a key to change it.
# Stronger than this file are environment variables (RESILIENT_ADAPTER__RETRY__MAX_ATTEMPTS=5) and arguments.
# In place of any text, {env = "NAME"} or {file = "PATH"} says where a secret is kept.
"""


def template() -> str:
    """Return a commented TOML file with every key, its default and its meaning.

    As it stands it changes nothing. Lines that begin with ``#`` and no space after it are keys: without their
    ``#`` they give the defaults. A key without a default is shown by an example in a comment.
    """
    return "\n".join((_HEAD, *_table(Settings, ()))) + "\n"


def _table(cls: type[Any], path: tuple[str, ...]) -> Iterator[str]:
    # Keys before tables: what follows a table's header belongs to it.
    for name, key in sorted(keys_of(cls).items(), key=lambda item: isinstance(item[1].kind, Group)):
        if isinstance(key.kind, Group):
            yield f"\n# {key.meaning}\n[{'.'.join((*path, name))}]"
            yield from _table(type(key.default), (*path, name))
            continue
        yield from wrap(f"{key.meaning} Allowed: {key.kind.allowed}.", 118, initial_indent="# ", subsequent_indent="# ")
        if key.example is None:
            yield f"#{name} = {json.dumps(shown(key.default))}"
        else:
            yield f"# No default. Example: {name} = {key.example}"
