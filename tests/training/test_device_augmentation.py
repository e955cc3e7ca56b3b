"""Training with augmentation on the network's device."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.tiny import tiny_config, write_pictures

from cfvid.modalities.image import ImageModality
from cfvid.pipeline import run_stages


def test_every_training_batch_is_augmented_by_the_seeds_of_its_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    augment = ImageModality.augment
    monkeypatch.setattr(
        ImageModality, "augment", lambda self, views, seeds: seen.extend(seeds) or augment(self, views, seeds)
    )
    pictures = write_pictures(tmp_path / "pictures")
    config = tiny_config(pictures, input__augment_on="device", input__color_jitter=0.3)
    run_stages(config, tmp_path / "run", stages=["pretrain"])
    assert len(seen) == len(set(seen)) > config.pretrain.training.epochs
