"""Python runs this file in each process that has its folder on PYTHONPATH: there, the learners of a stack are small.

Nothing is imported before a process does so itself: daemons have no use for learners.
"""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

SIZES: dict[str, Any] = {"TREES": (5, 5), "CLASS_TREES": (5, 5), "STAGES": (10, 10), "CLASS_STAGES": 10}
WHERE = "kmel_p2p.learn.stack.learners"


class SmallLearners(MetaPathFinder):
    """Finds the learners' module where it is, and sets its sizes once it has run."""

    def find_spec(self, fullname: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        """See `importlib.abc.MetaPathFinder`."""
        if fullname != WHERE:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            loader, run = spec.loader, spec.loader.exec_module

            def run_small(module: ModuleType) -> None:
                run(module)
                for name, size in SIZES.items():
                    if not hasattr(module, name):
                        raise AttributeError(f"{WHERE} has no {name} any more: see {__file__}")
                    setattr(module, name, size)

            loader.exec_module = run_small  # type: ignore[method-assign]
        return spec


if __name__ == "sitecustomize":  # and not as a module of tests, which read the sizes
    sys.meta_path.insert(0, SmallLearners())
