"""The embedded data sets: real files, the same bytes each time, never half a set, motion hidden from one frame."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from cfvid.data import embedded
from cfvid.data.embedded import EMBEDDED, MOTIONS, generate
from cfvid.errors import ConfigError
from cfvid.seeds import stream

ALL_SETS = sorted(EMBEDDED)
REPOSITORY = str(Path(embedded.__file__).parents[2])


def small(name: str, root: Path, **changes: int) -> Path:
    """The set with two train files and one val file per class."""
    return generate(name, root, **{"num_train_per_class": 2, "num_val_per_class": 1, **changes})


def contents(folder: Path) -> dict[str, bytes]:
    """Every file's bytes by its path below the folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ALL_SETS)
def test_layout_and_counts(name: str, tmp_path: Path) -> None:
    spec = EMBEDDED[name]
    suffix = {"video": "mp4", "image": "jpg"}[spec.modality]
    expected = {
        f"{split}/{class_name}/{index:04d}.{suffix}"
        for split, count in (("train", 2), ("val", 1))
        for class_name in spec.classes
        for index in range(count)
    }
    assert set(contents(small(name, tmp_path))) == expected


@pytest.mark.parametrize("name", ALL_SETS)
def test_same_seed_same_bytes_and_no_two_files_alike(name: str, tmp_path: Path) -> None:
    first = contents(small(name, tmp_path / "a"))
    assert contents(small(name, tmp_path / "b")) == first
    assert len(set(first.values())) == len(first)


def test_each_argument_has_its_own_folder_and_a_larger_set_extends_a_smaller_one(tmp_path: Path) -> None:
    base = small("shapes", tmp_path)
    more = small("shapes", tmp_path, num_train_per_class=3)
    other = small("shapes", tmp_path, seed=1)
    assert len({base, more, other, small("shapes", tmp_path, size=32)}) == 4
    assert contents(base).items() <= contents(more).items()
    assert not set(contents(base).values()) & set(contents(other).values())


@pytest.mark.parametrize("name", ["motion", "gestures"])
def test_clips_are_h264_of_two_seconds(name: str, tmp_path: Path) -> None:
    path = next(small(name, tmp_path).rglob("*.mp4"))
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        assert (video.codec_context.name, video.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert video.average_rate == 15
        times = [frame.time for frame in container.decode(video)]
        assert (video.width, video.height) == (64, 64)
    assert times == pytest.approx(np.arange(30) / 15, abs=1e-3)


@pytest.mark.parametrize("name", ["textures", "shapes"])
def test_pictures_are_jpeg(name: str, tmp_path: Path) -> None:
    with Image.open(next(small(name, tmp_path).rglob("*.jpg"))) as picture:
        assert (picture.format, picture.mode, picture.size) == ("JPEG", "RGB", (64, 64))


def test_a_finished_set_is_returned_untouched(tmp_path: Path) -> None:
    folder = small("shapes", tmp_path)
    victim = folder / "val" / "star" / "0000.jpg"
    victim.write_bytes(b"mine")
    assert small("shapes", tmp_path) == folder
    assert victim.read_bytes() == b"mine"


def test_a_failed_call_leaves_no_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Path] = []

    def fail_at_the_fifth(pixels: np.ndarray, path: Path) -> None:
        calls.append(path)
        if len(calls) == 5:
            raise OSError("no space left on device")
        path.write_bytes(b"x")

    with monkeypatch.context() as patched:
        patched.setattr(embedded, "_write_jpeg", fail_at_the_fifth)
        with pytest.raises(OSError, match="no space"):
            small("shapes", tmp_path)
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == []
    assert len(contents(small("shapes", tmp_path))) == 18


def test_a_killed_call_leaves_no_set_and_the_next_one_cleans_up(tmp_path: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path; from cfvid.data import embedded\n"
        "def die_at_the_second(pixels, path):\n"
        "    os._exit(9) if path.stem == '0001' else path.write_bytes(b'x')\n"
        "embedded._write_jpeg = die_at_the_second\n"
        "embedded.generate('shapes', Path(sys.argv[1]), num_train_per_class=2, num_val_per_class=1)\n"
    )
    environment = {**os.environ, "PYTHONPATH": REPOSITORY}
    assert subprocess.run([sys.executable, "-c", script, str(tmp_path)], env=environment).returncode == 9
    [leftover] = [path for path in tmp_path.iterdir() if path.is_dir()]
    assert ".tmp-" in leftover.name
    assert contents(leftover)

    folder = small("shapes", tmp_path)
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == [folder]
    assert len(contents(folder)) == 18
    assert b"x" not in contents(folder).values()


def test_processes_that_start_together_agree(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from cfvid.data.embedded import generate\n"
        "print(generate('textures', Path(sys.argv[1]), num_train_per_class=20, num_val_per_class=1))\n"
    )
    command, environment = (
        [sys.executable, "-c", script, str(tmp_path)],
        {**os.environ, "PYTHONPATH": REPOSITORY},
    )
    running = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    answers = {process.communicate(timeout=60)[0].strip() for process in running}
    assert {process.returncode for process in running} == {0}
    [folder] = [path for path in tmp_path.iterdir() if path.is_dir()]
    assert answers == {str(folder)}
    assert len(contents(folder)) == 8 * 21


@pytest.mark.parametrize(
    ("name", "changes", "told"),
    [
        ("motoin", {}, "motion, gestures, textures, shapes"),
        ("motion", {"num_train_per_class": 0}, "num_train_per_class is 0"),
        ("motion", {"size": 63}, "size is 63"),
    ],
)
def test_faulty_arguments_are_explained(name: str, changes: dict[str, int], told: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=told):
        generate(name, tmp_path, **changes)
    assert list(tmp_path.iterdir()) == []


def nearest_mean_accuracy(features_NCD: np.ndarray) -> float:
    """Even samples make the class means, odd ones go to the nearest; features by [sample, class, value]."""
    features_NCD = (features_NCD - features_NCD.mean((0, 1))) / (features_NCD.std((0, 1)) + 1e-9)
    means_CD, asked_NCD = features_NCD[::2].mean(0), features_NCD[1::2]
    guesses_NC = ((asked_NCD[:, :, None] - means_CD) ** 2).sum(-1).argmin(-1)
    return float((guesses_NC == np.arange(len(means_CD))).mean())


def masks_of(name: str, class_name: str, index: int) -> np.ndarray:
    """Where the bright shape is, bool [T, H, W] at 32 x 32, from the drawing before it is encoded."""
    frames = EMBEDDED[name].draw(stream(5, name, class_name, index), class_name, 32)
    return frames @ np.array([0.299, 0.587, 0.114]) > 127


def circular_moments(masks_THW: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Position on the torus as two phasors [T], and the area [T]: what one frame tells about the shape."""
    turn = np.exp(2j * np.pi * np.arange(masks_THW.shape[1]) / masks_THW.shape[1])
    area = masks_THW.sum((1, 2)) + 1e-6
    return (masks_THW @ turn).sum(1) / area, (masks_THW.transpose(0, 2, 1) @ turn).sum(1) / area, area


def test_one_frame_hides_the_motion_that_two_frames_show() -> None:
    still, moving = [], []
    for index in range(40):
        for class_name in MOTIONS:
            px, py, area = circular_moments(masks_of("motion", class_name, index))
            still.append([px[0].real, px[0].imag, py[0].real, py[0].imag, np.log(area[0])])
            # A step is the phasor's change over 0.2 s; its median sign tells a direction, its swing an orbit.
            dx, dy = np.angle(px[3:] / px[:-3]), np.angle(py[3:] / py[:-3])
            turning = np.median(dx[:-1] * dy[1:] - dy[:-1] * dx[1:])
            growth = np.median(np.log(area[3:] / area[:-3]))
            moving.append([np.median(dx), np.median(dy), np.sign(turning) * abs(turning) ** 0.5, growth])
    chance = 1 / len(MOTIONS)
    assert nearest_mean_accuracy(np.array(still).reshape(40, 8, -1)) < chance + 0.1
    assert nearest_mean_accuracy(np.array(moving).reshape(40, 8, -1)) > 0.8


@pytest.mark.parametrize("name", ["motion", "gestures"])
def test_any_one_frame_is_alike_in_every_class(name: str) -> None:
    for frame in (0, 17):
        pixels = [
            [
                EMBEDDED[name].draw(stream(6, name, class_name, index), class_name, 32)[frame, ::2, ::2].ravel()
                for class_name in EMBEDDED[name].classes
            ]
            for index in range(40)
        ]
        assert nearest_mean_accuracy(np.array(pixels, dtype=float)) < 1 / len(EMBEDDED[name].classes) + 0.1
