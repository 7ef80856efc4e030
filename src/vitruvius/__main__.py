"""`python -m vitruvius` is the `vitruvius` command."""

from __future__ import annotations

import sys

from vitruvius.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
