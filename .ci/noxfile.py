"""Every check of the project: ``nox -f .ci/noxfile.py`` runs the default ones, ``--list`` shows them all."""

from __future__ import annotations

import configparser
import sys
import zipfile
from pathlib import Path

import nox
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
PYTHONS = ["3.10", "3.11", "3.12", "3.13"]

nox.needs_version = ">=2025.10.16"
nox.options.sessions = ["lint", "package", "tests", "lowest"]
nox.options.envdir = str(ROOT / ".nox")


def lowest_versions() -> str:
    """Return constraints that pin every dependency in setup.cfg to its lower bound."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    lists = [config["options"]["install_requires"], *config["options.extras_require"].values()]
    pins = []
    for line in "\n".join(lists).splitlines():
        if not line or line.startswith("#"):
            continue
        requirement = Requirement(line)
        (bound,) = (each.version for each in requirement.specifier if each.operator == ">=")
        marker = f"; {requirement.marker}" if requirement.marker else ""
        pins.append(f"{requirement.name}=={bound}{marker}")
    return "\n".join(pins)


@nox.session
def lint(session: nox.Session) -> None:
    """Style, formatting, types and import directions."""
    session.chdir(ROOT)
    session.install("-e", ".[lint]")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    for python in (PYTHONS[0], PYTHONS[-1]):
        session.run("mypy", "--python-version", python)
    session.run("lint-imports")


@nox.session
def package(session: nox.Session) -> None:
    """Build both distributions; what is installed from the wheel is whole and runs."""
    dist = Path(session.create_tmp()).resolve()
    for old in dist.iterdir():
        old.unlink()
    # With no choice made, build makes the wheel out of the sdist: a file that the sdist lacks shows too.
    session.run(sys.executable, "-m", "build", "--outdir", str(dist), str(ROOT), external=True, silent=True)
    (wheel,) = dist.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
        if not any(name.endswith("/LICENSE") for name in archive.namelist()):
            session.error("the wheel has no LICENSE")
    source = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "resilient_adapter").rglob("*")
        if path.suffix == ".py" or path.name == "py.typed"
    }
    if packed != source:
        session.error(f"the wheel differs from the package in: {', '.join(sorted(packed ^ source))}")
    session.install(str(wheel))
    session.chdir(dist)  # out of the tree, whose package would be imported in place of the wheel's
    session.run("python", "-c", "import resilient_adapter")
    session.run("resilient-adapter", "explain", "-1003")
    session.run("python", "-m", "resilient_adapter", "explain", "-1003", silent=True)


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """The test suite on each Python."""
    session.chdir(ROOT)
    session.install("-e", ".[test]")
    session.run("python", "-m", "pytest", "-n", "auto", *session.posargs)


@nox.session(python=[PYTHONS[0], PYTHONS[-1]])
def lowest(session: nox.Session) -> None:
    """The test suite on the lowest version that the metadata allows of every dependency."""
    constraints = Path(session.create_tmp()).resolve() / "lowest.txt"
    constraints.write_text(lowest_versions(), encoding="utf-8")
    session.chdir(ROOT)
    # Wheels only: where a lower bound has none for this Python, users would have to compile it.
    session.install("--only-binary", ":all:", "--constraint", str(constraints), "-e", ".[test]")
    session.run("python", "-m", "pytest", "-n", "auto", *session.posargs)


@nox.session(python=[PYTHONS[0], PYTHONS[-1]], default=False)
@nox.parametrize("versions", ["lowest", "newest"])
def neighbours(session: nox.Session, versions: str) -> None:
    """The tests with other libraries for requests: by hand, for their releases must not turn a commit red."""
    bounds = []
    if versions == "lowest":
        constraints = Path(session.create_tmp()).resolve() / "lowest.txt"
        constraints.write_text(lowest_versions(), encoding="utf-8")
        bounds = ["--constraint", str(constraints)]
    session.chdir(ROOT)
    session.install(*bounds, "-e", ".[test,neighbours]")
    session.run("python", "-m", "pytest", "tests/neighbours", *session.posargs)


@nox.session(default=False)
def niquests(session: nox.Session) -> None:
    """The tests with niquests, apart from the others: it replaces urllib3 by a fork."""
    session.chdir(ROOT)
    session.install("-e", ".[test]")
    # After the other, whose files it overwrites.
    session.install("niquests>=3.21.2")
    session.run("python", "-m", "pytest", "tests/neighbours/test_with_niquests.py", *session.posargs)


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """The benchmarks, each a ratio measured in one run."""
    session.chdir(ROOT)
    session.install("-e", ".[bench]")
    for script in sorted(Path("tests/benchmarks").glob("bench_*.py")):
        session.run("python", str(script), *session.posargs)
