"""Shards behind a real HTTP server: the same run as on the local shards, and one clear error when the server fails."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.blocked import run_without
from support.http_server import Site, served
from support.media import numbers_of, write_video
from support.tars import bytes_of, write_tar
from support.tiny import tiny_config, write_pictures

from cfvid.config import RunConfig
from cfvid.data.folders import read_folder
from cfvid.data.manifest import Manifest
from cfvid.data.shard_writer import write_shards
from cfvid.data.shards import read_shards
from cfvid.errors import DataError, SkipBudgetExceeded, UnreadableSample
from cfvid.features import FeatureStore
from cfvid.media import image, source, video
from cfvid.pipeline import run_stages

NAMES = "shard-{000..002}.tar"
EXTRACT = ["pretrain", "extract"]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three shards of pictures as `cfvid data shard` writes them."""
    home = tmp_path_factory.mktemp("pictures")
    manifest = read_folder(write_pictures(home / "files", train=6, val=0), suffixes=image.SUFFIXES)
    write_shards(manifest, home / "out", suffixes=image.SUFFIXES, samples_per_shard=6)
    for number, path in enumerate(sorted((home / "out").glob("*.tar"))):
        path.rename(home / f"shard-{number:03d}.tar")
    return home


@pytest.fixture
def site(shards: Path) -> Iterator[Site]:
    pytest.importorskip("aiohttp", reason="fsspec needs aiohttp for HTTP")
    with served(shards) as site:
        yield site


def config_of(place: str, **overrides: object) -> RunConfig:
    return tiny_config(
        Path("unused"),
        pretrain__arch="resnet10_thin",
        pretrain__training__epochs=1,
        data__pretrain={"path": f"{place}/{NAMES}", "kind": "shards"},
        data__targets={},
        **overrides,
    )


@pytest.fixture(scope="module")
def expected(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """Features by a run on the local shards."""
    run = tmp_path_factory.mktemp("local") / "run"
    run_stages(config_of(str(shards)), run, stages=EXTRACT)
    return FeatureStore(run / "extract")


def assert_same(folder: Path, expected: FeatureStore) -> None:
    features = FeatureStore(folder / "extract")
    assert features.ids == expected.ids
    np.testing.assert_array_equal(features.gather(features.ids), expected.gather(features.ids))


def test_pictures_give_the_same_features(site: Site, expected: FeatureStore, tmp_path: Path) -> None:
    # In this process, which has a thread of fsspec's by then, and in forked ones.
    for workers, stage in enumerate(EXTRACT):
        run_stages(config_of(site.url, runtime__num_workers=workers), tmp_path / "run", stages=[stage])
    assert_same(tmp_path / "run", expected)
    asked = [asked for method, _, asked in site.requests if method == "GET"]
    assert len(asked) >= 2 * 18, "two stages read each member"
    assert all(asked), "no shard is fetched as a whole"


def test_a_server_that_dies_in_mid_run_loses_nothing(
    site: Site, expected: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "_PAUSES_S", (0.01,))
    config = config_of(site.url, data__skip_budget=0.0)
    run_stages(config, tmp_path / "run", stages=["pretrain"])
    site.good_gets = 8
    with pytest.raises(SkipBudgetExceeded, match="the shard cannot be read: ClientPayloadError"):
        run_stages(config, tmp_path / "run", stages=["extract"])
    site.good_gets, site.dies = None, False
    run_stages(config, tmp_path / "run", stages=["extract"])
    assert_same(tmp_path / "run", expected)


def pictures(site: Site, cache: Path, names: str = NAMES) -> Manifest:
    return read_shards(f"{site.url}/{names}", suffixes=image.SUFFIXES, cache=cache)


def test_a_member_of_a_video_shard(site: Site, tmp_path: Path) -> None:
    write_video(tmp_path / "files" / "train" / "a" / "clip.mp4", 30)
    manifest = read_folder(tmp_path / "files", suffixes=video.SUFFIXES)
    write_shards(manifest, tmp_path / "out", suffixes=video.SUFFIXES)
    site.folder = tmp_path / "out"
    [name] = [path.name for path in site.folder.glob("*.tar")]
    remote = read_shards(f"{site.url}/{name}", suffixes=video.SUFFIXES, cache=tmp_path / "cache")
    assert remote.digest == read_shards(str(site.folder / name), suffixes=video.SUFFIXES, cache=tmp_path).digest
    for decoder in video.VIDEO_DECODERS:
        with video.open_video(remote.locate(remote[0]), decoder=decoder) as reader:
            assert numbers_of(reader.read([3, 29])) == [3, 29]


def test_the_index_is_kept_and_a_single_bad_answer_is_asked_for_again(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = pictures(site, tmp_path)
    assert len(manifest) == 18
    site.requests.clear()
    assert pictures(site, tmp_path).digest == manifest.digest
    assert {method for method, _, _ in site.requests} == {"HEAD"}
    content = bytes_of(manifest, manifest[0])
    site.good_gets = 0

    def mended(_seconds: float) -> None:
        site.good_gets, site.dies = None, False

    monkeypatch.setattr(source.time, "sleep", mended)
    assert bytes_of(manifest, manifest[0]) == content


def test_shards_that_are_not_there(site: Site, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"shard-003\.tar does not exist"):
        pictures(site, tmp_path, "shard-{000..003}.tar")
    manifest = pictures(site, tmp_path)
    site.folder = tmp_path / "gone"
    with pytest.raises(UnreadableSample, match="cannot be read: FileNotFoundError: the shard$"):
        bytes_of(manifest, manifest[0])


def test_a_server_that_ignores_ranges(site: Site, tmp_path: Path) -> None:
    manifest = pictures(site, tmp_path / "known")
    site.ignores_ranges = True
    with pytest.raises(UnreadableSample, match="ignores range requests"):
        bytes_of(manifest, manifest[0])
    site.folder = large = tmp_path / "large"
    write_tar(large / "a.tar", {"a.jpg": bytes(2**19), "b.jpg": bytes(2**19)})
    with pytest.raises(DataError, match=r"a\.tar cannot be used") as caught:
        pictures(site, tmp_path / "new", "a.tar")
    assert "support range requests" in str(caught.value.why)
    assert "range requests" in str(caught.value.fix)


def test_a_server_that_dies_or_is_gone(site: Site, tmp_path: Path) -> None:
    site.dies = True
    with pytest.raises(DataError, match=r"shard-000\.tar cannot be used.*") as caught:
        pictures(site, tmp_path, "shard-000.tar")
    assert "not completed" in str(caught.value.why)
    with served(tmp_path) as other:
        pass
    with pytest.raises(DataError, match=r"shard-000\.tar does not exist") as caught:
        pictures(other, tmp_path, "shard-000.tar")
    assert "Cannot connect to host" in str(caught.value.why)


def test_without_the_package(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path\nfrom cfvid.data.tar_index import read_indexes\n"
        "from cfvid.errors import MissingPackage\n"
        "try: read_indexes(['http://127.0.0.1:9/a.tar'], cache=Path('.'))\n"
        "except MissingPackage as error: print(error)\n"
    )
    done = run_without("aiohttp", code=code, cwd=tmp_path)
    assert "A package is needed to open http://127.0.0.1:9/a.tar" in done.stdout, done.stderr
    assert "do:  pip install 'cfvid[http]', or copy the shards to a disk." in done.stdout
