"""segnas: architecture search for semantic segmentation, from a folder of images to a measured, exported network.

The verbs (`segnas.run`, `segnas.search`, `segnas.retrain`, ...) are in segnas/api.py and are loaded when first used.
"""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"

VERBS = (
    *("check", "search", "retrain", "run", "evaluate", "predict", "export_onnx", "write_report", "compare_runs", "load", "count"),
    *("latency", "benchmark"),
)


def __getattr__(name: str) -> Any:
    if name in VERBS:
        from segnas import api

        return getattr(api, name)
    raise AttributeError(f"module 'segnas' has no attribute '{name}'")


def __dir__() -> list[str]:
    return [*globals(), *VERBS]
