"""Texts as they are compared: whether two are the same, and of which words they are made."""

from __future__ import annotations

import re
import unicodedata

__all__ = ["normalised", "words"]

INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u2060\ufeff]")  # soft hyphens, zero-width spaces and joiners, marks

# Thai, Lao, Burmese, Khmer, Japanese and Chinese put no spaces between words: each character counts as one.
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
WORD = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+")
ASCII_WORD = re.compile(r"\w+")


def normalised(text: str) -> str:
    """Return a text without what does not make it another one: case, whitespace, forms of one character.

    Unicode's compatibility form (NFKC, Unicode Standard Annex 15), then case folding; runs of whitespace become
    one space, invisible characters none.
    """
    if not text.isascii():
        text = unicodedata.normalize("NFKC", INVISIBLE.sub("", text))
    return " ".join(text.casefold().split())


def words(text: str) -> list[str]:
    """Return the words of a normalised text, without its punctuation."""
    return (ASCII_WORD if text.isascii() else WORD).findall(text)
