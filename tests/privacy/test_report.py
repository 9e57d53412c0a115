"""``zoft-report``: what is said of a run is what its log says, and what Opacus says of that."""

from __future__ import annotations

import base64
import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
import torch
from opacus.accountants import create_accountant

from tests.pages import Page
from zoft import ZOConfig, ZOOptimizer
from zoft.cli.privacy import main as privacy
from zoft.cli.report import main
from zoft.log_file import ReplayLog
from zoft.privacy import PrivacyConfig, PrivacyPlan
from zoft.privacy.clip_quantile import threshold_after

N, BATCH, STEPS, DELTA = 200, 8, 12, 1e-5


def make_run(folder: Path, *, steps: int = STEPS, crashes: int = 0, queries: int = 1, **settings: Any) -> Path:
    """A run of a linear model, some of whose steps fail after they were paid for; its noise is given, to be quick."""
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 1)
    plan = PrivacyPlan.of(
        PrivacyConfig(**{"dp_target_epsilon": 3.0, "dp_target_delta": DELTA, "dp_noise_multiplier": 1.5, **settings}),
        num_examples=N,
        expected_batch_size=BATCH,
        steps=STEPS,
        num_scalars=queries,
    )
    optimizer = ZOOptimizer(
        model, lr=1e-3, config=ZOConfig(method="mezo", num_queries=queries), privacy=plan, log=folder / "zo_log"
    )
    rows = torch.randn(N, 3)

    def fails() -> torch.Tensor:
        raise InterruptedError

    for number in range(crashes):
        with pytest.raises(InterruptedError):
            optimizer.step([fails] * (1 + number))
    for _ in range(steps):
        batch = rows[torch.rand(N) < BATCH / N]
        optimizer.step([lambda row=row: model(row).square().sum() for row in batch])
    optimizer.close_log()
    return folder


def reported(*flags: str | Path, out: Path) -> dict[str, Any]:
    main([*map(str, flags), "--json", str(out)])
    content: dict[str, Any] = json.loads(out.read_text())
    return content


def opacus(charges: int) -> float:
    accountant = create_accountant("prv")
    accountant.history = [(1.5, BATCH / N, charges)]
    return float(accountant.get_epsilon(delta=DELTA))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three charges without a step, and nine steps of twelve."""
    return make_run(tmp_path_factory.mktemp("private"), steps=9, crashes=3, queries=2)


@pytest.fixture(scope="module")
def measuring(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("measuring")
    return make_run(folder, dp_clip_quantile=0.5, dp_clip_steps=5, dp_eval_is_public=True)


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("public")
    model = torch.nn.Linear(3, 1)
    optimizer = ZOOptimizer(model, lr=1e-3, log=folder / "zo_log")
    for _ in range(2):
        optimizer.step(lambda: model(torch.ones(3)).square().sum())
    optimizer.close_log()
    return folder


def test_what_is_spent_is_what_opacus_says_of_all_charges(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the three that never became a step, too."""
    of = reported(run, out=tmp_path / "r.json")["privacy"]["runs"][str(run)]
    assert (of["charges"], of["steps"], of["charges_without_step"]) == (12, 9, 3)
    assert of["spent"] == {"epsilon": pytest.approx(opacus(12), rel=1e-12), "delta": DELTA}
    assert of["spent"]["epsilon"] > opacus(9)
    said = capsys.readouterr().out
    assert f"**Spent: epsilon {opacus(12):.4g} at delta 1e-05**" in said
    assert "| charges without a step | 3:" in said and f"| 12, now | {opacus(12):.4g} |" in said


def test_the_curve_is_opacus_s_at_every_point_and_never_falls(run: Path, tmp_path: Path) -> None:
    of = reported(run, out=tmp_path / "r.json")["privacy"]["runs"][str(run)]
    steps, costs = zip(*of["epsilon_over_steps"], strict=True)
    assert list(steps) == list(range(13)) and costs[0] == 0.0
    assert list(costs) == sorted(costs)
    for count in (1, 6, 12):
        assert costs[count] == pytest.approx(opacus(count), rel=1e-12)


def test_what_was_released_is_counted_from_the_log(run: Path, tmp_path: Path) -> None:
    released = reported(run, out=tmp_path / "r.json")["privacy"]["runs"][str(run)]["released"]
    records = ReplayLog.open(run / "zo_log").records
    assert (released["vectors"], released["numbers_each"], released["shares"]) == (9, 2, 0)
    everything = torch.tensor([record.scalars for record in records], dtype=torch.float64)
    assert released["rms"] == pytest.approx(everything.square().mean().sqrt().item())
    assert released["noise_std"] == pytest.approx(1.5 * 2**0.5 / BATCH)  # C is sqrt(2) for two


def test_a_measured_clip_threshold_is_shown_with_its_way(
    measuring: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    of = reported(measuring, out=tmp_path / "r.json")["privacy"]["runs"][str(measuring)]
    shares = [record.scalars[0] for record in ReplayLog.open(measuring / "zo_log").records[:5]]
    expected = [threshold_after(shares[:count], first=1.0, quantile=0.5) for count in range(6)]
    assert of["clip"] == {"threshold": expected[-1], "trajectory": expected}
    assert (of["released"]["vectors"], of["released"]["shares"]) == (7, 5)
    said = capsys.readouterr().out
    assert "7 noised vectors of 1 number, after 5 noised shares" in said and "| 5 | " in said
    assert "said to be public" in said


def test_a_given_clip_threshold_is_not_called_the_default(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path, steps=1, dp_clip_threshold=0.25, dp_target_epsilon=None)
    main([str(tmp_path)])
    said = capsys.readouterr().out
    assert "| clip threshold | 0.25, given |" in said and "no budget: the noise multiplier was given" in said


def test_pure_epsilon_is_said_to_have_no_delta(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path, dp_mechanism="laplace", dp_target_delta=None, dp_noise_multiplier=None)
    main([str(tmp_path)])
    assert "**Spent: epsilon 3 (pure: no delta)**, 100% of what was promised" in capsys.readouterr().out


def test_several_runs_cost_the_sum_of_epsilons_and_deltas(run: Path, measuring: Path, tmp_path: Path) -> None:
    together = reported(run, measuring, out=tmp_path / "r.json")["privacy"]["together"]
    assert together["epsilon"] == pytest.approx(opacus(12) + opacus(12))
    assert together["delta"] == pytest.approx(2 * DELTA) and together["not_private"] == 0


def test_a_run_that_is_not_private_is_called_so_and_spoils_the_sum(
    run: Path, public: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    privacy(["report", str(public), "--json", str(tmp_path / "r.json")])
    content = json.loads((tmp_path / "r.json").read_text())["privacy"]
    assert content == {"runs": {str(public): {"private": False, "steps": 2}}}
    said = capsys.readouterr().out
    assert "**Not private.**" in said and "epsilon" not in said
    main([str(run), str(public)])
    assert "1 of the 2 are not private, so together they promise nothing" in capsys.readouterr().out


def test_earlier_runs_in_the_folder_are_not_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A second run in a folder puts the first one's log aside; what that has spent is spent."""
    make_run(tmp_path, steps=1)
    make_run(tmp_path, steps=1)
    main([str(tmp_path)])
    assert f"Earlier runs' logs are in this folder: `{tmp_path}/zo_log.1`" in capsys.readouterr().out
    main([str(tmp_path), str(tmp_path / "zo_log.1")])
    assert "### Together" in capsys.readouterr().out


def test_a_run_that_goes_on_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path, steps=2)
    log = ReplayLog.open(tmp_path / "zo_log", to_append=True)  # another process holds it
    main([str(tmp_path)])
    assert "2 steps are paid for, of 12 that were planned" in capsys.readouterr().out
    log.close()


def test_the_page_parses_holds_its_figures_and_refers_to_nothing_outside(
    run: Path, measuring: Path, tmp_path: Path
) -> None:
    privacy(["report", str(run), str(measuring), "--html", str(tmp_path / "r.html")])
    text = (tmp_path / "r.html").read_text()
    page = Page(text)
    assert page.open == []
    assert not {"script", "link", "iframe", "a"} & {tag for tag, _ in page.tags}
    assert "url(" not in text and "@import" not in text
    metas = {
        attrs.get("name") or attrs.get("http-equiv"): attrs.get("content") for tag, attrs in page.tags if tag == "meta"
    }
    assert metas["viewport"] == "width=device-width, initial-scale=1"
    assert str(metas["Content-Security-Policy"]).startswith("default-src 'none'")
    images = [attrs for tag, attrs in page.tags if tag == "img"]
    assert len(images) == 2 and all(image["alt"] for image in images)
    for image in images:
        kind, _, content = str(image["src"]).partition(",")
        assert kind == "data:image/svg+xml;base64"
        drawing = base64.b64decode(content)
        assert ElementTree.fromstring(drawing).tag == "{http://www.w3.org/2000/svg}svg"
        assert not re.search(rb'href="(?!#)', drawing)
    references = [attrs[key] for _, attrs in page.tags for key in ("src", "href", "srcset") if key in attrs]
    assert len(references) == 2
    assert f"epsilon {opacus(12):.4g} at delta 1e-05" in text and "<table>" in text


def test_names_are_text_to_the_page(tmp_path: Path) -> None:
    folder = tmp_path / "<img src=x onerror=alert(1)>"
    make_run(folder, steps=1)
    main([str(folder), "--html", str(tmp_path / "r.html")])
    images = [attrs for tag, attrs in Page((tmp_path / "r.html").read_text()).tags if tag == "img"]
    assert images and {str(image["src"])[:5] for image in images} == {"data:"}


def test_zoft_report_holds_what_zoft_privacy_report_says(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(run)])
    said = capsys.readouterr().out
    privacy(["report", str(run)])
    assert capsys.readouterr().out.strip() in said


@pytest.mark.parametrize(("twice", "message"), [(True, "is named twice"), (False, "no replay log can be read")])
def test_what_cannot_be_reported_is_said_in_one_line(
    run: Path, tmp_path: Path, twice: bool, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main([str(run), str(run / "zo_log")] if twice else [str(tmp_path)])
    assert caught.value.code == (2 if twice else 1)
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
