"""Which names mean training and validation, and whether the top folders of a source are splits or classes."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Literal

from cfvid.errors import DataError

Role = Literal["train", "val", "test"]
ROLES: dict[Role, tuple[str, ...]] = {
    "train": ("train", "training", "trn", "tr"),
    "val": ("val", "valid", "validation", "validate", "dev", "devel", "development", "eval", "evaluation"),
    "test": ("test", "testing", "tst", "te"),
}
"""Usual names of splits, in lower case, the ones taken first standing first. `test` is scored on where there is no
validation split."""
_TAIL = re.compile(r"[-_ ]*(?:(?:set|split|data|images|imgs|videos|clips)[-_ ]*)?\d*$")
"""What may follow the word: `train_set`, `val2017`, `TrainImages`."""
_ROLE_OF = {word: role for role, words in ROLES.items() for word in words}
_RANK_OF = {word: rank for words in ROLES.values() for rank, word in enumerate(words)}

Contents = Literal["files", "folders", "both", "none"]
"""What of media lies in a top folder: files, folders with files, both or neither."""


def role_of(name: str) -> Role | None:
    """What a name of a split usually means, whatever its case; None for other names."""
    return _ROLE_OF.get(_word(name))


def _word(name: str) -> str:
    return _TAIL.sub("", name.strip().lower())


def first_of(role: Role, names: Collection[str]) -> str | None:
    """Choose the name that is taken for a role: by the order in `ROLES`, then by how plain it is."""
    fit = [name for name in names if role_of(name) == role]
    return min(fit, key=lambda name: (_RANK_OF[_word(name)], name != _word(name), name), default=None)


def chosen_splits(
    found: Collection[str], *, train: str | None, val: str | None, labelled: Collection[str]
) -> tuple[str, str]:
    """The names of the two splits that are used.

    Args:
        found: the names of all splits.
        train: the name that the user gave.
        val: the same of validation.
        labelled: of those found, the ones with labels.

    Returns:
        What was given; else of those found the usual names; else `train` and `val`.
    """
    rest = set(found) - {train, val}
    train = train or first_of("train", rest) or "train"
    # A test split without labels, as competitions have it, is of no use for scores.
    val = val or first_of("val", rest) or first_of("test", rest & set(labelled)) or "val"
    return train, val


def are_splits(folders: Mapping[str, Contents], *, train: str | None, val: str | None) -> bool:
    """Whether the top folders of a source are splits; else they are classes.

    Names alone do not tell: a set of vehicles may have a class `train`. Splits hold class folders, and a class holds
    files; one of several splits may hold files alone.

    Args:
        folders: what lies in each of them.
        train: the training split's name, where the user gave it.
        val: the validation split's name, where the user gave it.

    Raises:
        DataError: when they can be both, or the user named a split that there is not.
    """
    named = {name for name in (train, val) if name is not None}
    if named & folders.keys():
        return True
    folders = {name: what for name, what in folders.items() if what != "none" or role_of(name)}
    roles = {role_of(name) for name in folders} - {None}
    if folders and named - {"train", "val"}:
        raise _no_such_split(sorted(named), sorted(folders))
    if not roles:
        return False
    known = {name: what for name, what in folders.items() if role_of(name)}
    hold_folders = [what in ("folders", "both") for what in known.values()]
    if len(known) == len(folders):
        if "train" in roles or any(hold_folders):
            return True
    elif all(what == "files" for what in folders.values()):
        if not ("train" in roles and len(roles) > 1):
            return False
    elif "train" in roles and len(roles) > 1 and any(hold_folders):
        return True
    raise _ambiguous(folders, known)


def _no_such_split(named: Sequence[str], folders: Sequence[str]) -> DataError:
    return DataError(
        f"No top folder is called {' or '.join(map(repr, named))}.",
        why=f"they are called {_listed(folders)}",
        fix="Give the folders of the splits by train_split and val_split; if they are classes, leave both out.",
    )


def _ambiguous(folders: Mapping[str, Contents], known: Mapping[str, Contents]) -> DataError:
    words = {"files": "media", "folders": "folders of media", "both": "media and folders", "none": "no media"}
    told = [f"{name} has {words[what]}" for name, what in {**known, **folders}.items()]
    return DataError(
        f"The top folders can be splits or classes: {_listed(sorted(known))} could be either.",
        why=", ".join(told[:6]) + (", ..." if len(told) > 6 else ""),
        fix="If they are splits, name them by train_split and val_split; if all are classes, give kind: classes.",
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
