"""The command line's own settings. Everything else is a field of ``transformers.TrainingArguments``.

Each field is a flag and a YAML key of the same name. This module imports neither torch nor transformers, so
that ``--help`` stays quick.
"""

from __future__ import annotations

import json
import math
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Literal

from zoft.errors import ConfigError
from zoft.tasks.library import task_names

__all__ = [
    "AdapterArguments",
    "DataArguments",
    "ModelArguments",
    "ObjectiveArguments",
    "PrivacyArguments",
    "RunArguments",
    "ZOArguments",
]

# What a prefix or a prompt says before it has learned anything: natural text that fits before any task.
VIRTUAL_TOKENS_INIT_TEXT = "Read the following carefully, then give the best answer."


@dataclass
class ModelArguments:
    """Which model, and in which precision."""

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
    device_map: str | None = field(
        default=None,
        metadata={
            "help": "Where the model's parts go, as in transformers: auto, balanced, ... or a JSON object. Parts for "
            "which the GPU is too small stay in RAM and are trained there."
        },
    )
    attn_implementation: str | None = field(
        default=None, metadata={"help": "Attention kernels, as in transformers: sdpa, eager, ..."}
    )
    trust_remote_code: bool = field(default=False, metadata={"help": "Run model code from the Hub repository."})
    load_in_8bit: bool = field(
        default=False,
        metadata={
            "help": "Keep the base in int8 under an adapter: bitsandbytes on a GPU, torchao (weights only) on CPU."
        },
    )
    load_in_4bit: bool = field(
        default=False,
        metadata={"help": "Keep the frozen base in 4 bits (nf4) under an adapter: bitsandbytes, GPU only."},
    )

    def __post_init__(self) -> None:
        if self.load_in_8bit and self.load_in_4bit:
            raise ConfigError("load_in_8bit and load_in_4bit exclude each other; give one")

    @property
    def is_quantised(self) -> bool:
        """Whether the base is to be quantised while it is loaded."""
        return self.load_in_8bit or self.load_in_4bit


PeftType = Literal["lora", "ia3", "prefix_tuning", "prompt_tuning"]

_VIRTUAL_TOKENS = ("num_virtual_tokens", "virtual_tokens_init_text")

ADAPTER_OPTIONS: dict[PeftType, tuple[str, ...]] = {
    "lora": (
        "lora_r",
        "lora_alpha",
        "lora_dropout",
        "lora_target_modules",
        "lora_modules_to_save",
        "use_rslora",
        "use_dora",
    ),
    "ia3": ("ia3_target_modules", "ia3_feedforward_modules"),
    "prefix_tuning": _VIRTUAL_TOKENS,
    "prompt_tuning": _VIRTUAL_TOKENS,
}


@dataclass
class AdapterArguments:
    """Whether a small adapter (PEFT) is trained in place of the model's own weights, and which."""

    _argument_group_name = "adapter"

    use_peft: bool = field(
        default=False, metadata={"help": "Train an adapter (PEFT) in place of the model's own weights."}
    )
    peft_type: PeftType = field(default="lora", metadata={"help": "The kind of adapter."})
    lora_r: int = field(default=8, metadata={"help": "LoRA rank."})
    lora_alpha: int = field(
        default=16, metadata={"help": "LoRA scale: the adapter is multiplied by lora_alpha / lora_r."}
    )
    lora_dropout: float = field(
        default=0.0, metadata={"help": "LoRA dropout; without effect here, since estimates are taken without dropout."}
    )
    lora_target_modules: list[str] | None = field(
        default=None,
        metadata={"help": "Names of the modules to adapt, or all-linear; default: PEFT's for the architecture."},
    )
    lora_modules_to_save: list[str] | None = field(
        default=None, metadata={"help": "Names of modules to train whole beside the adapter, and to save with it."}
    )
    use_rslora: bool = field(
        default=False, metadata={"help": "Rank-stabilised LoRA: the scale is lora_alpha / sqrt(lora_r)."}
    )
    use_dora: bool = field(default=False, metadata={"help": "DoRA: also train the length of each weight's rows."})
    ia3_target_modules: list[str] | None = field(
        default=None, metadata={"help": "Names of the modules to rescale; default: PEFT's for the architecture."}
    )
    ia3_feedforward_modules: list[str] | None = field(
        default=None, metadata={"help": "Those of ia3_target_modules whose inputs, not outputs, are rescaled."}
    )
    num_virtual_tokens: int = field(default=8, metadata={"help": "Length of the prefix or the prompt."})
    virtual_tokens_init_text: str = field(
        default=VIRTUAL_TOKENS_INIT_TEXT,
        metadata={"help": "Text from which a prefix or a prompt starts: its activations, or its embeddings."},
    )

    def __post_init__(self) -> None:
        given = {f.name for f in fields(self) if f.name not in ("use_peft",) and getattr(self, f.name) != f.default}
        if not self.use_peft:
            if given:
                raise ConfigError(f"{min(given)} is for adapters, but no adapter is trained; add --use_peft")
            return
        foreign = given - {"peft_type", *ADAPTER_OPTIONS[self.peft_type]}
        for name in sorted(foreign):
            kinds = " or ".join(kind for kind, names in ADAPTER_OPTIONS.items() if name in names)
            raise ConfigError(f"{name} is for peft_type {kinds}, but peft_type is {self.peft_type}; leave one out")
        if self.num_virtual_tokens < 1:
            raise ConfigError(f"num_virtual_tokens must be >= 1, got {self.num_virtual_tokens}")

    @property
    def virtual_tokens(self) -> int:
        """How many tokens the adapter puts before each input."""
        has_some = self.use_peft and self.peft_type in ("prefix_tuning", "prompt_tuning")
        return self.num_virtual_tokens if has_some else 0


SFT = "sft"
"""The task of learning to answer, or to write on, from conversations and texts."""

IMAGES, TEXTS = "image_classification", "text_classification"
"""The tasks of models with a layer for classes."""

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


@dataclass
class ObjectiveArguments:
    """What is trained for."""

    _argument_group_name = "objective"

    objective: str = field(
        default="cross_entropy",
        metadata={
            "help": "cross_entropy; or a metric to optimise itself: accuracy, f1, macro_f1 ..., a function such as "
            "sklearn.metrics:balanced_accuracy_score or one of your own, evaluate:NAME (docs/objectives.md)."
        },
    )
    reward_funcs: list[str] | None = field(
        default=None,
        metadata={
            "help": "In place of an objective: functions that judge what the model writes after the prompts, as "
            "package.module:function each, with the signature that TRL's GRPO has."
        },
    )
    reward_weights: list[float] | None = field(
        default=None, metadata={"help": "What each reward function counts; default: 1."}
    )
    max_completion_length: int = field(
        default=64, metadata={"help": "With reward_funcs: the longest text that is written, in tokens."}
    )
    temperature: float = field(
        default=0.0,
        metadata={
            "help": "With reward_funcs: 0 writes the likeliest tokens; above 0 samples, with the same random numbers "
            "wherever a step evaluates the model. Held-out prompts are always answered with the likeliest tokens."
        },
    )

    def __post_init__(self) -> None:
        rewarded = {f.name for f in fields(self) if getattr(self, f.name) != f.default} - {"objective", "reward_funcs"}
        if self.reward_funcs and self.objective != "cross_entropy":
            raise ConfigError(f"objective is {self.objective}, and reward_funcs are an objective; leave one out")
        if rewarded and not self.reward_funcs:
            raise ConfigError(f"{min(rewarded)} is for rewards; say by what they are given, with reward_funcs")
        if self.max_completion_length < 1:
            raise ConfigError(f"max_completion_length must be at least 1, got {self.max_completion_length}")
        if not 0.0 <= self.temperature < math.inf:
            raise ConfigError(f"temperature must be a number >= 0 (0: no sampling), got {self.temperature}")


@dataclass
class ZOArguments:
    """How the gradient is estimated from forward passes."""

    _argument_group_name = "zeroth-order"

    zo_method: str = field(
        default="mezo",
        metadata={
            "help": "The zeroth-order method (docs/methods.md); adamw or sgd: train by gradients, to compare with."
        },
    )
    zo_lr: Literal["auto"] | None = field(
        default=None,
        metadata={
            "help": "auto: measure the step size, and follow it while training; learning_rate then does not matter, "
            "its schedule does. Default: learning_rate is the step size."
        },
    )
    zo_eps: float | None = field(
        default=None,
        metadata={
            "help": "Size of the perturbation: losses are taken at theta + zo_eps * z. "
            "Default: the method's published one; with zo_lr auto, measured."
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
    zo_shared_vector: str = field(
        default="batch",
        metadata={"help": "What shares a random direction: batch (each step has its own), window:N steps, or example."},
    )
    zo_placement: str = field(
        default="auto",
        metadata={
            "help": "Where perturbed weights live during a forward pass: auto, stream, snapshot, inplace, or batched "
            "(several points in one forward)."
        },
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
    zo_batched_tokens: int = field(
        default=2048, metadata={"help": "Most tokens in one forward of --zo_placement batched, all points together."}
    )
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
class PrivacyArguments:
    """Differential privacy of the training rows; on as soon as there is a budget or a noise scale."""

    _argument_group_name = "privacy"

    dp_target_epsilon: float | None = field(
        default=None,
        metadata={"help": "The budget. The noise is made to fit it, and training stops before it would be exceeded."},
    )
    dp_target_delta: float | None = field(
        default=None,
        metadata={"help": "Probability with which the promise may fail: well below 1 / number of rows, e.g. 1e-5."},
    )
    dp_noise_multiplier: float | None = field(
        default=None, metadata={"help": "Scale of the noise over dp_clip_threshold, in place of a budget."}
    )
    dp_clip_threshold: float | None = field(
        default=None,
        metadata={
            "help": "Largest norm of an example's slopes that counts; default: a constant times the square root of the "
            "number of directions (docs/privacy.md)."
        },
    )
    dp_clip_quantile: float | None = field(
        default=None,
        metadata={"help": "In place of a threshold: measure, privately, the norm below which this share of rows is."},
    )
    dp_clip_steps: int = field(default=20, metadata={"help": "How many of the first steps measure it."})
    dp_mechanism: Literal["gaussian", "laplace"] = field(
        default="gaussian", metadata={"help": "Distribution of the noise; laplace: pure epsilon, one direction a step."}
    )
    dp_accountant: Literal["prv", "rdp"] = field(default="prv", metadata={"help": "Opacus's accountant."})
    dp_eval_is_public: bool = field(
        default=False,
        metadata={
            "help": "The evaluation rows are public: measure them exactly, before and after, as without privacy."
        },
    )

    def __post_init__(self) -> None:
        given = [f.name for f in fields(self) if getattr(self, f.name) != f.default]
        if given and not self.is_private:
            raise ConfigError(
                f"{given[0]} is for private runs, and this is none; add --dp_target_epsilon (and --dp_target_delta) "
                "or --dp_noise_multiplier"
            )

    @property
    def is_private(self) -> bool:
        """Whether the run is to be private."""
        return self.dp_target_epsilon is not None or self.dp_noise_multiplier is not None


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
    linear_probe_first: bool = field(
        default=False,
        metadata={
            "help": f"With task {IMAGES} or {TEXTS}: before training, make the last layer a logistic regression on "
            "what it reads of the training rows."
        },
    )
    save_model: bool = field(default=True, metadata={"help": "Write the fine-tuned model into output_dir at the end."})
