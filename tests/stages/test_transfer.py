"""transfer: the protocols of frozen features share one extraction, and their scores are in the report."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from support.tiny import HUES, tiny_config, write_pictures

from cfvid.artifacts import Record
from cfvid.data.manifest import Sample, from_samples
from cfvid.errors import ConfigError, DataError, InputsChanged
from cfvid.evaluation.average_precision import average_precision
from cfvid.evaluation.svm import IGNORED
from cfvid.models.weights import load_network
from cfvid.models.zoo import Network
from cfvid.pipeline import run_stages
from cfvid.preflight import check
from cfvid.sections.transfer import HeadsConfig
from cfvid.stages import Run
from cfvid.stages import trained as trained_protocols
from cfvid.stages.evaluations import Target
from cfvid.stages.transfer import read_groups, read_outcomes


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def run(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    config = tiny_config(
        pictures,
        pretrain__training__epochs=4,
        transfer__networks=["n_pre", "random"],
        transfer__protocols=["linear", "knn", "low_shot", "retrieval"],
        transfer__low_shot={"per_class": [1, 4], "num_draws": 3},
        transfer__linear__layers=["layer2"],
        transfer__knn__num_neighbours=5,
    )
    run_stages(config, folder, stages=["pretrain", "transfer", "report"])
    return folder


def test_protocols_of_frozen_features_share_one_extraction(run: Path) -> None:
    stores = {path.parent.relative_to(run).as_posix() for path in run.glob("transfer/**/features/*/record.json")}
    assert stores == {
        f"transfer/target/{network}/features/{split}"
        for network in ("n_pre", "random-seed0")
        for split in ("train", "val")
    }


def test_nearest_neighbours_are_scored_at_every_layer(run: Path) -> None:
    folder = run / "transfer" / "target" / "n_pre" / "knn-seed0"
    scores = json.loads((folder / "scores.json").read_text())
    assert set(scores) == {"top1", "top1@layer2"}
    rows = pq.read_table(folder / "predictions.parquet").to_pylist()
    right = np.mean([row["predicted"] == row["label"] for row in rows])
    assert scores["top1"] == pytest.approx(100 * right)
    assert scores["top1"] > 60  # hues, as N_pre has learnt them; chance is 33
    assert Record.read(folder, kind="transfer-scores").facts["num_neighbours"] == 5


def test_retrieval_finds_training_samples_of_the_own_class(run: Path) -> None:
    folder = run / "transfer" / "target" / "n_pre" / "retrieval-seed0"
    scores = json.loads((folder / "scores.json").read_text())
    assert set(scores) == {f"recall{k}{layer}" for k in (1, 5, 10) for layer in ("", "@layer2")}
    rows = pq.read_table(folder / "predictions.parquet").to_pylist()
    for k in (1, 5, 10):
        found = [row["label"] in {i.split("/")[1] for i in row["nearest"][:k]} for row in rows]
        assert scores[f"recall{k}"] == pytest.approx(100 * np.mean(found))
    assert all(sample_id.startswith("train/") for row in rows for sample_id in row["nearest"])
    assert scores["recall1"] > 60


def test_low_shot_is_the_mean_and_deviation_over_draws(run: Path) -> None:
    folder = run / "transfer" / "target" / "n_pre" / "low_shot-seed0"
    scores = json.loads((folder / "scores.json").read_text())
    table = pq.read_table(folder / "predictions.parquet").to_pydict()
    for num, layer in ((1, ""), (4, ""), (4, "@layer2")):
        rights = [
            100 * np.mean(np.array(table[f"predicted_{num}shot_draw{draw}{layer}"]) == np.array(table["label"]))
            for draw in range(3)
        ]
        assert scores[f"top1_{num}shot{layer}"] == pytest.approx(np.mean(rights))
        assert scores[f"top1_{num}shot_std{layer}"] == pytest.approx(np.std(rights, ddof=1))


@pytest.mark.parametrize("protocol", ["linear", "knn", "low_shot", "retrieval"])
def test_scores_are_means_over_samples(run: Path, protocol: str) -> None:
    folder = run / "transfer" / "target" / "n_pre" / f"{protocol}-seed0"
    scores = json.loads((folder / "scores.json").read_text())
    outcomes = read_outcomes(folder)
    assert set(outcomes) == {metric for metric in scores if "_std" not in metric}
    for metric, by_sample in outcomes.items():
        assert len(by_sample) == 12
        assert scores[metric] == pytest.approx(100 * np.mean(list(by_sample.values())))


def test_other_layers_are_another_evaluation(pictures: Path, tmp_path: Path) -> None:
    options = {"pretrain__training__epochs": 1, "transfer__networks": ["n_pre"], "transfer__protocols": ["knn"]}
    run_stages(tiny_config(pictures, **options), tmp_path, stages=["pretrain", "transfer"])
    with pytest.raises(InputsChanged, match="layers"):
        run_stages(tiny_config(pictures, **options, transfer__linear__layers=["layer2"]), tmp_path, stages=["transfer"])


def _by_channels(pictures: Path, manifest: Path) -> dict[str, str]:
    """A source of the pictures whose labels are their bright channels, of which some have two."""
    rows = ["sample_id,path,label,split"]
    for path in sorted(pictures.rglob("*.png")):
        split, name = path.relative_to(pictures).parts[:2]
        labels = "|".join(f"channel{channel}" for channel in HUES[int(name.removeprefix("class"))])
        sample_id = path.relative_to(pictures).as_posix()
        rows.append(f"{sample_id},{sample_id},{labels},{split}")
    manifest.write_text("\n".join(rows) + "\n")
    return {"path": str(manifest), "media_root": str(pictures), "label_separator": "|"}


def test_samples_of_several_labels_are_scored_by_svms(tmp_path: Path) -> None:
    """Pictures of two hues at once, by a manifest; a protocol that names one class refuses them."""
    pictures = write_pictures(tmp_path / "pictures", classes=6, train=10, val=5)
    source = _by_channels(pictures, tmp_path / "channels.csv")
    short = {"pretrain__training__epochs": 3, "transfer__networks": ["n_pre"], "data__targets": {"channels": [source]}}
    unfit = tiny_config(pictures, **short, transfer__protocols=["linear", "svm"])
    with pytest.raises(DataError, match="linear needs one label per sample"):
        run_stages(unfit, tmp_path / "unfit", stages=["pretrain", "transfer"])
    run_stages(
        tiny_config(pictures, **short, transfer__protocols=["svm"]),
        tmp_path / "run",
        stages=["pretrain", "transfer", "report"],
    )
    folder = tmp_path / "run" / "transfer" / "channels" / "n_pre" / "svm-seed0"
    scores = json.loads((folder / "scores.json").read_text())
    table = pq.read_table(folder / "predictions.parquet")
    decisions_NC = np.array(table["decisions"].to_pylist())
    truth = [HUES[int(sample_id.split("/")[1].removeprefix("class"))] for sample_id in table["sample_id"].to_pylist()]
    expected = [
        average_precision(decisions_NC[:, c], np.array([c in channels for channels in truth]))["area"] for c in range(3)
    ]
    assert scores["map"] == pytest.approx(100 * np.mean(expected))
    assert scores["map"] > 80  # as many positives as negatives: chance is about 50
    assert "linear SVMs" in (tmp_path / "run" / "report" / "report.html").read_text()


def _with_groups(pictures: Path, manifest: Path) -> dict[str, str]:
    """A source of the pictures, of which each two in turn are cut from one film."""
    rows = ["sample_id,path,label,split,group"]
    for number, path in enumerate(sorted(pictures.rglob("*.png"))):
        split, label, _ = path.relative_to(pictures).parts
        rows.append(f"{number},{path.relative_to(pictures).as_posix()},{label},{split},film{number // 2}")
    manifest.write_text("\n".join(rows) + "\n")
    return {"path": str(manifest), "media_root": str(pictures)}


def test_intervals_resample_the_groups_of_a_target(pictures: Path, tmp_path: Path) -> None:
    """Clips of one film are no independent evidence; in two splits of one data set they are the same groups."""
    targets = {name: [_with_groups(pictures, tmp_path / f"{name}.csv")] for name in ("one", "two")}
    config = tiny_config(
        pictures,
        data__targets={**targets, "plain": [str(pictures)]},
        pretrain__training__epochs=1,
        retrain__training__epochs=1,
        transfer__protocols=["knn"],
        transfer__networks=["n_pre", "n_cf"],
        transfer__folds={"both": list(targets)},
    )
    run_stages(config, tmp_path / "run")
    folder = tmp_path / "run" / "transfer"
    rows = pq.read_table(folder / "one" / "n_pre" / "knn-seed0" / "predictions.parquet").to_pylist()
    assert len(rows) == 12
    assert all(row["group"] == f"film{int(row['sample_id']) // 2}" for row in rows)
    plain = folder / "plain" / "n_pre" / "knn-seed0"
    assert "group" not in pq.read_schema(plain / "predictions.parquet").names
    assert read_groups(plain) == {}
    report = json.loads((tmp_path / "run" / "report" / "report.json").read_text())
    numbers = {gain["target"]: gain.get("num_groups") for gain in report["gains"] if gain["metric"] == "top1"}
    assert numbers == {"one": 6, "two": 6, "both": 6, "plain": None}
    assert any("both: its 12 samples are of 6 groups" in caution for caution in report["cautions"])
    assert "whole groups of them are resampled" in (tmp_path / "run" / "report" / "report.html").read_text()


def test_official_splits_are_averaged_in_the_report(tmp_path: Path) -> None:
    targets = {
        f"split{seed}": str(write_pictures(tmp_path / f"split{seed}", val=4 + seed, seed=seed)) for seed in (0, 1)
    }
    config = tiny_config(
        tmp_path / "split0",
        data__targets=targets,
        pretrain__training__epochs=1,
        retrain__training__epochs=1,
        transfer__protocols=["linear"],
        transfer__folds={"both": list(targets)},
    )
    run_stages(config, tmp_path / "run")
    report = json.loads((tmp_path / "run" / "report" / "report.json").read_text())
    for network in ("n_pre", "n_cf", "random"):
        found = {s["target"]: s["value"] for s in report["scores"] if (s["network"], s["metric"]) == (network, "top1")}
        assert found["both"] == pytest.approx((found["split0"] + found["split1"]) / 2)
    assert report["targets"]["both"]["num_scored"] == 3 * 4 + 3 * 5
    [gain] = [g for g in report["gains"] if (g["target"], g["metric"]) == ("both", "top1")]
    assert gain["num_samples"] == 15  # the smaller split's are in the larger one, too
    assert len(report["headline"]["details"]) == 1
    assert gain["chance"] == pytest.approx(100 / 3)


def test_every_protocol_has_an_interval_in_the_report(pictures: Path, tmp_path: Path) -> None:
    short = {"pretrain__training__epochs": 1, "retrain__training__epochs": 1}
    config = tiny_config(
        pictures,
        **short,
        transfer__networks=["n_pre", "n_cf"],
        transfer__protocols=["linear", "knn", "low_shot", "retrieval"],
        transfer__low_shot={"per_class": [2, 10], "num_draws": 2},
    )
    run_stages(config, tmp_path / "run")
    report = json.loads((tmp_path / "run" / "report" / "report.json").read_text())
    judged = {(g["protocol"], g["metric"]) for g in report["gains"] if g.get("interval_95")}
    assert judged == {("linear", "top1"), ("knn", "top1"), ("low_shot", "top1_2shot"), ("retrieval", "recall1")}
    assert not any("_std" in g["metric"] for g in report["gains"])
    page = (tmp_path / "run" / "report" / "report.html").read_text()
    assert all(name in page for name in ("nearest neighbours", "low-shot probe", "retrieval"))


def test_samples_with_unsure_labels_alone_are_examples_of_the_others(pictures: Path, tmp_path: Path) -> None:
    rows = ["sample_id,path,label,split,unsure_labels"]
    for path in sorted(pictures.rglob("*.png")):
        name = path.relative_to(pictures).as_posix()
        split, label, file = name.split("/")
        sure, unsure = ("", label) if file == "000.png" else (label, "")
        rows.append(f"{name},{name},{sure},{split},{unsure}")
    (tmp_path / "unsure.csv").write_text("\n".join(rows) + "\n")
    config = tiny_config(
        pictures,
        data__targets={"t": [{"path": str(tmp_path / "unsure.csv"), "media_root": str(pictures)}]},
        pretrain__training__epochs=1,
        transfer__networks=["n_pre"],
        transfer__protocols=["svm"],
    )
    run_stages(config, tmp_path / "run", stages=["pretrain", "transfer"])
    facts = Record.read(tmp_path / "run" / "transfer" / "t" / "n_pre" / "svm-seed0", kind="transfer-scores").facts
    assert (facts["num_scored"], facts["num_absent"]) == (12, 0)


def test_unsure_labels_are_neither_positive_nor_negative() -> None:
    def sample(sample_id: str, labels: tuple[str, ...], unsure: tuple[str, ...]) -> Sample:
        return Sample(sample_id, sample_id, "/root", labels, "train", None, None, unsure_labels=unsure)

    rows = [
        sample("a", ("cat", "dog"), ()),
        sample("b", ("dog",), ("cat",)),
        sample("c", ("cow",), ("a class of no one",)),
    ]
    manifest = from_samples(rows)
    target = Target("t", manifest, manifest)
    assert target.classes == ["cat", "cow", "dog"]
    expected = {"a": [1, 0, 1], "b": [IGNORED, 0, 1], "c": [0, 1, 0]}
    for ids in (["a", "b", "c"], ["c", "a"]):
        assert target.memberships(ids, manifest).tolist() == [expected[i] for i in ids]


def test_heads_of_all_layers_are_trained_in_one_pass(pictures: Path, tmp_path: Path) -> None:
    config = tiny_config(
        pictures,
        pretrain__training__epochs=4,
        transfer__networks=["n_pre"],
        transfer__protocols=["heads", "finetune"],
        transfer__linear__layers=["layer2"],
        transfer__heads={
            "epochs": 90,
            "milestones": [80],
            "batch_size": 8,
            "num_values": 512,
            "by_target": {"target": {"epochs": 6, "milestones": [4]}},
        },
        transfer__finetune__part_lrs={"trunk": 0.001, "conv1": 0.0},
    )
    run_stages(config, tmp_path, stages=["pretrain", "transfer", "report"])
    folder = tmp_path / "transfer" / "target" / "n_pre" / "heads-seed0"
    scores = json.loads((folder / "scores.json").read_text())
    assert {"top1", "top1@layer2"} <= set(scores)
    assert scores["top1"] > 60  # chance is 33
    record = Record.read(folder, kind="transfer-scores")
    assert record.inputs["protocol"]["epochs"] == 6
    assert record.facts["values"] == 256  # the mean features
    assert record.facts["values@layer2"] <= 512
    outcomes = read_outcomes(folder)
    assert scores["top1@layer2"] == pytest.approx(100 * np.mean(list(outcomes["top1@layer2"].values())))
    assert "linear heads" in (tmp_path / "report" / "report.html").read_text()


@pytest.mark.parametrize(
    ("by_target", "message"),
    [
        ({"target": {"epoks": 3}}, "by_target.target: epoks: unknown key"),
        ({"target": {"by_target": {}}}, "cannot stand in itself"),
    ],
)
def test_settings_of_one_target_are_checked_at_once(
    pictures: Path, by_target: dict[str, dict[str, object]], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny_config(pictures, transfer__heads={"by_target": by_target})


def test_milestones_of_heads_follow_the_epochs() -> None:
    config = HeadsConfig(
        by_target={"places205": {"epochs": 14}, "inaturalist2018": {"epochs": 84}, "tiny": {"epochs": 1}}
    )
    assert config.milestones == [8, 16, 24]
    assert config.of_target("places205").milestones == [4, 8, 12]
    assert config.of_target("inaturalist2018").milestones == [24, 48, 72]
    assert config.of_target("tiny").schedule == "constant"
    assert config.of_target("imagenet1k").epochs == 28


def test_settings_of_a_target_that_is_not_there_are_told(
    pictures: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = tiny_config(pictures, transfer__heads={"by_target": {"targte": {"lr": 3.0}}}, transfer__any_label=["voc"])
    check(Run(config, tmp_path), ["transfer"])
    assert "transfer.heads.by_target: data.targets has no targte" in caplog.text
    assert "transfer.any_label: data.targets has no voc" in caplog.text


def test_parts_are_looked_for_before_any_work(pictures: Path, tmp_path: Path) -> None:
    config = tiny_config(pictures, transfer__finetune__part_lrs={"layr1": 0.1})
    with pytest.raises(ConfigError, match=r"transfer.finetune.part_lrs: the network has no part 'layr1'"):
        run_stages(config, tmp_path)
    assert not (tmp_path / "pretrain").exists()


def test_frozen_parts_are_what_they_were_after_fine_tuning(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[Network] = []
    real = trained_protocols.fit
    monkeypatch.setattr(
        trained_protocols,
        "fit",
        lambda run, network, **options: trained.append(network) or real(run, network, **options),
    )
    config = tiny_config(
        pictures,
        transfer__networks=["n_pre"],
        transfer__protocols=["finetune"],
        transfer__finetune__part_lrs={"conv1": 0.0, "bn1": 0.0},
        transfer__finetune__clip_grad_norm=1.0,
    )
    run_stages(config, tmp_path, stages=["pretrain", "transfer"])
    before = load_network(tmp_path / "pretrain" / "network")[0].trunk.state_dict()
    after = trained[0].trunk.state_dict()
    same = {name for name, value in after.items() if torch.equal(value.cpu(), before[name])}
    assert {"conv1.weight", "bn1.weight", "bn1.running_mean", "bn1.num_batches_tracked"} <= same
    assert not {"layer1.0.conv1.weight", "layer1.0.bn1.running_mean"} & same


def test_any_of_a_samples_labels_is_a_right_answer(tmp_path: Path) -> None:
    """As in Sports-1M: pictures of the hues 0 and 1 have both labels."""
    pictures = write_pictures(tmp_path / "pictures", classes=4, train=10, val=5)
    source = _by_channels(pictures, tmp_path / "channels.csv")
    config = tiny_config(
        pictures,
        pretrain__training__epochs=4,
        data__targets={"hues": [source]},
        transfer__networks=["n_pre"],
        transfer__protocols=["linear", "knn", "heads", "finetune"],
        transfer__heads={"epochs": 4, "milestones": [3], "batch_size": 8},
        transfer__any_label=["hues"],
    )
    run_stages(config, tmp_path / "run", stages=["pretrain", "transfer", "report"])
    for protocol in config.transfer.protocols:
        folder = tmp_path / "run" / "transfer" / "hues" / "n_pre" / f"{protocol}-seed0"
        scores = json.loads((folder / "scores.json").read_text())
        table = pq.read_table(folder / "predictions.parquet").to_pydict()
        assert sorted(map(len, table["label"])) == [1] * 15 + [2] * 5
        right = [said in labels for said, labels in zip(table["predicted"], table["label"], strict=True)]
        assert scores["top1"] == pytest.approx(100 * np.mean(right))
        assert list(read_outcomes(folder)["top1"].values()) == right
        assert "class_top1" not in scores
    linear = tmp_path / "run" / "transfer" / "hues" / "n_pre" / "linear-seed0"
    assert json.loads((linear / "scores.json").read_text())["top1"] > 60
    strict = tiny_config(
        pictures,
        **{"data__targets": {"hues": [source]}},
        transfer__any_label=["hues"],
        transfer__protocols=["low_shot"],
    )
    with pytest.raises(DataError, match=r"name the target in transfer.any_label; svm, linear"):
        run_stages(strict, tmp_path / "strict", stages=["pretrain", "transfer"])
