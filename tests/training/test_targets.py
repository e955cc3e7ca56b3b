"""Targets by sample id."""

from __future__ import annotations

import pytest
import torch

from cfvid.errors import DataError
from cfvid.training.targets import Targets


def test_one_label_each_gives_class_indices_in_the_order_asked_for() -> None:
    targets = Targets(["a", "b"], {"x": ("b",), "y": ("a",)})
    assert targets.batch(["y", "x", "x"]).tolist() == [0, 1, 1]
    assert targets.batch(["y"]).dtype == torch.int64


def test_several_tags_share_the_target_evenly() -> None:
    targets = Targets(["a", "b", "c"], {"x": ("a", "c"), "y": ("b",)})
    torch.testing.assert_close(targets.batch(["x", "y"]), torch.tensor([[0.5, 0.0, 0.5], [0.0, 1.0, 0.0]]))


def test_unknown_labels_are_named() -> None:
    with pytest.raises(DataError, match="zebra"):
        Targets(["a"], {"x": ("zebra",)})
