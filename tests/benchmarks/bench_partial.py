"""Each request fails by chance: how many are sent for a call, and how many calls fail in the end.

    python tests/benchmarks/bench_partial.py [--settings FILE] [--share 0.3] [--outage 600] [--seeds 3]

It runs the simulation of ``resilient-adapter simulate`` (docs/simulate.md): the package's own decisions and guards on a
virtual clock, and beside it the reference's recipe, urllib3's Retry, tenacity with stamina's numbers, and no retries,
by the formulas that they document. The server can do ten times the demand, so that nothing but chance fails.

Where requests fail independently, a send is worth the same whoever sends it: each succeeds with the same probability,
and of every contender the calls that succeed are that share of its sends. The last column is a check of that: 1 is on
the line that no retry can leave. What is to be chosen is the place on it.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

from support import row, table

from resilient_adapter import Settings
from resilient_adapter.simulation.contenders import contenders, simulate
from resilient_adapter.simulation.world import Scenario


def main() -> None:
    """Print a row for each answer, demand and contender."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--settings", type=Path, help="a settings file; the defaults without")
    parser.add_argument("--share", type=float, default=0.3, help="of the requests that fail")
    parser.add_argument("--outage", type=float, default=600.0, help="seconds of calls, of the virtual clock")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each, whose mean is shown")
    args = parser.parse_args()
    settings = Settings.from_mapping({}) if args.settings is None else Settings.load(args.settings, environ={})
    table("answer", "demand", "client", "sends per call", "calls that fail", "good calls over good sends")
    for answer in (500, -1008):
        for clients in (200, 2):
            sums: dict[str, list[tuple[float, float]]] = {}
            for seed in range(1, args.seeds + 1):
                scenario = Scenario(
                    clients=clients,
                    rate=1.0,
                    outage=args.outage,
                    answer=answer,
                    partial=args.share,
                    capacity=10.0,
                    seed=seed,
                )
                for contender in contenders(settings, scenario):
                    record = simulate(scenario, contender)
                    sums.setdefault(contender.name, []).append((record.sends_per_call, record.failures / record.due))
            for name, runs in sums.items():
                sends, failed = (statistics.mean(values) for values in zip(*runs, strict=True))
                row(
                    answer,
                    f"{clients}/s",
                    name,
                    f"{sends:.3f}",
                    f"{failed:.2%}",
                    f"{(1 - failed) / (sends * (1 - args.share)):.3f}",
                )


if __name__ == "__main__":
    main()
