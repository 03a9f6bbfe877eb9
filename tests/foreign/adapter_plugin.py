"""A pytest plugin that brings the adapter into requests' own tests before they import it; see requests_suite.py."""

from __future__ import annotations

import os
from typing import Any

import requests

# Waits as short as can be, for the sake of time, and a circuit that one test does not open for the next: they call the
# same origins. All else as by default.
SETTINGS: dict[str, Any] = {
    "retry": {"base": 0.001, "jitter": 0.0},
    "circuit": {"fail_max": 10_000, "failure_rate": 1.0, "min_calls": 10_000},
}

WAY = os.environ["FOREIGN_WAY"]

if WAY == "replaced":
    from requests.adapters import HTTPAdapter as PlainAdapter

    from resilient_adapter import ResilientAdapter, Settings

    class Replacement(ResilientAdapter):
        """A ResilientAdapter that is made as an HTTPAdapter is."""

        def __new__(cls, *pools: int, **options: Any) -> Any:
            """Leave an adapter that repeats by itself what it is, as install() does."""
            return PlainAdapter(*pools, **options) if "max_retries" in options else super().__new__(cls)

        def __init__(self, *pools: int, **options: Any) -> None:
            names = ("pool_connections", "pool_maxsize", "max_retries", "pool_block")
            super().__init__(Settings.from_mapping(SETTINGS), **dict(zip(names, pools, strict=False)), **options)

    requests.adapters.HTTPAdapter = requests.sessions.HTTPAdapter = Replacement  # type: ignore[misc]
elif WAY == "installed":
    from resilient_adapter import install

    install(SETTINGS)
