"""Where what the user named cannot be written, each command says so in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from zoft.cli.bench import main as bench
from zoft.cli.output_files import write_json, writing
from zoft.cli.privacy import main as privacy
from zoft.errors import ConfigError

PLAN = ["--num_examples", "1000", "--expected_batch_size", "50", "--steps", "100", "--dp_target_delta", "1e-5"]
SMALL = ["--model", "shape:llama-10m", "--batch_size", "1", "--length", "4", "--device", "cpu"]
SUITE = "name: tiny\nproblems:\n  cancer: {kind: tabular, dataset: breast_cancer}\nmethods: [mezo, fo_sgd]\n"


def refused(main: Callable[[list[str]], None], argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == 2
    said: str = capsys.readouterr().err
    return said.splitlines()[-1]


def test_a_file_in_a_folder_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(tmp_path / "none" / "x.json")
    for main, argv in (
        (privacy, ["plan", *PLAN, "--dp_noise_multiplier", "1", "--json", file]),
        (bench, ["memory", *SMALL, "--contenders", "mezo:stream", "--output_file", file]),
    ):
        assert refused(main, argv, capsys).endswith(f"error: {file} cannot be written: No such file or directory")


def test_a_folder_that_is_a_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "file"
    folder.touch()
    (tmp_path / "tiny.yaml").write_text(SUITE)
    for argv in (
        ["step", *SMALL, "--contenders", "mezo:stream"],
        ["nzk", "--dataset", "synthetic"],
        ["methods", "--config", str(tmp_path / "tiny.yaml")],
    ):
        said = refused(bench, [*argv, "--output_dir", str(folder)], capsys)
        assert said.endswith(f"error: output_dir {str(folder)!r} cannot be written: File exists")


def test_a_refusal_without_a_reason_of_the_operating_system_is_told_as_it_is() -> None:
    with pytest.raises(ConfigError, match=r"^it cannot be written: no seats left$"), writing("it"):
        raise OSError("no seats left")


def test_what_was_written_is_said_on_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "x.json"
    write_json(str(file), {"a": [1]})
    assert file.read_text() == '{\n "a": [\n  1\n ]\n}\n'
    assert capsys.readouterr() == ("", f"wrote {file}\n")
