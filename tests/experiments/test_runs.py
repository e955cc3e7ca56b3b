"""Every shipped experiment runs, in its smallest size; a re-run trains nothing; failures cost their own runs only."""

from __future__ import annotations

import functools
import itertools
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import threadpoolctl
from support.tiny import tiny_values, write_pictures

from cfvid.artifacts import Record
from cfvid.config import RunConfig
from cfvid.errors import CfvidError
from cfvid.experiments import runner
from cfvid.experiments.cells import Cell, Group, expand
from cfvid.experiments.experiment import forget_other_work, run_experiment, summarise
from cfvid.experiments.runner import run_groups
from cfvid.experiments.spec import ExperimentConfig, layer_of, read_experiment
from cfvid.loading import resolve_layers, shipped_files
from cfvid.models.weights import load_network
from cfvid.pipeline import run_stages
from cfvid.yaml_layers import Layer


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("pictures"))


def experiment(pictures: Path, **changes: Any) -> ExperimentConfig:
    """Two points, two seeds, on tiny pictures."""
    settings = tiny_values(pictures, transfer__protocols=["linear"], pretrain__training__epochs=1)
    settings["retrain"]["training"]["epochs"] = 1
    values: dict[str, Any] = {
        "title": "A test",
        "question": "Does it run?",
        "modality": settings.pop("modality"),
        "axis": {"name": "p", "key": "pretrain.label_noise", "values": [0.0, 0.5]},
        "arms": {"n_pre": {"network": "n_pre"}, "clusterfit": {}, "random": {"network": "random"}},
        "set": settings,
        "sizes": {"smoke": {"seeds": [0, 1]}},
    }
    return ExperimentConfig.model_validate(values | changes)


@pytest.mark.parametrize("name", sorted(shipped_files("experiments")))
def test_every_shipped_experiment_runs_in_its_smoke_size(name: str, tmp_path: Path) -> None:
    shipped = read_experiment(name)
    results = run_experiment(shipped, tmp_path, size="smoke", command=f"cfvid experiment {name} --size smoke")
    assert results["missing"] == []
    assert {verdict["contender"] for verdict in results["verdicts"]} <= set(shipped.contenders)
    assert results["verdicts"]
    groups = expand(shipped, size="smoke", output=tmp_path)
    scored = {(s["point"], s["seed"], s["arm"]) for s in results["scores"]}
    assert scored == {(cell.point, cell.seed, cell.arm) for group in groups for cell in group.cells}
    page = (tmp_path / "report.md").read_text()
    assert shipped.question in page
    assert f"cfvid experiment {name} --size smoke" in page
    for table in shipped.paper:
        assert f"[{table.mark}]" in page
    for line in page.splitlines():
        if "<picture>" in line:
            assert (tmp_path / line.partition('src="')[2].partition('"')[0]).is_file()


def test_a_sweep_shares_its_stages_and_a_rerun_trains_nothing(
    pictures: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sweep = experiment(pictures, axis={"name": "K", "key": "cluster.num_clusters", "values": [2, 3, 4]})
    first = run_experiment(sweep, tmp_path, size="smoke")
    # One pretraining and one extraction for each seed, whatever the number of points.
    assert len(list((tmp_path / "stages" / "pretrain").iterdir())) == 2
    assert len(list((tmp_path / "stages" / "extract").iterdir())) == 2
    assert len(list((tmp_path / "stages" / "retrain").iterdir())) == 6
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("record.json")}
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="cfvid"):
        again = run_experiment(sweep, tmp_path, size="smoke")
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("record.json")} == before
    assert " epoch 1: " not in caplog.text
    assert json.dumps(again) == json.dumps(first)


def test_equal_compute_is_counted_and_told(pictures: Path, tmp_path: Path) -> None:
    arms = {
        "n_pre": {"network": "n_pre"},
        "n_pre_2x": {"network": "n_pre", "scale": {"pretrain.training.epochs": 2}},
        "clusterfit": {},
    }
    equal = experiment(
        pictures, arms=arms, axis=None, equal_compute=[["n_pre_2x", "clusterfit"], ["n_pre", "n_pre_2x"]]
    )
    longer = layer_of({"pretrain.training.epochs": 8, "retrain.training.epochs": 8}, name="test")
    results = run_experiment(equal, tmp_path, size="smoke", overrides=longer)
    spent = {entry["arm"]: entry["train_flops"] for entry in results["compute"]["by_arm"]}
    assert spent["n_pre_2x"] == pytest.approx(2 * spent["n_pre"])
    assert spent["clusterfit"] == pytest.approx(spent["n_pre_2x"], rel=0.05)
    assert [item["arms"] for item in results["compute"]["unequal"]] == [["n_pre", "n_pre_2x"]]


def test_protocols_of_frozen_features_have_intervals_too(pictures: Path, tmp_path: Path) -> None:
    spec = experiment(pictures, sizes={"smoke": {"seeds": [0]}})
    few = {"per_class": [2], "num_draws": 2}
    chosen = {"transfer": {"protocols": ["linear", "knn", "low_shot", "retrieval"], "low_shot": few}}
    results = run_experiment(spec, tmp_path, size="smoke", overrides=layer_of(chosen, name="test"))
    assert results["missing"] == []
    metrics = {(e["protocol"], e["metric"]) for e in results["table"]}
    assert metrics == {
        ("linear", "top1"),
        ("knn", "top1"),
        ("low_shot", "top1_2shot"),
        *(("retrieval", f"recall{k}") for k in (1, 5, 10)),
    }
    scores = {(s["point"], s["arm"], s["protocol"], s["metric"]): s["value"] for s in results["scores"]}
    for entry in results["table"]:
        key = (entry["point"], entry["arm"], entry["protocol"], entry["metric"])
        assert entry["mean"] == pytest.approx(scores[key])
    assert {e["protocol"] for e in results["gains"]} == {"linear", "knn", "low_shot", "retrieval"}
    page = (tmp_path / "report.md").read_text()
    assert "## target, nearest neighbours, top-1 %" in page
    assert "## target, retrieval, %" in page
    assert "target, retrieval: R@1, %" in page  # the figure


def test_what_n_pre_has_learnt_is_told(pictures: Path, tmp_path: Path) -> None:
    spec = experiment(pictures, sizes={"smoke": {"seeds": [0]}})
    results = run_experiment(spec, tmp_path, size="smoke")
    assert {(e["point"], e["arm"]) for e in results["learnt"]} == set(
        itertools.product(["0.0", "0.5"], ["n_pre", "clusterfit"])
    )
    for entry in results["learnt"]:
        folder = tmp_path / "runs" / entry["point"] / "seed0" / entry["arm"] / "pretrain"
        assert entry["held_out_accuracy"] == Record.read(folder, kind="pretrain").facts["held_out_accuracy"]
    assert "## What N_pre has learnt" in (tmp_path / "report.md").read_text()


def test_official_splits_are_averaged(pictures: Path, tmp_path: Path) -> None:
    spec = experiment(pictures, axis=None, sizes={"smoke": {"seeds": [0]}})
    other = write_pictures(tmp_path / "other", val=6, seed=1)
    changes = {"data.targets": {"s1": str(pictures), "s2": str(other)}, "transfer.folds": {"both": ["s1", "s2"]}}
    results = run_experiment(spec, tmp_path / "out", size="smoke", overrides=layer_of(changes, name="test"))
    for entries, value in ((results["scores"], "value"), (results["table"], "mean"), (results["gains"], "mean")):
        for arm in ("clusterfit", "random"):
            found = {e["target"]: e[value] for e in entries if e["arm"] == arm and e.get("against") in (None, "n_pre")}
            assert found["both"] == pytest.approx((found["s1"] + found["s2"]) / 2)
    assert "## both, linear probe, top-1 %" in (tmp_path / "out" / "report.md").read_text()


def test_groups_side_by_side_give_the_same_results(pictures: Path, tmp_path: Path) -> None:
    spec = experiment(pictures, sizes={"smoke": {"seeds": [0]}})
    one = run_experiment(spec, tmp_path / "one", size="smoke")
    two = run_experiment(spec, tmp_path / "two", size="smoke", jobs=2)
    assert two["scores"] == one["scores"]
    assert two["gains"] == one["gains"]


def _spin_threads(threads_path: str, group: Group, threads: int, messages: Connection) -> None:
    found = {library["user_api"]: library["num_threads"] for library in threadpoolctl.threadpool_info()}
    Path(threads_path).write_text(json.dumps([threads, found]))
    messages.send("end")


def test_groups_side_by_side_share_the_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of the libraries that do not ask torch: scikit-learn's BLAS, faiss' OpenMP."""
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "7")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    monkeypatch.setattr(runner, "_work", functools.partial(_spin_threads, str(tmp_path / "threads.json")))
    assert run_groups([Group("", 0, [])], jobs=3) == []
    threads, found = json.loads((tmp_path / "threads.json").read_text())
    assert threads == 2
    assert found
    assert set(found.values()) == {2}
    assert os.environ["OPENBLAS_NUM_THREADS"] == "7"


def test_what_can_be_told_before_any_work_is_told_of_all_runs(pictures: Path, tmp_path: Path) -> None:
    axis = {
        "name": "K",
        "points": {"good": {}, "large": {"cluster.num_clusters": 1000}, "deep": {"extract.layer": "x"}},
    }
    with pytest.raises(CfvidError) as refused:
        run_experiment(experiment(pictures, axis=axis), tmp_path, size="smoke")
    assert "num_clusters is 1000" in str(refused.value)
    assert "no layer 'x'" in str(refused.value)
    assert not (tmp_path / "stages").exists()


def test_early_estimates_look_at_the_experiments_beside_this_one(
    pictures: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spec = experiment(pictures, sizes={"smoke": {"seeds": [0]}})
    alone = run_experiment(spec, tmp_path / "a", size="smoke")
    assert alone["overall_predictions"] is None
    shutil.copytree(tmp_path / "a", tmp_path / "b", symlinks=True)
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "results.json").write_text("{")
    again = run_experiment(spec, tmp_path / "a", size="smoke")
    assert again["overall_predictions"]["experiments"] == 2
    # Two points, whose networks the copy shares.
    assert {entry["num_runs"] for entry in again["overall_predictions"]["entries"]} == {2}
    assert "runs of 2 experiments of this size" in (tmp_path / "a" / "report.md").read_text()
    assert f"the early estimates of {tmp_path / 'c'} are left out" in caplog.text


def test_results_of_other_settings_are_not_shown_as_these(pictures: Path, tmp_path: Path) -> None:
    spec = experiment(pictures, axis=None)
    run_experiment(spec, tmp_path, size="smoke")
    other = layer_of({"retrain.training.lr": 0.001}, name="test")
    groups = expand(spec, size="smoke", output=tmp_path, overrides=other)
    for group in groups:
        for cell in group.cells:
            forget_other_work(cell)
    assert summarise(spec, groups, size="smoke", command="")["scores"] == []
    shown = layer_of({"report.num_sheet_clusters": 3}, name="test")
    run_experiment(spec, tmp_path, size="smoke")
    groups = expand(spec, size="smoke", output=tmp_path, overrides=shown)
    for group in groups:
        for cell in group.cells:
            forget_other_work(cell)
    assert summarise(spec, groups, size="smoke", command="")["missing"] == []


def test_a_second_round_costs_the_first_one_too(pictures: Path, tmp_path: Path) -> None:
    arms = {"n_pre": {"network": "n_pre"}, "clusterfit": {}, "again": {"starts_from": "clusterfit"}}
    arms["both"] = {"teachers": ["n_pre"]}
    results = run_experiment(experiment(pictures, arms=arms, axis=None), tmp_path, size="smoke")
    spent = {entry["arm"]: entry["train_flops"] for entry in results["compute"]["by_arm"]}
    # Another extraction and another training.
    assert spent["again"] > 1.4 * spent["clusterfit"]
    # The teacher's training and extraction once more, though here they are the same as its own.
    assert spent["both"] > spent["clusterfit"] + spent["n_pre"]


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_run_that_fails_does_not_end_the_others(pictures: Path, tmp_path: Path, jobs: int) -> None:
    # Far too high a rate diverges, which nobody can tell before.
    axis = {"name": "rate", "points": {"good": {}, "bad": {"retrain.training.lr": 1e30}}}
    arms = {"n_pre": {"network": "n_pre"}, "clusterfit": {}, "again": {"starts_from": "clusterfit"}}
    arms["distillation"] = {"set": {"cluster.method": "distillation", "retrain.training.lr": 0.01}}
    spec = experiment(pictures, axis=axis, arms=arms, sizes={"smoke": {"seeds": [0]}})
    with pytest.raises(CfvidError, match="2 failures in 8 runs") as failed:
        run_experiment(spec, tmp_path, size="smoke", jobs=jobs)
    assert "bad, seed 0, clusterfit: retrain: the" in str(failed.value)
    assert "bad, seed 0, again: It starts from clusterfit, which failed." in str(failed.value)
    results = json.loads((tmp_path / "results.json").read_text())
    scored = {(s["point"], s["arm"]) for s in results["scores"]}
    good, bad = (set(itertools.product([point], arms)) for point in ("good", "bad"))
    assert scored == (good | bad) - {("bad", "clusterfit"), ("bad", "again")}
    assert results["missing"]


def test_a_fault_of_ours_ends_its_own_run_only(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(config: RunConfig, output: Path, **options: Any) -> object:
        if output.name == "clusterfit":
            raise ValueError("nobody thought of this")
        return run_stages(config, output, **options)

    monkeypatch.setattr(runner, "run_stages", broken)
    spec = experiment(pictures, axis=None, sizes={"smoke": {"seeds": [0]}})
    with pytest.raises(CfvidError, match="1 failure in 3 runs") as failed:
        run_experiment(spec, tmp_path, size="smoke")
    assert "seed 0, clusterfit: ValueError: nobody thought of this" in str(failed.value)
    results = json.loads((tmp_path / "results.json").read_text())
    assert {s["arm"] for s in results["scores"]} == {"n_pre", "random"}


@pytest.mark.slow
def test_a_stopped_experiment_leaves_no_process_and_goes_on(pictures: Path, tmp_path: Path) -> None:
    """SIGTERM to the parent alone: its children end too, and the same command finishes."""
    spec = experiment(pictures, sizes={"smoke": {"seeds": [0]}}).model_dump(mode="json")
    spec["set"]["pretrain"]["training"]["epochs"] = 200  # long enough to be stopped in
    path = tmp_path / "mine.yaml"
    path.write_text(json.dumps(spec))  # JSON is YAML
    command = [sys.executable, "-m", "cfvid", "experiment", str(path), "--size", "smoke", "--jobs", "2"]
    command += ["--output", str(tmp_path / "out")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True, text=True)
    metrics = tmp_path / "out" / "stages" / "pretrain"
    deadline = time.monotonic() + 120
    while len(list(metrics.glob("*/states/epoch-*"))) < 2 and time.monotonic() < deadline:
        assert process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(90) == 143
    with pytest.raises(ProcessLookupError):
        while time.monotonic() < deadline + 60:  # helpers of multiprocessing end a moment after those they help
            os.killpg(process.pid, 0)
            time.sleep(0.1)
    shorter = [*command, "--pretrain.training.epochs", "1"]
    assert subprocess.run(shorter, capture_output=True, timeout=200, check=False).returncode == 0


def _with(cell: Cell, settings: dict[str, Any]) -> Cell:
    layers = [Layer("the run", cell.config.plain()), layer_of(settings, name="test")]
    return replace(cell, config=resolve_layers(cell.config.modality, layers))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Takes the stages that several experiments have in common."""
    return tmp_path_factory.mktemp("stages")


@pytest.mark.parametrize("name", sorted(shipped_files("experiments")))
def test_the_first_steps_of_the_papers_size_run_on_generated_data(name: str, shared: Path, tmp_path: Path) -> None:
    """Its networks, input and clustering, on a handful of generated pictures or short clips: one epoch of batches."""
    shipped = read_experiment(name)
    video = shipped.modality == "video"
    source = {"path": f"embedded:{'motion' if video else 'shapes'}", "per_class": [1, 1]}
    short = {"epochs": 1, "batch_size": 2, "lr": 1e-4, "warmup_epochs": 0.0, "schedule": "constant", "milestones": []}
    few = {
        "data": {
            "pretrain": {**source, "class_share": [0.0, 0.6]},
            "clusterfit_share": 1.0,  # a part of a handful would be nothing
            "targets": {"target": source},
        },
        "pretrain.training": short,
        "pretrain.num_labels": None,  # a handful has few
        "retrain.training": short,
        "extract": {"batch_size": 4, "dtype": "fp32"},  # statistics of two batches make wild features
        "cluster.num_clusters": 2,
        "transfer.protocols": ["linear"],
        "runtime": {"num_workers": 0, "device": "cpu"},
    }
    if video:
        few["input"] = {"num_frames": 4, "score_clips": 1, "crop_size": 56, "resize": 64, "max_resize": 72}
        few["data"]["pretrain"]["class_share"] = [0.0, 0.3]
    contender = shipped.contenders[0]
    # Points whose N_pre learns something else are other first steps.
    by_task = {}
    for group in expand(shipped, size="paper", output=tmp_path):
        cells = {cell.arm: cell for cell in group.cells}
        by_task.setdefault(cells[contender].config.pretrain.task, cells)
    for cells in by_task.values():
        for arm in [*shipped.arms[contender].teachers, contender]:
            cell = _with(cells[arm], few)
            run_stages(cell.config, cell.folder, stages=[s for s in cell.stages if s != "transfer"], shared=shared)
        network, _ = load_network(cell.folder / "retrain" / "network")
        assert network.arch == cell.config.retrain_arch in ("resnet18", "resnet50", "r2plus1d_34")
