r"""Means over replicates, sharpened by control variates whose means are known.

A replicate with more requests than expected, or longer ones, waits longer. The workload's true
means are known, so this part of the error can be taken out: regress what was measured on how far
each replicate's controls (its number of requests, sums of tokens, sums of their squares) lie from
their known means, and read the regression where the controls are at these means. The estimate is
a weighted sum of the replicates,

.. math:: \hat\mu = \sum_i w_i y_i, \qquad
    w = \tfrac1n \mathbf 1 - C (C^T C)^{-1} \bar z, \qquad C = Z - \mathbf 1 \bar z^T,

with Z the deviations of the controls from their known means, and its standard error is
:math:`s \lVert w \rVert` with s from the residuals and :math:`n - 1 - k` degrees of freedom.
Without controls it is the plain mean with its standard error.

Source: S. S. Lavenberg, P. D. Welch, "A perspective on the use of control variables to increase the
efficiency of Monte Carlo simulations", *Management Science* 27 (1981), doi:10.1287/mnsc.27.3.322.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from simlib.errors import InvalidParameterError
from simlib.stats.intervals import Floats

REPLICATES_PER_CONTROL = 5
"""Fewer replicates lose more by estimating a coefficient than the control gains."""
_SAME = 1e-9


@dataclass(frozen=True, slots=True)
class Design:
    """How replicates are weighed, and what of their spread counts as error."""

    weights: Floats
    """Weight of each replicate; they sum to 1; shape (n,)."""
    basis: Floats
    """Orthonormal columns of what is explained: a constant, then controls; shape (n, 1 + k)."""

    @property
    def degrees_of_freedom(self) -> int:
        """Replicates less what was fitted."""
        return int(self.weights.size - self.basis.shape[1])

    @property
    def controls(self) -> int:
        """How many controls are in use."""
        return int(self.basis.shape[1]) - 1

    def residuals(self, values: Floats) -> Floats:
        """Return what the controls leave unexplained; `values` have shape (..., n)."""
        return np.asarray(values - (values @ self.basis) @ self.basis.T)

    def estimate(self, values: Floats) -> Floats:
        """Return the mean at the controls' known means."""
        return np.asarray(values @ self.weights)

    def error(self, residuals: Floats) -> Floats:
        """Return the standard error of the estimate; NaN without degrees of freedom."""
        if self.degrees_of_freedom < 1:
            return np.full(residuals.shape[:-1], math.nan)
        variance = np.sum(residuals**2, axis=-1) / self.degrees_of_freedom
        return np.asarray(np.sqrt(variance * float(self.weights @ self.weights)))

    def gain(self, values: Floats) -> float:
        """Return the variance of the plain mean over that of the controlled one.

        Each with the width that its degrees of freedom cost left out; 1 without controls, inf if
        the controls explain all.
        """
        if self.controls == 0:
            return 1.0
        plain = float(np.var(values, ddof=1)) / values.size
        controlled = float(self.error(self.residuals(values))) ** 2
        if controlled == 0:
            return math.inf if plain > 0 else 1.0
        return plain / controlled


def plain(n: int) -> Design:
    """Return the design of a plain mean of `n` replicates."""
    return Design(np.full(n, 1.0 / n), np.full((n, 1), 1.0 / math.sqrt(n)))


def controlled(deviations: ArrayLike) -> Design:
    """Return the design with control variates.

    Controls that do not vary, or that others determine, are left out, and so are those (the last
    ones first) for which there are fewer than `REPLICATES_PER_CONTROL` replicates each.

    Parameters
    ----------
    deviations : array_like, shape (replicates, controls)
        Each replicate's controls less their known means, the most useful first.

    Raises
    ------
    InvalidParameterError
        For deviations that are not a finite table.
    """
    z = np.asarray(deviations, dtype=np.float64)
    if z.ndim != 2 or not np.all(np.isfinite(z)):
        raise InvalidParameterError("deviations", f"shape {z.shape}", "a finite table")
    n = z.shape[0]
    most = n // REPLICATES_PER_CONTROL - 1
    columns = [np.full(n, 1.0 / math.sqrt(n))]
    kept: list[int] = []
    for k in range(z.shape[1]):
        if len(kept) >= most:
            break
        left = z[:, k]
        for _ in range(2):  # twice, so that rounding leaves the columns orthogonal
            for column in columns:
                left = left - (left @ column) * column
        size = float(np.linalg.norm(left))
        if size > _SAME * float(np.linalg.norm(z[:, k])):
            columns.append(left / size)
            kept.append(k)
    basis = np.stack(columns, axis=1)
    mean = z[:, kept].mean(axis=0)
    centred = z[:, kept] - mean
    # minimum-norm solution of C a = w with a'C = -mean: written through the orthonormal columns
    slopes = np.linalg.lstsq(centred.T, mean, rcond=None)[0] if kept else np.zeros(n)
    return Design(np.full(n, 1.0 / n) - slopes, basis)
