"""Winograd schemas: does a pronoun mean a certain noun (Levesque et al. 2012), with MeZO's prompt.

Labels, of SuperGLUE's card: 0 false, 1 true. Spans that are no part of their sentence are mended in ``wsc.fixed``.
"""

from __future__ import annotations

from typing import Any

from zoft.tasks.prompted import PromptedTask
from zoft.tasks.spec import TaskSpec


def prepare(row: dict[str, Any]) -> dict[str, Any]:
    """Write the pronoun as it stands in mid-sentence."""
    return {**row, "span2_text": row["span2_text"].lower()}


SPEC = TaskSpec(
    PromptedTask(
        '{text}\nIn the previous sentence, does the pronoun "{span2_text}" refer to {span1_text}? Yes or No?\n',
        ("No", "Yes"),
    ),
    dataset="aps/super_glue",
    dataset_config_name="wsc.fixed",
    prepare=prepare,
    max_train_samples=1000,
    max_dev_samples=100,  # of 554 training rows; MeZO's script takes 500, and leaves 54 to train on
    max_eval_samples=1000,
)
