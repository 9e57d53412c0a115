"""The small linear algebra against NumPy's, and what it promises beyond that."""

from __future__ import annotations

import numpy as np
import pytest

from zoft.methods.subspace_bfgs import learned
from zoft.updates.small import conjugate_gradients, solve_positive


def symmetric(n: int, seed: int, lowest: float) -> np.ndarray:
    rng = np.random.default_rng(seed)
    q, _ = np.linalg.qr(rng.normal(size=(n, n)))
    return np.asarray(q @ np.diag(np.linspace(lowest, 5.0, n)) @ q.T)


@pytest.mark.parametrize("n", [1, 2, 5, 16])
def test_positive_systems_are_solved(n: int) -> None:
    matrix, b = symmetric(n, n, 0.5), np.arange(1.0, n + 1)
    want = np.linalg.solve(matrix + 0.25 * np.eye(n), b)
    np.testing.assert_allclose(solve_positive(matrix.tolist(), b.tolist(), 0.25), want, rtol=1e-9)
    np.testing.assert_allclose(conjugate_gradients(matrix.tolist(), b.tolist(), 0.25, n), want, rtol=1e-6)


@pytest.mark.parametrize("n", [2, 5, 16])
def test_steps_go_downhill_and_are_bounded_where_the_loss_curves_the_wrong_way(n: int) -> None:
    matrix, b = symmetric(n, n, -4.0), np.arange(1.0, n + 1)
    for x in (
        solve_positive(matrix.tolist(), b.tolist(), 0.25),
        conjugate_gradients(matrix.tolist(), b.tolist(), 0.25, n),
        conjugate_gradients((-matrix).tolist(), b.tolist(), 0.25, n),
    ):
        assert np.dot(x, b) > 0 and np.linalg.norm(x) <= np.linalg.norm(b) / 0.25


def test_a_lonely_direction_of_negative_curvature_is_followed_by_its_size() -> None:
    assert conjugate_gradients([[-4.0]], [2.0], 0.5, 3) == pytest.approx([2.0 / 3.5])
    assert conjugate_gradients([[0.0]], [0.0], 0.5, 3) == [0.0]


def test_bfgs_satisfies_the_secant_equation_and_passes_over_what_curves_the_wrong_way() -> None:
    inverse, s, y = [[2.0, 0.5], [0.5, 1.0]], [0.3, -0.2], [0.5, 0.1]
    np.testing.assert_allclose(np.array(learned(inverse, s, y, 0.1)) @ y, s, rtol=1e-12)
    assert learned(inverse, s, [-v for v in y], 0.1) is inverse
    assert learned(inverse, s, y, 100.0) is inverse


def test_bfgs_learns_the_inverse_of_a_quadratic_in_as_many_steps_as_it_has_dimensions() -> None:
    matrix = symmetric(3, 7, 0.5)
    inverse = np.eye(3).tolist()
    at = np.ones(3)
    for _ in range(12):
        step = -np.array(inverse) @ (matrix @ at)
        inverse = learned(inverse, step.tolist(), (matrix @ step).tolist(), 1e-6)
        at = at + step
    np.testing.assert_allclose(at, 0.0, atol=1e-6)
