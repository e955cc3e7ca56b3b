"""Fault rows 16, 17, 19, 20, 24, 26 and 27: damaged, foreign, shuffled and hostile files."""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from support.tiny import tiny_config, write_pictures

from cfvid.artifacts import Record, atomic_file, atomic_folder, claim, write_json
from cfvid.config import RunConfig
from cfvid.errors import ArtifactError, DamagedArtifact, DataError, FolderInUse, InputsChanged, WeightsError
from cfvid.features import FeatureStore
from cfvid.folder_lock import own_folder
from cfvid.models.foreign import read_state_dict
from cfvid.models.weights import load_network
from cfvid.pipeline import run_stages
from cfvid.stages.cluster import KIND, read_pseudo_labels

UP_TO_CLUSTER = ["pretrain", "extract", "cluster"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def config(pictures: Path) -> RunConfig:
    return tiny_config(pictures, pretrain__training__epochs=1, retrain__training__epochs=1)


@pytest.fixture(scope="module")
def made(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("made") / "run"
    run_stages(config, output, stages=UP_TO_CLUSTER)
    return output


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "run"))


def flip_one_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


# ---------------------------------------------------------------------------------------------- 16: disk full


def test_disk_full_keeps_the_old_file_and_leaves_no_temporary_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "value.json"
    write_json(path, {"value": 1})

    def full(_handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ArtifactError, match="No space left"):
        write_json(path, {"value": 2})
    assert json.loads(path.read_text()) == {"value": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["value.json"]


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), RuntimeError("I/O error: No space left on device")]
)
def test_a_full_disk_leaves_the_old_folder_and_no_temporary_one(tmp_path: Path, error: Exception) -> None:
    with atomic_folder(tmp_path / "state") as temporary:
        (temporary / "a").write_text("old")
    with pytest.raises(ArtifactError, match="No space left"), atomic_folder(tmp_path / "state") as temporary:
        (temporary / "a").write_text("new")
        raise error
    assert (tmp_path / "state" / "a").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["state"]


def test_a_file_size_limit_is_told_as_a_full_disk(tmp_path: Path) -> None:
    script = """
        import resource, signal, sys
        from pathlib import Path
        from cfvid.artifacts import atomic_file
        from cfvid.errors import ArtifactError
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try:
            with atomic_file(Path(sys.argv[1])) as temporary:
                temporary.write_bytes(b"x" * 5000)
        except ArtifactError as error:
            print(error)
    """
    path = tmp_path / "big.bin"
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(path)], capture_output=True, text=True, check=True
    )
    assert "No space left" in done.stdout
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------------------------------- 17: damage


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("pretrain/network/model.safetensors", lambda run: load_network(run / "pretrain" / "network")),
        ("extract/shards/00001.npy", lambda run: FeatureStore(run / "extract")),
        ("extract/shards/00001.json", lambda run: FeatureStore(run / "extract")),
        ("cluster/pseudo_labels.parquet", lambda run: read_pseudo_labels(run / "cluster")),
        ("cluster/centroids.npy", lambda run: read_pseudo_labels(run / "cluster")),
    ],
)
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_damage_is_found_and_the_file_named(run: Path, name: str, read: object, damage: str) -> None:
    path = run / name
    read(run)  # type: ignore[operator]
    if damage == "flip":
        flip_one_byte(path)
    elif damage == "truncate":
        path.write_bytes(path.read_bytes()[:-7])
    else:
        path.unlink()
    with pytest.raises(ArtifactError, match=path.name):
        read(run)  # type: ignore[operator]


def test_a_stage_refuses_damaged_inputs(run: Path, config: RunConfig) -> None:
    flip_one_byte(run / "cluster" / "pseudo_labels.parquet")
    with pytest.raises(DamagedArtifact, match="pseudo_labels.parquet"):
        run_stages(config, run, stages=["retrain"])


def test_a_damaged_shard_of_an_unfinished_store_is_made_again(run: Path, config: RunConfig) -> None:
    whole = (run / "extract" / "shards" / "00001.npy").read_bytes()
    (run / "extract" / "record.json").unlink()
    flip_one_byte(run / "extract" / "shards" / "00001.npy")
    run_stages(config, run, stages=["extract"])
    assert (run / "extract" / "shards" / "00001.npy").read_bytes() == whole


# ---------------------------------------------------------------------------------------------- 19: other inputs


@pytest.mark.parametrize(
    ("change", "stage", "line"),
    [
        ({"cluster__num_clusters": 3}, "cluster", "cluster.num_clusters: 4 -> 3"),
        ({"pretrain__training__lr": 0.5}, "pretrain", "pretrain.training.lr: 0.02 -> 0.5"),
        ({"extract__dtype": "fp32"}, "extract", 'dtype: "fp16" -> "fp32"'),
        ({"input__resize": 20}, "extract", "input.resize: 16 -> 20"),
        ({"seed": 9}, "cluster", "seed: 0 -> 9"),
    ],
)
def test_another_configuration_is_refused_with_the_difference(
    run: Path, pictures: Path, change: dict, stage: str, line: str
) -> None:
    other = tiny_config(pictures, pretrain__training__epochs=1, retrain__training__epochs=1, **change)
    before = (run / stage / "record.json").read_bytes()
    with pytest.raises(InputsChanged) as refused:
        run_stages(other, run, stages=[stage])
    assert line in str(refused.value)
    assert "--fresh" in str(refused.value)
    assert (run / stage / "record.json").read_bytes() == before


def test_fresh_discards_just_what_is_stale(run: Path, pictures: Path) -> None:
    other = tiny_config(pictures, pretrain__training__epochs=1, retrain__training__epochs=1, cluster__num_clusters=3)
    kept = (run / "extract" / "record.json").stat().st_mtime_ns
    run_stages(other, run, stages=UP_TO_CLUSTER, fresh=True)
    assert set(read_pseudo_labels(run / "cluster").values()) == {0, 1, 2}
    assert (run / "extract" / "record.json").stat().st_mtime_ns == kept


def test_another_manifest_is_refused(run: Path, pictures: Path, config: RunConfig, tmp_path: Path) -> None:
    more = Path(shutil.copytree(pictures, tmp_path / "more"))
    shutil.copy(more / "train" / "class0" / "000.png", more / "train" / "class0" / "extra.png")
    other = tiny_config(more, pretrain__training__epochs=1, retrain__training__epochs=1)
    with pytest.raises(InputsChanged, match="manifest"):
        run_stages(other, run, stages=["extract"])


def test_another_checkpoint_is_refused(run: Path, pictures: Path, tmp_path: Path) -> None:
    other = tiny_config(pictures, pretrain__training__epochs=1, retrain__training__epochs=1, seed=5)
    run_stages(other, tmp_path / "other", stages=["pretrain"])
    shutil.rmtree(run / "pretrain")
    shutil.copytree(tmp_path / "other" / "pretrain", run / "pretrain")
    with pytest.raises(InputsChanged, match="network"):
        run_stages(other, run, stages=["extract"])


def test_runtime_settings_change_nothing(run: Path, pictures: Path) -> None:
    other = tiny_config(
        pictures, pretrain__training__epochs=1, retrain__training__epochs=1, runtime__decode_deadline_s=7.0
    )
    before = (run / "cluster" / "record.json").read_bytes()
    run_stages(other, run, stages=UP_TO_CLUSTER)
    assert (run / "cluster" / "record.json").read_bytes() == before


# ---------------------------------------------------------------------------------------------- 20: two owners


def test_a_second_process_is_refused_and_a_dead_ones_lock_is_not(tmp_path: Path) -> None:
    script = "import sys, time\nfrom pathlib import Path\nfrom cfvid.folder_lock import own_folder\n"
    script += "with own_folder(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)\n"
    holder = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline().strip() == "held"
    with pytest.raises(FolderInUse, match=f"process {holder.pid}"), own_folder(tmp_path):
        pass
    holder.kill()
    holder.wait()
    with own_folder(tmp_path):
        assert json.loads((tmp_path / ".owner.json").read_text())["pid"] == os.getpid()


# ---------------------------------------------------------------------------------------------- 24: ids


def rewrite_pseudo_labels(folder: Path, change: object) -> None:
    """Alter the pseudo-labels and give the folder a matching record, as another program might."""
    path = folder / "pseudo_labels.parquet"
    table = change(pq.read_table(path))  # type: ignore[operator]
    pq.write_table(table, path)
    record = Record.read(folder, kind=KIND)
    Record.write(folder, kind=KIND, inputs=record.inputs, files=list(record.files), facts=record.facts)


def test_shuffled_rows_mean_the_same(run: Path) -> None:
    before = read_pseudo_labels(run / "cluster")
    order = np.random.default_rng(0).permutation(len(before))
    rewrite_pseudo_labels(run / "cluster", lambda table: table.take(order))
    after = read_pseudo_labels(run / "cluster")
    assert list(after) != list(before)
    assert after == before


def test_pseudo_labels_of_unknown_samples_are_named(run: Path, config: RunConfig) -> None:
    def rename(table):  # type: ignore[no-untyped-def]
        ids = ["stranger/1.png", *table["sample_id"].to_pylist()[1:]]
        return table.set_column(0, "sample_id", [ids])

    rewrite_pseudo_labels(run / "cluster", rename)
    with pytest.raises(DataError, match="stranger/1.png"):
        run_stages(config, run, stages=["retrain"])


def test_pseudo_labels_that_name_a_sample_twice_are_refused(run: Path, config: RunConfig) -> None:
    def double(table):  # type: ignore[no-untyped-def]
        ids = table["sample_id"].to_pylist()
        return table.set_column(0, "sample_id", [[ids[1], *ids[1:]]])

    rewrite_pseudo_labels(run / "cluster", double)
    with pytest.raises(DataError, match="more than once"):
        run_stages(config, run, stages=["retrain"])


def test_features_of_missing_ids_are_named(run: Path) -> None:
    store = FeatureStore(run / "extract")
    with pytest.raises(DataError, match="nobody.png"):
        store.gather([store.ids[0], "nobody.png"])


# ---------------------------------------------------------------------------------------------- 26: pickle


class Payload:
    """Touches a file when unpickled."""

    def __init__(self, sentinel: Path) -> None:
        self.sentinel = sentinel

    def __reduce__(self) -> tuple:
        return Path.touch, (self.sentinel,)


def test_a_pickle_in_a_pth_is_never_executed(tmp_path: Path) -> None:
    sentinel, path = tmp_path / "executed", tmp_path / "weights.pth"
    torch.save({"state_dict": {"conv1.weight": torch.zeros(1)}, "extra": Payload(sentinel)}, path)
    with pytest.raises(WeightsError, match="more than tensors"):
        read_state_dict(path)
    path.write_bytes(pickle.dumps(Payload(sentinel)))
    with pytest.raises(WeightsError):
        read_state_dict(path)
    assert not sentinel.exists()
    pickle.loads(path.read_bytes())  # the payload does work
    assert sentinel.exists()


def test_a_pickle_in_a_feature_shard_is_never_executed(run: Path) -> None:
    sentinel, shard = run / "executed", run / "extract" / "shards" / "00000.npy"
    np.save(shard, np.array([Payload(sentinel)], dtype=object), allow_pickle=True)
    with pytest.raises(DamagedArtifact):
        FeatureStore(run / "extract")
    store = FeatureStore(run / "extract", verify=False)
    with pytest.raises(DamagedArtifact):
        store.gather(store.ids[:1])
    assert not sentinel.exists()


# ---------------------------------------------------------------------------------------------- 27: lying headers


def test_a_lying_safetensors_header_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(struct.pack("<Q", 2**60) + b"{}")
    with pytest.raises(WeightsError, match="cannot be read"):
        read_state_dict(path)


def test_a_lying_npy_header_is_an_error(run: Path) -> None:
    shard = run / "extract" / "shards" / "00000.npy"
    data = shard.read_bytes()
    start = data.index(b"(", data.index(b"shape"))
    end = data.index(b")", start) + 1
    lie = b"(900000000000, 512)"
    header = data[:start] + lie + data[end:]
    cut = len(lie) - (end - start)
    newline = header.index(b"\n")
    shard.write_bytes(header[: newline - cut] + header[newline:])  # padding gives way, the length stays
    store = FeatureStore(run / "extract", verify=False)
    with pytest.raises(DamagedArtifact):
        store.gather(store.ids[:1])


# ---------------------------------------------------------------------------------------------- claims


def test_a_claim_removes_what_a_killed_run_left(tmp_path: Path) -> None:
    folder = tmp_path / "stage"
    claim(folder, {"a": 1})
    (folder / ".tmp-123-file").write_text("half")
    (folder / ".tmp-folder").mkdir()
    assert claim(folder, {"a": 1}) is False
    assert sorted(p.name for p in folder.iterdir()) == ["inputs.json"]


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_file(path) as temporary:
        temporary.write_text("new")
        raise RuntimeError
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]
