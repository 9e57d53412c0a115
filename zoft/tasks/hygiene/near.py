r"""Texts that nearly repeat each other, found exactly and without comparing all with all.

Two texts are near duplicates if the sets of their pairs of successive words have a Jaccard similarity
:math:`|A \cap B| / |A \cup B|` of at least 4/5: in a text of 21 words, about one changed word. Of short texts (fewer
than ten words) the words must be the same in the same order, so that only punctuation may differ: "great film" and
"great movie" are two texts. Of a text in several columns this must be so of each column too: two questions about one
paragraph are two texts.

Prefix filtering (Chaudhuri, Ganti and Kaushik, ICDE 2006; Bayardo, Ma and Srikant, WWW 2007): with a set's elements
sorted from rare to common, two sets that are similar enough share one of their first few. Those are rare, so hardly
any sets need to be compared, and unlike with MinHash no pair is missed and none is reported by chance.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from zoft.tasks.hygiene.wording import words

__all__ = ["NearPairs", "Text", "near_pairs"]

ALIKE, OF = 4, 5  # the least Jaccard similarity, as a fraction: integers do not round
SHORT = 10  # words; shorter texts are compared as a whole
MAX_WORDS = 10_000_000  # some 15 seconds and a gigabyte
MAX_COMPARISONS = 1_000_000  # some seconds; only data made from few templates needs as many

Text = tuple[str, ...]
"""A text in its columns."""

Codes = NDArray[np.int64]


@dataclass(frozen=True)
class NearPairs:
    """Pairs of texts that nearly repeat each other.

    Attributes:
        pairs: Indices ``(earlier, later)``; for each text one earlier text of each group that it nearly repeats.
        compared: How many texts were compared with all before them; fewer than all where that would take too long.
    """

    pairs: tuple[tuple[int, int], ...]
    compared: int


def near_pairs(
    texts: Sequence[Text],
    groups: Sequence[int],
    *,
    max_words: int = MAX_WORDS,
    max_comparisons: int = MAX_COMPARISONS,
) -> NearPairs:
    """Find near duplicates among texts of which no two are the same.

    Args:
        texts: Normalised texts.
        groups: To which group each text belongs, such as training or evaluation.
        max_words: Texts after so many words are left out.
        max_comparisons: Where to give up.
    """
    sets, alone, distinct = _rare_first(_coded(texts, max_words))
    holders: dict[int, list[int]] = {}  # texts by each of their rare elements
    present = np.zeros(distinct, dtype=bool)
    pairs: list[tuple[int, int]] = []
    left = max_comparisons
    for index, elements in enumerate(sets):
        needed = -(-ALIKE * len(elements) // OF)
        prefix = elements[: len(elements) - needed + 1]
        shared = prefix[np.searchsorted(prefix, alone) :].tolist()  # what one text alone has meets no other
        candidates = sorted({other for element in shared for other in holders.get(element, ())})
        present[elements] = True
        found: set[int] = set()
        for other in candidates:
            if groups[other] in found or not _can_be_alike(len(elements), len(sets[other])):
                continue
            left -= 1
            common = int(np.count_nonzero(present[sets[other]]))
            if _reaches(common, len(elements), len(sets[other])) and _alike_by_column(texts[index], texts[other]):
                found.add(groups[other])
                pairs.append((other, index))
        present[elements] = False
        if left < 0:
            return NearPairs(tuple(pairs), compared=index + 1)
        for element in shared:
            holders.setdefault(element, []).append(index)
    return NearPairs(tuple(pairs), compared=len(sets))


def _can_be_alike(first: int, second: int) -> bool:
    """Whether sets of these sizes can be similar enough."""
    return OF * min(first, second) >= ALIKE * max(first, second)


def _reaches(common: int, first: int, second: int) -> bool:
    """Whether sets of these sizes that have so many elements in common are similar enough."""
    return OF * common >= ALIKE * (first + second - common)


def _alike_by_column(text: Text, other: Text) -> bool:
    return len(text) == 1 or all(_alike(words(one), words(another)) for one, another in zip(text, other, strict=True))


def _alike(one: Sequence[str], other: Sequence[str]) -> bool:
    if min(len(one), len(other)) < SHORT:
        return one == other
    first, second = set(pairwise(one)), set(pairwise(other))
    return _reaches(len(first & second), len(first), len(second))


def _coded(texts: Sequence[Text], max_words: int) -> Iterator[Codes]:
    """Yield each text's set as distinct integers: pairs of words, or the one text if it is short."""
    vocabulary: dict[str, int] = {}
    short: dict[tuple[str, ...], int] = {}
    for text in texts:
        joined = " ".join(text)
        spoken = words(joined) or [joined]  # nothing but punctuation
        max_words -= len(spoken)
        if max_words < 0:
            return
        if len(spoken) < SHORT:
            yield np.array([-1 - short.setdefault(tuple(spoken), len(short))], dtype=np.int64)
        else:
            ids = np.array([vocabulary.setdefault(word, len(vocabulary)) for word in spoken], dtype=np.int64)
            yield np.unique((ids[:-1] << 32) | ids[1:])


def _rare_first(coded: Iterator[Codes]) -> tuple[list[Codes], int, int]:
    """Number the elements from rare to common.

    Returns:
        The sets with their elements' numbers in rising order; how many elements only one set has, which come first;
        and how many elements there are.
    """
    sets = list(coded)
    if not sets:
        return [], 0, 0
    elements, positions, counts = np.unique(np.concatenate(sets), return_inverse=True, return_counts=True)
    numbers = np.empty(len(elements), dtype=np.int64)
    numbers[np.argsort(counts, kind="stable")] = np.arange(len(elements))
    ends = np.cumsum([len(codes) for codes in sets])[:-1]
    return [np.sort(part) for part in np.split(numbers[positions], ends)], int((counts == 1).sum()), len(elements)
