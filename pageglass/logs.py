"""Logging, set up by entry points only: libraries and parts just take a logger.

Facts beside the message go into the record as ``extra={"fields": {...}}``.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Literal

LogFormat = Literal["text", "json"]

_OURS = ("pageglass", "retrieval", "ingest", "generate", "api", "evals", "__main__")
# Line ends and what else a terminal obeys: a record is one line, whatever it quotes.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def set_up_logging(level: str = "WARNING", format: LogFormat = "text") -> None:
    """Log to standard error, one line a record, from ``level`` up.

    Of libraries, warnings and errors only: what else they log may hold addresses, headers, or what
    people asked.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if format == "json" else _Text())
    handler.addFilter(Repeated())
    logging.basicConfig(handlers=[handler], level=max(logging.WARNING, _number(level)), force=True)
    for name in _OURS:
        logging.getLogger(name).setLevel(level.upper())
    # RapidOCR installs a chatty handler of its own.
    logging.getLogger("RapidOCR").setLevel(logging.ERROR)


class Repeated(logging.Filter):
    """Lets a library say the same thing five times a minute: what clients send must not fill the
    disk. The first record after that minute says how many were left out."""

    _MOST, _SECONDS, _KEYS = 5, 60.0, 1000

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """``clock`` gives seconds."""
        super().__init__()
        self._clock = clock
        self._seen: dict[tuple[str, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is to be written."""
        if record.name.partition(".")[0] in _OURS:
            return True
        key, now = (record.name, str(record.msg)[:200]), self._clock()
        began, count = self._seen.get(key, (now, 0))
        left_out = 0
        if now - began >= self._SECONDS:
            began, count, left_out = now, 0, max(0, count - self._MOST)
        if len(self._seen) >= self._KEYS and key not in self._seen:
            self._seen.clear()
        self._seen[key] = began, count + 1
        if left_out:
            record.msg = f"{record.msg} ({left_out:,} more in the last minute)"
        return count < self._MOST


class _Text(logging.Formatter):
    """``time level logger message name=value ...``; control characters are escaped."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        line = super().formatMessage(record)
        return " ".join([line, *(f"{name}={_shown(v)}" for name, v in _fields(record).items())])

    def format(self, record: logging.LogRecord) -> str:
        return _CONTROL.sub(lambda match: ascii(match[0])[1:-1], super().format(record))


class _Json(logging.Formatter):
    """One JSON object a line: time, level, logger, message, the fields, and a traceback if any."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= _fields(record)
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        # ASCII: no character of a foreign text can be taken for a line's end.
        return json.dumps(line, default=str)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return getattr(record, "fields", {})


def _shown(value: object) -> str:
    """Bare where it is one plain word, else as JSON: values cannot pass for further fields."""
    plain = isinstance(value, str) and re.fullmatch(r"[^\s\"={}\[\],]+", value)
    return str(value) if plain else json.dumps(value, separators=(",", ":"), default=str)


def _number(level: str) -> int:
    return logging.getLevelNamesMapping()[level.upper()]
