"""``docs/settings.md``: made from the schema, as the template is. As a script this file writes it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from resilient_adapter.settings.kinds import Group
from resilient_adapter.settings.names import known_keys
from resilient_adapter.settings.schema import Settings, keys_of
from resilient_adapter.settings.values import shown

PAGE = Path(__file__).parent.parent / "docs" / "settings.md"
COMMAND = ".venv/bin/python tests/test_settings_page.py"
HEAD = f"""\
# Settings

Every key, its default and its meaning. `resilient-adapter settings --template` writes the same as a TOML file to start
from, and `resilient-adapter settings` shows what is in effect and where it came from.

Arguments outrank the environment, which outranks the file, which outranks the defaults. `retry.max_attempts` is

- `ResilientAdapter({{"retry": {{"max_attempts": 5}}}})` as an argument,
- `RESILIENT_ADAPTER__RETRY__MAX_ATTEMPTS=5` in the environment (two underscores between levels; lists and tables
  as JSON),
- `max_attempts = 5` under `[retry]` in `resilient_adapter.toml`, and under `[tool.resilient_adapter.retry]` in
  `pyproject.toml`.

In place of any text, `{{env = "NAME"}}` or `{{file = "PATH"}}` says where a secret is kept.

This page is made from the settings' source: `{COMMAND}`.
"""


def page() -> str:
    """Return the page: a table for the keys at the top, and one for each group."""
    return "\n".join((HEAD, *section(Settings, ()))) + "\n"


def section(cls: type[Any], path: tuple[str, ...]) -> Iterator[str]:
    """Yield the lines of a group's table, and after it those of the groups in it."""
    groups = {}
    yield "| key | default | meaning |\n| --- | --- | --- |"
    for name, key in keys_of(cls).items():
        if isinstance(key.kind, Group):
            groups[name] = key
            continue
        default = "none" if key.default is None else f"`{json.dumps(shown(key.default))}`"
        meaning = f"{key.meaning} Allowed: {key.kind.allowed}."
        if key.example is not None:
            meaning += f" Example: `{name} = {key.example}`"
        cells = (f"`{'.'.join((*path, name))}`", default, meaning)
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
    for name, key in groups.items():
        yield f"\n## {'.'.join((*path, name))}\n\n{key.meaning}\n"
        yield from section(type(key.default), (*path, name))


def test_the_page_is_current() -> None:
    """It is what the schema says now; where it is not, one command writes it anew."""
    assert PAGE.read_text(encoding="utf-8") == page(), f"docs/settings.md is out of date: {COMMAND}"


def test_the_page_has_every_key() -> None:
    """Each key has a row, and each group a heading."""
    text = page()
    for path in known_keys():
        name = ".".join(path)
        assert f"| `{name}` | " in text or f"\n## {name}\n" in text


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
