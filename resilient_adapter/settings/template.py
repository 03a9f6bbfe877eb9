"""A settings file to start from, written from the schema."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from textwrap import wrap
from typing import Any

from .kinds import Group
from .schema import Settings
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
    fields = sorted(dataclasses.fields(cls), key=lambda f: isinstance(f.metadata["kind"], Group))
    for field in fields:
        kind, default, meaning, example = (field.metadata[name] for name in ("kind", "default", "meaning", "example"))
        if isinstance(kind, Group):
            yield f"\n# {meaning}\n[{'.'.join((*path, field.name))}]"
            yield from _table(type(default), (*path, field.name))
            continue
        yield from wrap(f"{meaning} Allowed: {kind.allowed}.", 118, initial_indent="# ", subsequent_indent="# ")
        if example is None:
            yield f"#{field.name} = {json.dumps(shown(default))}"
        else:
            yield f"# No default. Example: {field.name} = {example}"
