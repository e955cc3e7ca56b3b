"""Which names are splits, and whether top folders are splits or classes: never one for the other without a word."""

from __future__ import annotations

import pytest

from cfvid.data.split_names import Contents, are_splits, chosen_splits, role_of
from cfvid.errors import DataError


@pytest.mark.parametrize(
    ("name", "role"),
    [
        *((name, "train") for name in ("train", "Train", "TRAINING", "tr", "train_set", "Train-Images", "train2017")),
        *((name, "val") for name in ("val", "Valid", "validation", "dev", "eval", "val_256", "ValidationSet")),
        *((name, "test") for name in ("test", "Testing", "TEST_DATA", "tst")),
        *((name, None) for name in ("", "data", "2017", "trainer", "trains", "evil", "contest", "train_val", "cat")),
    ],
)
def test_roles(name: str, role: str | None) -> None:
    assert role_of(name) == role


def folders(text: str) -> dict[str, Contents]:
    """ "train/ car" : train holds folders with files, car holds files; `+` both, `-` no media."""
    kinds: dict[str, Contents] = {"/": "folders", "+": "both", "-": "none"}
    return {name.rstrip("/+-"): kinds.get(name[-1], "files") for name in text.split()}


@pytest.mark.parametrize(
    "text",
    [
        "train/ val/",
        "Train/ Val/",
        "training/ validation/",
        "train/",
        "TRAIN/ dev/ test/",
        "train/ test",  # images of a competition's test, without labels
        "train val",  # pools without labels
        "train",
        "train/ val/ extra/",
        "train/ val/ extra",
        "train/ val/ notes-",
        "validation/ test/",
        "test/",
    ],
)
def test_splits(text: str) -> None:
    assert are_splits(folders(text), train=None, val=None)


@pytest.mark.parametrize(
    "text",
    ["", "cat dog", "cat/ dog/", "train car plane", "car val", "dev cat dog", "training car", "train car notes-"],
)
def test_classes(text: str) -> None:
    """A class folder called `train` is one of several classes where all of them hold files."""
    assert not are_splits(folders(text), train=None, val=None)


@pytest.mark.parametrize(
    "text",
    [
        "train/ car/ plane/",  # classes with a folder for each film, or splits with other names
        "train car/ plane/",
        "train/ car plane",
        "train val car plane",
        "car/ plane/ test/",
        "cat dog test/",
        "val test",
        "test",
        "train- car plane",
        "fit/ val/",
    ],
)
def test_what_can_be_both_is_asked_about_in_one_message(text: str) -> None:
    with pytest.raises(DataError, match=r"(?s)can be splits or classes.*train_split and val_split.*kind: classes"):
        are_splits(folders(text), train=None, val=None)


def test_what_the_user_names_is_a_split() -> None:
    found = folders("fit/ hold/ train car")
    assert are_splits(found, train="fit", val="hold")
    assert are_splits(found, train=None, val="hold")
    assert are_splits(folders("train car plane"), train="train", val=None)
    assert not are_splits(folders("cat dog"), train="train", val="val")  # the names that a stored configuration has
    with pytest.raises(DataError, match=r"(?s)No top folder is called 'Fit'.*car, fit, hold, train"):
        are_splits(found, train="Fit", val=None)


@pytest.mark.parametrize(
    ("found", "given", "chosen"),
    [
        ("train val test", (None, None), ("train", "val")),
        ("Train Val", (None, None), ("Train", "Val")),
        ("training validation test", (None, None), ("training", "validation")),
        ("train test", (None, None), ("train", "test")),
        ("train dev validation", (None, None), ("train", "validation")),
        ("train validate test", (None, "test"), ("train", "test")),
        ("train training", (None, None), ("train", "val")),
        ("train train2017 Train", (None, None), ("train", "val")),
        ("fit hold", (None, None), ("train", "val")),
        ("fit val", ("fit", None), ("fit", "val")),
        ("Train val", ("train", "val"), ("train", "val")),
    ],
)
def test_the_first_usual_name_is_chosen(
    found: str, given: tuple[str | None, str | None], chosen: tuple[str, str]
) -> None:
    names = found.split()
    assert chosen_splits(names, train=given[0], val=given[1], labelled=names) == chosen


def test_a_test_split_without_labels_is_not_scored_on() -> None:
    assert chosen_splits(["train", "test"], train=None, val=None, labelled=["train"]) == ("train", "val")
