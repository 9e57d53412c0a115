"""The command line's own settings. Everything else is a field of ``transformers.TrainingArguments``.

Each field is a flag and a YAML key of the same name. This module imports neither torch nor transformers, so
that ``--help`` stays quick.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Literal

from zoft.errors import ConfigError

__all__ = ["DataArguments", "ModelArguments", "RunArguments", "ZOArguments"]


@dataclass
class ModelArguments:
    """Which model, in which precision, and whether only a LoRA adapter of it is trained."""

    _argument_group_name = "model"

    model_name_or_path: str | None = field(
        default=None,
        metadata={"help": "A Hub id, a local folder, a .gguf file, or packaged:smollm2-135m-instruct (no network)."},
    )
    gguf_file: str | None = field(default=None, metadata={"help": "The name of a GGUF file inside model_name_or_path."})
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = field(
        default="auto",
        metadata={"help": "Precision of the weights; auto is float32 on CPU and the checkpoint's own on GPU."},
    )
    attn_implementation: str | None = field(
        default=None, metadata={"help": "Attention kernels, as in transformers: sdpa, eager, ..."}
    )
    trust_remote_code: bool = field(default=False, metadata={"help": "Run model code from the Hub repository."})
    use_peft: bool = field(
        default=False, metadata={"help": "Train a LoRA adapter (PEFT) in place of the model's own weights."}
    )
    lora_r: int = field(default=8, metadata={"help": "LoRA rank."})
    lora_alpha: int = field(
        default=16, metadata={"help": "LoRA scale: the adapter is multiplied by lora_alpha / lora_r."}
    )
    lora_dropout: float = field(default=0.0, metadata={"help": "LoRA dropout."})
    lora_target_modules: list[str] | None = field(
        default=None,
        metadata={"help": "Names of the modules to adapt, or all-linear; default: PEFT's for the architecture."},
    )


@dataclass
class DataArguments:
    """Which rows, and how they become prompts."""

    _argument_group_name = "data and prompt"

    dataset: str | None = field(
        default=None,
        metadata={
            "help": "packaged:rotten-tomatoes, packaged:imdb, a Hub name, or a local file "
            "(.jsonl .json .csv .tsv .parquet)."
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
        metadata={"help": "The data's label values in the order of label_words; default: 0 1 ..."},
    )
    label_column: str = field(default="label", metadata={"help": "The column with the label."})
    max_length: int | None = field(
        default=512,
        metadata={"help": "Longest input in tokens; the longest column is cut so that the prompt's end survives."},
    )
    max_train_samples: int | None = field(default=None, metadata={"help": "Keep this many training rows."})
    max_eval_samples: int | None = field(default=None, metadata={"help": "Keep this many evaluation rows."})
    eval_fraction: float = field(
        default=0.1, metadata={"help": "Share of the rows held out where no evaluation rows are given."}
    )
    shuffle_labels: bool = field(
        default=False,
        metadata={"help": "Control run: permute the training and the held-out labels. It must end at chance."},
    )

    def __post_init__(self) -> None:
        if self.template is not None:
            # Shells, and YAML's single quotes, hand over a line break as these two characters.
            self.template = self.template.replace("\\n", "\n")


@dataclass
class ZOArguments:
    """How the gradient is estimated from forward passes."""

    _argument_group_name = "zeroth-order"

    zo_method: str = field(default="mezo", metadata={"help": "The zeroth-order method."})
    zo_eps: float | None = field(
        default=None,
        metadata={
            "help": "Size of the perturbation: losses are taken at theta + zo_eps * z. "
            "Default: the method's published one."
        },
    )
    zo_num_queries: int | None = field(
        default=None, metadata={"help": "Random directions a step; default: the method's own."}
    )
    zo_seed: int | None = field(default=None, metadata={"help": "Seed of the random directions; default: --seed."})
    zo_distribution: str | None = field(
        default=None,
        metadata={"help": "Distribution of the directions: gaussian, rademacher, ...; default: the method's own."},
    )
    zo_placement: str = field(
        default="auto",
        metadata={"help": "Where perturbed weights live during a forward pass: auto, stream, snapshot, inplace."},
    )
    zo_include: list[str] = field(
        default_factory=list,
        metadata={"help": "Train only parameters whose name matches one of these patterns (* and ?)."},
    )
    zo_exclude: list[str] = field(
        default_factory=list,
        metadata={"help": "Do not train parameters whose name matches one of these patterns."},
    )
    zo_nonfinite: Literal["raise", "skip"] = field(
        default="raise", metadata={"help": "What to do when a loss is NaN or infinite."}
    )
    zo_scratch_mib: int = field(default=64, metadata={"help": "Scratch memory for perturbed weights, in MiB."})
    zo_query_parallel_size: int = field(
        default=1,
        metadata={
            "help": "With several processes: how many neighbouring ranks share a batch and split a step's queries; "
            "1: each has its own part of the batch."
        },
    )
    zo_replica_check_steps: int = field(
        default=100, metadata={"help": "With several processes: compare their weights every so many steps."}
    )
    zo_force: bool = field(
        default=False,
        metadata={"help": "Run even where zoft expects that nothing is learned (the message says why)."},
    )
    zo_method_kwargs: dict[str, Any] | str | None = field(
        default=None,
        metadata={"help": "The method's own options: a mapping in YAML, a JSON object on the command line."},
    )

    def __post_init__(self) -> None:
        if isinstance(self.zo_method_kwargs, str):
            try:
                self.zo_method_kwargs = json.loads(self.zo_method_kwargs)
            except json.JSONDecodeError as error:
                raise ConfigError(
                    f"zo_method_kwargs: expected a JSON object, got {self.zo_method_kwargs!r} ({error})"
                ) from None
        if self.zo_method_kwargs is not None and not isinstance(self.zo_method_kwargs, dict):
            raise ConfigError(f"zo_method_kwargs: expected a mapping, got {self.zo_method_kwargs!r}")

    @property
    def method_kwargs(self) -> dict[str, Any]:
        """The method's own options as a mapping, empty by default."""
        return dict(self.zo_method_kwargs) if isinstance(self.zo_method_kwargs, dict) else {}


@dataclass
class RunArguments:
    """What this run does besides training."""

    _argument_group_name = "run"

    resume: bool = field(default=False, metadata={"help": "Continue the run in output_dir from where its log ends."})
    zo_checkpoints: Literal["full", "log"] = field(
        default="full",
        metadata={
            "help": "What checkpoints hold: the whole model, or no weights at all (kilobytes): resuming rebuilds them "
            "from the replay log."
        },
    )
    zo_snapshot_steps: int | None = field(
        default=None,
        metadata={
            "help": "With zo_checkpoints log: also save the whole model about every so many steps, which bounds how "
            "much resuming replays; default: never."
        },
    )
    save_model: bool = field(default=True, metadata={"help": "Write the fine-tuned model into output_dir at the end."})
