"""Fault rows 12 and 13: too many unreadable files end a run; files that vanish in mid-run do not."""

from __future__ import annotations

import collections
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.tiny import tiny_config, write_pictures

from cfvid.artifacts import digest_file
from cfvid.data.loader import SampleLoader
from cfvid.data.manifest import Sample, from_samples
from cfvid.data.skips import SkipLedger, read_skips
from cfvid.errors import SkipBudgetExceeded, TrainingError
from cfvid.features import FeatureStore
from cfvid.media.guard import GuardedPool, Outcome
from cfvid.pipeline import run_stages
from cfvid.training import loop
from cfvid.training.metrics import read_metrics


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


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> collections.Counter[str]:
    """How often each sample was given to decoders, by its id."""
    counts: collections.Counter[str] = collections.Counter()
    real = GuardedPool.imap

    def imap(self: GuardedPool, payloads: Iterable[Any], **options: Any) -> Iterator[Outcome]:
        def counted() -> Iterator[Any]:
            for payload in payloads:
                counts[payload.sample_id] += 1
                yield payload

        return real(self, counted(), **options)

    monkeypatch.setattr(GuardedPool, "imap", imap)
    return counts


BROKEN = "train/class1/003.png"


def test_a_broken_file_is_tried_in_one_epoch_only(
    pictures: Path, tmp_path: Path, tried: collections.Counter[str]
) -> None:
    """Known broken files were tried again in every epoch, each time up to the deadline of 20 s."""
    (pictures / BROKEN).write_bytes(b"not a picture")
    config = tiny_config(pictures, data__skip_budget=0.1, pretrain__training__epochs=4)
    run_stages(config, tmp_path / "run", stages=["pretrain"])
    assert tried[BROKEN] == 1
    assert tried["train/class1/004.png"] == 4
    [skip] = read_skips(tmp_path / "run" / "pretrain" / "skips.jsonl")
    assert (skip.sample_id, skip.identity) == (BROKEN, None)


def test_a_file_that_changes_meanwhile_is_tried_again(
    pictures: Path, tmp_path: Path, tried: collections.Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = (pictures / BROKEN).read_bytes()
    (pictures / BROKEN).write_bytes(b"not a picture")
    real = loop._end_epoch

    def end_epoch(progress: Any, *arguments: Any) -> None:
        real(progress, *arguments)
        if progress.epoch == 2:
            (pictures / BROKEN).write_bytes(whole)

    monkeypatch.setattr(loop, "_end_epoch", end_epoch)
    config = tiny_config(pictures, data__skip_budget=0.1, pretrain__training__epochs=4)
    run_stages(config, tmp_path / "run", stages=["pretrain"])
    assert tried[BROKEN] == 3  # in the first epoch, the third and the fourth


def test_what_is_behind_a_url_is_never_known_to_be_broken() -> None:
    """The network may come back: such a sample is tried again in each epoch."""
    place = {"path": "s.tar!/a.jpg", "root": "https://host/shards", "member_offset": 512, "member_size": 9}
    sample = Sample("a", labels=(), split="train", start_s=None, end_s=None, **place)  # type: ignore[arg-type]
    ledger = SkipLedger(num_samples=1, budget=1.0, stage="x")
    loader = SampleLoader(from_samples([sample]), pool=None, ledger=ledger)  # type: ignore[arg-type]
    assert loader.identity("a") is None


def test_a_broken_validation_file_is_tried_once_for_all_networks(
    pictures: Path, tmp_path: Path, tried: collections.Counter[str]
) -> None:
    bad = "val/class0/001.png"
    (pictures / bad).write_bytes(b"")
    networks = {"transfer__networks": ["n_pre", "random"], "transfer__protocols": ["linear", "finetune"]}
    config = tiny_config(pictures, data__skip_budget=0.1, transfer__seeds=[0, 1], **networks)
    run_stages(config, tmp_path / "run", stages=["pretrain", "transfer"])
    # For the held-out accuracy of N_pre, by the look `extract`, and by the look `score` for all that follows.
    assert tried[bad] == 2
    folders = [*(tmp_path / "run" / "transfer").rglob("*skips.jsonl")]
    assert sum([skip.sample_id for skip in read_skips(path)] == [bad] for path in folders) == 3 + 4


def test_the_same_command_refuses_again_until_something_changes(
    pictures: Path, tmp_path: Path, tried: collections.Counter[str]
) -> None:
    """It passed when run again: what the ledger knew did not count."""
    names = [f"train/class{label}/{number:03d}.png" for label in range(2) for number in range(2)]
    whole = {name: (pictures / name).read_bytes() for name in names}
    for name in names:
        (pictures / name).write_bytes(b"broken")
    run = functools.partial(run_stages, stages=["pretrain"])
    config = tiny_config(pictures, data__skip_budget=0.1)
    with pytest.raises(SkipBudgetExceeded):
        run(config, tmp_path / "run")
    tried.clear()
    with pytest.raises(SkipBudgetExceeded, match=r"3 of 24 samples .* \(3 of them since an earlier attempt\)"):
        run(config, tmp_path / "run")
    assert not tried, "it is known before anything is decoded"
    with pytest.raises(SkipBudgetExceeded, match="3 of 24 samples are unreadable, more than"):
        run(config, tmp_path / "run", fresh=True)
    assert tried
    for name in names[:3]:
        (pictures / name).write_bytes(whole[name])
    run(config, tmp_path / "run")
    assert {s.sample_id for s in read_skips(tmp_path / "run" / "pretrain" / "skips.jsonl")} >= {names[3]}


def test_a_larger_budget_lets_it_go_on(pictures: Path, tmp_path: Path) -> None:
    for number in range(4):
        (pictures / "train" / "class0" / f"{number:03d}.png").write_bytes(b"broken")
    with pytest.raises(SkipBudgetExceeded):
        run_stages(tiny_config(pictures, data__skip_budget=0.1), tmp_path / "run", stages=["pretrain"])
    run_stages(tiny_config(pictures, data__skip_budget=0.2), tmp_path / "run", stages=["pretrain", "extract"])
    assert len(FeatureStore(tmp_path / "run" / "extract")) == 20


def failing_at(step: int) -> Callable[..., Any]:
    """In the place of the loop's step: dies at one of them."""
    real, calls = loop._step, itertools.count(1)

    def step_or_death(*arguments: Any, **options: Any) -> Any:
        if next(calls) == step:
            raise TrainingError("died")
        return real(*arguments, **options)

    return step_or_death


@pytest.mark.parametrize("died_at", [4, 8])
def test_broken_files_do_not_change_what_a_resumed_training_gives(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, died_at: int
) -> None:
    """Balanced epochs draw samples repeatedly, also those that an epoch has found to be broken."""
    (pictures / BROKEN).write_bytes(b"not a picture")
    (pictures / "train" / "class0" / "001.png").write_bytes(b"")
    config = tiny_config(
        pictures, data__skip_budget=0.1, retrain__sampling="balanced", retrain__training__epochs=3, seed=3
    )
    for name in ("whole", "resumed"):
        run_stages(config, tmp_path / name, stages=["pretrain", "extract", "cluster"])
    (pictures / "train" / "class2" / "000.png").write_bytes(b"broken since")
    run_stages(config, tmp_path / "whole", stages=["retrain"])
    with monkeypatch.context() as dying:
        dying.setattr(loop, "_step", failing_at(died_at))
        with pytest.raises(TrainingError, match="died"):
            run_stages(config, tmp_path / "resumed", stages=["retrain"])
    run_stages(config, tmp_path / "resumed", stages=["retrain"])
    weights = [digest_file(tmp_path / name / "retrain/network/model.safetensors") for name in ("whole", "resumed")]
    assert weights[0] == weights[1]
    ledgers = [(tmp_path / name / "retrain" / "skips.jsonl").read_bytes() for name in ("whole", "resumed")]
    assert ledgers[0] == ledgers[1]
    assert len(read_metrics(tmp_path / "resumed" / "retrain")) == len(read_metrics(tmp_path / "whole" / "retrain"))
