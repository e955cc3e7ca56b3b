"""HMDB51 and UCF101: official folds, HMDB51's third mark."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.official import VIDEOS, add_text, add_videos, decoded, reading, rows

from cfvid.data.official.hmdb51 import read_hmdb51
from cfvid.data.official.ucf101 import read_ucf101
from cfvid.errors import ConfigError, DataError

read_hmdb, read_ucf = (reading(reader, suffixes=VIDEOS) for reader in (read_hmdb51, read_ucf101))
HMDB, UCF = "testTrainMulti_7030_splits", "ucfTrainTestlist"


# ---------------------------------------------------------------------------------------------- HMDB51


@pytest.fixture
def hmdb(tmp_path: Path) -> Path:
    add_videos(
        tmp_path,
        "hmdb51_org/brush_hair/April 09 (ü)_u_nm_np1_ba_goo_0.avi",
        "hmdb51_org/brush_hair/b#1.AVI",
        "hmdb51_org/brush_hair/c;2.mp4",
        "hmdb51_org/wave/b#1.avi",
        "hmdb51_org/wave/extra.avi",
    )
    hair = ["April 09 (ü)_u_nm_np1_ba_goo_0.avi 1 ", "b#1.avi 2 ", "", "c;2.avi 0 "]
    add_text(tmp_path, f"{HMDB}/brush_hair_test_split1.txt", *hair, start="\ufeff", end="\r\n")
    add_text(tmp_path, f"{HMDB}/wave_test_split1.txt", "b#1.avi 1", "gone.avi 2")
    add_text(tmp_path, f"{HMDB}/wave_test_split2.txt", "b#1.avi 2")
    return tmp_path


def test_hmdb51_has_three_marks(hmdb: Path) -> None:
    prepared = read_hmdb(hmdb)
    assert rows(prepared) == {
        "brush_hair/April 09 (ü)_u_nm_np1_ba_goo_0": (("brush_hair",), "train"),
        "brush_hair/b#1": (("brush_hair",), "val"),
        "brush_hair/c;2": (("brush_hair",), "unused"),
        "wave/b#1": (("wave",), "train"),
    }
    assert prepared.not_found == ("hmdb51_org/wave/gone.avi",)
    assert prepared.not_listed == ("hmdb51_org/wave/extra.avi",)
    assert decoded(prepared.manifest, modality="video").shape == (1, 3, 4, 32, 32)


def test_hmdb51_groups_are_the_films_in_all_folds(tmp_path: Path) -> None:
    names = ["A_wave_f_cm_np1_fr_med_0.avi", "A_wave_u_nm_np2_le_goo_12.avi", "B_(ü)_1_wave_h_cm_np1_ba_bad_0.avi"]
    others = ["A_shoot_bow_l_cm_np1_ri_med_1.avi", "other.avi"]
    add_videos(tmp_path, *(f"wave/{name}" for name in names), *(f"shoot_bow/{name}" for name in others))
    for fold in (1, 2):
        add_text(tmp_path, f"{HMDB}/wave_test_split{fold}.txt", *(f"{name} {fold}" for name in names))
        add_text(tmp_path, f"{HMDB}/shoot_bow_test_split{fold}.txt", *(f"{name} 1" for name in others))
        groups = [sample.group for sample in read_hmdb(tmp_path, fold=fold).manifest]
        assert groups == ["A", None, "A", "A", "B_(ü)_1"]


def test_hmdb51_folds(hmdb: Path) -> None:
    assert rows(read_hmdb(hmdb, fold=2)) == {"wave/b#1": (("wave",), "val")}
    with pytest.raises(DataError, match="has no CLASS_test_split3.txt"):
        read_hmdb(hmdb, fold=3)
    for fold in (0, 4):
        with pytest.raises(ConfigError, match=f"no fold {fold}; the folds are 1 to 3"):
            read_hmdb(hmdb, fold=fold)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("b#1.avi 3", r"wave_test_split1.txt:2: not FILE 0\|1\|2: 'b#1.avi 3'"),
        ("b#1.avi", r"wave_test_split1.txt:2: not FILE"),
        ("../../../secret.avi 1", "leads out of"),
    ],
)
def test_hmdb51_faulty_lines(line: str, told: str, hmdb: Path) -> None:
    add_text(hmdb, f"{HMDB}/wave_test_split1.txt", "b#1.avi 1", line)
    with pytest.raises(DataError, match=told):
        read_hmdb(hmdb)


# ---------------------------------------------------------------------------------------------- UCF101


@pytest.fixture(params=["UCF-101/", ""])
def ucf(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    home = request.param
    add_videos(tmp_path, f"{home}ApplyEyeMakeup/v_a_g01_c01.avi", f"{home}YoYo/v_y ü_g01_c01.avi")
    add_videos(tmp_path, f"{home}YoYo/v_y_g02_c01.MP4", f"{home}YoYo/v_extra.avi")
    add_text(tmp_path, f"{UCF}/classInd.txt", "1 ApplyEyeMakeup", "2 YoYo", end="\r\n")
    train = ["ApplyEyeMakeup/v_a_g01_c01.avi 1", "YoYo/v_y ü_g01_c01.avi 2"]
    add_text(tmp_path, f"{UCF}/trainlist01.txt", *train, "", start="\ufeff", end="\r\n")
    add_text(tmp_path, f"{UCF}/testlist01.txt", "YoYo/v_y_g02_c01.avi", "YoYo/v_gone.avi")
    add_text(tmp_path, f"{UCF}/trainlist02.txt", "YoYo/v_y_g02_c01.avi 2")
    add_text(tmp_path, f"{UCF}/testlist02.txt", train[0].split()[0])
    return tmp_path


def test_ucf101_folds(ucf: Path) -> None:
    prepared = read_ucf(ucf)
    assert rows(prepared) == {
        "ApplyEyeMakeup/v_a_g01_c01": (("ApplyEyeMakeup",), "train"),
        "YoYo/v_y ü_g01_c01": (("YoYo",), "train"),
        "YoYo/v_y_g02_c01": (("YoYo",), "val"),
    }
    assert [sample.group for sample in prepared.manifest] == ["v_a_g01", "v_y ü_g01", "v_y_g02"]
    assert prepared.not_found == ("UCF-101/YoYo/v_gone.avi",)
    assert [Path(path).name for path in prepared.not_listed] == ["v_extra.avi"]
    assert decoded(prepared.manifest, 2, modality="video").shape == (1, 3, 4, 32, 32)
    assert rows(read_ucf(ucf, fold=2)) == {
        "YoYo/v_y_g02_c01": (("YoYo",), "train"),
        "ApplyEyeMakeup/v_a_g01_c01": (("ApplyEyeMakeup",), "val"),
    }
    with pytest.raises(DataError, match="has no trainlist03.txt"):
        read_ucf(ucf, fold=3)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("ApplyEyeMakeup/v_a_g01_c01.avi", "trainlist01.txt:1: not CLASS/FILE NUMBER"),
        ("Nothing/v_a_g01_c01.avi 1", "trainlist01.txt:1: not the path of a video in the folder of a class"),
        ("YoYo/v_y_g02_c01.avi 1", "trainlist01.txt:1: YoYo is class 1 here, but class 2 in classInd.txt"),
        ("YoYo/../../../secret.avi 2", "leads out of"),
    ],
)
def test_ucf101_faulty_lines(line: str, told: str, ucf: Path) -> None:
    add_text(ucf, f"{UCF}/trainlist01.txt", line)
    with pytest.raises(DataError, match=told):
        read_ucf(ucf)
