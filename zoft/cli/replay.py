"""``zoft-replay --config recipe.yaml``: rebuild fine-tuned weights from the base model and the replay log."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoft.cli.config import TRAIN_GROUPS, ParsedArguments, parse_cli, user_errors
from zoft.cli.train import load, prompted_task
from zoft.errors import ConfigError, ReplayError

PROG = "zoft-replay"


@dataclass
class ReplayArguments:
    """What to replay, and what to do with the result."""

    _argument_group_name = "replay"

    log: str | None = field(default=None, metadata={"help": "The replay log; default: zo_log in output_dir."})
    upto_step: int | None = field(default=None, metadata={"help": "Replay this many steps; default: all."})
    save_to: str | None = field(default=None, metadata={"help": "Write the replayed model into this folder."})
    merge_adapter: bool = field(
        default=False,
        metadata={"help": "With save_to: write a plain model that has the adapter in its weights (LoRA, DoRA, IA3)."},
    )
    verify: str | None = field(
        default=None, metadata={"help": "Compare, bit for bit, with the model saved in this folder."}
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of ``zoft-replay``."""
    parsed = parse_cli(
        sys.argv[1:] if argv is None else argv,
        prog=PROG,
        description="Rebuild fine-tuned weights from the base model and a run's log. Needs no data.",
        groups=(*TRAIN_GROUPS, ReplayArguments),
    )
    with user_errors(PROG):
        run(parsed)


def run(parsed: ParsedArguments) -> None:
    """Replay, then verify and save as asked.

    Raises:
        ReplayError: If the log does not fit the model, or the result differs from the model to verify.
        ConfigError: If an adapter is to be merged that cannot be.
    """
    from transformers import TrainingArguments

    from zoft.cli.arguments import AdapterArguments, DataArguments
    from zoft.hf.trainer import LOG_NAME
    from zoft.replay_log import replay

    options, args = parsed.get(ReplayArguments), parsed.get(TrainingArguments)
    if options.merge_adapter and options.save_to is None:
        raise ConfigError("merge_adapter writes a model: say where with --save_to FOLDER")
    model, tokenizer = load(parsed, prompted_task(parsed.get(DataArguments)))
    path = Path(options.log) if options.log else Path(str(args.output_dir), LOG_NAME)
    if parsed.get(AdapterArguments).use_peft:
        from zoft.cli.adapters import recall_start

        recall_start(model, path.parent)
    started = time.perf_counter()
    steps = replay(model, path, options.upto_step)
    print(f"replayed {steps} steps of {path} in {time.perf_counter() - started:.1f} s", flush=True)
    if options.verify:
        _verify(model, Path(options.verify))
        print(f"{options.verify} is bit-identical", flush=True)
    if options.merge_adapter:
        from zoft.cli.adapters import merge

        model = merge(model)
    if options.save_to:
        model.save_pretrained(options.save_to)
        tokenizer.save_pretrained(options.save_to)
        print(f"wrote {options.save_to}", flush=True)


def _verify(model: Any, folder: Path) -> None:
    import torch
    from safetensors import safe_open

    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ReplayError(f"there is no saved model to verify in {folder}.")
    mine = _saved_tensors(model)
    compared: set[str] = set()
    for file in files:
        with safe_open(file, framework="pt") as saved:
            for name in saved.keys():  # noqa: SIM118 - not a dict
                theirs = saved.get_tensor(name)
                if name not in mine:
                    raise ReplayError(f"{file} holds {name}, which the replayed model lacks.")
                a, b = mine[name].cpu().contiguous().view(-1), theirs.contiguous().view(-1)
                if a.dtype != b.dtype or not torch.equal(a.view(torch.uint8), b.view(torch.uint8)):
                    raise ReplayError(f"the replayed model differs from {file}; {name} differs first.")
                compared.add(name)
    # Of tied tensors, one is saved.
    places = {mine[name].data_ptr() for name in compared}
    for name, tensor in mine.items():
        if name not in compared and tensor.data_ptr() not in places:
            raise ReplayError(f"the model saved in {folder} lacks {name}, which the replayed model has.")


def _saved_tensors(model: Any) -> dict[str, Any]:
    """Return the tensors under the names with which ``save_pretrained`` writes them."""
    from peft import PeftModel, get_peft_model_state_dict

    if isinstance(model, PeftModel):
        return dict(get_peft_model_state_dict(model))
    ignored = getattr(model, "_keys_to_ignore_on_save", None) or ()
    return {name: tensor.detach() for name, tensor in model.state_dict().items() if name not in ignored}


if __name__ == "__main__":
    main()
