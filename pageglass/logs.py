"""Logging, set up by entry points only: libraries and parts just take a logger."""

from __future__ import annotations

import logging
import sys


def set_up_logging(level: str = "WARNING") -> None:
    """Log to standard error, one line a record, from ``level`` up."""
    logging.basicConfig(
        stream=sys.stderr,
        level=level.upper(),
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
        force=True,
    )
    # RapidOCR installs a chatty handler of its own.
    logging.getLogger("RapidOCR").setLevel(logging.ERROR)
