"""probe: the linear protocol on stored features, with the fits that choose C, against one fit by scikit-learn.

The reference standardises the same features and is told the C that cfvid has chosen. A faster probe counts only if it
is as right, so the notes give the top-1 of both on the same held-out points.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from cfvid.evaluation.linear import LinearProbe
from cfvid.sections.transfer import LinearConfig
from tools.bench.options import Options
from tools.bench.timing import Comparison, alternate, num_cores, rate_of

GOAL = 1.0
_SEED = 1


@dataclass(frozen=True)
class Size:
    """The stored features."""

    num_points: int
    num_held_out: int
    dim: int
    num_classes: int
    rounds: int


SIZES = {
    "smoke": Size(num_points=400, num_held_out=100, dim=16, num_classes=5, rounds=1),
    "small": Size(num_points=50_000, num_held_out=10_000, dim=512, num_classes=100, rounds=2),
}


@dataclass(frozen=True)
class _Split:
    train_ND: np.ndarray
    train_labels: np.ndarray
    test_ND: np.ndarray
    test_labels: np.ndarray


def run(options: Options) -> Iterator[Comparison]:
    """One comparison."""
    size = SIZES[options.size]
    split, config = _features(size), LinearConfig()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def ours() -> LinearProbe:
        return LinearProbe(config, seed=_SEED, device=device).fit(
            split.train_ND[:, None], split.train_labels, num_classes=size.num_classes
        )

    with threadpool_limits(num_cores()):
        probe = ours()
        reference = partial(_sklearn, split, probe.penalty_, max_iterations=config.max_iterations)
        candidate_rates, reference_rates = alternate(
            partial(rate_of, reference, units=1),
            partial(rate_of, ours, units=1),
            rounds=options.rounds or size.rounds,
        )
        top1 = float((probe.logits(split.test_ND[:, None])[:, 0].argmax(axis=1) == split.test_labels).mean())
        yield Comparison(
            benchmark="probe",
            what=f"linear protocol, {size.num_points} x {size.dim}, {size.num_classes} classes, {device.type}",
            reference="one scikit-learn fit at the chosen C",
            unit="probes/s",
            goal=GOAL,
            candidate_rates=candidate_rates,
            reference_rates=reference_rates,
            notes={"C": probe.penalty_, "top-1 %": 100 * top1, "reference's top-1 %": 100 * reference()},
        )


def _sklearn(split: _Split, penalty: float, *, max_iterations: int) -> float:
    """Top-1 on the held-out points."""
    scaler = StandardScaler().fit(split.train_ND)
    model = LogisticRegression(C=penalty, max_iter=max_iterations)
    model.fit(scaler.transform(split.train_ND), split.train_labels)
    return float(model.score(scaler.transform(split.test_ND), split.test_labels))


def _features(size: Size) -> _Split:
    """Like a network's: rectified, correlated, their directions of very different scale."""
    rng = np.random.default_rng(0)
    num = size.num_points + size.num_held_out
    labels = rng.integers(size.num_classes, size=num)
    mixing = rng.normal(size=(size.dim, size.dim)) * (np.arange(1, size.dim + 1) ** -0.7)[:, None]
    hidden = 0.25 * rng.normal(size=(size.num_classes, size.dim))[labels] + rng.normal(size=(num, size.dim))
    points = np.maximum(hidden @ mixing, 0).astype(np.float32)
    first = slice(size.num_points)
    rest = slice(size.num_points, None)
    return _Split(points[first], labels[first], points[rest], labels[rest])
