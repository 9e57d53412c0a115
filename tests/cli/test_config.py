"""The command line: recipes and flags mean the same, flags win, nothing unknown passes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainingArguments

from zoft.cli.arguments.adapter import AdapterArguments
from zoft.cli.arguments.data import DataArguments
from zoft.cli.arguments.model import ModelArguments
from zoft.cli.arguments.run import RunArguments
from zoft.cli.arguments.zeroth_order import ZOArguments
from zoft.cli.config import dump_resolved, parse_arguments, parse_cli
from zoft.errors import ConfigError
from zoft.recipe import format_recipe, read_recipe


@pytest.fixture
def recipe(tmp_path: Path) -> Any:
    def write(text: str) -> list[str]:
        path = tmp_path / "recipe.yaml"
        path.write_text(text, encoding="utf-8")
        return ["--config", str(path)]

    return write


def test_yaml_scientific_notation_is_a_float(recipe: Any) -> None:
    parsed = parse_arguments(recipe("learning_rate: 1e-6\nzo_eps: 1E-3\nadam_epsilon: 2.5e-08\n"))
    assert parsed.get(TrainingArguments).learning_rate == 1e-6
    assert parsed.get(ZOArguments).zo_eps == 1e-3
    assert parsed.get(TrainingArguments).adam_epsilon == 2.5e-8


def test_yaml_yes_and_no_are_words(recipe: Any) -> None:
    parsed = parse_arguments(recipe("label_words: [No, Yes, on]\nsave_strategy: no\n"))
    assert parsed.get(DataArguments).label_words == ["No", "Yes", "on"]
    assert parsed.get(TrainingArguments).save_strategy == "no"


def test_flags_win_over_the_recipe(recipe: Any) -> None:
    parsed = parse_arguments([*recipe("max_steps: 5\nseed: 3\nsave_model: true\n"), "--max_steps", "9"])
    assert parsed.get(TrainingArguments).max_steps == 9
    assert parsed.get(TrainingArguments).seed == 3
    assert parsed.get(RunArguments).save_model
    parsed = parse_arguments([*recipe("save_model: true\n"), "--no_save_model"])
    assert not parsed.get(RunArguments).save_model


RECIPE = """
model_name_or_path: packaged:smollm2-135m-instruct
use_peft: true
lora_target_modules: [q_proj, v_proj]
dataset: reviews.csv
template: "{text}\\nIt was"
label_words: [terrible, great]
labels: [false, true]
max_length: null
zo_include: "*norm*"
zo_nonfinite: skip
learning_rate: 3
lr_scheduler_kwargs: {min_lr: 1e-7}
report_to: [none]
logging_steps: 5
"""

FLAGS = [
    *["--model_name_or_path", "packaged:smollm2-135m-instruct", "--use_peft"],
    *["--lora_target_modules", "q_proj", "v_proj", "--dataset", "reviews.csv"],
    *["--template", r"{text}\nIt was", "--label_words", "terrible", "great", "--labels", "false", "true"],
    *["--zo_include", "*norm*", "--zo_nonfinite", "skip", "--learning_rate", "3"],
    *["--lr_scheduler_kwargs", '{"min_lr": 1e-7}', "--report_to", "none", "--logging_steps", "5"],
]


def test_recipe_and_flags_mean_the_same(recipe: Any) -> None:
    from_recipe, from_flags = parse_arguments(recipe(RECIPE)), parse_arguments(FLAGS)
    assert from_recipe.get(DataArguments).max_length is None
    from_recipe.get(DataArguments).max_length = from_flags.get(DataArguments).max_length
    for group in (ModelArguments, AdapterArguments, DataArguments, ZOArguments, RunArguments):
        assert from_recipe.get(group) == from_flags.get(group)
    ours, theirs = from_recipe.get(TrainingArguments).to_dict(), from_flags.get(TrainingArguments).to_dict()
    assert ours == theirs


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rate: fast", "recipe.yaml: learning_rate: expected float, got 'fast'"),
        ("max_steps: true", "max_steps: expected int, got true"),
        ("max_steps: 1.5", "max_steps: expected int, got 1.5"),
        ("max_steps:", "max_steps: expected int, got nothing"),
        ("max_steps: [1]", "max_steps: expected int, got a list"),
        ("max_steps: {a: 1}", "max_steps: expected int, got a mapping"),
        ("use_peft: perhaps", "use_peft: expected true or false, got 'perhaps'"),
        ("label_words: [[a], b]", r"label_words: expected a list of text, got \['a'\] inside a list"),
        ("dtype: float23", "dtype: expected one of auto, float32, .*Did you mean 'float32'"),
        ("zo_method_kwargs: [1]", "zo_method_kwargs: expected text, got a list"),
        ("zo_esp: 1e-3", "unknown key 'zo_esp'. Did you mean 'zo_eps'"),
        ("learning-rate: 1", "unknown key 'learning-rate'. Did you mean 'learning_rate'"),
        ("seed: 1\nmax_steps: 2\nseed: 3", "line 3: the key 'seed' is given twice"),
        ("zo_method_kwargs: {a: 1, a: 2}", "the key 'a' is given twice"),
        ("1: 2", "line 1: expected a key that is text"),
        ("seed: 1\nlabel_words: [a, b\nmax_steps: 1", "line 3"),
        ("- seed", "expected 'name: value' lines, got list"),
        ("# only a comment", "got nothing"),
    ],
)
def test_wrong_recipe_is_refused(recipe: Any, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_arguments(recipe(text + "\n"))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--learning_rat", "1"], "unknown flag '--learning_rat'. Did you mean '--learning_rate'"),
        (["--zo_esp=1"], "unknown flag '--zo_esp'. Did you mean '--zo_eps'"),
        (["--max_step", "3"], "unknown flag '--max_step'"),  # no abbreviations
        (["--learning_rate", "fast"], "invalid float value: 'fast'"),
        (["recipe.yaml"], "unexpected argument 'recipe.yaml'"),
        (["--config", "missing.yaml"], "'missing.yaml' cannot be read: No such file"),
        (["--config", "a.yaml", "--config", "b.yaml"], "given 2 times"),
        (["--zo_method_kwargs", "{a"], "expected a JSON object, got '{a'"),
        (["--zo_method_kwargs", "[1]"], "expected a mapping"),
        (["--load_best_model_at_end", "--eval_strategy", "steps", "--save_strategy", "no"], "to match"),
    ],
)
def test_wrong_flag_is_refused(argv: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_arguments(argv)


def test_error_is_one_line_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse_cli(["--zo_esp", "1"], prog="zoft-train")
    assert caught.value.code == 2
    assert capsys.readouterr().err == "zoft-train: error: unknown flag '--zo_esp'. Did you mean '--zo_eps'?\n"


def test_method_options_are_a_mapping_however_they_are_given(recipe: Any) -> None:
    from_recipe = parse_arguments(recipe("zo_method_kwargs: {beta: 1e-2, mode: no}\n")).get(ZOArguments)
    from_flags = parse_arguments(["--zo_method_kwargs", '{"beta": 0.01, "mode": "no"}']).get(ZOArguments)
    assert from_recipe.method_kwargs == from_flags.method_kwargs == {"beta": 0.01, "mode": "no"}
    assert ZOArguments().method_kwargs == {}


def test_resolved_config_repeats_the_run(recipe: Any, tmp_path: Path) -> None:
    parsed = parse_arguments([*recipe(RECIPE), "--seed", "7", "--save_strategy", "no", "--resume"])
    dump_resolved(tmp_path / "resolved_config.yaml", parsed, {})
    again = parse_arguments(["--config", str(tmp_path / "resolved_config.yaml")])
    for group in (ModelArguments, AdapterArguments, DataArguments, ZOArguments):
        assert again.get(group) == parsed.get(group)
    assert again.get(TrainingArguments).to_dict() == parsed.get(TrainingArguments).to_dict()
    assert not again.get(RunArguments).resume, "resuming is asked for once"


def test_resolved_config_holds_ours_and_what_differs_of_theirs(tmp_path: Path) -> None:
    dump_resolved(tmp_path / "resolved_config.yaml", parse_arguments(["--seed", "7"]), {"zo_eps": 1e-3})
    written = read_recipe(tmp_path / "resolved_config.yaml")
    assert written["zo_eps"] == 1e-3  # left open, and resolved
    assert written["zo_method"] == "fzoo"
    assert written["seed"] == 7
    assert "learning_rate" not in written


def test_written_recipe_reads_back_unchanged(tmp_path: Path) -> None:
    settings = {
        "words": ["no", "1e-6", "1:30", "010", "~", "", "true", "großartig", " spaced "],
        "text": "two\nlines: {a}",
        "numbers": [1, 1e-6, -0.5, 1e20, float("inf")],
        "flag": False,
        "nothing": None,
        "nested": {"a": [1, {"b": 2.0}]},
    }
    (tmp_path / "a.yaml").write_text(format_recipe(settings), encoding="utf-8")
    assert read_recipe(tmp_path / "a.yaml") == settings


def test_help_does_not_import_torch() -> None:
    code = (
        "import sys\nfrom zoft.cli.config import parse_cli\n"
        "try: parse_cli(['--help'], prog='zoft-train')\n"
        "finally: print('torch' in sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.endswith("False\n")
    assert "--zo_eps" in shown
    assert "--help_all" in shown
    assert "--adam_beta1" not in shown


def test_help_all_lists_the_trainer_flags_too(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse_cli(["--help_all"], prog="zoft-train")
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert "--zo_eps" in shown
    assert "--adam_beta1" in shown


def test_every_setting_of_ours_has_help() -> None:
    from dataclasses import fields

    for group in (ModelArguments, AdapterArguments, DataArguments, ZOArguments, RunArguments):
        assert all(field.metadata["help"].endswith(".") for field in fields(group)), group


@pytest.mark.parametrize("path", sorted(Path(__file__).parents[2].glob("recipes/*.yaml")), ids=lambda p: p.name)
def test_committed_recipe_parses(path: Path) -> None:
    parsed = parse_arguments(["--config", str(path)])
    assert parsed.get(ModelArguments).model_name_or_path
