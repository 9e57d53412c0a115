"""Base weights plus the log are the trained weights, and an interrupted run goes on as if it had not been."""

from __future__ import annotations

import json
import os
import shutil
import signal
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch

import zoft
from tests.core.conftest import make
from tests.core.runs import Run, digest, start
from tests.methods import methods
from zoft.errors import ConfigError, ReplayError
from zoft.replay_log import ReplayLog
from zoft.types import StepRecord

STEPS = 6
METHODS = methods()
QUERIES = [None, 3]


def header_size(path: Path) -> int:
    return 16 + struct.unpack_from("<I", path.read_bytes(), 8)[0]


def record_size(path: Path, steps: int = STEPS) -> int:
    return (path.stat().st_size - header_size(path)) // steps


def truncated(path: Path, copy: Path, records: int, extra: int = 0) -> Path:
    """A copy of a log that ends after some records, and some bytes of the next."""
    keep = header_size(path) + records * record_size(path) + extra
    copy.write_bytes(path.read_bytes()[:keep])
    return copy


# --- replay --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", ["closure", "seam"])
@pytest.mark.parametrize("queries", QUERIES)
@pytest.mark.parametrize("method", METHODS)
def test_base_weights_and_log_are_the_trained_weights(
    method: str, queries: int | None, style: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"method": method, "num_queries": queries}
    run = start(tmp_path / "log", dtype=dtype, weight_decay=0.1, style=style, bad=(2,), **options)
    run.steps(0, STEPS)
    assert len(run.opt.param_groups) == 2
    base, _ = make("llama", dtype)
    before = digest(base)
    assert zoft.replay(base, tmp_path / "log") == STEPS
    assert digest(base) == digest(run.model) != before


@pytest.mark.filterwarnings("ignore:.*trained, but the loss does not depend:zoft.ZoftWarning")
def test_replay_holds_for_every_family(family: str, tmp_path: Path) -> None:
    model, loss = make(family, torch.bfloat16)
    opt = zoft.ZOOptimizer(model, 1e-3, weight_decay=0.1, log=tmp_path / "log")
    buffers = {name: b.clone() for name, b in model.named_buffers()}
    for _ in range(3):
        opt.step(loss)
    base, _ = make(family, torch.bfloat16)
    zoft.replay(base, tmp_path / "log")
    assert digest(base) == digest(model)
    assert all(torch.equal(b, buffers[name]) for name, b in model.named_buffers())


@pytest.mark.parametrize("placement", ["stream", "snapshot", "batched"])
def test_replay_does_not_depend_on_where_the_run_was_placed(placement: str, tmp_path: Path) -> None:
    run = start(tmp_path / "log", placement=placement, dtype=torch.float16).steps(0, 3)
    base, _ = make("llama", torch.float16)
    zoft.replay(base, tmp_path / "log")
    assert digest(base) == digest(run.model)


def test_replay_reaches_a_parameter_that_is_not_row_major(tmp_path: Path) -> None:
    def transposed() -> torch.nn.Module:
        model = torch.nn.Linear(5, 3)
        torch.nn.init.normal_(model.weight, generator=torch.Generator().manual_seed(0))
        torch.nn.init.zeros_(model.bias)
        model.weight.data = model.weight.data.t().contiguous().t()
        return model

    model, row_major = transposed(), transposed()
    row_major.weight.data = row_major.weight.data.contiguous()
    opt = zoft.ZOOptimizer(model, 0.1, log=tmp_path / "log")
    inputs = torch.randn(4, 5, generator=torch.Generator().manual_seed(1))
    for _ in range(3):
        opt.step(lambda: model(inputs).square().mean())
    assert not model.weight.is_contiguous()
    zoft.replay(row_major, tmp_path / "log")
    assert digest(row_major) == digest(model)


@pytest.mark.parametrize("method", METHODS)
def test_upto_step_equals_stopping_there(method: str, tmp_path: Path) -> None:
    run = start(tmp_path / "log", dtype=torch.bfloat16, method=method, weight_decay=0.1)
    digests = [digest(run.model)]
    for step in range(STEPS):
        run.step(step)
        digests.append(digest(run.model))
    for upto in range(STEPS + 1):
        base, _ = make("llama", torch.bfloat16)
        assert zoft.replay(base, tmp_path / "log", upto_step=upto) == upto
        assert digest(base) == digests[upto]


def test_replay_ignores_what_is_frozen_at_the_time(tmp_path: Path) -> None:
    run = start(tmp_path / "log").steps(0, 2)
    base, _ = make("llama")
    base.requires_grad_(False)
    zoft.replay(base, tmp_path / "log")
    assert digest(base) == digest(run.model)


def test_records_hold_what_the_steps_were(tmp_path: Path) -> None:
    run = start(tmp_path / "log", weight_decay=0.1, num_queries=2, bad=(1,))
    written = []
    for step in range(3):
        run.step(step)
        written.append(run.opt.last_record)
    read = ReplayLog.open(tmp_path / "log").records
    assert [read[0], read[2]] == [written[0], written[2]]
    assert read[1].skipped and read[1].scalars == (0.0, 0.0) and read[1].loss != read[1].loss
    assert read[0].lrs == (pytest.approx(1e-3), pytest.approx(1e-3))
    assert read[2].lrs[0] == pytest.approx(1e-3 * 10 / 12)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_a_record_takes_at_most_32_bytes(weight_decay: float, tmp_path: Path) -> None:
    run = start(tmp_path / "log", weight_decay=weight_decay)
    empty = (tmp_path / "log").stat().st_size
    run.steps(0, 3)
    assert (tmp_path / "log").stat().st_size - empty <= 3 * 32


# --- what replay refuses -------------------------------------------------------------------------------


@pytest.fixture
def logged(tmp_path: Path) -> tuple[Run, Path]:
    return start(tmp_path / "log").steps(0, STEPS), tmp_path / "log"


def test_another_base_is_refused_and_the_first_different_tensor_named(logged: tuple[Run, Path]) -> None:
    base, _ = make("llama")
    with torch.no_grad():
        base.model.layers[1].mlp.up_proj.weight[3, 5] += 1e-7
        base.lm_head.weight += 1.0
    before = digest(base)
    with pytest.raises(ReplayError, match=r"model\.layers\.1\.mlp\.up_proj\.weight differs first"):
        zoft.replay(base, logged[1])
    assert digest(base) == before


def test_a_changed_frozen_weight_is_refused(tmp_path: Path) -> None:
    start(tmp_path / "log", include=("lm_head*",)).steps(0, 2)
    base, _ = make("llama")
    base.model.norm.weight.data[0] = -base.model.norm.weight.data[0]
    with pytest.raises(ReplayError, match=r"model\.norm\.weight differs first"):
        zoft.replay(base, tmp_path / "log")


def test_negative_zero_is_another_base(logged: tuple[Run, Path], tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 1, bias=False)
    model.weight.data.zero_()
    zoft.ZOOptimizer(model, 0.1, log=tmp_path / "zeros")
    model.weight.data.neg_()
    with pytest.raises(ReplayError, match="weight differs first"):
        zoft.replay(model, tmp_path / "zeros")


@pytest.mark.parametrize("other", [torch.bfloat16, torch.float64])
def test_another_dtype_is_refused(logged: tuple[Run, Path], other: torch.dtype) -> None:
    base, _ = make("llama", other)
    with pytest.raises(ReplayError, match=rf"log: float32\[.*model: {str(other)[6:]}\[.*same dtype"):
        zoft.replay(base, logged[1])


def test_an_extra_or_missing_parameter_is_refused(logged: tuple[Run, Path]) -> None:
    base, _ = make("llama")
    base.bonus = torch.nn.Parameter(torch.zeros(2))
    with pytest.raises(ReplayError, match="this model has a parameter 'bonus' that the log's base model lacks"):
        zoft.replay(base, logged[1])
    del base.bonus, base.lm_head
    with pytest.raises(ReplayError, match=r"has a parameter 'lm_head\.weight' that this model lacks"):
        zoft.replay(base, logged[1])


@pytest.mark.parametrize("upto", [-1, STEPS + 1])
def test_upto_step_out_of_range_is_refused(logged: tuple[Run, Path], upto: int) -> None:
    base, _ = make("llama")
    with pytest.raises(ReplayError, match=rf"upto_step must be in \[0, {STEPS}\].*got {upto}"):
        zoft.replay(base, logged[1], upto_step=upto)


def test_a_missing_log_is_refused(tmp_path: Path) -> None:
    base, _ = make("llama")
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(ReplayError, match="no replay log can be read at"):
            zoft.replay(base, path)


@pytest.mark.parametrize("content", [b"", b"ZOFTLOG\n", b"PK\x03\x04" + bytes(40), b"ZOFTLOG" + bytes(40)])
def test_a_foreign_file_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(content)
    with pytest.raises(ReplayError, match="is not a zoft replay log"):
        ReplayLog.open(tmp_path / "log")


@pytest.mark.parametrize("key", ["format", "noise_spec"])
def test_another_version_of_format_or_noise_is_refused(logged: tuple[Run, Path], key: str, tmp_path: Path) -> None:
    header = ReplayLog.open(logged[1]).header
    ReplayLog.create(tmp_path / "future", {**header, key: 99})
    base, _ = make("llama")
    with pytest.raises(ReplayError, match=f"{key} version 99; this zoft .* 1. Use the zoft"):
        zoft.replay(base, tmp_path / "future")


def test_every_damaged_header_byte_is_noticed(logged: tuple[Run, Path]) -> None:
    path = logged[1]
    content = path.read_bytes()
    places = [*range(32), *range(32, header_size(path), 23), header_size(path) - 1]
    for at in places:
        path.write_bytes(content[:at] + bytes([content[at] ^ 0x20]) + content[at + 1 :])
        with pytest.raises(ReplayError, match="is not a zoft replay log" if at < 8 else "header .* is damaged"):
            ReplayLog.open(path)


def test_every_damaged_byte_of_a_middle_record_is_noticed(logged: tuple[Run, Path]) -> None:
    path = logged[1]
    content, size = path.read_bytes(), record_size(path)
    for at in range(header_size(path) + 2 * size, header_size(path) + 3 * size):
        path.write_bytes(content[:at] + bytes([content[at] ^ 0x01]) + content[at + 1 :])
        with pytest.raises(ReplayError, match="damaged at step 2, before its end"):
            ReplayLog.open(path)


def test_a_lost_or_repeated_record_is_noticed(logged: tuple[Run, Path]) -> None:
    path = logged[1]
    content, size, start_at = path.read_bytes(), record_size(path), header_size(path)
    cut = start_at + 2 * size
    path.write_bytes(content[:cut] + content[cut + size :])
    with pytest.raises(ReplayError, match="holds step 3 where step 2 belongs"):
        ReplayLog.open(path)
    path.write_bytes(content[:cut] + content[cut - size :])
    with pytest.raises(ReplayError, match="holds step 1 where step 2 belongs"):
        ReplayLog.open(path)


def test_a_header_cut_at_any_byte_is_refused(logged: tuple[Run, Path]) -> None:
    path = logged[1]
    content = path.read_bytes()
    for length in (*range(20), *range(20, header_size(path), 31), header_size(path) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(ReplayError, match=r"not a zoft replay log|header .* is damaged"):
            ReplayLog.open(path)


def test_the_documented_layout_is_the_file(logged: tuple[Run, Path]) -> None:
    content = logged[1].read_bytes()
    length, crc = struct.unpack_from("<II", content, 8)
    text = content[16 : 16 + length]
    assert content[:8] == b"ZOFTLOG\n" and zlib.crc32(text) == crc
    header = json.loads(text)
    assert header["config"]["method"] == "mezo" and header["parameters"][0]["group"] == 0
    for step in range(STEPS):
        body = content[16 + length + 24 * step :][:24]
        number, flags, _, _, lr, crc = struct.unpack("<IIfffI", body)
        assert (number, flags, crc) == (step, 0, zlib.crc32(body[:20]))
        assert lr == pytest.approx(1e-3 * (1 - step / 12))
    assert len(content) == 16 + length + 24 * STEPS


# --- writing -------------------------------------------------------------------------------------------


def test_an_earlier_log_is_kept(tmp_path: Path) -> None:
    contents = []
    for seed in range(3):
        start(tmp_path / "log", seed=seed).steps(0, 1)
        contents.append((tmp_path / "log").read_bytes())
    assert (tmp_path / "log.1").read_bytes() == contents[0]
    assert (tmp_path / "log.2").read_bytes() == contents[1]
    assert sorted(os.listdir(tmp_path)) == ["log", "log.1", "log.2"]


def test_records_are_appended_in_order_or_not_at_all(logged: tuple[Run, Path]) -> None:
    log = ReplayLog.open(logged[1])
    before = logged[1].read_bytes()
    for step in (STEPS - 1, STEPS + 1):
        with pytest.raises(ReplayError, match=f"ends at step {STEPS}; step {step} cannot follow"):
            log.append(StepRecord(step, 0.0, (0.0,), (0.0,)))
    assert logged[1].read_bytes() == before


def test_a_log_is_started_before_the_first_step_only(tmp_path: Path) -> None:
    run = start().steps(0, 1)
    with pytest.raises(ConfigError, match="starts at step 0, this run is at step 1"):
        run.opt.start_log(tmp_path / "log")
    assert not os.listdir(tmp_path)


def test_a_closed_log_can_be_gone_on_with(tmp_path: Path) -> None:
    run = start(tmp_path / "log").steps(0, 2)
    run.opt.close_log()
    run.opt.close_log()
    run.steps(2, 4)
    whole = start(tmp_path / "whole").steps(0, 4)
    assert (tmp_path / "log").read_bytes() == (tmp_path / "whole").read_bytes()
    assert digest(run.model) == digest(whole.model)


def test_a_step_that_the_disk_does_not_take_moves_no_weight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = start(tmp_path / "log").steps(0, 2)
    before, pwrite = digest(run.model), os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: pwrite(fd, data[:7], at))
    with pytest.raises(ReplayError, match="took 7 of 24 bytes of step 2"):
        run.step(2)
    assert digest(run.model) == before
    monkeypatch.undo()
    run.steps(2, 4)
    base, _ = make("llama")
    assert zoft.replay(base, tmp_path / "log") == 4
    assert digest(base) == digest(run.model)


def test_the_log_is_written_before_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = start(tmp_path / "whole").steps(0, 4)
    run = start(tmp_path / "log").steps(0, 2)
    with monkeypatch.context() as patch:
        patch.setattr(run.opt.engine, "apply", lambda record: (_ for _ in ()).throw(SystemExit))
        with pytest.raises(SystemExit):
            run.step(2)
    assert len(ReplayLog.open(tmp_path / "log").records) == 3
    again = start()
    assert again.opt.resume_log(tmp_path / "log") == 3
    again.steps(0, 4)
    assert digest(again.model) == digest(whole.model)


# --- resuming ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", ["closure", "seam"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("cut", [0, 1, 3, STEPS])
def test_an_interrupted_run_goes_on_bit_identically_and_evaluates_no_logged_step(
    cut: int, method: str, style: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"dtype": dtype, "weight_decay": 0.1, "style": style, "method": method, "bad": (2,)}
    whole = start(tmp_path / "whole", **options).steps(0, STEPS)
    log = truncated(tmp_path / "whole", tmp_path / "log", cut)

    resumed = start(**options)
    assert resumed.opt.resume_log(log) == cut
    resumed.steps(0, cut)
    assert resumed.calls == 0
    resumed.steps(cut, STEPS)
    assert (resumed.calls > 0) == (cut < STEPS)
    assert digest(resumed.model) == digest(whole.model)
    assert log.read_bytes() == (tmp_path / "whole").read_bytes()
    assert resumed.losses == pytest.approx(whole.losses, abs=0, nan_ok=True)


def test_a_log_torn_at_any_byte_is_cut_and_gone_on_with(tmp_path: Path) -> None:
    whole = start(tmp_path / "whole", dtype=torch.bfloat16).steps(0, STEPS)
    size = record_size(tmp_path / "whole")
    for missing in range(2 * size + 1):
        records, extra = divmod(STEPS * size - missing, size)
        log = truncated(tmp_path / "whole", tmp_path / "log", records, extra)
        assert len(ReplayLog.open(log).records) == records
        base, _ = make("llama", torch.bfloat16)
        assert zoft.replay(base, log) == records
        resumed = start(dtype=torch.bfloat16)
        assert resumed.opt.resume_log(log) == records
        resumed.steps(0, STEPS)
        assert digest(resumed.model) == digest(whole.model)
        assert log.read_bytes() == (tmp_path / "whole").read_bytes()


def test_reading_a_torn_log_does_not_write_to_it(logged: tuple[Run, Path], tmp_path: Path) -> None:
    torn = truncated(logged[1], tmp_path / "torn", 3, 5)
    before = torn.read_bytes()
    base, _ = make("llama")
    zoft.replay(base, torn)
    start().opt.resume_log(torn)
    assert torn.read_bytes() == before


def test_a_last_record_of_zeros_or_noise_is_cut(logged: tuple[Run, Path], tmp_path: Path) -> None:
    size = record_size(logged[1])
    for tail in (bytes(size), os.urandom(size), bytes(size // 2)):
        log = truncated(logged[1], tmp_path / "log2", 4)
        log.write_bytes(log.read_bytes() + tail)
        assert len(ReplayLog.open(log).records) == 4
        resumed = start()
        resumed.opt.resume_log(log)
        resumed.steps(0, STEPS)
        assert log.read_bytes() == logged[1].read_bytes()


@pytest.mark.parametrize(("checkpoint", "logged_steps"), [(2, 2), (2, 4), (0, 4), (3, STEPS)])
def test_resuming_from_a_checkpoint_catches_up_with_the_log(
    checkpoint: int, logged_steps: int, dtype: torch.dtype, tmp_path: Path
) -> None:
    whole = start(tmp_path / "whole", dtype=dtype, weight_decay=0.1).steps(0, checkpoint)
    weights = {name: tensor.clone() for name, tensor in whole.model.state_dict().items()}
    state, schedule = whole.opt.state_dict(), whole.scheduler.state_dict()
    torch.save({"optimizer": state}, tmp_path / "state.pt")
    whole.steps(checkpoint, STEPS)
    log = truncated(tmp_path / "whole", tmp_path / "log", logged_steps)

    resumed = start(dtype=dtype, weight_decay=0.1, model_seed=5)
    resumed.model.load_state_dict(weights)
    resumed.opt.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True)["optimizer"])
    schedule.pop("lr_lambdas")
    resumed.scheduler.load_state_dict({**schedule, "lr_lambdas": [None, None]})
    assert resumed.opt.resume_log(log) == logged_steps
    resumed.steps(checkpoint, logged_steps)
    assert resumed.calls == 0
    resumed.steps(logged_steps, STEPS)
    assert digest(resumed.model) == digest(whole.model)
    assert log.read_bytes() == (tmp_path / "whole").read_bytes()


def test_a_log_that_ends_before_the_checkpoint_is_refused(logged: tuple[Run, Path], tmp_path: Path) -> None:
    log = truncated(logged[1], tmp_path / "short", 3)
    with pytest.raises(ReplayError, match="ends at step 3, before this checkpoint's step 6"):
        logged[0].opt.resume_log(log)


def test_a_log_of_another_run_is_refused_at_a_checkpoint(tmp_path: Path) -> None:
    """Same settings, other base weights: what a second run in a used output_dir may leave behind."""
    start(tmp_path / "log", model_seed=1).steps(0, 5)
    run = start().steps(0, 3)
    torch.save(run.opt.state_dict(), tmp_path / "state.pt")
    resumed = start()
    resumed.opt.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    with pytest.raises(ReplayError, match="is of another run than this checkpoint: its step 2 differs"):
        resumed.opt.resume_log(tmp_path / "log")


def test_a_checkpoint_right_after_a_skipped_step_knows_its_log(tmp_path: Path) -> None:
    run = start(tmp_path / "log", bad=(2,)).steps(0, 3)
    again = start(bad=(2,))
    again.model.load_state_dict(run.model.state_dict())
    again.opt.load_state_dict(run.opt.state_dict())
    assert again.opt.resume_log(tmp_path / "log") == 3


def test_an_inplace_run_is_told_that_its_log_does_not_replay(tmp_path: Path) -> None:
    with pytest.warns(zoft.ZoftWarning, match="does not replay to the same bits"):
        run = start(tmp_path / "log", placement="inplace")
    run.steps(0, 3)
    base, _ = make("llama")
    zoft.replay(base, tmp_path / "log")
    for a, b in zip(base.parameters(), run.model.parameters(), strict=True):
        assert (a - b).norm() <= 1e-5 * a.norm()


def test_ctrl_c_while_a_record_is_written_leaves_log_and_run_in_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = start(tmp_path / "whole", style="seam").steps(0, 4)
    run = start(tmp_path / "log", style="seam").steps(0, 2)
    pwrite = os.pwrite

    def interrupted(*args: Any) -> int:
        written = pwrite(*args)
        signal.raise_signal(signal.SIGINT)
        return written

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run.step(2)
    run.steps(2, 4)
    assert (tmp_path / "log").read_bytes() == (tmp_path / "whole").read_bytes()
    assert digest(run.model) == digest(whole.model)


def _one_group(model: torch.nn.Module) -> list[dict[str, Any]]:
    return [{"params": list(model.parameters()), "weight_decay": 0.1}]


@pytest.mark.parametrize("after", [0, 2], ids=["at base", "at a checkpoint"])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, r"config = seed: 0 \(now 1\)"),
        ({"zo_eps": 2e-2}, r"config = zo_eps: 0.01 \(now 0.02\)"),
        ({"method": "fzoo", "num_queries": 2}, r"config = method: 'mezo' \(now 'fzoo'\), distribution"),
        ({"num_queries": 3}, r"config = num_queries: 2 \(now 3\)"),
        ({"distribution": "rademacher"}, r"config = distribution: 'gaussian' \(now 'rademacher'\)"),
        ({"include": ("*proj*",)}, r"parameters = .*embed_tokens.* \(now .*q_proj"),
        ({"exclude": ("lm_head*",)}, r"parameters = .*lm_head.* \(now None\)"),
        ({"weight_decay": 0.2}, r"weight_decays = .*0\.1 \(now 0\.2"),
        ({"param_groups": _one_group}, r"parameters = .*norm.*'group': 1.*'group': 0"),
    ],
)
def test_changed_settings_are_refused_by_name(
    changes: dict[str, Any], message: str, after: int, tmp_path: Path
) -> None:
    base: dict[str, Any] = {"num_queries": 2, "weight_decay": 0.1}
    start(tmp_path / "log", **base).steps(0, 3)
    content = (tmp_path / "log").read_bytes()
    other = start(**{**base, **changes}).steps(0, after)
    with pytest.raises(ReplayError, match=message):
        other.opt.resume_log(tmp_path / "log")
    assert (tmp_path / "log").read_bytes() == content


def test_resuming_with_other_base_weights_is_refused(logged: tuple[Run, Path]) -> None:
    other = start(model_seed=1)
    with pytest.raises(ReplayError, match=r"embed_tokens\.weight differs first"):
        other.opt.resume_log(logged[1])


def test_settings_that_do_not_touch_the_weights_may_change(logged: tuple[Run, Path]) -> None:
    resumed = start(placement="snapshot", nonfinite="skip", scratch_mib=3, include=("*",))
    resumed.opt.resume_log(logged[1])
    resumed.steps(0, STEPS)
    assert digest(resumed.model) == digest(logged[0].model)


def test_another_learning_rate_warns_and_the_log_is_followed(logged: tuple[Run, Path]) -> None:
    resumed = start(lr=5e-3)
    resumed.opt.resume_log(logged[1])
    with pytest.warns(zoft.ZoftWarning, match=r"step 0 was logged with lr .* the schedule now says"):
        resumed.step(0)
    resumed.steps(1, STEPS)  # said once: another warning would be an error here
    assert digest(resumed.model) == digest(logged[0].model)


def test_the_replayed_model_can_be_trained_on_in_a_new_log(logged: tuple[Run, Path], tmp_path: Path) -> None:
    base, loss = make("llama")
    zoft.replay(base, logged[1])
    middle = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    opt = zoft.ZOOptimizer(base, 1e-3, log=tmp_path / "second")
    opt.step(loss)
    fresh, _ = make("llama")
    fresh.load_state_dict(middle)
    zoft.replay(fresh, tmp_path / "second")
    assert digest(fresh) == digest(base)


def test_the_log_can_be_moved_and_read_by_name_or_path(logged: tuple[Run, Path], tmp_path: Path) -> None:
    shutil.move(logged[1], tmp_path / "elsewhere")
    base, _ = make("llama")
    zoft.replay(base, str(tmp_path / "elsewhere"))
    assert digest(base) == digest(logged[0].model)
