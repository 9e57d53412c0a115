"""Rows as the data sets of the library have them, written for these tests; what must become of each first one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Case:
    """Rows of one task; the first one's prompt, options, and which of those are right."""

    rows: list[dict[str, Any]]
    prompt: str
    options: tuple[str, ...]
    right: tuple[int, ...]


CASES: dict[str, Case] = {
    "sst2": Case(
        [
            {"sentence": "a warm and clever film ", "label": 1, "idx": 0},
            {"sentence": "dull ", "label": 0, "idx": 1},
            {"sentence": "two hours that feel like four ", "label": 0, "idx": 2},
        ],
        "a warm and clever film It was",
        (" terrible", " great"),
        (1,),
    ),
    "rte": Case(
        [
            {"premise": "The bridge opened in May.", "hypothesis": "The bridge is open.", "idx": 0, "label": 0},
            {
                "premise": "Ann sold her boat.",
                "hypothesis": "Ann bought a boat from Ben last week.",
                "idx": 1,
                "label": 1,
            },
        ],
        'The bridge opened in May.\nDoes this mean that "The bridge is open." is true? Yes or No?\n',
        ("Yes", "No"),
        (0,),
    ),
    "cb": Case(
        [
            {"premise": "Nobody said that it rained.", "hypothesis": "it rained", "idx": 0, "label": 2},
            {"premise": "I know that she left.", "hypothesis": "she left", "idx": 1, "label": 0},
            {"premise": "He was wrong to think it was late.", "hypothesis": "it was late", "idx": 2, "label": 1},
        ],
        'Suppose Nobody said that it rained. Can we infer that "it rained"? Yes, No, or Maybe?\n',
        ("Yes", "No", "Maybe"),
        (2,),
    ),
    "boolq": Case(
        [
            {"question": "is rye a grain", "passage": "Rye is a grass that is grown as a grain.", "idx": 0, "label": 1},
            {"question": "Is salt a metal?", "passage": "Salt -- Salt is a mineral.", "answer": False},
            {"question": "can geese fly", "passage": "Geese are birds that fly far.", "label": True},
        ],
        "Rye is a grass that is grown as a grain. Is rye a grain?\n",
        ("No", "Yes"),
        (1,),
    ),
    "wsc": Case(
        [
            {
                "text": "The cup fell on the tray and it broke.",
                "span1_index": 1,
                "span2_index": 7,
                "span1_text": "The cup",
                "span2_text": "It",
                "idx": 0,
                "label": 1,
            },
            {
                "text": "Tom told Jim that he was late.",
                "span1_index": 2,
                "span2_index": 4,
                "span1_text": "Jim",
                "span2_text": "he",
                "idx": 1,
                "label": 0,
            },
        ],
        'The cup fell on the tray and it broke.\nIn the previous sentence, does the pronoun "it" refer to The cup? '
        "Yes or No?\n",
        ("No", "Yes"),
        (1,),
    ),
    "wic": Case(
        [
            {
                "word": "bank",
                "sentence1": "We sat on the bank.",
                "sentence2": "The bank was closed.",
                "start1": 14,
                "start2": 4,
                "end1": 18,
                "end2": 8,
                "idx": 0,
                "label": 0,
            },
            {
                "word": "run",
                "sentence1": "They run home.",
                "sentence2": "We run to the shop every day.",
                "start1": 5,
                "start2": 3,
                "end1": 8,
                "end2": 6,
                "idx": 1,
                "label": 1,
            },
        ],
        'Does the word "bank" have the same meaning in these two sentences? Yes, No?\nWe sat on the bank.\n'
        "The bank was closed.\n",
        ("No", "Yes"),
        (0,),
    ),
    "multirc": Case(
        [
            {
                "paragraph": "Ida walked to the mill. It was shut.",
                "question": "Where did Ida go?",
                "answer": "To the mill",
                "idx": {"paragraph": 0, "question": 0, "answer": 0},
                "label": 1,
            },
            {
                "paragraph": "Ida walked to the mill. It was shut.",
                "question": "Where did Ida go?",
                "answer": "Home",
                "idx": {"paragraph": 0, "question": 0, "answer": 1},
                "label": 0,
            },
        ],
        'Ida walked to the mill. It was shut.\nQuestion: Where did Ida go?\nI found this answer "To the mill". Is that '
        "correct? Yes or No?\n",
        ("No", "Yes"),
        (1,),
    ),
    "copa": Case(
        [
            {
                "premise": "The pond froze over.",
                "choice1": "It was a cold night.",
                "choice2": "I went to bed.",
                "question": "cause",
                "idx": 0,
                "label": 0,
            },
            {
                "premise": "Mia lost her key.",
                "choice1": "She sang.",
                "choice2": "She waited at the door for her sister.",
                "question": "effect",
                "idx": 1,
                "label": 1,
            },
        ],
        "The pond froze over because",
        (" it was a cold night.", " I went to bed."),
        (0,),
    ),
    "record": Case(
        [
            {
                "passage": "Mayor Lund opened the hall in Vik.\n@highlight\nThe hall cost a lot",
                "query": "People in @placeholder had waited for years",
                "entities": ["Lund", "Vik", "town of Vik"],
                "entity_spans": {"text": ["Lund", "Vik", "Vik"], "start": [6, 30, 30], "end": [10, 33, 33]},
                "answers": ["town of Vik", "Vik"],
                "idx": {"passage": 0, "query": 0},
            },
            {
                "passage": "Oda beat Kim.\n@highlight\nA close match",
                "query": "It was @placeholder's first win",
                "entities": ["Oda", "Kim"],
                "entity_spans": {"text": ["Oda", "Kim"], "start": [0, 9], "end": [3, 12]},
                "answers": ["Oda"],
                "idx": {"passage": 1, "query": 0},
            },
        ],
        "Mayor Lund opened the hall in Vik.\n- The hall cost a lot\n-",
        (
            " People in Lund had waited for years",
            " People in Vik had waited for years",
            " People in town of Vik had waited for years",
        ),
        (2, 1),
    ),
    "squad": Case(
        [
            {
                "id": "a",
                "title": "Mills",
                "context": "The mill was built in 1804 by Ida Berg.",
                "question": " Who built the mill?",
                "answers": {"text": ["Ida Berg", "Berg"], "answer_start": [30, 34]},
            },
            {
                "id": "b",
                "title": "Mills",
                "context": "It grinds rye.",
                "question": "What is ground?",
                "answers": {"text": ["rye"], "answer_start": [10]},
            },
        ],
        "Title: Mills\nContext: The mill was built in 1804 by Ida Berg.\nQuestion: Who built the mill?\nAnswer:",
        (" Ida Berg\n",),
        (0,),
    ),
    "drop": Case(
        [
            {
                "section_id": "s1",
                "query_id": "q1",
                "passage": "Ten boats left and four came back.",
                "question": "How many boats were lost?",
                "answers_spans": {"spans": ["6", "six"], "types": ["number", "span"]},
            },
            {
                "section_id": "s2",
                "query_id": "q2",
                "passage": "Vik won, 3 to 1.",
                "question": "Who won?",
                "answers_spans": {"spans": ["Vik"], "types": ["span"]},
            },
        ],
        "Passage: Ten boats left and four came back.\nQuestion: How many boats were lost?\nAnswer:",
        (" 6\n",),
        (0,),
    ),
    "sst2_masked": Case(
        [
            {"sentence": "a warm and clever film ", "label": 1, "idx": 0},
            {"sentence": "dull ", "label": 0, "idx": 1},
        ],
        "a warm and clever film It was [MASK] .",
        (" terrible", " great"),
        (1,),
    ),
    "sst5_masked": Case(
        [
            {"text": "neither here nor there", "label": 2, "label_text": "neutral"},
            {"text": "a joy from first to last", "label": 4, "label_text": "very positive"},
        ],
        "neither here nor there It was [MASK] .",
        (" terrible", " bad", " okay", " good", " great"),
        (2,),
    ),
    "snli_masked": Case(
        [
            {"premise": "Two men row a boat.", "hypothesis": "The men are asleep.", "label": 2},
            {"premise": "A girl sings.", "hypothesis": "The girl is famous.", "label": 1},
            {"premise": "A dog runs.", "hypothesis": "A dog.", "label": -1},
        ],
        "Two men row a boat ? [MASK] , the men are asleep.",
        (" Yes", " Maybe", " No"),
        (2,),
    ),
    "mnli_masked": Case(
        [
            {"premise": "Was the shop shut?", "hypothesis": "I saw the shop.", "label": 1, "idx": 0},
            {"premise": "yes it rained", "hypothesis": "It was dry", "label": 2, "idx": 1},
        ],
        "Was the shop shut ? [MASK] , I saw the shop.",
        (" Yes", " Maybe", " No"),
        (1,),
    ),
    "rte_masked": Case(
        [
            {"premise": "The bridge opened in May.", "hypothesis": "The bridge is open.", "idx": 0, "label": 0},
            {
                "premise": "Ann sold her boat.",
                "hypothesis": "Ann bought a boat from Ben last week.",
                "idx": 1,
                "label": 1,
            },
        ],
        "The bridge opened in May ? [MASK] , the bridge is open.",
        (" Yes", " No"),
        (0,),
    ),
    "trec_masked": Case(
        [
            {
                "text": "Who built the mill ?",
                "label": 2,
                "label_text": "an individual",
                "label_original": "HUM:ind",
                "label_coarse": 3,
                "label_coarse_text": "human beings",
                "label_coarse_original": "HUM",
            },
            {
                "text": "How many boats came back ?",
                "label": 5,
                "label_text": "number of something",
                "label_original": "NUM:count",
                "label_coarse": 4,
                "label_coarse_text": "numeric values",
                "label_coarse_original": "NUM",
            },
        ],
        " [MASK] : Who built the mill ?",
        (" Description", " Entity", " Expression", " Human", " Location", " Number"),
        (3,),
    ),
}
