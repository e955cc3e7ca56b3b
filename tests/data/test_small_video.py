"""Small frames: decoded or from the cache, in whatever epoch or process, they are the same bytes."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.decoders import bad_at_filling
from support.media import numbered_frame, write_video
from support.tars import write_tar

from cfvid.data import small_video
from cfvid.data.loader import Look, Request
from cfvid.errors import UnreadableSample
from cfvid.media import clip_cache
from cfvid.media.clip_cache import ClipCache
from cfvid.media.guard import GuardedPool
from cfvid.media.source import Member
from cfvid.modalities import MODALITIES
from cfvid.modalities.base import Modality

DECODERS = ("decord", "pyav")
LOOKS: tuple[Look, ...] = ("train", "extract", "score", "preview")
GB = 10**9


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    frames = [numbered_frame(n, width=128, height=96) for n in range(40)]
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", frames)


@pytest.fixture
def cache(tmp_path: Path) -> ClipCache:
    cache = ClipCache(str(tmp_path / "cache"), GB, 10.0)
    cache.begin()
    return cache


def modality(name: str = "video", **changes: object) -> Modality:
    section = MODALITIES[name].Input
    values = {"crop_size": 32, "resize": 36, "num_frames": 4, "frame_rate_hz": 6.0, "score_clips": 2, **changes}
    values = {"cache_short_side": 48, "color_jitter": 0.2, **values}
    return MODALITIES[name](section(**{k: v for k, v in values.items() if k in section.model_fields}))


def request_for(path: Path, *, seed: int = 0, look: Look = "train") -> Request:
    return Request("a", str(path), None, None, look, seed)


def entries(cache: ClipCache, suffix: str = "clip") -> list[Path]:
    return sorted(Path(cache.folder).glob(f"*.{suffix}"))


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which decoders are opened."""
    names: list[str] = []
    open_video = small_video.open_video
    monkeypatch.setattr(
        small_video,
        "open_video",
        lambda media, *, decoder: (names.append(decoder), open_video(media, decoder=decoder))[1],
    )
    return names


@pytest.mark.parametrize("name", ["video", "frame"])
@pytest.mark.parametrize("decoder", DECODERS)
def test_kept_frames_are_those_that_are_decoded_and_no_decoder_is_opened_again(
    name: str, decoder: str, clip: Path, cache: ClipCache, opened: list[str]
) -> None:
    own = modality(name)
    requests = [request_for(clip, seed=seed, look=look) for look in LOOKS for seed in range(3)]
    requests += [replace(request, start_s=0.4, end_s=1.2) for request in requests]
    fresh = [own.load(request, decoder) for request in requests]
    for epoch in range(2):
        opened.clear()
        for request, expected in zip(requests, fresh, strict=True):
            np.testing.assert_array_equal(own.load(replace(request, cache=cache), decoder), expected)
        assert opened == [decoder] * (2 * (epoch == 0))  # the whole video, and the part of it
    assert len(entries(cache)) == 2
    assert not entries(cache, "busy")


def test_small_frames_are_frames_made_small_first(clip: Path) -> None:
    """And smaller ones are not made larger."""
    with small_video.open_small(request_for(clip), decoder="pyav", short_side=48) as reader:
        assert reader.read([3, 1, 3]).shape == (3, 48, 64, 3)
    with small_video.open_small(request_for(clip), decoder="pyav", short_side=500) as reader:
        large = reader.read([3])
    with small_video.open_small(request_for(clip), decoder="pyav", short_side=None) as reader:
        np.testing.assert_array_equal(reader.read([3]), large)


def test_only_training_looks_fill_the_cache(clip: Path, cache: ClipCache) -> None:
    for look in LOOKS[1:]:
        modality().load(replace(request_for(clip, look=look), cache=cache), "pyav")
    assert not entries(cache)


def test_another_file_size_decoder_or_time_is_another_entry(clip: Path, cache: ClipCache, tmp_path: Path) -> None:
    own = tmp_path / "own.mp4"
    own.write_bytes(clip.read_bytes())

    def keys() -> int:
        for decoder in DECODERS:
            modality().load(replace(request_for(own), cache=cache), decoder)
        return len(entries(cache))

    assert keys() == 2
    modality(cache_short_side=64).load(replace(request_for(own), cache=cache), "pyav")
    assert keys() == 3
    os.utime(own, (1, 1))
    assert keys() == 5
    write_video(own, [numbered_frame(n) for n in range(20)])
    view = modality().load(replace(request_for(own), cache=cache), "pyav")
    np.testing.assert_array_equal(view, modality().load(request_for(own), "pyav"))
    own.unlink()
    with pytest.raises(UnreadableSample, match="no such file"):
        modality().load(replace(request_for(own), cache=cache), "pyav")


def test_members_of_shards_are_kept_but_not_those_behind_a_url(clip: Path, cache: ClipCache, tmp_path: Path) -> None:
    content = clip.read_bytes()
    shard = write_tar(tmp_path / "a.tar", {"x.mp4": content})
    member = Member(str(shard), "x.mp4", shard.read_bytes().index(content[:64]), len(content))
    request = Request("a", member, None, None, "train", 1)
    for _ in range(2):
        view = modality().load(replace(request, cache=cache), "pyav")
        np.testing.assert_array_equal(view, modality().load(request, "pyav"))
    assert len(entries(cache)) == 1
    assert cache.place_of(Member("http://x/a.tar", "x.mp4", 512, 10), decoder="pyav") is None


@pytest.mark.parametrize("damage", ["cut", "header", "frame", "empty"])
def test_damage_is_decoded_again_and_rewritten(damage: str, clip: Path, cache: ClipCache, opened: list[str]) -> None:
    request = replace(request_for(clip), cache=cache)
    expected = modality().load(request, "pyav")
    used = cache.used_bytes()
    [entry] = entries(cache)
    whole = entry.read_bytes()
    spoilt = bytearray(whole)
    if damage == "header":
        spoilt[60] ^= 1
    elif damage == "frame":
        frame_bytes = 48 * 64 * 3
        for start in range(len(whole) - 40 * frame_bytes + 7, len(whole), frame_bytes):
            spoilt[start] ^= 1
    entry.write_bytes({"cut": whole[:-1], "empty": b""}.get(damage, bytes(spoilt)))
    opened.clear()
    np.testing.assert_array_equal(modality().load(request, "pyav"), expected)
    assert opened == ["pyav"]
    assert entry.read_bytes() == whole
    assert abs(cache.used_bytes() - used) < 10_000
    np.testing.assert_array_equal(modality().load(request, "pyav"), expected)
    assert opened == ["pyav"]


def test_the_limit_is_kept_and_the_reason_told(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clip_cache, "_LARGEST_SHARE", 1.0)
    one = 40 * 48 * 64 * 3
    cache = ClipCache(str(tmp_path / "cache"), round(2.5 * one), 10.0)
    cache.begin()
    for part in (None, 0.2, 0.3, 0.4):
        request = replace(request_for(clip), start_s=part)
        np.testing.assert_array_equal(
            modality().load(replace(request, cache=cache), "pyav"), modality().load(request, "pyav")
        )
    assert len(entries(cache)) == 2
    assert cache.used_bytes() <= cache.limit_bytes
    assert "clip_cache_gb" in str(cache.is_full())
    # With more room the next run goes on.
    larger = replace(cache, limit_bytes=10 * one)
    larger.begin()
    modality().load(replace(request_for(clip), start_s=0.4, cache=larger), "pyav")
    assert len(entries(cache)) == 3


def test_long_videos_and_slow_ones_are_not_kept(clip: Path, tmp_path: Path, opened: list[str]) -> None:
    for name, limit, fill_s in (("long", 10_000_000, 10.0), ("slow", GB, 0.0)):
        cache = ClipCache(str(tmp_path / name), limit, fill_s)
        cache.begin()
        for _ in range(2):
            opened.clear()
            view = modality().load(replace(request_for(clip), cache=cache), "pyav")
            np.testing.assert_array_equal(view, modality().load(request_for(clip), "pyav"))
        assert opened == ["pyav"] * 2  # the second time it is not even tried
        assert not entries(cache)
        assert len(entries(cache, "no")) == 1
        assert cache.used_bytes() == 0
        assert cache.is_full() is None


def test_a_video_that_does_not_decode_to_its_end_is_not_kept(clip: Path, cache: ClipCache, tmp_path: Path) -> None:
    cut = tmp_path / "cut.mp4"
    frames = [numbered_frame(n, width=128, height=96) for n in range(40)]
    write_video(cut, frames, filler_packets=10)
    for seed in range(4):
        request = request_for(cut, seed=seed)
        view = modality().load(replace(request, cache=cache), "pyav")
        np.testing.assert_array_equal(view, modality().load(request, "pyav"))
    assert not entries(cache)


def test_a_full_disk_fails_nothing(clip: Path, cache: ClipCache, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(clip_cache, "_write", full)
    view = modality().load(replace(request_for(clip), cache=cache), "pyav")
    np.testing.assert_array_equal(view, modality().load(request_for(clip), "pyav"))
    assert "No space" in str(cache.is_full())
    assert cache.used_bytes() == 0
    assert not [*Path(cache.folder).glob(".tmp-*"), *entries(cache), *entries(cache, "no")]


def test_a_folder_that_is_gone_or_none_fails_nothing(clip: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "missing", tmp_path / "file"):
        cache = ClipCache(str(folder), GB, 10.0)
        view = modality().load(replace(request_for(clip), cache=cache), "pyav")
        np.testing.assert_array_equal(view, modality().load(request_for(clip), "pyav"))
    ClipCache(str(tmp_path / "file"), GB, 10.0).begin()


def test_who_dies_while_decoding_is_not_followed_at_once(clip: Path, cache: ClipCache) -> None:
    """A file that crashes the decoder when all of it is read would otherwise cost its sample."""
    request = replace(request_for(clip), cache=cache)
    place = cache.place_of(str(clip), decoder="pyav", short_side=48, part=[None, None])
    assert place is not None
    busy = Path(cache.folder) / f"{place.file_key}.busy"
    busy.touch()
    for decoder in DECODERS:
        modality().load(request, decoder)
    assert not entries(cache)
    long_ago = time.time() - 2 * clip_cache._STALE_S
    os.utime(busy, (long_ago, long_ago))
    modality().load(request, "pyav")
    assert entries(cache) == [Path(cache.folder) / f"{place.key}.clip"]
    assert not busy.exists()


@pytest.mark.parametrize("command", ["crash", "hang"])
def test_a_decoder_that_fails_natively_on_what_nobody_asked_for_costs_no_sample(
    command: str, clip: Path, cache: ClipCache
) -> None:
    own, request = modality(), request_for(clip)
    with GuardedPool(bad_at_filling, attempts=DECODERS, num_workers=1, deadline_s=1.0) as pool:
        (outcome,) = pool.imap([(command, own, replace(request, cache=cache))])
    assert outcome.attempt == ("decord" if command == "crash" else "pyav")
    np.testing.assert_array_equal(outcome.value, own.load(request, outcome.attempt))


def test_two_processes_make_the_same_entries_at_the_same_time(clip: Path, cache: ClipCache) -> None:
    own = modality()
    # Each one twice, so that both children begin with it.
    requests = [replace(request_for(clip, seed=n), start_s=n // 2 / 20, cache=cache) for n in range(12)]
    with GuardedPool(own.load, attempts=("pyav",), num_workers=2, deadline_s=20) as pool:
        for outcome in pool.imap(requests):
            expected = own.load(replace(outcome.payload, cache=None), "pyav")
            np.testing.assert_array_equal(outcome.value, expected, str(outcome.reasons))
    assert len(entries(cache)) == 6
    assert not entries(cache, "busy")
