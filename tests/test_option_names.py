"""Messages of commands that read no configuration name their own options."""

from __future__ import annotations

from argparse import Namespace

import pytest

from cfvid.errors import DataError
from cfvid.option_names import OPTION_OF_KEY, in_options, named_by_options

CHECK = Namespace(**{option.lstrip("-").replace("-", "_"): None for option in OPTION_OF_KEY.values()})


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("raise runtime.decode_memory_gb; runtime.num_workers: 0 goes", "raise --memory-gb; --workers 0 goes"),
        ("trust it by data.trusted_roots.", "trust it by --trusted-root."),
        ("(train_split, val_split)", "(--train-split, --val-split)"),
        ("give kind: classes.", "give --kind classes."),
        ("of this kind of file", "of this kind of file"),
        (
            "/data/media_root/a.png and media_root_2 and my-media_root",
            "/data/media_root/a.png and media_root_2 and my-media_root",
        ),
        ("64 (runtime.max_image_megapixels)", "64 (--max-megapixels)"),
    ],
)
def test_keys_become_options(text: str, shown: str) -> None:
    assert in_options(text, CHECK) == shown
    assert in_options(text, Namespace()) == text


def test_errors_keep_their_kind_and_their_cause() -> None:
    cause = ValueError("x")
    with pytest.raises(DataError) as caught, named_by_options(CHECK):
        raise DataError("media_root is missing", fix="Give media_root.") from cause
    assert (caught.value.what, caught.value.why, caught.value.fix) == (
        "--media-root is missing",
        None,
        "Give --media-root.",
    )
    assert caught.value.__cause__ is cause
