"""probe: the linear protocol on stored features, penalty chosen and all, against scikit-learn's logistic regression.

The references fit standardised features: once, at the penalty that cfvid has chosen, and with the same choice of it.
A faster probe counts only if it is as right, so the notes give the top-1 of both on the same held-out points.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupShuffleSplit
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
    """One comparison per reference."""
    size = SIZES[options.size]
    split, config = _features(size), LinearConfig()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def ours() -> LinearProbe:
        return LinearProbe(config, seed=_SEED, device=device).fit(
            split.train_ND[:, None], split.train_labels, num_classes=size.num_classes
        )

    with threadpool_limits(num_cores()):
        probe = ours()
        references: dict[str, Callable[[], float]] = {
            "one scikit-learn fit at the same C": lambda: _sklearn(split, [probe.penalty_], config),
            "scikit-learn with the same choice of C": lambda: _sklearn(split, sorted(config.penalties), config),
        }
        top1 = float((probe.logits(split.test_ND[:, None])[:, 0].argmax(axis=1) == split.test_labels).mean())
        for name, reference in references.items():
            candidate_rates, reference_rates = alternate(
                partial(rate_of, reference, units=1),
                partial(rate_of, ours, units=1),
                rounds=options.rounds or size.rounds,
            )
            yield Comparison(
                benchmark="probe",
                what=f"linear protocol, {size.num_points} x {size.dim}, {size.num_classes} classes, {device.type}",
                reference=name,
                unit="probes/s",
                goal=GOAL,
                candidate_rates=candidate_rates,
                reference_rates=reference_rates,
                notes={"C": probe.penalty_, "top-1 %": 100 * top1, "reference's top-1 %": 100 * reference()},
            )


def _sklearn(split: _Split, penalties: list[float], config: LinearConfig) -> float:
    """Top-1 on the held-out points of the best of these penalties."""
    scaler = StandardScaler().fit(split.train_ND)
    points, labels = scaler.transform(split.train_ND), split.train_labels

    def fitted(penalty: float, rows: np.ndarray | slice) -> LogisticRegression:
        return LogisticRegression(C=penalty, max_iter=config.max_iterations).fit(points[rows], labels[rows])

    best = penalties[0]
    if len(penalties) > 1:
        splitter = GroupShuffleSplit(n_splits=1, test_size=0.2, random_state=_SEED)
        fit, held_out = next(splitter.split(points, labels, np.arange(len(labels))))
        scores = [fitted(penalty, fit).score(points[held_out], labels[held_out]) for penalty in penalties]
        best = penalties[int(np.argmax(scores))]
    return float(fitted(best, slice(None)).score(scaler.transform(split.test_ND), split.test_labels))


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
