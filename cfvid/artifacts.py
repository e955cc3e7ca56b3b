"""Files that other stages trust: whole or absent, with a record of what made them.

    FOLDER/                 what one stage writes
      inputs.json           what the stage was asked to do; written first, compared on every later run
      ...                   the stage's own files
      record.json           kind, version, inputs, facts and the digest of every file; written last: its presence
                            means that the folder is complete

Nothing in these files depends on the time or on the machine, so that the same work gives the same bytes.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cfvid import __version__
from cfvid.errors import ArtifactError, DamagedArtifact, DataError, InputsChanged

TEMPORARY_PREFIX = ".tmp-"
INPUTS_NAME = "inputs.json"
RECORD_NAME = "record.json"
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


# ---------------------------------------------------------------------------------------------- digests


def digest_file(path: Path) -> str:
    """SHA-256 of a file's bytes, as hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of(value: Any) -> str:
    """SHA-256 of a JSON-like value in canonical form, as hex."""
    return hashlib.sha256(_canonical(value)).hexdigest()


def digest_of_columns(columns: Mapping[str, Iterable[Sequence[Any]]]) -> str:
    """`digest_of` long columns, each of which comes in parts: no more than one part is in memory."""
    digest = hashlib.sha256(b"{")
    for number, name in enumerate(sorted(columns)):
        digest.update(b"," * (number > 0) + _canonical(name) + b":[")
        for place, part in enumerate(filter(None, columns[name])):
            digest.update(b"," * (place > 0) + _canonical(part)[1:-1])
        digest.update(b"]")
    digest.update(b"}")
    return digest.hexdigest()


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


# ---------------------------------------------------------------------------------------------- writing


@contextlib.contextmanager
def atomic_file(path: Path, *, check: Callable[[Path], Any] | None = None) -> Iterator[Path]:
    """Yield a temporary path; on success fsync it, rename it to `path`, and re-open it with `check`.

    On any failure the temporary file is removed and an older `path` stays as it was.

    Raises:
        ArtifactError: when the disk is full.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f"{TEMPORARY_PREFIX}{os.getpid()}-{path.name}"
    try:
        with _told_when_full(path):
            yield temporary
            _fsync(temporary)
            os.replace(temporary, path)
            _fsync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)
    if check is not None:
        check(path)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder; on success fsync its files and rename it to `path`, replacing an older one.

    A kill between the two renames that replace an older folder leaves none: where that matters, take a new name.

    Raises:
        ArtifactError: when the disk is full.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f"{TEMPORARY_PREFIX}{path.name}-", dir=path.parent))
    try:
        with _told_when_full(path):
            yield temporary
            for file in temporary.rglob("*"):
                _fsync(file)
            if path.exists():
                # rename() cannot replace a folder that is not empty: move the old one aside first.
                aside = path.parent / f"{TEMPORARY_PREFIX}old-{path.name}-{os.getpid()}"
                os.replace(path, aside)
                os.replace(temporary, path)
                shutil.rmtree(aside, ignore_errors=True)
            else:
                os.replace(temporary, path)
            _fsync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def _told_when_full(path: Path) -> Iterator[None]:
    """Turn a full disk, also one that a library reports in its own way, into one clear error."""
    try:
        yield
    except Exception as error:
        reason = _no_space(error)
        if reason is None:
            raise
        raise ArtifactError(
            f"No space left to write {path}.",
            why=reason,
            fix="Free some space and run the same command again; what was there before is intact.",
        ) from error


def _no_space(error: BaseException | None) -> str | None:
    """What the system said, when a full disk is the reason of an error or of what led to it."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _NO_SPACE:
            return os.strerror(error.errno)
        # safetensors and torch keep only the text of the system's error.
        said = next((os.strerror(number) for number in _NO_SPACE if os.strerror(number) in str(error)), None)
        if said is not None:
            return said
        error = error.__cause__ or error.__context__
    return None


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a value as readable JSON, atomically, and read it back."""
    with atomic_file(path, check=read_json) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read a JSON file written by cfvid.

    Raises:
        ArtifactError: when the file is missing or cannot be read.
        DamagedArtifact: when it is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ArtifactError(f"{path} does not exist.", fix="Run the stage that writes it first.") from error
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read.", why=error.strerror) from error
    except ValueError as error:
        raise DamagedArtifact(
            f"{path} is damaged: not JSON.", why=str(error), fix="Delete its folder and run the stage again."
        ) from error


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files and folders that a killed run left directly in `folder`."""
    for leftover in Path(folder).glob(f"{TEMPORARY_PREFIX}*"):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# ---------------------------------------------------------------------------------------------- records


@dataclass(frozen=True)
class Record:
    """What made a folder's files: read from, and written as, its `record.json`."""

    kind: str
    inputs: Mapping[str, Any]
    """What the stage was asked to do: its configuration and the digests of what it read."""
    files: Mapping[str, str]
    """SHA-256 of each file, by name relative to the folder."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What the stage found out: counts, shapes, figures."""

    @property
    def digest(self) -> str:
        """Identifies the folder's contents; what later stages name as their input."""
        return digest_of({"kind": self.kind, "inputs": self.inputs, "files": self.files})

    @classmethod
    def write(
        cls,
        folder: Path,
        *,
        kind: str,
        inputs: Mapping[str, Any],
        files: list[str],
        facts: Mapping[str, Any] | None = None,
        known: Mapping[str, str] | None = None,
    ) -> Record:
        """Digest `files` (those not already in `known`) and write `record.json`, which completes the folder."""
        known = known or {}
        digests = {name: known.get(name) or digest_file(folder / name) for name in sorted(files)}
        record = cls(kind=kind, inputs=inputs, files=digests, facts=dict(facts or {}))
        value = {"kind": kind, "cfvid": __version__, "inputs": inputs, "facts": record.facts, "files": digests}
        write_json(folder / RECORD_NAME, value)
        return record

    @classmethod
    def read(cls, folder: Path, *, kind: str) -> Record:
        """Read a folder's record without reading its files.

        Raises:
            ArtifactError: when there is none (the stage is not complete), or it is of another kind.
        """
        value = read_json(folder / RECORD_NAME)
        if not isinstance(value, dict) or not {"kind", "inputs", "files", "facts"} <= value.keys():
            raise ArtifactError(f"{folder / RECORD_NAME} is no record of cfvid's.")
        if value["kind"] != kind:
            raise ArtifactError(f"{folder} holds {value.get('kind')!r}, not {kind!r}.")
        return cls(kind=kind, inputs=value["inputs"], files=value["files"], facts=value["facts"])

    def verify(self, folder: Path, *, only: Collection[str] | None = None) -> None:
        """Digest every file again, or only those named.

        Raises:
            DamagedArtifact: naming the first file that is missing or has other bytes than when it was written.
        """
        for name, expected in self.files.items():
            if only is not None and name not in only:
                continue
            path = contained(folder, name)
            if not path.is_file():
                raise DamagedArtifact(f"{path} is missing.", fix=f"Delete {folder} and run the stage again.")
            if digest_file(path) != expected:
                raise DamagedArtifact(
                    f"{path} is damaged.",
                    why="its SHA-256 differs from the one in record.json: truncated or altered after writing",
                    fix=f"Delete {folder} and run the stage again.",
                )


def is_complete(folder: Path) -> bool:
    """Whether the stage that writes this folder ended well."""
    return (folder / RECORD_NAME).is_file()


def claim(folder: Path, inputs: Mapping[str, Any], *, fresh: bool = False) -> bool:
    """Prepare a stage's folder for these inputs; return True when its work is already done.

    A folder begun or completed with other inputs is refused with the difference, or emptied when `fresh`.

    Raises:
        InputsChanged: when the folder was made from other inputs and `fresh` is false.
    """
    inputs_path = folder / INPUTS_NAME
    if not fresh:
        refuse_changes(folder, inputs)
    elif changes(folder, inputs):
        _discard(folder)
    if not inputs_path.is_file() and is_complete(folder):
        _discard(folder)  # without what it was made from, nothing tells whether it is what is asked for
    folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    if not inputs_path.is_file():
        write_json(inputs_path, inputs)
    return is_complete(folder)


def changes(folder: Path, inputs: Mapping[str, Any]) -> list[str]:
    """How `inputs` differ from those that a folder was begun with; nothing when it has not been begun."""
    path = folder / INPUTS_NAME
    # Through JSON: tuples become lists, as they are when read back.
    return differences(read_json(path), json.loads(json.dumps(inputs))) if path.is_file() else []


def refuse_changes(folder: Path, inputs: Mapping[str, Any]) -> None:
    """Look, without touching anything, whether a folder was begun with these inputs.

    Raises:
        InputsChanged: with the difference, when it was begun with others.
    """
    lines = changes(folder, inputs)
    if lines:
        raise InputsChanged(
            f"{folder} was made from other inputs:\n" + "\n".join(f"    {line}" for line in lines),
            fix="Name another folder with --output, restore the old setting, or discard what is stale with --fresh.",
        )


def _discard(folder: Path) -> None:
    """Remove a folder; one that is killed meanwhile leaves nothing under the folder's own name."""
    aside = folder.parent / f"{TEMPORARY_PREFIX}discarded-{folder.name}-{os.getpid()}"
    os.replace(folder, aside)
    shutil.rmtree(aside)


def differences(old: Any, new: Any, *, path: str = "") -> list[str]:
    """The leaves at which two JSON-like values differ, as `a.b: 1 -> 2` lines."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        lines = []
        for key in [*old, *(key for key in new if key not in old)]:
            here = f"{path}.{key}" if path else str(key)
            lines += differences(old.get(key, "(absent)"), new.get(key, "(absent)"), path=here)
        return lines
    return [] if old == new else [f"{path}: {_short(old)} -> {_short(new)}"]


def _short(value: Any, limit: int = 120) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= limit else text[: limit - 3] + "..."


# ---------------------------------------------------------------------------------------------- paths


def user_path(path: str) -> Path:
    """A path as a user writes it, with `~` for a home folder; that of nobody stays as it is, and does not exist."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 - Path.expanduser raises a RuntimeError for nobody's


def contained(root: Path, relative: str | Path) -> Path:
    """The path `root / relative`, which must stay inside `root` after links are followed.

    Raises:
        DataError: for absolute paths, `..`, and links that lead out of `root`.
    """
    resolved_root = Path(root).resolve()
    path = Path(root) / relative
    target = path.resolve()
    if Path(relative).is_absolute() or not target.is_relative_to(resolved_root):
        folder = target if target.is_dir() else target.parent
        raise DataError(
            f"{relative} leads out of {root}, to {target}.",
            why="absolute paths, '..' and links that leave the root are refused",
            fix="Name the files' own root folder, or trust a folder that holds them all by data.trusted_roots "
            f"(this one lies in {folder}).",
        )
    return path
