"""Whether what a client has is what it would get."""

from __future__ import annotations


def matches(if_none_match: str | None, tag: str) -> bool:
    """Whether If-None-Match names the tag (weak comparison, RFC 9110, section 13.1.2)."""
    if if_none_match is None:
        return False
    named = [part.strip().removeprefix("W/") for part in if_none_match.split(",")]
    return tag in named or "*" in named
