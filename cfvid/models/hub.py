"""Weights by their place: a file, a folder, or `hf://ORG/NAME[@REVISION][/FILE]` of the Hugging Face Hub."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from cfvid.artifacts import user_path
from cfvid.errors import CfvidError, ConfigError, WeightsError
from cfvid.models.file_kinds import WEIGHTS_SUFFIXES

PREFIX = "hf://"
_FORM = re.compile(r"hf://(?P<org>[\w.-]+)/(?P<name>[\w.-]+)(@(?P<revision>[\w.-]+))?(/(?P<file>[^@]+))?")
_PATIENCE_S = 10.0


@dataclass(frozen=True)
class HubFile:
    """A file of the Hub."""

    repository: str
    revision: str
    file: str

    @property
    def beside(self) -> str:
        """Where a copy made by hand is looked for, relative to the cache folder."""
        return f"hub/{self.repository}@{self.revision}/{self.file}"


def is_on_hub(weights: str) -> bool:
    """Whether this names a file of the Hub."""
    return weights.startswith(PREFIX)


def parse(weights: str) -> HubFile:
    """`hf://ORG/NAME[@REVISION][/FILE]`; by default the file model.safetensors of the revision main.

    Raises:
        ConfigError: when it has another form, or names a file that cannot be weights.
    """
    match = _FORM.fullmatch(weights)
    form = "Write hf://ORG/NAME[@REVISION][/FILE]."
    if match is None:
        raise ConfigError(f"pretrain.weights: {weights!r} names no file of the Hub.", fix=form)
    file = match["file"] or "model.safetensors"
    parts = [match["org"], match["name"], match["revision"] or "main", *PurePosixPath(file).parts]
    if any(set(part) <= {".", "/"} for part in parts):
        raise ConfigError(f"pretrain.weights: {weights!r} leads out of its repository.", fix=form)
    if PurePosixPath(file).suffix not in WEIGHTS_SUFFIXES:
        raise ConfigError(
            f"pretrain.weights: {file} of {weights!r} is no weights file.",
            fix=f"Name one ending in {', '.join(WEIGHTS_SUFFIXES)}.",
        )
    return HubFile(f"{match['org']}/{match['name']}", match["revision"] or "main", file)


def locate(weights: str, *, cache: Path) -> Path:
    """Where weights lie on this machine. A file of the Hub is fetched when neither cache has it, once, without retries.

    Args:
        weights: a path, or `hf://ORG/NAME[@REVISION][/FILE]`.
        cache: cfvid's cache folder; a file of the Hub that was put there by hand is taken.

    Raises:
        ConfigError: when a Hub id is malformed.
        WeightsError: when the file cannot be had, naming it and where to put it.
    """
    if not is_on_hub(weights):
        return user_path(weights)
    wanted = parse(weights)
    beside = cache / wanted.beside
    if beside.is_file():
        return beside
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(wanted.repository, wanted.file, revision=wanted.revision)
    return Path(cached) if isinstance(cached, str) else _fetch(wanted, weights, beside)


def _fetch(wanted: HubFile, weights: str, beside: Path) -> Path:
    from huggingface_hub import get_session, hf_hub_download, hf_hub_url

    url = hf_hub_url(wanted.repository, wanted.file, revision=wanted.revision)
    try:
        # Without a connection the download itself would try again and again for half a minute; this asks once.
        get_session().head(url, timeout=_PATIENCE_S)
        return Path(hf_hub_download(wanted.repository, wanted.file, revision=wanted.revision))
    except CfvidError:
        raise  # a signal, say
    except Exception as error:  # of the Hub's client and of what it connects with: many kinds
        lines = str(error).strip().splitlines()
        raise WeightsError(
            f"{weights} is not on this machine and cannot be fetched.",
            why=lines[0] if lines else type(error).__name__,
            fix=f"Check the connection and the name (hf://ORG/NAME/FILE for another file than {wanted.file}); or fetch "
            f"{url} elsewhere and put it in {beside.parent} as {beside.name}.",
        ) from error
