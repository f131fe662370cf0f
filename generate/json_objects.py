"""The JSON in what a model says: words and code fences around it are passed over."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any


def json_objects(text: str) -> Iterator[dict[str, Any]]:
    """Every JSON object that begins somewhere in ``text``, whole, those inside others too."""
    decoder = json.JSONDecoder()
    for start in (match.start() for match in re.finditer(r"\{", text)):
        try:
            value, _ = decoder.raw_decode(text, start)
        except ValueError:
            continue
        except RecursionError:
            break
        yield value
