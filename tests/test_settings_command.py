"""``resilient-adapter settings``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from resilient_adapter import cli
from resilient_adapter.settings import Settings
from resilient_adapter.settings.template import template


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_it_lists_each_setting_and_where_it_came_from(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line for each: key, value, origin; secrets hidden, none where none is set."""
    Path("s.toml").write_text('origins = ["https://a.example"]\nsigning = {api_key = "s3cr3t", secret = "s3cr3t"}')
    monkeypatch.setenv("RESILIENT_ADAPTER__RETRY__MAX_ATTEMPTS", "5")
    assert cli.main(["settings", "--settings", "s.toml"]) == 0
    out = capsys.readouterr().out
    lines = {line.split()[0]: line.split(maxsplit=1)[1] for line in out.splitlines()}
    assert lines["mode"] == '"enforce"  # default'
    assert lines["origins"] == '["https://a.example"]  # file s.toml'
    assert lines["retry.max_attempts"] == "5  # environment variable RESILIENT_ADAPTER__RETRY__MAX_ATTEMPTS"
    assert lines["signing.secret"] == "<hidden>  # file s.toml"
    assert lines["token.url"] == "none  # default"
    assert "s3cr3t" not in out


def test_it_writes_json(capsys: pytest.CaptureFixture[str]) -> None:
    """The same as a list of records."""
    Path("resilient_adapter.toml").write_text('token.json.password = "s3cr3t"')
    assert cli.main(["settings", "--json"]) == 0
    out = capsys.readouterr().out
    records = json.loads(out)
    assert {"key": "deadline", "value": 180.0, "origin": "default"} in records
    assert {"key": "token.url", "value": None, "origin": "default"} in records
    assert {"key": "token.json.password", "value": "<hidden>", "origin": "file resilient_adapter.toml"} in records
    assert "s3cr3t" not in out


def test_it_writes_a_template_to_start_from(capsys: pytest.CaptureFixture[str]) -> None:
    """The template can be saved as a settings file, whatever the settings of now are."""
    Path("resilient_adapter.toml").write_text("not valid")
    assert cli.main(["settings", "--template"]) == 0
    text = capsys.readouterr().out
    assert text == template()
    Path("new.toml").write_text(text, encoding="utf-8")
    assert Settings.load("new.toml", {}) == Settings()


@pytest.mark.parametrize(
    ("arguments", "content", "message"),
    [
        ([], "retry.max_attemps = 5", "the nearest known key is retry.max_attempts"),
        (
            [],
            "retry.max_attempts = 0",
            "retry.max_attempts (file resilient_adapter.toml): must be an integer of at least 1",
        ),
        ([], "retry = {base = 2, max_wait = 1}", "contradicts"),
        ([], "not valid", "is not valid TOML"),
        (["--settings", "nope.toml"], "", "does not exist"),
    ],
)
@pytest.mark.parametrize("more", [[], ["--json"]])
def test_settings_that_cannot_be_used_end_it_with_status_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], content: str, message: str, more: list[str]
) -> None:
    """One line on stderr says what is wrong; nothing is listed."""
    Path("resilient_adapter.toml").write_text(content)
    assert cli.main(["settings", *arguments, *more]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert captured.err.count("\n") == 1
