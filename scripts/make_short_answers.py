"""Write recipes/data/short_answers.jsonl: questions, and answers of as few words as will do.

    python scripts/make_short_answers.py

The rows are in TRL's conversational prompt-completion format. They serve to teach a model a way of answering, not
facts.
"""

from __future__ import annotations

import json
from pathlib import Path

PAIRS = {
    "What is the opposite of {}?": "hot cold, big small, up down, early late, wet dry, fast slow, hard soft, old new, "
    "loud quiet, full empty, rich poor, light dark, near far, open closed, happy sad, strong weak",
    "What do you call a young {}?": "dog puppy, cat kitten, cow calf, sheep lamb, horse foal, pig piglet, goat kid, "
    "bear cub, duck duckling, goose gosling, swan cygnet, hen chick, deer fawn, kangaroo joey, owl owlet, frog tadpole",
    "Which day comes after {}?": "Monday Tuesday, Tuesday Wednesday, Wednesday Thursday, Thursday Friday, "
    "Friday Saturday, Saturday Sunday, Sunday Monday",
    "Which month comes before {}?": "February January, March February, April March, May April, June May, July June, "
    "August July, September August, October September, November October, December November",
    "What is the plural of {}?": "mouse mice, foot feet, tooth teeth, child children, man men, woman women, "
    "goose geese, leaf leaves, knife knives, wolf wolves, city cities, box boxes, "
    "potato potatoes, person people, baby babies",
    "What is the capital of {}?": "Norway Oslo, Italy Rome, Spain Madrid, Egypt Cairo, Japan Tokyo, Peru Lima, "
    "Kenya Nairobi, Cuba Havana, Greece Athens, Austria Vienna, Poland Warsaw, Ireland Dublin, Portugal Lisbon, "
    "Sweden Stockholm, Hungary Budapest, Russia Moscow",
    "What is the past tense of {}?": "go went, see saw, take took, give gave, come came, run ran, eat ate, "
    "write wrote, sing sang, begin began, buy bought, think thought, know knew, fall fell, speak spoke, bring brought",
    "What colour is {}?": "snow White, grass Green, coal Black, blood Red, milk White, chocolate Brown, gold Yellow, "
    "spinach Green, ash Grey, ivory White, honey Yellow, mud Brown",
    "How many legs has a {}?": "spider Eight, bird Two, ladybird Six, horse Four, crab Ten, ant Six, snail None, "
    "snake None, tripod Three, lion Four, hen Two, bee Six",
    "Who works in a {}?": "school Teachers, hospital Nurses, kitchen Cooks, bakery Bakers, court Judges, bank Bankers, "
    "library Librarians, garden Gardeners, studio Artists, garage Mechanics, theatre Actors, mine Miners",
}
SUMS = [(7, 5), (3, 9), (12, 4), (6, 6), (20, 15), (8, 3), (14, 7), (9, 9), (2, 11), (30, 12), (5, 8), (16, 4)]
OUTPUT = Path(__file__).parent.parent / "recipes" / "data" / "short_answers.jsonl"


def rows() -> list[dict[str, object]]:
    """Return all rows, in the order of the file."""
    answered = [
        (question.format(asked), answer)
        for question, pairs in PAIRS.items()
        for asked, answer in (pair.split() for pair in pairs.split(", "))
    ]
    answered += [(f"What is {a} plus {b}?", str(a + b)) for a, b in SUMS]
    return [
        {
            "prompt": [{"role": "user", "content": question}],
            "completion": [{"role": "assistant", "content": f"{answer[0].upper()}{answer[1:]}."}],
        }
        for question, answer in answered
    ]


def text() -> str:
    """Return the file's content."""
    return "".join(json.dumps(row) + "\n" for row in rows())


if __name__ == "__main__":
    OUTPUT.write_text(text(), encoding="utf-8")
    print(f"{len(rows())} rows in {OUTPUT}")
