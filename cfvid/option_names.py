"""Commands without a configuration: what their options are called where messages would name its keys."""

from __future__ import annotations

import argparse
import contextlib
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from cfvid.errors import CfvidError, ConfigError

if TYPE_CHECKING:
    from cfvid.sections.base import Section

AnySection = TypeVar("AnySection", bound="Section")
OPTION_OF_KEY = {
    "trusted_roots": "--trusted-root",
    "kind:": "--kind",
    "label_separator": "--label-separator",
    "media_root": "--media-root",
    "decode_deadline_s": "--deadline",
    "decode_memory_gb": "--memory-gb",
    "max_image_megapixels": "--max-megapixels",
    "num_workers": "--workers",
    "train_split": "--train-split",
    "val_split": "--val-split",
}
"""What a user of these commands gives instead of a key of the configuration."""


@contextlib.contextmanager
def named_by_options(options: argparse.Namespace) -> Iterator[None]:
    """Errors inside name the options of the command where they would name keys of a configuration.

    Args:
        options: of the command, as argparse gives them: keys that it has no option for stay as they are.
    """
    try:
        yield
    except CfvidError as error:
        error.what = in_options(error.what, options)
        error.why = error.why and in_options(error.why, options)
        error.fix = error.fix and in_options(error.fix, options)
        raise


def in_options(text: str, options: argparse.Namespace) -> str:
    """A text for people with the command's options in the place of the keys that stand for the same."""
    for key, option in OPTION_OF_KEY.items():
        if hasattr(options, option.lstrip("-").replace("-", "_")):
            text = re.sub(rf"(?<![\w./-])(?:data\.|runtime\.)?{key}(?![\w/])(?::(?= ))?", option, text)
    return text


def section_of(model: type[AnySection], values: dict[str, Any]) -> AnySection:
    """A section of the configuration from values of options.

    Raises:
        ConfigError: for each value that the section refuses.
    """
    from pydantic import ValidationError

    from cfvid.config_faults import faults_from

    try:
        return model(**values)
    except ValidationError as error:
        raise ConfigError("\n".join(faults_from(error, model=model, layers=[], values=values))) from error
