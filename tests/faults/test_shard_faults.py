"""Fault matrix rows 6, 25, 26, 27 and 33 for tar shards: damage, ways out, pickles, lying headers, the smallest."""

from __future__ import annotations

import io
import os
import pickle
import socket
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.decoders import each_video_decoder
from support.tars import bytes_of, patched_size, tar_bytes, write_special, write_tar
from support.tiny import tiny_config, write_pictures
from yaml import safe_dump

from cfvid.cli import main
from cfvid.data.manifest import Manifest
from cfvid.data.manifest_files import read_manifest
from cfvid.data.readers import read_source
from cfvid.data.shard_writer import write_shards
from cfvid.data.shards import read_shards
from cfvid.data.skips import read_skips
from cfvid.errors import DataError, UnreadableSample
from cfvid.features import FeatureStore
from cfvid.media.source import Member
from cfvid.media.video import OPTIONAL_DECODERS, VIDEO_DECODERS, open_video
from cfvid.pipeline import run_stages
from cfvid.sections.data import DataConfig, SourceConfig
from cfvid.stages import Run
from cfvid.stages.extract import extract

FITTING = {"pretrain__arch": "resnet10_thin", "cluster__num_clusters": 2, "data__skip_budget": 0.5}
PICTURES = frozenset({".png", ".jpg"})


def read(path: Path | str, cache: Path, **options: Any) -> Manifest:
    return read_shards(str(path), suffixes=PICTURES, cache=cache, **options)


# ---------------------------------------------------------------------------------------------- row 6: damage


def flipped_header(content: bytes) -> bytes:
    at = content.index(b"c.png")
    return content[:at] + b"X" + content[at + 1 :]


DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda _: b"", "empty file"),
    "text": (lambda _: b"version https://git-lfs.github.com/spec/v1\n" * 40, "bad checksum|invalid header"),
    "cut in a member": (lambda c: c[: c.index(b"c.png") + 700], "unexpected end|cut short"),
    "cut in a header": (lambda c: c[: c.index(b"c.png") + 100], "cut short"),
    "cut between members": (lambda c: c[: c.index(b"c.png")], "cut short: it has no end mark"),
    "a flipped header": (flipped_header, "the header at byte .* is damaged"),
    "a flipped first header": (lambda c: b"X" + c[1:], "bad checksum"),
    "compressed": (lambda c: b"\x1f\x8b" + c, "compressed"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_row_6_damaged_shards_are_one_clear_error(name: str, tmp_path: Path) -> None:
    damage, why = DAMAGE[name]
    path = tmp_path / "s.tar"
    path.write_bytes(damage(tar_bytes({f"{key}.png": os.urandom(3000) for key in "abcd"})))
    with pytest.raises(DataError, match=rf"(?s)s.tar cannot be used.*({why})"):
        read(path, tmp_path / "cache")


def test_row_6_no_cut_is_taken_for_a_whole_shard(tmp_path: Path) -> None:
    content = tar_bytes({f"{key}.png": key.encode() * 600 for key in "abc"})
    end = len(content.rstrip(b"\0")) // 512 * 512 + 512
    path = tmp_path / "s.tar"
    for length in range(0, end + 512, 128):
        path.write_bytes(content[:length])
        with pytest.raises(DataError, match="s.tar cannot be used"):
            read(path, tmp_path / "cache")
    path.write_bytes(content[: end + 512])
    assert len(read(path, tmp_path / "cache")) == 3


def test_rows_6_and_13_damage_after_the_scan_goes_to_the_ledger(tmp_path: Path) -> None:
    """A picture damaged in its shard, and a shard cut short while a run goes on."""
    source = SourceConfig(path=str(write_pictures(tmp_path / "pictures", classes=2, train=4, val=1)))
    data = DataConfig(pretrain=[source], targets={})
    files = read_source(source, data=data, suffixes=PICTURES, cache=tmp_path)
    write_shards(files, tmp_path / "set", suffixes=PICTURES, samples_per_shard=4)
    config = tiny_config(tmp_path / "set", **{**FITTING, "data__skip_budget": 0.7})
    run_stages(config, tmp_path / "run", stages=["pretrain"])

    manifest = read(tmp_path / "set", tmp_path / "cache")
    first = manifest.sample("train/class0/000.png")
    shard = tmp_path / "set" / "train-000000.tar"
    content = bytearray(shard.read_bytes())
    assert first.member_offset is not None
    content[first.member_offset : first.member_offset + 8] = bytes(8)
    shard.write_bytes(content)
    cut = tmp_path / "set" / "train-000001.tar"
    run = tmp_path / "run"
    later = Run(config, run)
    later.manifest("clusterfit")  # indexed before the shard is cut
    os.truncate(cut, 1024)
    extract(later)
    skips = read_skips(run / "extract" / "skips.jsonl")
    assert [skip.sample_id for skip in skips] == [first.sample_id, *(f"train/class1/{n:03d}.png" for n in range(4))]
    assert "cannot identify" in skips[0].reasons[0]
    assert all("not as it was when it was indexed" in skip.reasons[0] for skip in skips[1:])
    assert FeatureStore(run / "extract").ids == [f"train/class0/{n:03d}.png" for n in range(1, 4)]


# ---------------------------------------------------------------------------------------------- row 25: ways out


@pytest.mark.parametrize("name", ["/etc/passwd.png", "../up.png", "a/../../up.png", "a/..", "//x.png"])
def test_row_25_members_that_lead_out(name: str, tmp_path: Path) -> None:
    write_tar(tmp_path / "s.tar", {"sound.png": b"x", name: b"y"})
    with pytest.raises(DataError, match="leads out of it"):
        read(tmp_path / "s.tar", tmp_path / "cache")


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, b"Z", b"S"]
)
def test_row_25_links_and_devices(kind: bytes, tmp_path: Path) -> None:
    write_special(tmp_path / "s.tar", "a.png", kind, target="sound.cls")
    with pytest.raises(DataError, match="no plain file but a link, a device or the like|cannot be used"):
        read(tmp_path / "s.tar", tmp_path / "cache")


def test_row_25_names_that_are_no_text(tmp_path: Path) -> None:
    for name in (b"a\xff.png", b"a\n.png", b"\x1b[2J.png"):
        path = write_tar(tmp_path / "s.tar", {"_" * len(name): b"x"})
        content = path.read_bytes().replace(b"_" * len(name), name, 1)
        path.write_bytes(patched_size(content, 0, content[124:136]))  # for the checksum
        with pytest.raises(DataError, match="not UTF-8 or has control characters"):
            read(path, tmp_path / "cache")


def test_row_25_linked_shards(tmp_path: Path) -> None:
    write_tar(tmp_path / "secret" / "s.tar", {"a.png": b"x"})
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "link.tar").symlink_to(tmp_path / "secret" / "s.tar")
    for name in ("set", "set/link.tar", "set/*.tar", "set/{link,link}.tar"):
        with pytest.raises(DataError, match=r"link.tar leads out of"):
            read(tmp_path / name, tmp_path / "cache")
    trusting = read(tmp_path / "set", tmp_path / "cache", trusted_roots=[str(tmp_path / "secret")])
    assert bytes_of(trusting, trusting[0]) == b"x"
    with pytest.raises(DataError, match="leads out of"):
        Manifest(trusting.table).locate(trusting[0])


def test_row_25_a_manifest_names_members_of_its_own_root_alone(tmp_path: Path) -> None:
    write_tar(tmp_path / "secret.tar", {"a.png": b"x"})
    (tmp_path / "root").mkdir()
    for path in ("../secret.tar!/a.png", f"{tmp_path}/secret.tar!/a.png"):
        (tmp_path / "m.csv").write_text(
            f"sample_id,path,split,member_offset,member_size\na,{path},train,512,1\n", encoding="utf-8"
        )
        manifest = read_manifest(tmp_path / "m.csv", media_root=tmp_path / "root")
        with pytest.raises(DataError, match="leads out of"):
            manifest.check_paths()
        with pytest.raises(DataError, match="leads out of"):
            manifest.locate(manifest[0])


def test_row_25_commands_are_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = f"pipe:touch {tmp_path}/sentinel; cat {tmp_path}/s.tar"
    (tmp_path / "tiny.yaml").write_text(
        safe_dump(tiny_config(tmp_path).plain() | {"data": {"pretrain": command, "targets": {}}})
    )
    for arguments in (
        ["train", "--config", str(tmp_path / "tiny.yaml"), "--output", str(tmp_path / "run")],
        ["manifest", command, "--modality", "image", "--out", str(tmp_path / "m.csv")],
        ["data", "shard", command, "--modality", "image", "--out", str(tmp_path / "out")],
    ):
        assert main(arguments) == 3
        assert "commands are never run" in capsys.readouterr().err
    assert not (tmp_path / "sentinel").exists()


@each_video_decoder
def test_row_25_playlists_lead_nowhere(decoder: str, tmp_path: Path) -> None:
    """FFmpeg follows them to the network where it reads from memory."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        url = f"http://127.0.0.1:{server.getsockname()[1]}/a.ts"
        content = f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{url}\n#EXT-X-ENDLIST\n".encode()
        shard = str(write_tar(tmp_path / "s.tar", {"a.mp4": content}))
        member = Member(shard, "a.mp4", 512, len(content))
        with pytest.raises(UnreadableSample, match="a playlist"), open_video(member, decoder=decoder):
            pass

        def past_the_check() -> io.BytesIO:
            file = io.BytesIO(content)
            file.name = "a.m3u8"
            return file

        with pytest.raises(UnreadableSample, match="not in a container of videos"):
            {**VIDEO_DECODERS, **OPTIONAL_DECODERS}[decoder](past_the_check)
        with pytest.raises(BlockingIOError):  # nobody came
            server.accept()


# ---------------------------------------------------------------------------------------------- row 26: pickles


class Payload:
    def __init__(self, sentinel: Path) -> None:
        self.sentinel = sentinel

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.sentinel),)


def test_row_26_pickles_in_members_are_never_loaded(tmp_path: Path) -> None:
    evil = pickle.dumps(Payload(tmp_path / "sentinel"))
    endings = ("pyd", "pkl", "pickle", "pth", "npy", "cls", "txt")
    pictures = sorted(write_pictures(tmp_path / "pictures", classes=1, train=2, val=1).rglob("*.png"))
    members = {f"a.{ending}": evil for ending in endings}
    members |= {f"{key}.png": path.read_bytes() for key, path in zip("ab", pictures, strict=False)} | {"c.png": evil}
    write_tar(tmp_path / "s.tar", members)
    config = tiny_config(tmp_path / "s.tar", **FITTING, pretrain__task="rotation")
    run_stages(config, tmp_path / "run", stages=["pretrain", "extract"])
    assert FeatureStore(tmp_path / "run" / "extract").ids == ["a", "b"]
    assert not (tmp_path / "sentinel").exists()
    with pytest.raises(FileExistsError):  # it would have worked
        [pickle.loads(evil) for _ in range(2)]


# ---------------------------------------------------------------------------------------------- row 27: lying headers


def base_256(number: int) -> bytes:
    return b"\x80" + number.to_bytes(11, "big", signed=True) if number >= 0 else number.to_bytes(12, "big", signed=True)


SIZES = {
    "huge": base_256(2**60),
    "large": b"77777777777\0",
    "negative": base_256(-1024),
    "one block too many": b"%011o\0" % 20000,
}


@pytest.mark.parametrize("kind", ["media", "label", "long name", "pax"])
@pytest.mark.parametrize("size", SIZES)
def test_row_27_lying_sizes_take_no_memory(kind: str, size: str, tmp_path: Path) -> None:
    """In a process with little memory. `large` is true of a sparse file: as media it is refused when it is decoded."""
    names = {"media": "a.png", "label": "a.cls", "long name": f"{'n' * 150}.png", "pax": f"{'ü' * 150}.png"}
    form = tarfile.GNU_FORMAT if kind == "long name" else tarfile.PAX_FORMAT
    content = tar_bytes({names[kind]: b"x" * 600, "b.png": b"y"}, form=form)
    path = tmp_path / "s.tar"
    path.write_bytes(patched_size(content, 0, SIZES[size]))
    if size == "large":
        os.truncate(path, 2**34)
    code = (
        "import sys; from cfvid.data.shards import read_shards; from cfvid.errors import DataError; import resource\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 2**29,) * 2)\n"
        "from pathlib import Path\n"
        "try: print(len(read_shards(sys.argv[1], suffixes={'.png'}, cache=Path(sys.argv[2]))))\n"
        "except DataError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path), str(tmp_path / "cache")], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert ("1\n" if (kind, size) == ("media", "large") else "s.tar cannot be used") in done.stdout


def test_row_27_headers_upon_headers(tmp_path: Path) -> None:
    """Each of a chain of pax headers is read by a call inside the one before."""
    one = tar_bytes({"ü" * 150: b""}, form=tarfile.PAX_FORMAT)[:1024]
    (tmp_path / "s.tar").write_bytes(one * 5000 + bytes(1024))
    with pytest.raises(DataError, match="cannot be used"):
        read(tmp_path / "s.tar", tmp_path / "cache")


def test_row_27_labels_have_a_limit(tmp_path: Path) -> None:
    write_tar(tmp_path / "s.tar", {"a.png": b"", "a.json": b" " * (2**20 + 1)})
    with pytest.raises(DataError, match="labels have at most"):
        read(tmp_path / "s.tar", tmp_path / "cache")


# ---------------------------------------------------------------------------------------------- row 33: the smallest


def test_row_33_no_samples_and_one(tmp_path: Path) -> None:
    data = DataConfig(pretrain=["x"], targets={})  # type: ignore[list-item]
    for name, members in {"none": {}, "labels alone": {"a.cls": b"1"}, "other media": {"a.mp4": b""}}.items():
        path = write_tar(tmp_path / f"{name}.tar", members)
        with pytest.raises(DataError, match="has no samples"):
            read_source(SourceConfig(path=str(path)), data=data, suffixes=PICTURES, cache=tmp_path)
    assert read(write_tar(tmp_path / "one.tar", {"a.png": b""}), tmp_path).ids == ["a"]


def test_row_33_unicode_spaces_and_quotes(tmp_path: Path) -> None:
    names = ['klaß "0" %s {x}/日本 ü.png', " leading.png", "a'b\\c.PNG", "x" * 300 + ".png"]
    path = write_tar(tmp_path / "my shards, 'ü'" / "a {b} [c].tar", {name: name.encode() for name in names})
    manifest = read(path, tmp_path / "cache")
    assert manifest.ids == [name.rsplit(".", 1)[0] for name in names]
    assert [bytes_of(manifest, sample).decode() for sample in manifest] == names
