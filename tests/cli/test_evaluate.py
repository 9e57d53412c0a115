"""``zoft-eval`` end to end: what a run's model scored when it was trained, in every mode, and what is refused."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest

from tests.tasks.architectures import make_model, tokenizer_for
from zoft.cli.evaluate import main
from zoft.cli.train import main as train
from zoft.errors import ZoftWarning
from zoft.problems.modes import Settings, check_mode
from zoft.problems.problem import Problem
from zoft.recipe import read_recipe

ALL = ("zero_shot", "in_context", "linear_probe")


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    with pytest.raises(SystemExit) as caught:
        main(list(argv))
    assert caught.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    "flags",
    [[], ["--use_peft", "--lora_r", "2"], ["--use_peft", "--peft_type", "prompt_tuning", "--num_virtual_tokens", "3"]],
    ids=["full", "lora", "prompt"],
)
def test_before_and_after_a_run_are_what_it_measured_itself(
    flags: list[str], recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    train(["--config", recipe, "--output_dir", str(folder), "--learning_rate", "0.1", *flags])
    measured = json.loads((folder / "metrics.json").read_text())
    assert measured["before"] != measured["after"] and len(measured["after"]["accuracy_ci"]) == 2
    lines, wrote = tmp_path / "lines.jsonl", tmp_path / "scores.json"
    capsys.readouterr()
    main(["--run", str(folder), "--output_file", str(wrote), "--predictions_file", str(lines)])

    found = json.loads(wrote.read_text())
    assert [(one["model"], one["mode"]) for one in found["results"]] == [
        ("before", "zero_shot"),
        ("after", "zero_shot"),
    ]
    for one in found["results"]:
        assert {name: one[name] for name in measured["after"]} == measured[one["model"]]
    difference = found["differences"]["zero_shot"]
    assert difference["value"] == pytest.approx(measured["after"]["accuracy"] - measured["before"]["accuracy"])
    printed = capsys.readouterr().out
    low, high = measured["after"]["accuracy_ci"]
    assert f"| after | zero_shot | {measured['after']['accuracy']:.3f} ({low:.3f} to {high:.3f}) |" in printed
    assert f"McNemar's exact test p = {difference['p_value']:.2g}" in printed

    said = [json.loads(line) for line in lines.read_text().splitlines()]
    after = [one for one in said if one["model"] == "after"]
    assert len(said) == 24 and [one["row"] for one in after] == list(range(12))
    assert sum(one["accuracy"] for one in after) / 12 == pytest.approx(measured["after"]["accuracy"])
    assert all(one["prompt"].endswith(" it was") and one["expected"][0] in ("terrible", "great") for one in after)


def test_rows_that_the_run_may_have_been_trained_on_are_warned_of(
    recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, rows = tmp_path / "run", read_recipe(recipe)["dataset"]
    train(["--config", recipe, "--output_dir", str(folder)])
    ask = ["--run", str(folder), "--max_eval_samples", "4"]
    with pytest.warns(
        ZoftWarning, match="^another seed than the run.s makes other rows the held-out ones: .* flatters it"
    ):
        main([*ask, "--seed", "9"])
    lines = Path(rows).read_text().splitlines()
    few = tmp_path / "few.jsonl"
    few.write_text("\n".join(lines[:4]))
    with pytest.warns(ZoftWarning, match="some rows of eval_file have the text of a row of the training file"):
        main([*ask, "--eval_file", str(few)])
    with warnings.catch_warnings():
        warnings.simplefilter("error", ZoftWarning)
        main(ask)
        few.write_text(json.dumps({"text": "a text that stands nowhere else", "label": 1}))
        main([*ask, "--seed", "9", "--eval_file", str(few)])


def test_all_modes_at_once_are_one_table(recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrote = tmp_path / "scores.json"
    flags = ["--modes", *ALL, "--sfc", "--num_demonstrations", "6", "--output_file", str(wrote)]
    main(["--config", recipe, *flags])
    found = json.loads(wrote.read_text())
    modes = ["zero_shot", "zero_shot+sfc", "in_context", "in_context+sfc", "linear_probe"]
    assert [one["mode"] for one in found["results"]] == modes and found["differences"] == {}
    printed = capsys.readouterr().out
    assert all(f"| model | {mode} | " in printed for mode in modes)
    assert "In context: 6 demonstrations, of which all fit." in printed and "| terrible | 5 |" in printed
    losses = {one["mode"]: one["loss"] for one in found["results"]}
    assert len(set(losses.values())) == 5

    main(["--config", recipe, "--modes", *ALL, "--num_demonstrations", "6", "--output_file", str(wrote)])
    plain = {one["mode"]: one for one in json.loads(wrote.read_text())["results"]}
    assert {mode: one["loss"] for mode, one in plain.items()} == pytest.approx({mode: losses[mode] for mode in plain})
    main(["--config", recipe, "--modes", "in_context", "--max_length", "12", "--context_length", "40"])
    assert "In context: 32 demonstrations, of which " in (told := capsys.readouterr().out)
    assert " fit before a prompt on average" in told


def test_what_cannot_be_measured_is_refused_before_a_model_is_loaded(
    recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ask = ["--config", recipe, "--model_name_or_path", "./nowhere"]
    assert "invalid choice: 'zero_shots'" in refused(capsys, *ask, "--modes", "zero_shots")
    assert "add --sfc" in refused(capsys, *ask, "--sfc_template", "It was")
    assert "num_demonstrations must be >= 1, got 0" in refused(capsys, *ask, "--num_demonstrations", "0")
    for flags in (["--num_demonstrations", "4"], ["--context_length", "40"]):
        assert "add --modes in_context" in refused(capsys, *ask, *flags)
    there = str(tmp_path / "no" / "scores.json")
    assert "there is no folder" in refused(capsys, *ask, "--output_file", there)
    (tmp_path / "resolved_config.yaml").write_text(Path(recipe).read_text())
    assert "zoft-replay --config" in refused(capsys, "--run", str(tmp_path)), "a run that saved no model"
    assert "resolved_config.yaml" in refused(capsys, "--run", str(tmp_path / "other"))
    private = [*ask, "--dp_target_epsilon", "4", "--dp_target_delta", "1e-5"]
    assert "If they are public, add --dp_eval_is_public" in refused(capsys, *private)
    public = [*private, "--dp_eval_is_public", "true", "--modes", "in_context"]
    assert "in_context reads the training rows as they are" in refused(capsys, *public)
    assert "there is no folder './nowhere'" in refused(capsys, *ask), "and nothing else was wrong"


def test_tasks_of_other_kinds_are_measured_as_far_as_they_can(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_model("llama").save_pretrained(tmp_path / "model")
    tokenizer_for("causal").save_pretrained(tmp_path / "model")
    rows = [
        {"text": "the film is", "options": ["so good", "not good"], "answers": ["good", "fine"], "label": number % 2}
        for number in range(20)
    ]
    rows = [{**row, "text": f"{row['text']} {' so' * number}"} for number, row in enumerate(rows)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "choice.yaml").write_text('template: "{text}"\nchoices_column: options\n')
    (tmp_path / "answer.yaml").write_text('template: "{text}"\nanswers_column: answers\nmax_new_tokens: 3\n')
    ask = ["--model_name_or_path", str(tmp_path / "model"), "--dataset", str(tmp_path / "rows.jsonl")]
    choice, answer = ([*ask, "--use_cpu", "--task", str(tmp_path / f"{name}.yaml")] for name in ("choice", "answer"))
    context = ["--modes", "zero_shot", "in_context", "--num_demonstrations", "3"]

    main([*choice, *context, "--sfc", "--sfc_template", "the film is"])
    assert capsys.readouterr().out.count("+sfc | ") == 2
    main([*answer, *context])
    assert "| in_context | 0." in capsys.readouterr().out
    probe = "linear_probe tells classes apart, and this task has none"
    assert probe in refused(capsys, *choice, "--modes", "linear_probe")
    assert "sfc calibrates the scores of options" in refused(capsys, *answer, "--sfc")


def test_other_families_are_measured_zero_shot_alone() -> None:
    facts: Any = None
    problem = Problem(
        train=facts, evaluation=facts, collator=facts, losses=facts, evaluate=facts, metric="accuracy", show=facts
    )
    check_mode("zero_shot", problem, Settings())
    for mode, settings in (("in_context", Settings()), ("linear_probe", Settings()), ("zero_shot", Settings(sfc=True))):
        with pytest.raises(ValueError, match="needs a language model that is prompted"):
            check_mode(mode, problem, settings)
