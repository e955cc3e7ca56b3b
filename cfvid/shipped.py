"""Files that ship beside the package: in a checkout at its top, else where pip put them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from cfvid.errors import ConfigError


def yaml_files(folder: str) -> dict[str, Path]:
    """All shipped YAML files of a folder by name.

    Args:
        folder: as it is called in a checkout, e.g. `configs/experiments`.
    """
    checkout = Path(__file__).parent.parent
    if (checkout / "pyproject.toml").is_file():
        return {path.stem: path for path in sorted((checkout / folder).glob("*.yaml"))}
    files = metadata.files("cfvid") or []
    return {f.stem: Path(str(f.locate())) for f in files if f.parent.as_posix().endswith(f"share/cfvid/{folder}")}


def unknown_name(name: str, known: Iterable[str], *, noun: str, fix: str = "Name") -> ConfigError:
    """The error for a name that no shipped file has.

    Args:
        name: as the user wrote it.
        known: the names that there are.
        noun: what they are names of.
        fix: what to do, up to the list of names.
    """
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1)
    return ConfigError(
        f"There is no shipped {noun} {name!r}" + (f"; did you mean {near[0]}?" if near else "."),
        fix=f"{fix} one of {', '.join(known)}.",
    )
