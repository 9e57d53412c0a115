"""Labelled texts for pretrained models, split once for all seeds, disjoint in text."""

from __future__ import annotations

from functools import cache

from zoft.tasks.data import load_splits
from zoft.tasks.files import Row
from zoft.tasks.rows import Columns

SPLIT_SEED = 0
EVALUATION_SHARE = 0.2  # of the training data set, for the dev and the test split


@cache
def load_texts(
    columns: Columns, dataset: str, shifted: str | None, train_rows: int, eval_rows: int
) -> dict[str, list[Row]]:
    """Load the rows of each split.

    Args:
        columns: What is read of a row.
        dataset: What is trained on, as ``zoft-train`` names data sets.
        shifted: What the ``shifted`` split is made of, with the same columns and labels; None: there is none.
        train_rows: At most so many rows to train on.
        eval_rows: At most so many rows in each of the other splits.

    Raises:
        AssetError: If a packaged data set is not installed.
        DataError: If the rows do not hold the columns, or other labels.
    """
    own = load_splits(columns, dataset=dataset, seed=SPLIT_SEED, eval_fraction=EVALUATION_SHARE)
    half = len(own.evaluation) // 2
    splits = {
        "train": own.train[:train_rows],
        "dev": own.evaluation[:half][:eval_rows],
        "test": own.evaluation[half:][:eval_rows],
    }
    if shifted is not None:
        other = load_splits(columns, dataset=shifted, seed=SPLIT_SEED, max_eval_samples=eval_rows)
        splits["shifted"] = other.evaluation
    return splits
