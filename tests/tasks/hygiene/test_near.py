"""Near duplicates: exactly the pairs that comparing all with all finds, quickly, and none among short texts."""

from __future__ import annotations

import random
import re
import time
from fractions import Fraction
from itertools import combinations, pairwise

import pytest

from zoft.errors import AssetError
from zoft.tasks.files import load_rows
from zoft.tasks.hygiene.near import NearPairs
from zoft.tasks.hygiene.near import near_pairs as near_pairs_of_columns
from zoft.tasks.hygiene.wording import normalised, words


def near_pairs(texts: list[str], groups: list[int], **limits: int) -> NearPairs:
    return near_pairs_of_columns([(text,) for text in texts], groups, **limits)


def slowly_alike(one: str, other: str) -> bool:
    """The definition, one pair at a time."""
    first, second = re.findall(r"\w+", one), re.findall(r"\w+", other)
    if len(first) < 10 or len(second) < 10:
        return first == second
    a, b = (set(pairwise(text)) for text in (first, second))
    return Fraction(len(a & b), len(a | b)) >= Fraction(4, 5)


def changed(rng: random.Random, text: list[str], vocabulary: list[str]) -> list[str]:
    """A copy with a few words replaced, dropped or added."""
    copy = list(text)
    for _ in range(rng.randrange(4)):
        place = rng.randrange(len(copy))
        copy[place : place + rng.randrange(2)] = rng.choices(vocabulary, k=rng.randrange(2))
    return copy


@pytest.mark.parametrize("seed", range(3))
def test_the_pairs_are_those_of_comparing_all_with_all(seed: int) -> None:
    rng = random.Random(seed)
    vocabulary = [f"w{number}" for number in range(40)]
    originals = [rng.choices(vocabulary, k=rng.randint(3, 40)) for _ in range(60)]
    spoken = [*originals, *(changed(rng, rng.choice(originals), vocabulary) for _ in range(140))]
    texts = list(dict.fromkeys(" ".join(text) + rng.choice(["", "!"]) for text in spoken))
    rng.shuffle(texts)
    groups = [rng.randrange(3) for _ in texts]

    found = near_pairs(texts, groups)
    truth = [(i, j) for i, j in combinations(range(len(texts)), 2) if slowly_alike(texts[i], texts[j])]
    assert len(truth) > 50, "there is something to find"
    assert found.compared == len(texts)
    assert set(found.pairs) <= set(truth)
    wanted = {(groups[earlier], later) for earlier, later in truth}
    assert sorted(wanted) == sorted((groups[earlier], later) for earlier, later in found.pairs)


def test_a_changed_word_is_near_in_a_long_text_and_another_text_in_a_short_one() -> None:
    long = "the first half drags but once they reach the {} this turns into a lovely and rather moving film"
    assert near_pairs([long.format("island"), long.format("isle")], [0, 1]).pairs == ((0, 1),)
    assert near_pairs(["great film", "great movie", "a great film", "film great"], [0] * 4).pairs == ()
    assert near_pairs(["great film", "great film!", "great - film"], [0, 1, 2]).pairs == ((0, 1), (0, 2), (1, 2))
    assert near_pairs(["!", "?", "..."], [0] * 3).pairs == ()


def test_a_long_text_is_not_near_its_beginning() -> None:
    text = [f"w{number}" for number in range(100)]
    assert near_pairs([" ".join(text), " ".join(text[:70])], [0, 1]).pairs == ()
    assert near_pairs([" ".join(text), " ".join(text[:90])], [0, 1]).pairs == ((0, 1),)


def test_characters_count_as_words_where_there_are_no_spaces() -> None:
    assert words("这部电影 very 好看") == ["这", "部", "电", "影", "very", "好", "看"]
    text = "这部电影的故事非常感人演员们的表演也很出色我强烈推荐大家去看"
    assert near_pairs([text, text.replace("强烈", "十分")], [0, 1]).pairs == ((0, 1),)
    assert near_pairs([text, "昨天我们去公园散步天气很好孩子们玩得非常开心晚上一起吃了火锅"], [0, 1]).pairs == ()


def test_each_column_must_be_near() -> None:
    context = " ".join(f"w{number}" for number in range(120))
    question = (
        "in which year did the first of the two brothers named here leave the town by the sea where they were born"
    )
    texts = [
        (context, "who left first?"),
        (context, "who came last?"),
        (context + " indeed", "who left, first"),
        (context, question),
        (context, question.replace("town", "city")),
    ]
    assert near_pairs_of_columns(texts, [0] * 5).pairs == ((0, 2), (3, 4))


def test_what_makes_no_other_text_is_normalised_away() -> None:
    assert normalised(" Great\u00a0FILM\n") == normalised("great film") == "great film"
    assert normalised("\uff27reat \ufb01lm\u200b") == "great film"  # full-width G, the ligature fi
    assert normalised("cafe\u0301") == normalised("caf\u00e9")
    assert normalised("STRASSE") == normalised("stra\u00dfe")
    assert normalised("great film!") != normalised("great film")


def test_what_takes_too_long_is_given_up_and_said() -> None:
    texts = [" ".join([*["a b c d e f g h i j"] * 3, str(n)]) for n in range(200)]
    whole = near_pairs(texts, [0] * 200)
    assert whole.compared == 200
    given_up = near_pairs(texts, list(range(200)), max_comparisons=100)
    assert 10 < given_up.compared < 200 and all(later < given_up.compared for _, later in given_up.pairs)
    assert near_pairs(texts, [0] * 200, max_words=31 * 50).compared == 50
    assert near_pairs([], []).compared == 0


@pytest.mark.slow
def test_25_000_reviews_take_seconds() -> None:
    try:
        rows = load_rows("packaged:imdb")
    except AssetError as error:
        pytest.skip(str(error))
    texts = list(dict.fromkeys(normalised(row["text"]) for row in rows))
    started = time.process_time()
    found = near_pairs(texts, [0] * len(texts))
    assert time.process_time() - started < 60  # on a machine that does something else as well
    assert found.compared == len(texts) > 24_000
    assert 10 < len(found.pairs) < 40 and all(slowly_alike(texts[i], texts[j]) for i, j in found.pairs)
