"""Surrogate: a Gaussian process over the points of a space, small enough for NumPy alone.

Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006: prediction is algorithm 2.1;
the lengthscale of each parameter (how far it has to move before it matters) maximises the marginal
likelihood, equation 5.8, under a log-normal prior, parameter by parameter over a few values.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

# Lengthscales in units of a parameter's whole range, and noise as a share of the variance.
LENGTHS = (0.2, 0.4, 0.8, 1.6, 3.2, 6.4)
NOISES = (1e-4, 1e-3, 1e-2, 1e-1)
PRIOR_LENGTH, PRIOR_WIDTH = 0.8, 1.1
# The lengthscales are fitted again when there are this many times as many points.
GROWTH = 1.05


class Surrogate:
    """Mean and uncertainty of a function of points in [0, 1]^d, from noisy values of it."""

    def __init__(self, dimensions: int) -> None:
        self._lengths = np.full(dimensions, PRIOR_LENGTH)
        self._noise = NOISES[-2]
        self._fitted = 0

    def fit(self, points: Array, values: Array, lengths: bool = True) -> None:
        """Takes points [n, d] and their values [n] in place of those of before.

        `lengths=False` keeps the lengthscales that were fitted last.
        """
        self._points = points
        self._mean, self._scale = float(values.mean()), max(float(values.std()), 1e-9)
        scaled = (values - self._mean) / self._scale
        squares = (points[:, None, :] - points[None, :, :]) ** 2
        if lengths and len(values) >= self._fitted * GROWTH:
            self._fit_lengths(squares, scaled)
            self._fitted = len(values)
        matrix = _matern((squares / self._lengths**2).sum(-1)) + self._noise * np.eye(len(values))
        self._inverse = np.linalg.inv(matrix)
        self._level, self._weights, self._variance = _regress(matrix, scaled)

    def predict(self, points: Array) -> tuple[Array, Array]:
        """Means and standard deviations [m] at points [m, d]."""
        cross = _distances(points / self._lengths, self._points / self._lengths)
        kernel = _matern(cross)
        mean = self._level + kernel @ self._weights
        left = 1 - ((kernel @ self._inverse) * kernel).sum(-1)
        deviation = np.sqrt(np.maximum(left, 1e-9) * self._variance)
        return mean * self._scale + self._mean, deviation * self._scale

    def _fit_lengths(self, squares: Array, values: Array) -> None:
        total = (squares / self._lengths**2).sum(-1)
        least = self._loss(total, values, self._lengths, self._noise)
        for j in range(len(self._lengths)):
            without = total - squares[:, :, j] / self._lengths[j] ** 2
            for length in LENGTHS:
                lengths = self._lengths.copy()
                lengths[j] = length
                changed = without + squares[:, :, j] / length**2
                loss = self._loss(changed, values, lengths, self._noise)
                if loss < least:
                    least, self._lengths, total = loss, lengths, changed
        for noise in NOISES:
            loss = self._loss(total, values, self._lengths, noise)
            if loss < least:
                least, self._noise = loss, noise

    @staticmethod
    def _loss(distances: Array, values: Array, lengths: Array, noise: float) -> float:
        """Negative log of likelihood times prior, but for constants; the variance is put in at its best."""
        matrix = _matern(distances) + noise * np.eye(len(values))
        _, log_determinant = np.linalg.slogdet(matrix)
        _, _, variance = _regress(matrix, values)
        prior = ((np.log(lengths / PRIOR_LENGTH) / PRIOR_WIDTH) ** 2).sum() / 2
        return float(len(values) * math.log(variance) / 2 + log_determinant / 2 + prior)


def expected_improvement(mean: Array, deviation: Array, best: float) -> Array:
    """How far below `best` a point is expected to come (Jones et al. 1998, equation 15)."""
    gap = (best - mean) / deviation
    density = np.exp(-(gap**2) / 2) / math.sqrt(2 * math.pi)
    below = np.array([math.erfc(-g / math.sqrt(2)) / 2 for g in gap])
    gain: Array = (best - mean) * below + deviation * density
    return gain


def _regress(matrix: Array, values: Array) -> tuple[float, Array, float]:
    """Level, weights [n] and variance of the process that explain values [n] best.

    The level is the generalised least squares estimate (Rasmussen and Williams, equation 2.42 with a
    constant and no prior): points that lie close together count less, so a search that gathers where it is
    good does not come to expect good of what it has not seen. Half an observation of the prior's keeps
    the variance above 0.
    """
    both = np.linalg.solve(matrix, np.stack([values, np.ones(len(values))], axis=1))
    level = float(both[:, 0].sum() / both[:, 1].sum())
    weights: Array = both[:, 0] - level * both[:, 1]
    return level, weights, (float((values - level) @ weights) + 0.5) / (len(values) + 1)


def _matern(squared: Array) -> Array:
    """Matern kernel, nu = 5/2, of squared scaled distances (Rasmussen and Williams, equation 4.17)."""
    r = np.sqrt(5 * np.maximum(squared, 0.0))
    kernel: Array = (1 + r + r**2 / 3) * np.exp(-r)
    return kernel


def _distances(a: Array, b: Array) -> Array:
    """Squared distances [m, n] of the rows of a [m, d] and b [n, d]."""
    squared: Array = (a**2).sum(-1)[:, None] + (b**2).sum(-1)[None, :] - 2 * a @ b.T
    return squared
