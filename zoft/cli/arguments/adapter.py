"""What small adapter is trained in place of the model's own weights."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Literal

from zoft.errors import ConfigError

__all__ = ["ADAPTER_OPTIONS", "AdapterArguments"]

# What a prefix or a prompt says before it has learned anything: natural text that fits before any task.
VIRTUAL_TOKENS_INIT_TEXT = "Read the following carefully, then give the best answer."

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
