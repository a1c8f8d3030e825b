"""itersr: Iterative Token Evaluation and Refinement for Real-World Super-Resolution (ITER), taught step by step."""

from __future__ import annotations

import os
import sys
from typing import Any

__version__ = "0.1.0"
__all__ = ["ITER", "__version__"]

# OpenMP's threads spin for a while when they have nothing to do, and take the cores from each other where there are more
# threads than free cores: several processes, notebooks, a shared machine. They shall sleep; results are the same. The second
# name is that of Intel's runtime. Both are read when torch is loaded, and only then.
PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}
if "torch" not in sys.modules:
    for _name, _value in PASSIVE.items():
        os.environ.setdefault(_name, _value)


def _after_fork() -> None:
    # A forked process has the memory of OpenMP's threads without the threads, and would wait for them for ever.
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def __getattr__(name: str) -> Any:
    # `import itersr` stays light (the CLI answers --help without loading torch); ITER arrives when it is asked for.
    if name == "ITER":
        from itersr.model import ITER

        return ITER
    raise AttributeError(f"module 'itersr' has no attribute {name!r}")
