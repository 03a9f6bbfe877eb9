"""The command ``simulate``: its table, its JSON, its pictures, and what it refuses."""

from __future__ import annotations

import importlib.util
import json
import struct
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import pytest

from resilient_adapter import cli
from resilient_adapter.simulation.contenders import RECIPES

SMALL = ["simulate", "--clients", "10", "--outage", "5", "--processes", "2"]
ROWS = ["these settings, 1 process", "these settings, 2 processes", *RECIPES]


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Run the command for a small outage and return its status, its output and its errors."""
    status = cli.main([*SMALL, *arguments])
    output = capsys.readouterr()
    return status, output.out, output.err


def document(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    """Return the command's JSON."""
    status, output, _ = run(capsys, "--json", *arguments)
    assert status == 0
    return json.loads(output)


class TestTable:
    def test_it_has_a_row_for_each(self, capsys: pytest.CaptureFixture[str]) -> None:
        """The settings in one process and in several, then the others, under a heading that says what happens."""
        status, output, errors = run(capsys)
        heading, outage, empty, columns, *rows = output.splitlines()
        assert (status, errors, empty) == (0, "", "")
        assert heading == "10 clients x 1/s = 10 calls/s; the server can do 12/s; timeout 30 s"
        assert outage == "outage of 5 s, answered -1008 at once; 50 calls begin in it"
        assert [row[:32].strip() for row in rows] == ROWS
        assert columns.split() == ["in", "outage", "peak", "after", "recovered", "failed", "sends/call"]
        assert rows[-1].split()[2:] == ["1.000", "1.00", "0.0", "s", "50", "1.000"]

    def test_it_says_what_is_special(self, capsys: pytest.CaptureFixture[str]) -> None:
        """An outage that hangs, or is partial, is told as such."""
        _, output, _ = run(capsys, "--hang", "--timeout", "1", "--partial", "0.5", "--capacity", "3")
        heading, outage = output.splitlines()[:2]
        assert heading.endswith("the server can do 30/s; timeout 1 s")
        assert outage == "outage of 5 s, 50% of requests unanswered; 50 calls begin in it"

    def test_it_says_where_nothing_recovers(self, capsys: pytest.CaptureFixture[str]) -> None:
        """A server that cannot do what is asked of it has no time of recovery."""
        _, output, _ = run(capsys, "--capacity", "0.5")
        assert "> 60 s" in output.splitlines()[-1]
        assert document(capsys, "--capacity", "0.5")["rows"][-1]["recovery"] is None

    def test_it_is_the_same_each_time(self, capsys: pytest.CaptureFixture[str]) -> None:
        """The same arguments, the same text; another seed, another."""
        first = run(capsys)
        assert run(capsys) == first != run(capsys, "--seed", "2")


class TestJson:
    def test_it_tells_scenario_and_rows(self, capsys: pytest.CaptureFixture[str]) -> None:
        """All that the table says, with every argument, as JSON and nothing beside it."""
        told = document(capsys, "--hang", "--timeout", "2", "--seed", "5")
        assert told["scenario"] == {
            "clients": 10,
            "rate": 1.0,
            "outage": 5.0,
            "timeout": 2.0,
            "answer": -1008,
            "hang": True,
            "partial": 1.0,
            "capacity": 1.2,
            "processes": 2,
            "seed": 5,
            "demand": 10.0,
        }
        assert [row["name"] for row in told["rows"]] == ROWS
        last = told["rows"][-1]
        assert set(last) == {"name", "amplification", "peak", "recovery", "failed", "sends_per_call"}
        assert (last["amplification"], last["sends_per_call"], last["failed"]) == (1.0, 1.0, 50)

    def test_processes_are_as_many_as_clients(self, capsys: pytest.CaptureFixture[str]) -> None:
        """No process is without a client, and without a word there is one for each client, up to 200."""
        assert document(capsys, "--processes", "99")["scenario"]["processes"] == 10
        cli.main(["simulate", "--clients", "300", "--rate", "0.1", "--outage", "1", "--json"])
        assert json.loads(capsys.readouterr().out)["scenario"]["processes"] == 200


class TestSettings:
    def test_the_file_decides(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        """Settings from a file are those that are simulated, their timeout included."""
        path = tmp_path / "settings.toml"
        path.write_text("read_timeout = 3.0\n[circuit]\nfail_max = 1\n")
        told = document(capsys, "--settings", str(path))
        assert told["scenario"]["timeout"] == 3.0
        assert told["rows"][0]["amplification"] < document(capsys)["rows"][0]["amplification"]

    def test_a_code_of_the_settings_may_be_the_answer(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        """What only the settings list is a failure under these settings."""
        path = tmp_path / "settings.toml"
        path.write_text('[codes."-1999"]\nrecovery = "retry"\nexecuted = "no"\n')
        assert document(capsys, "--settings", str(path), "--answer", "-1999")["rows"][0]["sends_per_call"] > 1
        assert run(capsys, "--answer", "-1999")[0] == 2

    def test_without_a_timeout_one_is_asked_for(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        """Who waits for ever for an answer, never has one to count."""
        path = tmp_path / "settings.toml"
        path.write_text("read_timeout = 0\n")
        assert run(capsys, "--settings", str(path)) == (
            2,
            "",
            "resilient-adapter: read_timeout is 0: say with --timeout how long everybody waits for an answer\n",
        )
        assert run(capsys, "--settings", str(path), "--timeout", "1")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--clients", "0"], "argument --clients: '0' is no whole number above 0"),
        (["--clients", "ten"], "argument --clients: 'ten' is no whole number above 0"),
        (["--rate", "-1"], "argument --rate: '-1' is no number above 0"),
        (["--rate", "inf"], "argument --rate: 'inf' is no number above 0"),
        (["--rate", "nan"], "argument --rate: 'nan' is no number above 0"),
        (["--outage", "0.01"], "argument --outage: '0.01' is too short to be seen: at least 0.1"),
        (["--partial", "1.5"], "argument --partial: '1.5' is no share: at most 1"),
        (["--capacity", "much"], "argument --capacity: 'much' is no number above 0"),
        (["--processes", "0"], "argument --processes: '0' is no whole number above 0"),
        (["--timeout", "0"], "argument --timeout: '0' is no number above 0"),
        (["--answer", "200"], "--answer 200: under these settings that is no failure"),
        (["--answer", "0"], "--answer 0: under these settings that is no failure"),
        (["--answer", "-5"], "--answer -5: under these settings that is no failure"),
        (["--answer", "busy"], "argument --answer: 'busy' is neither a code (-1008) nor an HTTP status (500)"),
        (["--outage", "1e9"], "an outage or a timeout of 1e+09 s is too long to simulate: 10000 at most"),
        (["--hang", "--timeout", "1e9"], "a timeout of 1e+09 s is too long to simulate: 10000 at most"),
        (["--processes", "100001"], "100001 processes are too many to simulate: 100000 at most"),
        (["--clients", "100000000"], "9.6e+09 calls are too many to simulate: 50000000 at most"),
        (["--clients", "100000000", "--rate", "1e-9"], "1e+08 calls are too many to simulate: 50000000 at most"),
        (["--rate", "1e300"], "calls are too many to simulate"),
        (
            ["--clients", "200000", "--outage", "30", "--hang"],
            "6e+06 calls that wait at once are too many to simulate: 4000000 at most",
        ),
        (["--hang", "--answer", "500"], "argument --answer: not allowed with argument --hang"),
        (["--clients", "1", "--rate", "0.1"], "no call may begin in so short an outage"),
        (["--settings", "missing.toml"], "missing.toml"),
        (["--plot", "missing/out.svg"], "--plot missing/out.svg: there is no such directory"),
        (["--plot", "out.jpg"], "--plot out.jpg: the name has to end in .svg or .png"),
        (["surplus"], "unrecognized arguments: surplus"),
    ],
)
def test_what_cannot_be_simulated(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Usage errors are one line on stderr that names the argument, status 2, before anything is simulated."""
    status, output, errors = run(capsys, *arguments)
    assert (status, output, errors.count("\n")) == (2, "", 1)
    assert message in errors


def test_help_names_units_and_columns(capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever asks for help learns what each figure means."""
    assert cli.main(["simulate", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for words in (
        "seconds that the outage lasts",
        "calls per second that each",
        "(default: 1.2)",
        "peak after",
        "99 %",
    ):
        assert words in text


# Pictures

SVG = "{http://www.w3.org/2000/svg}"


class TestSvg:
    def test_it_has_a_panel_for_each(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        """Each row's name and figures, the outage marked, and an area for the requests; all within the picture."""
        path = tmp_path / "out.svg"
        assert run(capsys, "--plot", str(path))[0] == 0
        root = ElementTree.parse(path).getroot()
        texts = [text.text or "" for text in root.iter(f"{SVG}text")]
        assert [text for text in texts if text in ROWS] == ROWS
        assert texts.count("outage") == len(ROWS)
        assert any(text.startswith("1 × demand in the outage") for text in texts)
        width, height = float(root.attrib["width"]), float(root.attrib["height"])
        for line in root.iter(f"{SVG}polyline"):
            for point in line.attrib["points"].split():
                x, y = map(float, point.split(","))
                assert 0 <= x <= width and 0 <= y <= height

    def test_a_panel_says_where_nothing_recovers(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        """No time of recovery is made up."""
        path = tmp_path / "out.svg"
        run(capsys, "--capacity", "0.5", "--plot", str(path))
        assert "not recovered" in path.read_text()

    def test_a_file_that_cannot_be_written(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        """The table is printed all the same, and one line says what is wrong."""
        path = tmp_path / "out.svg"
        path.mkdir()
        status, output, errors = run(capsys, "--plot", str(path))
        assert (status, errors) == (2, f"resilient-adapter: --plot {path}: Is a directory\n")
        assert "no retries" in output


class TestPng:
    @pytest.mark.filterwarnings("ignore::DeprecationWarning")  # what matplotlib is made of is none of ours
    @pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="needs the extra simulate")
    def test_it_is_drawn_by_matplotlib(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        """A PNG of two columns of panels, twice as many pixels as the SVG has units."""
        assert run(capsys, "--plot", str(tmp_path / "out.png"))[0] == 0
        run(capsys, "--plot", str(tmp_path / "out.svg"))
        content = (tmp_path / "out.png").read_bytes()
        assert content.startswith(b"\x89PNG\r\n")
        root = ElementTree.parse(tmp_path / "out.svg").getroot()
        assert struct.unpack(">II", content[16:24]) == tuple(
            pytest.approx(2 * float(root.attrib[side]), abs=1) for side in ("width", "height")
        )

    def test_it_draws_what_the_svg_has(
        self, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Texts, areas and lines are those of the SVG, in its order."""
        drawn: list[str] = []

        class Axes:
            def text(self, _x: float, _y: float, text: str, **_: Any) -> None:
                drawn.append(text)

            def fill(self, _xs: Any, _ys: Any, *, color: str, **_: Any) -> None:
                drawn.append(f"fill {color}")

            def plot(self, _xs: Any, _ys: Any, *, color: str, **_: Any) -> None:
                drawn.append(f"line {color}")

            def __getattr__(self, name: str) -> Any:
                return lambda *_: None  # limits and the like

        class Figure:
            def __init__(self, **_: Any) -> None: ...

            def add_axes(self, _: Any) -> Axes:
                return Axes()

            def savefig(self, file: Any, **_: Any) -> None:
                file.write(b"a picture")

        for name, content in {"matplotlib": {}, "matplotlib.figure": {"Figure": Figure}}.items():
            module = ModuleType(name)
            module.__spec__ = ModuleSpec(name, None)
            vars(module).update(content)
            monkeypatch.setitem(sys.modules, name, module)
        run(capsys, "--plot", str(tmp_path / "out.png"))
        assert (tmp_path / "out.png").read_bytes() == b"a picture"
        run(capsys, "--plot", str(tmp_path / "out.svg"))
        expected = []
        for part in ElementTree.parse(tmp_path / "out.svg").getroot():
            if part.tag == f"{SVG}text":
                expected.append(part.text)
            elif part.tag == f"{SVG}polyline":
                fill, stroke = part.attrib["fill"], part.attrib["stroke"]
                expected.append(f"line {stroke}" if fill == "none" else f"fill {fill}")
        assert drawn == expected

    def test_without_matplotlib_the_way_out_is_named(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Before anything is simulated, one line says which extra is missing, and what works without."""
        monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
        status, output, errors = run(capsys, "--plot", "out.png")
        assert (status, output) == (2, "")
        assert errors == (
            "resilient-adapter: --plot out.png: PNG needs matplotlib: pip install 'resilient_adapter[simulate]'; "
            "SVG needs nothing\n"
        )
