"""Text of a model as plain text: no links, no markup. Pure functions.

A page may tell the model to show a link or an image whose address carries away what was asked.
Prompts cannot rule that out; taking every form of link out of the answer can. What remains of an
address is readable and cannot be clicked.
"""

from __future__ import annotations

import html
import re

_ENTITY = re.compile(r"&(?:#\d{1,7};?|#[xX][0-9A-Fa-f]{1,6};?|[A-Za-z][A-Za-z0-9]{1,31};)")
_LINE_END = re.compile(r"\r\n?|[\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")
# Controls, marks of direction, joiners, letters without a shape, and the tags that can spell a
# hidden message; surrogates are no text at all.
_INVISIBLE = re.compile(
    r"[\x00-\x08\x0e-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f"
    r"\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ud800-\udfff\ufe00-\ufe0f\ufeff\uffa0"
    r"\ufff0-\ufffb\U000e0000-\U000e0fff]"
)
# What people write in capitals (<Enter>) is kept, and does nothing once its bracket is another.
_TAG = re.compile(r"</?[a-z!?][^<>]*>|<!--.*?-->", re.DOTALL)
_OPEN_TAG = re.compile(r"<(?=[A-Za-z/!?])")
_IMAGE_OR_LINK = re.compile(r"!?\[([^\[\]]*)\]\([^()\n]*(?:\([^()\n]*\)[^()\n]*)*\)")
_BARE_SCHEME = re.compile(
    r"\b(javascript|vbscript|data|blob|file|mailto|tel|sms|xmpp):(?=\S)", re.IGNORECASE
)
_SCHEME = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]*)?://|(?<![\w/:])//(?=\w)", re.ASCII)
_WWW = re.compile(r"\bwww\.(?=\S)", re.IGNORECASE)
_JOINT = re.compile(r"\](?=[(\[:])")
_UNFINISHED = re.compile(r"!?\[[^\[\]]*(?:\](?:[(\[][^()\[\]]*)?\S*)?$|<[^>]*$|\S+$")


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
    """The part of a growing text that what is still to come will hardly turn into a link or tag.

    Its entities are decoded and what is invisible is left out.
    """
    return _UNFINISHED.sub("", _visible(text))


def _visible(text: str) -> str:
    text = _ENTITY.sub(lambda entity: html.unescape(entity[0]), text)
    return _INVISIBLE.sub("", _LINE_END.sub("\n", text))


def _once(text: str) -> str:
    text = _visible(text)
    text = _TAG.sub("", text)
    text = _OPEN_TAG.sub("‹", text)
    text = _IMAGE_OR_LINK.sub(r"\1", text)
    # A space after the colon, and it is words again: "data:4,812" may well be meant as such.
    text = _BARE_SCHEME.sub(r"\1: ", text)
    text = _SCHEME.sub("", text)
    text = _WWW.sub("", text)
    # Of a link too broken for the pattern above, and of where a reference leads, what would make
    # one of it in another's reading.
    return _JOINT.sub("] ", text)
