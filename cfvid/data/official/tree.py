"""A data set's folder, and what its annotations say about it."""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from cfvid.artifacts import contained
from cfvid.data.blanks import trimmed
from cfvid.data.folders import files_below
from cfvid.data.manifest import Manifest, Sample, from_samples
from cfvid.errors import ConfigError, DataError


@dataclass(frozen=True)
class Prepared:
    """What a reader found."""

    manifest: Manifest
    """The samples that are listed and there."""
    not_found: tuple[str, ...]
    """Paths of files that the annotations list, relative to the root, which are not there."""
    not_listed: tuple[str, ...]
    """Media files that are there, relative to the root, which no annotation lists."""
    shortage: str | None = None
    """Said where more than half of what is listed is not there, which is seldom meant: `refuse_shortage` refuses it."""

    def refuse_shortage(self) -> None:
        """Refuse a set of which most is missing.

        Raises:
            DataError: when there is a `shortage`.
        """
        if self.shortage is not None:
            raise DataError(
                self.shortage,
                why=f"one of them would be {Path(self.manifest.roots[0]) / self.not_found[0]}",
                fix="Check --root, and that the archives are unpacked; --allow-missing takes what is there.",
            )


class Tree:
    """All files below a data set's root folder.

    Args:
        root: the folder.
        suffixes: file name endings that are media.
        trusted_roots: folders that linked folders may lead to.

    Raises:
        DataError: when there is no such folder, or a linked folder leads out of it and of every trusted root.
    """

    def __init__(self, root: Path, *, suffixes: Collection[str], trusted_roots: Sequence[str] = ()) -> None:
        if not root.is_dir():
            raise DataError(f"The folder {root} does not exist.", fix="Name the data set's own folder with --root.")
        self.root, self.suffixes, self.trusted_roots = root, frozenset(suffixes), tuple(trusted_roots)
        self.files = files_below(root, trusted_roots=trusted_roots)
        is_media = [file.suffix.lower() in self.suffixes for file in self.files]
        self.media = [file.as_posix() for file, media in zip(self.files, is_media, strict=True) if media]
        self.others = [file.as_posix() for file, media in zip(self.files, is_media, strict=True) if not media]
        self._by_tail: dict[int, dict[str, str]] = {}

    @functools.cached_property
    def _media_set(self) -> frozenset[str]:
        return frozenset(self.media)

    def find(self, listed: str) -> str | None:
        """The media file that annotations list under this path; its suffix may differ, as after a conversion.

        It may lie in any folder below the root, as long as its own name and the folders of `listed` are the same; of
        several, the one nearest to the root is taken, then the alphabetically first.

        Raises:
            DataError: when the path leads out of the root.
        """
        if listed.startswith("/") or ".." in listed:
            contained(self.root, listed)
        if listed in self._media_set:
            return listed
        return self._tails(listed.count("/") + 1).get(self._without_suffix(listed))

    def _tails(self, num_parts: int) -> dict[str, str]:
        """All media by the last parts of their paths, without suffix."""
        if num_parts not in self._by_tail:
            nearest_last = sorted(self.media, key=lambda path: (path.count("/"), path), reverse=True)
            self._by_tail[num_parts] = {
                "/".join(self._without_suffix(path).split("/")[-num_parts:]): path for path in nearest_last
            }
        return self._by_tail[num_parts]

    def _without_suffix(self, path: str) -> str:
        stem, dot, suffix = path.rpartition(".")
        return stem if dot and f".{suffix.lower()}" in self.suffixes else path

    def below(self, *folders: str) -> list[str]:
        """The media of the first of these folders that has any; "" is the root."""
        for folder in folders:
            start = f"{folder}/" if folder else ""
            found = [path for path in self.media if path.startswith(start)]
            if found:
                return found
        return []

    def annotation(self, *names: str) -> Path | None:
        """The file of annotations that has one of these names, wherever it lies; the one nearest to the root.

        Args:
            names: file names, or the ends of paths.
        """
        for name in names:
            matches = [path for path in self.others if path == name or path.endswith(f"/{name}")]
            if matches:
                return self.root / min(matches, key=lambda path: (path.count("/"), path))
        return None

    def needed(self, *names: str) -> Path:
        """As `annotation`.

        Raises:
            DataError: when there is no such file.
        """
        found = self.annotation(*names)
        if found is None:
            raise DataError(
                f"{self.root} has no {' or '.join(names)}, in no folder.",
                fix="Put the official annotations below the folder that --root names.",
            )
        return found

    def sample(
        self,
        listed: str,
        *,
        labels: Sequence[str],
        split: str,
        sample_id: str | None = None,
        usual: str = "",
        unsure_labels: Sequence[str] = (),
        group: str | None = None,
    ) -> Sample:
        """The sample of one listed file.

        Args:
            listed: its path in the annotations.
            labels: of the sample.
            split: of the sample.
            sample_id: by default `listed` without its suffix.
            usual: the folder that the file would be expected in, when it is not found.
            unsure_labels: of the sample.
            group: what it shares with samples that are no independent evidence.
        """
        return Sample(
            sample_id=sample_id or self._without_suffix(listed),
            path=self.find(listed) or str(PurePosixPath(usual, listed)),
            root=str(self.root),
            labels=tuple(labels),
            split=split,
            start_s=None,
            end_s=None,
            unsure_labels=tuple(unsure_labels),
            group=group,
        )

    def prepared(self, samples: Iterable[Sample]) -> Prepared:
        """What is listed and there, and what is only one of both.

        Raises:
            DataError: when nothing is listed, when nothing of what is listed is there, or when a sample is listed in
                two ways.
        """
        listed = _listed_once(samples)
        there = [sample for sample in listed if sample.path in self._media_set]
        not_found = [sample.path for sample in listed if sample.path not in self._media_set]
        if not listed:
            raise DataError(f"The annotations below {self.root} list no samples.")
        told = f"{len(not_found):,} of {len(listed):,} files that the annotations list are not below {self.root}."
        if not there:
            why = f"one of them would be {self.root / not_found[0]}"
            raise DataError(told, why=why, fix="Check --root, and that the archives are unpacked.")
        used = {sample.path for sample in there}
        return Prepared(
            manifest=trimmed(from_samples(there, trusted_roots=self.trusted_roots), place=self.root),
            not_found=tuple(not_found),
            not_listed=tuple(path for path in self.media if path not in used),
            shortage=told if len(not_found) > len(listed) / 2 else None,
        )


def _listed_once(samples: Iterable[Sample]) -> list[Sample]:
    """The samples, where several equal ones are one."""
    by_id: dict[str, Sample] = {}
    for sample in samples:
        first = by_id.setdefault(sample.sample_id, sample)
        if first != sample:
            raise DataError(
                f"The annotations list {sample.sample_id} in two ways.",
                why=f"split {first.split} and labels {', '.join(first.labels)}, then split {sample.split} "
                f"and labels {', '.join(sample.labels)}; or as the two files {first.path} and {sample.path}",
            )
    return list(by_id.values())


def check_fold(fold: int, *, folds: int) -> None:
    """Refuse a fold that there is not.

    Raises:
        ConfigError: saying which there are.
    """
    if not 1 <= fold <= folds:
        raise ConfigError(f"There is no fold {fold}; the folds are 1 to {folds}.")
