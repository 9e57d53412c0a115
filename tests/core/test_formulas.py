"""Each method's steps against its paper's formula, written again in a few lines of NumPy on a fixed problem."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import zoft
from tests.core.test_methods import Slope, direction
from tests.methods import plain_placement
from zoft import noise
from zoft.registry import method_names

LR, EPS, QUERIES, STEPS = 1e-3, 1e-2, 3, 4
Array = Any
Formula = Callable[[Array, Callable[[Array], float], list[Array], dict[str, Any]], Array]


def slopes(w: Array, loss: Callable[[Array], float], zs: list[Array]) -> list[float]:
    return [(loss(w + EPS * z) - loss(w - EPS * z)) / (2 * EPS) for z in zs]


def estimate(w: Array, loss: Callable[[Array], float], zs: list[Array]) -> Array:
    return sum(p * z for p, z in zip(slopes(w, loss, zs), zs, strict=True)) / len(zs)


def mezo(w: Array, loss: Callable[[Array], float], zs: list[Array], kept: dict[str, Any]) -> Array:
    return w - LR * estimate(w, loss, zs)


def fzoo(w: Array, loss: Callable[[Array], float], zs: list[Array], kept: dict[str, Any]) -> Array:
    losses = np.array([loss(w + EPS * z) for z in zs])
    gradient = sum((one - loss(w)) * z for one, z in zip(losses, zs, strict=True)) / len(zs)
    t, beta = kept.get("t", 0) + 1, kept.get("beta", 0.0)
    kept.update(t=t, v=beta * kept.get("v", 0.0) + (1 - beta) * losses.var(ddof=1))
    return w - LR * gradient / np.sqrt(kept["v"] / (1 - beta**t))


def meazo(w: Array, loss: Callable[[Array], float], zs: list[Array], kept: dict[str, Any]) -> Array:
    kept["t"] = kept.get("t", 0) + 1
    kept["v"] = 0.99 * kept.get("v", 0.0) + 0.01 * np.mean(np.square(slopes(w, loss, zs)))
    return w - LR * estimate(w, loss, zs) / (np.sqrt(kept["v"] / (1 - 0.99 ** kept["t"])) + 1e-8)


def one_point_five_spsa(w: Array, loss: Callable[[Array], float], zs: list[Array], kept: dict[str, Any]) -> Array:
    total = np.zeros_like(w)
    for p, z in zip(slopes(w, loss, zs), zs, strict=True):
        curvature = (loss(w + EPS * z) - 2 * loss(w) + loss(w - EPS * z)) / EPS**2
        total += p * z / max(1.0, abs(curvature) ** 0.1) / len(zs)
    return w - LR * total


def es(w: Array, loss: Callable[[Array], float], zs: list[Array], kept: dict[str, Any]) -> Array:
    members = [sign * z for z in zs for sign in (1, -1)]
    losses = np.array([loss(w + EPS * member) for member in members])
    scores = (losses - losses.mean()) / losses.std()
    return w - LR * np.mean([score * member for score, member in zip(scores, members, strict=True)], axis=0)


def momentum(w: Array, loss: Callable[[Array], float], zs: list[Array], kept: dict[str, Any]) -> Array:
    kept["m"] = 0.9 * kept.get("m", 0.0) + estimate(w, loss, zs)
    return w - LR * kept["m"]


def adam(w: Array, loss: Callable[[Array], float], zs: list[Array], kept: dict[str, Any]) -> Array:
    g = estimate(w, loss, zs)
    t = kept["t"] = kept.get("t", 0) + 1
    kept["m"] = 0.9 * kept.get("m", 0.0) + 0.1 * g
    kept["v"] = 0.999 * kept.get("v", 0.0) + 0.001 * g * g
    return w - LR * (kept["m"] / (1 - 0.9**t)) / (np.sqrt(kept["v"] / (1 - 0.999**t)) + 1e-8)


def sign(w: Array, loss: Callable[[Array], float], zs: list[Array], kept: dict[str, Any]) -> Array:
    return w - LR * np.sign(estimate(w, loss, zs))


def adamezo(w: Array, loss: Callable[[Array], float], zs: list[Array], kept: dict[str, Any]) -> Array:
    recent = kept["recent"] = [estimate(w, loss, zs), *kept.get("recent", [])][:2]
    m = np.average(recent, axis=0, weights=[0.7**i for i in range(len(recent))])
    v = np.average(np.square(recent), axis=0, weights=[0.9**i for i in range(len(recent))])
    return w - LR * m / (np.sqrt(v) + 1e-8)


def conservative(w: Array, loss: Callable[[Array], float], zs: list[Array], kept: dict[str, Any]) -> Array:
    helps = [min(loss(w + EPS * z), loss(w - EPS * z)) < loss(w) for z in zs]
    return w - LR * sum(p * z * h for p, z, h in zip(slopes(w, loss, zs), zs, helps, strict=True)) / len(zs)


def hizoo(w: Array, loss: Callable[[Array], float], zs: list[Array], kept: dict[str, Any]) -> Array:
    sigma = kept.setdefault("sigma", np.ones_like(w))
    us = dense_noise(w, kept)
    np.testing.assert_allclose(zs, [u / np.sqrt(sigma) for u in us], atol=1e-6)
    curvatures = [(loss(w + EPS * z) + loss(w - EPS * z) - 2 * loss(w)) / EPS**2 for z in zs]
    growth = np.mean([abs(c) / 2 * sigma * u**2 for c, u in zip(curvatures, us, strict=True)], axis=0)
    kept["sigma"] = (1 - 1e-2) * sigma + 1e-2 * growth
    return w - LR * estimate(w, loss, zs)


def conmezo(w: Array, loss: Callable[[Array], float], zs: list[Array], kept: dict[str, Any]) -> Array:
    us, m = dense_noise(w, kept), kept.get("m")
    if m is not None:
        us = [np.sqrt(w.size) * np.cos(1.35) * m / np.linalg.norm(m) + np.sin(1.35) * u for u in us]
    np.testing.assert_allclose(zs, us, atol=1e-5)
    g = estimate(w, loss, zs)
    kept["m"] = 0.99 * (0.0 if m is None else m) + 0.01 * g
    return w - LR * g


def svrg(w: Array, loss: Callable[[Array], float], zs: list[Array], kept: dict[str, Any]) -> Array:
    """An anchor at every third step, along 2 q directions."""
    at = kept["at"] = kept.get("at", -1) + 1
    if at % 3 == 0:
        kept["anchor"], kept["gradient"] = w, estimate(w, loss, dense_noise(w, {"step": at - 1}, 2 * QUERIES))
        return w - LR * kept["gradient"]
    return w - LR * (estimate(w, loss, zs) - estimate(kept["anchor"], loss, zs) + kept["gradient"])


def lozo_m(w: Array, loss: Callable[[Array], float], zs: list[Array], kept: dict[str, Any]) -> Array:
    step = kept["step"] = kept.get("step", -1) + 1
    us = [noise_matrix(zoft.ZOConfig(method="mezo"), 2, 2, step, k, 0) / np.sqrt(2) for k in range(QUERIES)]
    v = noise_matrix(zoft.ZOConfig(method="mezo"), 3, 2, step // 3 * 3, 0, 2 * 2)
    n = kept.get("n", np.zeros((2, 2))) @ kept.get("v", v).T @ v / 3 if step % 3 == 0 else kept["n"]
    kept["v"], kept["n"] = v, 0.9 * n + 0.1 * sum(p * u for p, u in zip(slopes(w, loss, zs), us, strict=True)) / QUERIES
    return w - LR * kept["n"] @ v.T


def subzero_plus(w: Array, loss: Callable[[Array], float], zs: list[Array], kept: dict[str, Any]) -> Array:
    """Rank 2, so that U is a square rotation and V spans the rows of every z; a subspace lasts for three steps."""
    step = kept["step"] = kept.get("step", -1) + 1
    began, t = step // 3 * 3, step % 3 + 1
    u = gram_schmidt(noise_matrix(zoft.ZOConfig(method="mezo"), 2, 2, began, 0, 4))
    v = gram_schmidt(noise_matrix(zoft.ZOConfig(method="mezo"), 3, 2, began, 0, 4 + 2 * 2))
    cores = [noise_matrix(zoft.ZOConfig(method="mezo"), 2, 2, step, k, 0) for k in range(QUERIES)]
    s = np.sqrt(2 * 3) / 2
    np.testing.assert_allclose(zs, [s * u @ core @ v.T for core in cores], atol=1e-6)
    ps = [(loss(w + EPS * z) - loss(w)) / EPS for z in zs]
    g = sum(p * core / s for p, core in zip(ps, cores, strict=True)) / QUERIES
    m, square = (0.0, 0.0) if t == 1 else kept["moments"]
    kept["moments"] = m, square = 0.9 * m + 0.1 * g, 0.95 * square + 0.05 * g * g
    return w - LR * u @ ((m / (1 - 0.9**t)) / (np.sqrt(square / (1 - 0.95**t)) + 1e-8)) @ v.T


def gram_schmidt(columns: Array) -> Array:
    q, r = np.linalg.qr(columns)
    return q * np.sign(np.diag(r))


def curvatures(w: Array, loss: Callable[[Array], float], zs: list[Array]) -> Array:
    return np.array([(loss(w + EPS * z) - 2 * loss(w) + loss(w - EPS * z)) / EPS**2 for z in zs])


def typical(c: Array, kept: dict[str, Any]) -> float:
    t = kept["t"] = kept.get("t", 0) + 1
    kept["c"] = 0.9 * kept.get("c", 0.0) + 0.1 * np.abs(c).mean()
    return float(kept["c"] / (1 - 0.9**t))


def newton(w: Array, loss: Callable[[Array], float], zs: list[Array], kept: dict[str, Any]) -> Array:
    c = curvatures(w, loss, zs)
    sizes = np.maximum(np.abs(c), 0.5 * typical(c, kept))
    ps = slopes(w, loss, zs)
    return w - LR * np.mean([p / size * z for p, size, z in zip(ps, sizes, zs, strict=True)], axis=0)


def subspace_newton(w: Array, loss: Callable[[Array], float], zs: list[Array], kept: dict[str, Any]) -> Array:
    """The loss is quadratic: its Hessian is that of its differences."""
    a = Slope().a.numpy()
    z = np.array([one.ravel() for one in zs])
    m = z @ a.T @ a @ z.T
    damping = 0.5 * typical(np.diag(m), kept)
    step = np.linalg.solve(m + damping * np.eye(len(zs)), slopes(w, loss, zs))
    return w - LR * (step @ z).reshape(w.shape)


def subspace_bfgs(w: Array, loss: Callable[[Array], float], zs: list[Array], kept: dict[str, Any]) -> Array:
    """A window of three steps, so that the fourth starts afresh."""
    p, size = np.array(slopes(w, loss, zs)), typical(curvatures(w, loss, zs), kept)
    at, unit = kept["t"] - 1, np.eye(len(zs))
    if at % 3 == 0:
        inverse = unit / size
    else:
        s, y = kept["s"], p - kept["p"]
        assert np.linalg.norm(s) > 0
        inverse = kept["inverse"]
        if y @ s > 0.5 * size * s @ s:
            left = unit - np.outer(s, y) / (y @ s)
            inverse = left @ inverse @ left.T + np.outer(s, s) / (y @ s)
    a = inverse @ p
    a *= min(1.0, np.linalg.norm(p) / (0.5 * size) / np.linalg.norm(a))
    kept.update(p=p, s=-a, inverse=inverse)
    return w - LR * sum(c * z for c, z in zip(a, zs, strict=True))


def grzo(w: Array, loss: Callable[[Array], float], zs: list[Array], kept: dict[str, Any]) -> Array:
    """The loss is one number, hence one example, whose advantage is 1 or -1; see test_flipout.py for more."""
    return w - LR * np.sign(slopes(w, loss, zs[:1])[0]) * zs[0]


def forward_grad(w: Array, loss: Callable[[Array], float], zs: list[Array], kept: dict[str, Any]) -> Array:
    """The loss is quadratic, so that central differences are exact."""
    return mezo(w, loss, zs, kept)


def dense_noise(w: Array, kept: dict[str, Any], count: int = QUERIES) -> list[Array]:
    step = kept["step"] = kept.get("step", -1) + 1
    options: dict[str, Any] = {"parameter": 0, "key": noise.run_key(0), "distribution": "gaussian"}
    return [noise.sample(w.size, step=step, query=k, **options).numpy().reshape(w.shape) for k in range(count)]


# What these do differently is in their directions, which have tests of their own.
FORMULAS: dict[str, Formula] = {
    "mezo": mezo,
    "lozo": mezo,
    "lozo_m": lozo_m,
    "subzero": mezo,
    "subzero_plus": subzero_plus,
    "sparse_mezo": mezo,
    "fzoo": fzoo,
    "meazo": meazo,
    "one_point_five_spsa": one_point_five_spsa,
    "es": es,
    "eggroll": es,
    "momentum": momentum,
    "adam": adam,
    "sign": sign,
    "adamezo": adamezo,
    "conservative": conservative,
    "hizoo": hizoo,
    "conmezo": conmezo,
    "svrg": svrg,
    "forward_grad": forward_grad,
    "grzo": grzo,
    "newton": newton,
    "subspace_newton": subspace_newton,
    "subspace_bfgs": subspace_bfgs,
}
# Where the default would hide what a method does in a few steps.
OPTIONS: dict[str, dict[str, Any]] = {
    "adamezo": {"horizon": 2},
    "hizoo": {"alpha": 1e-2},
    "svrg": {"period": 3},
    "lozo_m": {"period": 3},
    "subzero_plus": {"period": 3, "rank": 2},
}


CASES = [*((name, OPTIONS.get(name, {})) for name in method_names()), ("fzoo", {"beta": 0.9})]
CASES += [("subspace_newton", {"solver": "cg", "iterations": QUERIES})]  # as many as dimensions: exact


@pytest.mark.parametrize(("name", "options"), CASES)
def test_steps_are_the_papers_formula(name: str, options: dict[str, Any]) -> None:
    model = Slope()
    a, w = model.a.numpy(), model.w.detach().numpy().copy()

    def loss(at: Array) -> float:
        return float(np.square(a @ at.ravel()).sum() / 2 + at.sum())

    config = zoft.ZOConfig(
        method=name,
        zo_eps=EPS,
        num_queries=QUERIES,
        placement=plain_placement(name),
        shared_vector="window:3" if name == "subspace_bfgs" else "batch",
        method_kwargs=options,
    )
    opt = zoft.ZOOptimizer(model, LR, config)
    kept = dict(options)
    for step in range(STEPS):
        zs = [direction(opt.engine, step, query).numpy() for query in range(QUERIES)]
        w = FORMULAS[name](w, loss, zs, kept)
        opt.step(model)
    # The log holds scalars as float32.
    moved = np.abs(w - Slope().w.detach().numpy()).max()
    np.testing.assert_allclose(model.w.detach().numpy(), w, rtol=0, atol=2e-5 * moved)


def noise_matrix(config: zoft.ZOConfig, rows: int, rank: int, step: int, query: int, start: int) -> Array:
    z = noise.sample(
        rows * rank,
        parameter=0,
        step=step,
        query=query,
        key=noise.run_key(config.seed),
        distribution="gaussian",
        start=start,
    )
    return z.double().numpy().reshape(rows, rank)


@pytest.mark.parametrize(("name", "options"), [("lozo", {"rank": 2, "period": 3}), ("eggroll", {"rank": 2})])
def test_low_rank_directions_are_products_of_two_factors(name: str, options: dict[str, int]) -> None:
    config = zoft.ZOConfig(method=name, method_kwargs=options)
    engine = zoft.ZOOptimizer(Slope(), LR, config).engine
    for step, query in ((0, 0), (2, 1), (3, 0), (7, 2)):
        u = noise_matrix(config, 2, 2, step, query, 0)
        began = (step // 3 * 3, 0) if name == "lozo" else (step, query)
        v = noise_matrix(config, 3, 2, *began, start=2 * 2)
        np.testing.assert_allclose(direction(engine, step, query).numpy(), u @ v.T / np.sqrt(2), atol=1e-6)


def test_subzeros_directions_lie_in_one_subspace_for_a_period_and_have_the_length_of_dense_noise() -> None:
    torch.manual_seed(0)
    model = torch.nn.Linear(40, 30, bias=False).double()
    rank, period = 3, 5
    config = zoft.ZOConfig(method="subzero", method_kwargs={"rank": rank, "period": period})
    engine = zoft.ZOOptimizer(model, LR, config).engine
    zs = [direction(engine, step, query).numpy() for step in range(period) for query in range(40)]
    for matrices in (zs, [z.T for z in zs]):
        assert np.linalg.matrix_rank(np.hstack(matrices), tol=1e-3) == rank
    assert np.mean(np.square(zs)) == pytest.approx(1.0, abs=0.1)
    later = direction(engine, period, 0).numpy()
    assert np.linalg.matrix_rank(np.hstack([zs[0], later]), tol=1e-3) == 2 * rank


@pytest.mark.parametrize("name", ["es", "eggroll"])
def test_a_populations_step_does_not_depend_on_the_losses_offset(name: str) -> None:
    after = []
    for offset in (0.0, 1e4):  # 1e4 in float32 has steps of 1e-3, as large as these differences
        model = Slope()
        opt = zoft.ZOOptimizer(model, LR, zoft.ZOConfig(method=name, zo_eps=1e-4))
        opt.step(lambda model=model, offset=offset: model() + offset)
        after.append(model.w.detach())
    moved = (after[0] - Slope().w.detach()).abs().max()
    assert moved > 0.0
    torch.testing.assert_close(after[1], after[0], rtol=0, atol=1e-6 * float(moved))


def test_sparse_mezo_moves_the_smallest_weights_only_and_keeps_its_thresholds() -> None:
    torch.manual_seed(0)
    model = torch.nn.Linear(50, 40)
    config = zoft.ZOConfig(method="sparse_mezo", method_kwargs={"sparsity": 0.6}, placement="snapshot")
    opt = zoft.ZOOptimizer(model, 0.1, config)
    x, before = torch.randn(8, 50), model.weight.detach().clone()
    opt.step(lambda: model(x).pow(2).mean())
    moved = model.weight != before
    assert moved.float().mean() == pytest.approx(0.4, abs=0.01)
    assert before[moved].abs().max() <= before[~moved].abs().min()
    state = opt.state_dict()
    again = zoft.ZOOptimizer(model, 0.1, config)
    assert again.engine.directions != opt.engine.directions, "from weights that have moved"
    again.load_state_dict(state)
    assert again.engine.directions == opt.engine.directions
