"""Whatever the annotations hold, a reader either reads them or says what is wrong with them."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.official import IMAGES, VIDEOS

from cfvid.data.manifest import Manifest
from cfvid.data.official import READERS
from cfvid.errors import CfvidError

V1 = "something-something-v1"
ANNOTATIONS: dict[str, list[str]] = {
    "cifar": ["batches.meta.txt", "data_batch_1.bin"],
    "hmdb51": ["A_test_split1.txt"],
    "imagenet": ["LOC_val_solution.csv"],
    "imagenet_subset": ["classes.txt"],
    "inaturalist": ["train2018.json", "val2018.json"],
    "kinetics": ["train.csv", "val.csv"],
    "places205": ["train_places205.csv", "val_places205.csv"],
    "places365": ["categories_places365.txt", "places365_train_standard.txt", "places365_val.txt"],
    "something_v1": [f"{V1}-labels.csv", f"{V1}-train.csv"],
    "something_v2": ["labels.json", "train.json"],
    "sports1m": ["labels.txt", "train_partition.txt", "sports1m_test.json"],
    "tiny_imagenet": ["val_annotations.txt"],
    "ucf101": ["classInd.txt", "trainlist01.txt", "testlist01.txt"],
    "voc": ["ImageSets/Main/trainval.txt", "ImageSets/Main/test.txt", "Annotations/A.xml"],
}
MEDIA = ("A/a.mp4", "1.webm", "val/images/a.jpg", "train/n01440764/a.JPEG", "JPEGImages/A.jpg")
OPTIONS: dict[str, dict[str, Any]] = {
    "voc": {"year": 2007},
    "inaturalist": {"year": 2018},
    "cifar": {"num_classes": 10},
}
NEAR = [
    *("A", "1 A", "A/a.mp4 1", "a.mp4 2", "../a.mp4 1", "/A/a.jpg 0", "1;A", "n01440764", "a.jpg\tn01440764\t0"),
    *("label,youtube_id,time_start,time_end", "A,a,0,1", "https://youtube.com/watch?v=a 0", "ImageId,PredictionString"),
    *("[]", "{}", "null", "[1]", '{"A": "0"}', '[{"id": "1", "template": "A"}]', '[{"id": "a", "label487": [0]}]'),
    '{"images": [{"id": [], "file_name": 5}], "annotations": [{"image_id": {}}], "categories": [{"id": 1}]}',
    '{"images": [{"id": 1}], "annotations": [{"image_id": 1, "category_id": 1}], "categories": [{"id": [1]}]}',
    "<annotation><object><name>A</name></object></annotation>",
]
CONTENT = st.binary(max_size=40) | st.lists(st.sampled_from(NEAR) | st.text(max_size=20), max_size=3).map(
    lambda lines: "\n".join(lines).encode("utf-8", errors="surrogatepass")
)


def test_every_reader_is_tried() -> None:
    assert set(ANNOTATIONS) == set(READERS)


@pytest.mark.parametrize("name", READERS)
@settings(max_examples=25)
@given(contents=st.lists(CONTENT, min_size=3, max_size=3))
def test_anything_is_read_or_refused(name: str, contents: list[bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for file, content in [*zip(ANNOTATIONS[name], contents, strict=False), *((media, b"") for media in MEDIA)]:
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            (root / file).write_bytes(content)
        options = {"imagenet_subset": {"classes": root / "classes.txt"}, **OPTIONS}.get(name, {})
        with contextlib.suppress(CfvidError):
            prepared = READERS[name](root, suffixes=VIDEOS | IMAGES, **options)
            assert isinstance(prepared.manifest, Manifest)
