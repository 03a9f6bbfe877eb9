"""requests' own test suite, as its source distribution ships it, with the adapter in place of HTTPAdapter.

``python tests/foreign/requests_suite.py [--requests VERSION]``. It needs the package index, takes a few minutes and
is no part of the test suite. In an environment of its own it runs the tests three times:

=========  ==========================================================================================
plain      as they are
replaced   each ``HTTPAdapter`` that a session or a test makes is a ResilientAdapter; one with ``max_retries``, which
           would repeat beneath us, stays what it is, as under ``install()``
installed  under ``install()``
=========  ==========================================================================================

A test that passes plain has to pass with the adapter too. It prints the tests for which that is not so, and exits with
1 if there are any beside those in :data:`CONTRARY`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tarfile
import tempfile
import xml.etree.ElementTree as ET
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
WAYS = ("plain", "replaced", "installed")

#: What requests' own requirements-dev.txt asks for to test it, save what only packages or measures it.
NEEDS = ("pytest>=2.8.0,<10", "pytest-httpbin==2.1.0", "httpbin~=0.10.0", "trustme", "PySocks")

_POOLS = "TestPreparingURLs::test_different_connection_pool_for_"
#: What is meant to be otherwise, by way and test.
CONTRARY = {
    # They count a session's own connections. Under install() all sessions draw from one pool: that is what it is for.
    *(("installed", _POOLS + name) for name in (
        "tls_settings_verify_True", "tls_settings_verify_bundle_expired_cert",
        "tls_settings_verify_bundle_unexpired_cert", "mtls_settings",
    )),
}  # fmt: skip


def prepare(folder: Path, requests_version: str) -> tuple[Path, Path]:
    """Fetch the source distribution and make an environment; return the environment's Python and the tests' folder."""
    run(sys.executable, "-m", "venv", folder / "venv")
    python = folder / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
    wanted = f"requests=={requests_version}"
    run(python, "-m", "pip", "install", "-q", wanted, *NEEDS, ROOT)
    run(python, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", "requests", "-d", folder, wanted)
    (archive,) = folder.glob("requests-*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(folder / "source", filter="data")
    (source,) = (folder / "source").iterdir()
    # The tests are to meet the installed requests, not the one beside them.
    (source / "src").rename(source / "not-imported")
    return python, source


def run(*command: object) -> None:
    """Run a command that has to succeed."""
    subprocess.run([str(part) for part in command], check=True)


def outcomes(python: Path, source: Path, way: str) -> dict[str, str]:
    """Run the tests in one way; return what became of each."""
    report = source.parent / f"{way}.xml"
    print(f"{way}: ", end="", flush=True)
    subprocess.run(
        [
            str(python), "-m", "pytest", "tests", "-q", "--no-header", "--tb=no", "-p", "adapter_plugin",
            "-p", "no:cacheprovider", f"--junit-xml={report}",
        ],
        cwd=source,
        check=False,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(HERE), "FOREIGN_WAY": way},
    )  # fmt: skip
    results: dict[str, str] = {}
    for case in ET.parse(report).iter("testcase"):
        name = f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name')}"
        bad = {child.tag for child in case} & {"failure", "error", "skipped"}
        results[name] = bad.pop() if bad else "passed"
    counts = {outcome: list(results.values()).count(outcome) for outcome in sorted(set(results.values()))}
    print(", ".join(f"{count} {outcome}" for outcome, count in counts.items()))
    return results


def main() -> int:
    """Run all three and compare."""
    parser = argparse.ArgumentParser(description="Run requests' own test suite with the adapter.")
    parser.add_argument("--requests", default=version("requests"), help="its version (default: the installed one)")
    wanted: str = parser.parse_args().requests
    print(f"requests {wanted}")
    with tempfile.TemporaryDirectory() as folder:
        python, source = prepare(Path(folder), wanted)
        results = {way: outcomes(python, source, way) for way in WAYS}
    passed = {name for name, outcome in results["plain"].items() if outcome == "passed"}
    worse = 0
    for way in WAYS[1:]:
        for name in sorted(name for name in passed if results[way].get(name) != "passed"):
            expected = (way, name) in CONTRARY
            worse += not expected
            print(f"  {way}: {name}: {results[way].get(name)}{' (as intended)' if expected else ''}")
    print(
        f"{len(passed)} tests pass plain; with the adapter {worse} of them do not, beside those named above as intended"
    )
    return 1 if worse or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
