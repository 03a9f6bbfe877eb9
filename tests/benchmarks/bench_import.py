"""What the import costs, over ``import requests`` alone: whole processes, with their bytecode cached.

    python tests/benchmarks/bench_import.py [--rounds 40]

Two tables. The first is of programs that import and do nothing; goal 1.15. In the second each makes one session too,
and calls a server on loopback once: what is put off from the import is paid there, and no later.
"""

from __future__ import annotations

import argparse

from processes import in_turn, median, over
from support import missing, row, server, sized, table

IMPORTS = {
    "requests": "import requests",
    "resilient_adapter": "import resilient_adapter",
    "ResilientAdapter": "from resilient_adapter import ResilientAdapter",
    "stamina": "import requests, stamina",
    "tenacity, pybreaker, requests_ratelimiter": (
        "import requests, tenacity, pybreaker; from requests_ratelimiter import LimiterSession"
    ),
}

_CALL = """
import sys
for _ in range(int(sys.argv[2])):
    get(sys.argv[1])
session.close()
"""

SESSIONS = {
    "requests": f"""
import requests
session = requests.Session()
get = session.get
{_CALL}""",
    "ResilientAdapter": f"""
import requests
from resilient_adapter import ResilientAdapter, Settings
session = requests.Session()
session.mount("http://", ResilientAdapter(Settings.from_mapping({{}})))
get = session.get
{_CALL}""",
    "stamina": f"""
import requests, stamina
session = requests.Session()
get = stamina.retry(on=requests.RequestException, attempts=3)(session.get)
{_CALL}""",
    "tenacity, pybreaker, requests_ratelimiter": f"""
import functools, requests, tenacity, pybreaker
from requests_ratelimiter import LimiterSession
session = LimiterSession(per_second=1000)
breaker = pybreaker.CircuitBreaker()
retrying = tenacity.Retrying(stop=tenacity.stop_after_attempt(3), wait=tenacity.wait_exponential(), reraise=True)
get = functools.partial(retrying, breaker.call, session.get)
{_CALL}""",
}


def possible(programs: dict[str, str]) -> dict[str, str]:
    """Return those programs whose modules are installed: a peer that is not is left out."""
    peers = {name: name.split(", ") for name in programs if name not in ("requests", "ResilientAdapter")}
    return {name: program for name, program in programs.items() if not missing(*peers.get(name, ()))}


def compare(title: str, programs: dict[str, str], rounds: int, *arguments: str) -> None:
    """Run programs in turn and print a row for each."""
    taken = in_turn(possible(programs), rounds, *arguments)
    bare = taken["requests"]
    table(title, "CPU", "CPU over requests' (middle half)", "wall over requests' (middle half)")
    for name, used in taken.items():
        row(name, f"{median(used, 'cpu') * 1e3:.0f} ms", over(used, bare, "cpu"), over(used, bare, "wall"))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=40, help="counted runs of each program")
    args = parser.parse_args()
    compare("import", IMPORTS, args.rounds)
    with server(sized) as address:
        compare("import, a session, a call", SESSIONS, args.rounds, f"{address}/100", "1")


if __name__ == "__main__":
    main()
