"""Augmentation of batches: what decoding processes do to single samples, by draws of each sample's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cfvid.data import transforms
from cfvid.data.batch_augmentation import Changes, changed, drawn
from cfvid.seeds import derive

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SEEDS = [derive(1, "test", number) for number in range(2000)]


class Given:
    """A generator that gives one sample's changes, in the order in which `transforms` asks for them."""

    def __init__(self, changes: Changes, row: int) -> None:
        self._values = iter([*changes.factors_N4[row].tolist()])
        self._order = changes.order_N4[row]
        self._flip = changes.flip_N[row]

    def random(self) -> float:
        return 0.0 if self._flip else 1.0

    def uniform(self, low: float, high: float) -> float:
        value = next(self._values)
        assert low <= value <= high
        return value

    def permutation(self, num: int) -> np.ndarray:
        assert num == len(self._order)
        return self._order


@pytest.mark.parametrize("shape", [(3, 24, 20), (3, 5, 24, 20)])
def test_a_batch_is_changed_as_single_samples_are(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand((40, *shape[:-2], 6, 5), generator=generator).repeat_interleave(4, -1).repeat_interleave(4, -2)
    views = (coarse * 256).to(torch.uint8)
    changes = drawn(SEEDS[:40], flip=True, color_jitter=0.4)
    found = changed(views.to(DEVICE), changes, color_jitter=True).cpu()
    assert found.dtype == torch.uint8
    for row in range(len(views)):
        frames_TCHW = views[row][None] if len(shape) == 3 else views[row].transpose(0, 1)
        rng: np.random.Generator = Given(changes, row)  # type: ignore[assignment]
        expected = transforms.color_jitter(transforms.random_flip(frames_TCHW, rng=rng), 0.4, rng=rng)
        expected = expected[0] if len(shape) == 3 else expected.transpose(0, 1)
        differences = (found[row].int() - expected.int()).abs()
        # Rounding before a step that multiplies it.
        assert differences.max() <= 4
        assert differences.float().mean() < 0.05


def test_draws_are_of_each_seed_alone_and_spread_as_they_should() -> None:
    changes = drawn(SEEDS, flip=True, color_jitter=0.5)
    some = drawn(SEEDS[700:703], flip=True, color_jitter=0.5)
    for name in ("flip_N", "factors_N4", "order_N4"):
        np.testing.assert_array_equal(getattr(some, name), getattr(changes, name)[700:703])
    assert changes.flip_N.mean() == pytest.approx(0.5, abs=0.05)
    np.testing.assert_allclose(changes.factors_N4.mean(axis=0), [1, 1, 1, 0], atol=0.03)
    np.testing.assert_allclose(changes.factors_N4.min(axis=0), [0.5, 0.5, 0.5, -0.25], atol=0.01)
    np.testing.assert_allclose(changes.factors_N4.max(axis=0), [1.5, 1.5, 1.5, 0.25], atol=0.01)
    orders, counts = np.unique(changes.order_N4, axis=0, return_counts=True)
    assert len(orders) == 24
    assert counts.min() > 50
    assert abs(np.corrcoef(changes.factors_N4.T) - np.eye(4)).max() < 0.08
    assert not drawn(SEEDS, flip=False, color_jitter=0.5).flip_N.any()


def test_without_changes_nothing_is_changed() -> None:
    views = torch.randint(256, (3, 3, 4, 4), dtype=torch.uint8)
    still = drawn(SEEDS[:3], flip=False, color_jitter=0.0)
    assert torch.equal(changed(views.to(DEVICE), still, color_jitter=False).cpu(), views)
