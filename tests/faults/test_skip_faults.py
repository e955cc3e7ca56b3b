"""Fault rows 12 and 13: too many unreadable files end a run; files that vanish in mid-run do not."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.tiny import tiny_config, write_pictures

from cfvid.data.loader import SampleLoader
from cfvid.data.skips import read_skips
from cfvid.errors import SkipBudgetExceeded
from cfvid.features import FeatureStore
from cfvid.pipeline import run_stages


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return write_pictures(tmp_path / "pictures")


def test_more_skips_than_the_budget_end_the_run_with_counts_by_reason(pictures: Path, tmp_path: Path) -> None:
    for number in range(4):
        (pictures / "train" / "class0" / f"{number:03d}.png").write_bytes(b"")
        (pictures / "train" / "class1" / f"{number:03d}.png").write_bytes(b"text, not pixels")
    with pytest.raises(SkipBudgetExceeded) as stopped:
        run_stages(tiny_config(pictures), tmp_path / "run", stages=["pretrain"])
    message = str(stopped.value)
    assert "budget of 5.0%" in message
    assert "train/class" in message
    assert stopped.value.exit_code == 3


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_file_removed_in_mid_run_goes_to_the_ledger(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_workers: int
) -> None:
    config = tiny_config(
        pictures, data__skip_budget=0.1, runtime__num_workers=num_workers, pretrain__training__epochs=1
    )
    run_stages(config, tmp_path / "run", stages=["pretrain"])
    victim = pictures / "train" / "class2" / "005.png"
    real = SampleLoader.batches

    def batches(self: SampleLoader, *args: object, **kwargs: object):  # type: ignore[no-untyped-def]
        for batch in real(self, *args, **kwargs):  # type: ignore[arg-type]
            victim.unlink(missing_ok=True)
            yield batch

    monkeypatch.setattr(SampleLoader, "batches", batches)
    run_stages(config, tmp_path / "run", stages=["extract"])
    store = FeatureStore(tmp_path / "run" / "extract")
    skips = read_skips(tmp_path / "run" / "extract" / "skips.jsonl")
    assert len(store) == 23
    assert "train/class2/005.png" not in store.ids
    assert [skip.sample_id for skip in skips] == ["train/class2/005.png"]
    assert "no such file" in skips[0].reasons[0]
