"""A pytest plugin that brings the adapter into requests' own tests before they import it; see requests_suite.py."""

from __future__ import annotations

import os
from typing import Any

import requests

# Waits as short as can be, for the sake of time; all else as by default.
SETTINGS: dict[str, Any] = {"retry": {"base": 0.001, "jitter": 0.0}}

WAY = os.environ["FOREIGN_WAY"]

if WAY == "replaced":
    from resilient_adapter import ResilientAdapter, Settings

    class Replacement(ResilientAdapter):
        """A ResilientAdapter that is made as an HTTPAdapter is."""

        def __init__(self, *pools: int, **options: Any) -> None:
            names = ("pool_connections", "pool_maxsize", "max_retries", "pool_block")
            super().__init__(Settings.from_mapping(SETTINGS), **dict(zip(names, pools)), **options)

    requests.adapters.HTTPAdapter = requests.sessions.HTTPAdapter = Replacement  # type: ignore[misc]
elif WAY == "installed":
    from resilient_adapter import install

    install(SETTINGS)
