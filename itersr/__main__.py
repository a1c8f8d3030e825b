"""`python -m itersr` is `itersr`."""

from __future__ import annotations

import sys

from itersr.cli import main

if __name__ == "__main__":
    sys.exit(main())
