"""The JSON in what a model says: words and code fences around it are passed over."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any


def json_objects(text: str) -> Iterator[dict[str, Any]]:
    """Every JSON object that begins somewhere in ``text``, whole, those inside others too.

    Halves of characters are left out of it; one with a NaN or an infinity is passed over.
    """
    decoder = json.JSONDecoder()
    for start in (match.start() for match in re.finditer(r"\{", text)):
        try:
            value, _ = decoder.raw_decode(text, start)
            # Halves of characters and what is no number can be written so, but not sent on.
            written = json.dumps(value, ensure_ascii=False, allow_nan=False)
            value = json.loads(written.encode("utf-8", "ignore"))
        except ValueError:
            continue
        except RecursionError:
            break
        yield value
