"""``zoft-replay --config recipe.yaml``: rebuild fine-tuned weights from the base model and the replay log.

``zoft-replay --diff A B`` says where two runs part. It needs no recipe and no model, and imports no transformers.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from zoft.errors import ConfigError, ReplayError

if TYPE_CHECKING:
    from zoft.cli.config import ParsedArguments

PROG = "zoft-replay"


@dataclass
class ReplayArguments:
    """What to replay, and what to do with the result."""

    _argument_group_name = "replay"

    log: str | None = field(
        default=None, metadata={"help": "The replay log or the folder that holds it; default: output_dir."}
    )
    upto_step: int | None = field(
        default=None, metadata={"help": "Replay this many steps (0: the base model itself); default: all."}
    )
    save_to: str | None = field(default=None, metadata={"help": "Write the replayed model into this folder."})
    merge_adapter: bool = field(
        default=False,
        metadata={"help": "With save_to: write a plain model that has the adapter in its weights (LoRA, DoRA, IA3)."},
    )
    verify: str | None = field(
        default=None, metadata={"help": "Compare, bit for bit, with the model saved in this folder."}
    )
    branch_to: str | None = field(
        default=None,
        metadata={
            "help": "Start a run folder with the log up to upto_step: zoft-train --resume goes on from that step there."
        },
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of ``zoft-replay``."""
    argv = sys.argv[1:] if argv is None else argv
    if "--diff" in argv:
        run_diff(argv)
    from zoft.cli.config import TRAIN_GROUPS, parse_cli, user_errors

    parsed = parse_cli(
        argv,
        prog=PROG,
        description="Rebuild fine-tuned weights from the base model and a run's log; needs no data. "
        f"Or say where two runs part: {PROG} --diff A B.",
        groups=(*TRAIN_GROUPS, ReplayArguments),
    )
    with user_errors(PROG, interrupted="interrupted. The run's files are as they were."):
        run(parsed)


def run_diff(argv: Sequence[str]) -> NoReturn:
    """Print where two logs part.

    Raises:
        SystemExit: Code 0 if they are identical, 1 if they differ, 2 if one cannot be read.
    """
    parser = argparse.ArgumentParser(prog=PROG, description="Say where two runs part.", allow_abbrev=False)
    parser.add_argument("--diff", nargs=2, metavar=("A", "B"), required=True, help="Two logs, or the runs' folders.")
    names = parser.parse_args(argv).diff

    from zoft.log_file import ReplayLog
    from zoft.replay_diff import diff_logs

    try:
        a, b = (ReplayLog.open(_log_file(name)) for name in names)
    except ReplayError as error:
        parser.exit(2, f"{PROG}: error: {error}\n")
    difference = diff_logs(a, b)
    print("\n".join(difference.lines()), flush=True)
    raise SystemExit(0 if difference.identical else 1)


def run(parsed: ParsedArguments) -> None:
    """Replay, then verify and save as asked.

    Raises:
        ReplayError: If the log does not fit the model, or the result differs from the model to verify.
        ConfigError: If an adapter is to be merged that cannot be.
    """
    from transformers import TrainingArguments

    from zoft.cli.families import family_of
    from zoft.cli.starts import start_of
    from zoft.log_file import LOG_NAME, ReplayLog, branch
    from zoft.replay_log import check_upto, replay

    options, args = parsed.get(ReplayArguments), parsed.get(TrainingArguments)
    if options.merge_adapter and options.save_to is None:
        raise ConfigError("merge_adapter writes a model: say where with --save_to FOLDER")
    family, start = family_of(parsed), start_of(parsed)
    path = _log_file(options.log or str(args.output_dir))
    # Before the model, which may take minutes to load.
    log = ReplayLog.open(path)
    steps = check_upto(log, options.upto_step)
    if options.branch_to:
        branch(log, steps, options.branch_to)
        if start is not None:
            start.branch(path, Path(options.branch_to, LOG_NAME))
        print(
            f"wrote the first {steps} of {len(log.records)} steps to {options.branch_to}; go on from there with "
            f"zoft-train --config ... --output_dir {options.branch_to} --resume",
            flush=True,
        )
        if not (options.save_to or options.verify):
            return
    model, processor = family.load(parsed)
    if start is not None:
        start.recall(model, path)
    started = time.perf_counter()
    replay(model, path, steps, progress=not args.disable_tqdm)
    print(f"replayed {steps} steps of {path} in {time.perf_counter() - started:.1f} s", flush=True)
    if options.verify:
        _verify(model, Path(options.verify))
        print(f"{options.verify} is bit-identical", flush=True)
    if options.merge_adapter:
        from zoft.cli.adapters import merge

        model = merge(model)
    if options.save_to:
        model.save_pretrained(options.save_to)
        processor.save_pretrained(options.save_to)
        print(f"wrote {options.save_to}", flush=True)


def _log_file(name: str) -> Path:
    from zoft.log_file import LOG_NAME

    return Path(name, LOG_NAME) if Path(name).is_dir() else Path(name)


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
    from transformers.core_model_loading import revert_weight_conversion

    ignored = getattr(model, "_keys_to_ignore_on_save", None) or ()
    kept = {name: tensor.detach() for name, tensor in model.state_dict().items() if name not in ignored}
    # Some architectures (ViT) have other names in files than in memory.
    written: dict[str, Any] = revert_weight_conversion(model, kept)
    return written


if __name__ == "__main__":
    main()
