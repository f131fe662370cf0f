"""Text of a model as plain text: no links, no markup. Pure functions.

A page may tell the model to show a link or an image whose address carries away what was asked.
Prompts cannot rule that out; taking every form of link out of the answer can. What remains of an
address is readable and cannot be clicked.
"""

from __future__ import annotations

import re

_IMAGE_OR_LINK = re.compile(
    r"!?\[([^\[\]]*)\]\s?(?:\([^()\n]*(?:\([^()\n]*\)[^()\n]*)*\)|\[[^\[\]]*\])"
)
_REFERENCE = re.compile(r"^\s{0,3}\[[^\]\n]+\]:\s*\S+.*$", re.MULTILINE)
_TAG = re.compile(r"</?[A-Za-z!?][^<>]*>|<!--.*?-->", re.DOTALL)
_OPEN_TAG = re.compile(r"<(?=[A-Za-z/!?])")
_DANGEROUS = re.compile(r"\b(?:javascript|data|vbscript|file|mailto|tel)\s*:\s*\S+", re.IGNORECASE)
_SCHEME = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]*)?://", re.ASCII)
_WWW = re.compile(r"\bwww\.(?=\S)", re.IGNORECASE)
_JOINT = re.compile(r"\](?=[(\[])")
_INVISIBLE = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]"
)
_UNFINISHED = re.compile(r"[!\[<][^\]>]*$|\][\s(\[][^)\]]*$|\]$|\S+$")


def plain_text(text: str) -> str:
    """``text`` without links, images, tags, addresses' schemes and invisible characters.

    Link texts stay, and so does the rest of an address. Applying it twice changes nothing more.
    """
    while True:
        plain = _once(text)
        if plain == text:
            return plain.strip()
        # What was taken out may have stood in the middle of another.
        text = plain


def finished_part(text: str) -> str:
    """The part of a growing text that what is still to come cannot turn into a link or tag."""
    return _UNFINISHED.sub("", text)


def _once(text: str) -> str:
    text = _INVISIBLE.sub("", text)
    text = _TAG.sub("", text)
    text = _OPEN_TAG.sub("‹", text)
    text = _REFERENCE.sub("", text)
    text = _IMAGE_OR_LINK.sub(r"\1", text)
    text = _DANGEROUS.sub("", text)
    text = _SCHEME.sub("", text)
    text = _WWW.sub("", text)
    # Of a link too broken for the pattern above, what would make one of it in another's reading.
    return _JOINT.sub("] ", text)
