"""What ``resilient-adapter run`` has Python find as it starts: sees to it that requests is covered once imported.

Every Python process that inherits the environment runs this, perhaps one of another version or environment: so it
is careful, quick, and leaves no trace.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import os
import sys

TYPE_CHECKING = False  # importing typing would cost every process its time
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any

_VARIABLE = "_RESILIENT_ADAPTER_RUN"
_HERE = os.path.dirname(os.path.abspath(__file__))


class _AfterRequests:
    """Waits on ``sys.meta_path`` for requests to be imported, and covers it right after."""

    def __init__(self, plan: dict[str, Any], environ: dict[str, str]) -> None:
        self.plan = plan
        self.environ = environ
        self.asking = False

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != "requests" or self.asking:
            return None
        self.asking = True
        try:
            spec: Any = importlib.util.find_spec(name)
        finally:
            self.asking = False
        if spec is None or spec.loader is None:
            return spec
        sys.meta_path.remove(self)
        loader, execute = spec.loader, spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            del loader.exec_module
            execute(module)
            _begin(self.plan, self.environ)

        loader.exec_module = exec_module
        return spec


def _begin(plan: dict[str, Any], environ: dict[str, str]) -> None:
    if "resilient_adapter" not in sys.modules:
        # The very package that this file belongs to, wherever it is: it may have been run from a folder of its own.
        root = os.path.dirname(os.path.dirname(_HERE))
        _execute(importlib.util.spec_from_file_location("resilient_adapter", os.path.join(root, "__init__.py")))
    from resilient_adapter.cli.startup import begin

    begin(plan["settings"], plan["log"], environ)


def _execute(spec: Any) -> None:
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)


def _start() -> None:
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry) != _HERE]
    plan = json.loads(os.environ[_VARIABLE])
    if not plan["children"]:
        del os.environ[_VARIABLE]
        if plan["path"] is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = plan["path"]
    # A Python of another environment may lack what we need.
    if plan["python"] == [sys.prefix, *sys.version_info[:2]]:
        sys.meta_path.insert(0, _AfterRequests(plan, dict(os.environ)))


def _pass_on() -> None:
    """Run the sitecustomize in whose place we were found; where there is none, be none."""
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize")
    if spec is None:
        raise ImportError("there is no other", name="sitecustomize")  # which site.py passes over
    _execute(spec)


if _VARIABLE in os.environ:
    _start()
    _pass_on()
