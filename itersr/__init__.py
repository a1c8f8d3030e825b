"""itersr: Iterative Token Evaluation and Refinement for Real-World Super-Resolution (ITER), taught step by step."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"
__all__ = ["ITER", "__version__"]


def __getattr__(name: str) -> Any:
    # `import itersr` stays light (the CLI answers --help without loading torch); ITER arrives when it is asked for.
    if name == "ITER":
        from itersr.model import ITER

        return ITER
    raise AttributeError(f"module 'itersr' has no attribute {name!r}")
