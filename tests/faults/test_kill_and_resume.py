"""Fault rows 14, 15 and 18: a run that was killed or stopped continues with the same command, to the same bytes."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.tiny import tiny_config, tiny_values, write_pictures
from support.zygote import Zygote

from cfvid.errors import Interrupted
from cfvid.pipeline import run_stages
from cfvid.training import interrupts
from cfvid.training.metrics import read_metrics

UP_TO_PRETRAIN = ["pretrain"]
UP_TO_CLUSTER = ["pretrain", "extract", "cluster"]
UP_TO_RETRAIN = [*UP_TO_CLUSTER, "retrain"]
NUM_KILLS = 20


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    server = Zygote()
    yield server
    server.close()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = write_pictures(tmp_path_factory.mktemp("pictures"))
    # One file in the middle of a shard is broken: its absence must survive the kills too.
    (data / "train" / "class1" / "003.png").write_bytes(b"not a picture")
    return data


@pytest.fixture(scope="module")
def config_file(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "config.json"
    values = tiny_values(pictures, data__skip_budget=0.1, retrain__training__epochs=4)
    path.write_text(json.dumps(values))
    return path


@pytest.fixture(scope="module")
def undisturbed(zygote: Zygote, config_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("undisturbed") / "run"
    assert zygote.run(config_file, output, UP_TO_RETRAIN) == 0
    return output


def contents(folder: Path) -> dict[str, bytes]:
    """All files that make up a stage's result."""
    changing = {"cost.json"}
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in changing and "tensorboard" not in path.parts
    }


def copy_stages(source: Path, target: Path, stages: list[str]) -> None:
    for stage in stages:
        shutil.copytree(source / stage, target / stage)


def losses(folder: Path) -> list[tuple[int, float]]:
    return [(line["step"], line["loss"]) for line in read_metrics(folder) if line["event"] == "step"]


def kill_repeatedly(zygote: Zygote, config: Path, output: Path, stages: list[str], *, kills: int, within: float) -> int:
    """Kill the job at random moments, then let it end; returns how many kills hit it while it worked."""
    draw, hits = random.Random(7), 0
    for _ in range(kills):
        pid = zygote.start(config, output, stages)
        time.sleep(draw.uniform(0.0, within))
        os.kill(pid, signal.SIGKILL)  # still a zombie when it ended by itself, so the id cannot be another's
        status = zygote.wait()
        assert status in (0, -signal.SIGKILL)
        hits += status != 0
        if status == 0:
            break
    assert zygote.run(config, output, stages) == 0
    return hits


def test_extraction_killed_at_random_moments_gives_the_same_bytes(
    zygote: Zygote, config_file: Path, undisturbed: Path, tmp_path: Path
) -> None:
    total_hits = 0
    for attempt in range(NUM_KILLS):
        output = tmp_path / f"run{attempt}"
        copy_stages(undisturbed, output, UP_TO_PRETRAIN)
        total_hits += kill_repeatedly(zygote, config_file, output, ["extract"], kills=1, within=0.35)
        assert contents(output / "extract") == contents(undisturbed / "extract")
    assert total_hits >= NUM_KILLS // 4, "the kills came too late to test anything"


def test_extraction_killed_at_each_write_redoes_at_most_one_shard(
    zygote: Zygote, config_file: Path, undisturbed: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    copy_stages(undisturbed, output, UP_TO_PRETRAIN)
    call, whole_before = 0, 0
    while True:
        call += 1
        status = zygote.run(config_file, output, ["extract"], die_at_call=call)
        whole = len(list((output / "extract" / "shards").glob("*.json")))
        assert whole >= whole_before, "a finished shard was lost"
        whole_before = whole
        if status == 0:
            break
        assert status == -signal.SIGKILL
        assert call < 200
    assert call > 5
    assert contents(output / "extract") == contents(undisturbed / "extract")


def test_retraining_killed_at_random_moments_ends_with_the_same_network(
    zygote: Zygote, config_file: Path, undisturbed: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    copy_stages(undisturbed, output, UP_TO_CLUSTER)
    hits = kill_repeatedly(zygote, config_file, output, ["retrain"], kills=8, within=0.8)
    assert hits >= 2, "the kills came too late to test anything"
    assert contents(output / "retrain") == contents(undisturbed / "retrain")


def test_a_kill_at_each_checkpoint_write_leaves_a_whole_checkpoint(
    zygote: Zygote, config_file: Path, undisturbed: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    copy_stages(undisturbed, output, UP_TO_CLUSTER)
    statuses = []
    for call in range(1, 60, 3):
        statuses.append(zygote.run(config_file, output, ["retrain"], die_at_call=call))
        if statuses[-1] == 0:
            break
    else:
        statuses.append(zygote.run(config_file, output, ["retrain"]))
    assert statuses[-1] == 0
    assert statuses.count(-signal.SIGKILL) >= 5
    assert not list((output / "retrain").rglob(".tmp-*"))
    assert contents(output / "retrain") == contents(undisturbed / "retrain")


@pytest.mark.parametrize("num_workers", [0, 2])
def test_stopped_in_mid_epoch_and_resumed_is_bit_equal(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_workers: int
) -> None:
    config = tiny_config(
        pictures, data__skip_budget=0.1, runtime__num_workers=num_workers, pretrain__training__epochs=3
    )
    run_stages(config, tmp_path / "whole", stages=["pretrain"])

    calls = 0

    def stop_at_fifth_step() -> bool:
        nonlocal calls
        calls += 1
        if calls == 5:
            interrupts._received.append(signal.SIGTERM)
        return bool(interrupts._received)

    monkeypatch.setattr(interrupts, "requested", stop_at_fifth_step)
    with pytest.raises(Interrupted) as stopped:
        run_stages(config, tmp_path / "stopped", stages=["pretrain"])
    assert stopped.value.exit_code == 143
    monkeypatch.undo()
    assert len(losses(tmp_path / "stopped" / "pretrain")) == 5
    run_stages(config, tmp_path / "stopped", stages=["pretrain"])

    assert losses(tmp_path / "stopped" / "pretrain") == losses(tmp_path / "whole" / "pretrain")
    assert contents(tmp_path / "stopped" / "pretrain") == contents(tmp_path / "whole" / "pretrain")


def test_stages_of_one_process_do_not_mix_their_states(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run stopped in its n-th training resumes that network, not the first one of the process."""
    stages = ["pretrain", "extract", "cluster", "retrain", "transfer"]
    # As many clusters as classes: another network's weights would fit without an error.
    config = tiny_config(pictures, data__skip_budget=0.1, cluster__num_clusters=3, transfer__protocols=["finetune"])
    run_stages(config, tmp_path / "whole", stages=stages)
    num_steps = 0

    for stop_at in (7, 10, 13):  # in retraining, and in fine-tuning N_pre and N_cf (3 steps an epoch)
        num_steps = 0

        def stop(stop_at: int = stop_at) -> bool:
            nonlocal num_steps
            num_steps += 1
            if num_steps == stop_at:
                interrupts._received.append(signal.SIGTERM)
            return bool(interrupts._received)

        output = tmp_path / f"stopped{stop_at}"
        monkeypatch.setattr(interrupts, "requested", stop)
        with pytest.raises(Interrupted):
            run_stages(config, output, stages=stages)
        monkeypatch.undo()
        run_stages(config, output, stages=stages)
        for stage in ("pretrain", "retrain", "transfer"):
            assert contents(output / stage) == contents(tmp_path / "whole" / stage), (stop_at, stage)
