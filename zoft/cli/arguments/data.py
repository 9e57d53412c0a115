"""Which rows, and what the model is asked about them."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from zoft.cli.arguments.tasks import IMAGES, SFT, TEXTS
from zoft.errors import ConfigError
from zoft.tasks.library import task_names

__all__ = ["DataArguments"]

_ONE_TASK = {
    "assistant_only_loss": SFT,
    "chat_template_path": SFT,
    "max_new_tokens": SFT,
    "image_column": IMAGES,
    "text_columns": TEXTS,
}
"""Options of one task alone."""


@dataclass
class DataArguments:
    """Which rows, and how they become prompts."""

    _argument_group_name = "data and prompt"

    dataset: str | None = field(
        default=None,
        metadata={
            "help": "packaged:rotten-tomatoes, packaged:20-newsgroups ..., a Hub name, or a local file "
            "(.jsonl .json .csv .tsv .parquet); of images also packaged:mnist, packaged:fashion-mnist, or a folder of "
            "image files."
        },
    )
    dataset_config_name: str | None = field(
        default=None, metadata={"help": "The Hub data set's configuration, e.g. rte of super_glue."}
    )
    train_file: str | None = field(
        default=None, metadata={"help": "A local file with the training rows, in place of dataset."}
    )
    eval_file: str | None = field(
        default=None, metadata={"help": "A local file with the evaluation rows; default: a part is held out."}
    )
    task: str | None = field(
        default=None,
        metadata={
            "help": f"A published task (docs/tasks.md), one of {', '.join(task_names())}; {SFT}: conversations, "
            f"instructions, texts (docs/sft.md); {IMAGES} or {TEXTS}: a model with a layer for classes "
            "(docs/classification.md); or a YAML file with one of your own; default: template and label_words say what "
            "the task is."
        },
    )
    template: str | None = field(
        default=None,
        metadata={
            "help": r'The prompt, with columns in braces: "{text}\nOverall, the movie was". '
            "With [MASK] for masked models."
        },
    )
    label_words: list[str] | None = field(
        default=None,
        metadata={"help": "What the model should say, one word a class, without a leading space: terrible great."},
    )
    labels: list[str] | None = field(
        default=None,
        metadata={
            "help": "The data's label values in the order of label_words; default: 0 1 ... "
            f"With task {IMAGES} or {TEXTS}: the classes; default: those of the training rows."
        },
    )
    label_column: str = field(default="label", metadata={"help": "The column with the label."})
    image_column: str = field(default="image", metadata={"help": f"With task {IMAGES}: the column with the image."})
    text_columns: list[str] = field(
        default_factory=lambda: ["text"],
        metadata={"help": f"With task {TEXTS}: the column with the text, or two columns with a pair."},
    )
    assistant_only_loss: bool = field(
        default=False,
        metadata={
            "help": "With task sft: train on what assistants say alone; the chat template must mark it with "
            "{%% generation %%}."
        },
    )
    chat_template_path: str | None = field(
        default=None,
        metadata={"help": "With task sft: a .jinja file with the chat template; default: the tokenizer's own."},
    )
    max_new_tokens: int = field(
        default=48,
        metadata={"help": "With task sft: the longest answer, in tokens, written for examples.json; 0: write none."},
    )
    max_length: int | None = field(
        default=512,
        metadata={"help": "Longest input in tokens; the longest column is cut so that the prompt's end survives."},
    )
    max_train_samples: int | None = field(default=None, metadata={"help": "Keep this many training rows."})
    max_dev_samples: int | None = field(
        default=None,
        metadata={"help": "Take this many training rows away, to choose the best checkpoint by; default: the task's."},
    )
    max_eval_samples: int | None = field(default=None, metadata={"help": "Keep this many evaluation rows."})
    num_shots: int | None = field(
        default=None,
        metadata={"help": "Few-shot: keep this many training rows of each class, and as many to choose by."},
    )
    eval_fraction: float = field(
        default=0.1, metadata={"help": "Share of the rows held out where no evaluation rows are given."}
    )
    strict_data: bool = field(
        default=False,
        metadata={
            "help": "Refuse data with rows without text, with texts that have different labels, or with texts that are "
            "(nearly) in two of the training, development and held-out rows; default: warn of them (docs/data.md)."
        },
    )
    shuffle_labels: bool = field(
        default=False,
        metadata={"help": "Control run: permute the training and the held-out labels. It must end at chance."},
    )

    def __post_init__(self) -> None:
        if self.template is not None:
            # Shells, and YAML's single quotes, hand over a line break as these two characters.
            self.template = self.template.replace("\\n", "\n")
        for name, task in _ONE_TASK.items():
            if self.task != task and getattr(self, name) != _default(self, name):
                raise ConfigError(f"{name} is for task {task}, and the task is {self.task!r}; leave it out")


def _default(group: Any, name: str) -> Any:
    """Return the default of a dataclass's field."""
    found = next(f for f in fields(group) if f.name == name)
    return found.default if found.default_factory is MISSING else found.default_factory()
