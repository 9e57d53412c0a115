"""The log is the ledger: what was charged stays charged, and nothing is written that is not public."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import zoft
from tests.privacy.linear import closures, start
from zoft.errors import ReplayError
from zoft.log_file import ReplayLog


def interrupted() -> torch.Tensor:
    raise KeyboardInterrupt


def spent(opt: zoft.ZOOptimizer) -> tuple[int, float]:
    assert opt.privacy is not None
    return opt.privacy.charged, opt.privacy.epsilon


def run(log: Path, **settings: Any) -> zoft.ZOOptimizer:
    """Three steps, the second at the second attempt, and one that was interrupted for good."""
    opt = start(log, dp_accountant="rdp", **settings)
    opt.step(closures(opt, [1.0]))
    for attempt in ([interrupted], [], closures(opt, [0.5] * 3), [interrupted]):
        try:
            opt.step(attempt)
        except KeyboardInterrupt:
            continue
    opt.close_log()
    return opt


def again(log: Path, state: dict[str, Any] | None = None) -> zoft.ZOOptimizer:
    opt = start(log.with_name("unused"), dp_accountant="rdp")
    opt.close_log()
    if state is not None:
        opt.load_state_dict(state)
    opt.resume_log(log)
    return opt


def test_an_attempt_costs_what_a_step_costs(tmp_path: Path) -> None:
    opt = run(tmp_path / "log")
    assert opt.engine.step == 3
    assert spent(opt)[0] == ReplayLog.open(tmp_path / "log").intents == 5


def test_epsilon_does_not_go_down_on_resume(tmp_path: Path) -> None:
    """Neither from the log alone, nor from a checkpoint with it, nor afterwards."""
    opt = run(tmp_path / "log")
    for resumed in (again(tmp_path / "log"), again(tmp_path / "log", opt.state_dict())):
        assert spent(resumed) == spent(opt)
        resumed.close_log()
    resumed = again(tmp_path / "log", opt.state_dict())
    resumed.step([])
    charged, epsilon = spent(resumed)
    assert charged == 6 and epsilon > spent(opt)[1]


def test_an_earlier_copy_of_the_ledger_is_refused(tmp_path: Path) -> None:
    """The checkpoint knows of an attempt that this copy does not."""
    opt = start(tmp_path / "log", dp_accountant="rdp")
    opt.step([])
    (tmp_path / "copy").write_bytes((tmp_path / "log").read_bytes())
    with pytest.raises(KeyboardInterrupt):
        opt.step([interrupted])
    with pytest.raises(ReplayError, match="the log holds 1 charges, the checkpoint 2"):
        again(tmp_path / "copy", opt.state_dict())


def test_logs_of_different_data_differ_in_their_noised_scalars_only(tmp_path: Path) -> None:
    """In the file, in the optimizer's state, and in the summary."""
    told = []
    for name, examples in (("none", []), ("many", [1.0, 1e30, -3.0] * 5)):
        opt = start(tmp_path / name, num_queries=2, dp_accountant="rdp")
        for _ in range(3):
            loss = opt.step(closures(opt, examples))
            assert loss.isnan()
        opt.close_log()
        log = ReplayLog.open(tmp_path / name)
        records = [(r.step, str(r.loss), len(r.scalars), r.lrs, r.skipped, r.probe) for r in log.records]
        assert opt.privacy is not None
        state = {key: value for key, value in opt.state_dict()["zo"].items() if key != "last_record"}
        told.append(str((records, log.header, log.intents, log.path.stat().st_size, opt.privacy.figures, state)))
    assert told[0] == told[1]
