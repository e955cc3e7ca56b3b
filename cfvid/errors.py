"""The error tree: every failure a user can cause or meet says what happened, why, and what to do.

CfvidError              exit 1
|- ConfigError          exit 2   the command line, a YAML file, a value
|- DataError            exit 3   manifests, samples, pools, targets
|  |- UnreadableSample           one sample; goes to the skip ledger, never ends a run by itself
|  `- SkipBudgetExceeded         too many of them; ends the run
|- ArtifactError        exit 4   files that cfvid wrote
|  |- DamagedArtifact            truncated, altered, lying header
|  |- InputsChanged              made by something else than what is asked for now
|  `- FolderInUse                another process owns the run folder
|- WeightsError         exit 5   checkpoints and foreign state dicts
|- TrainingError        exit 6   losses, gradients or features that are not finite
|- MissingPackage       exit 7   something to install or remove
|- RankLost             exit 8   another process of the same run has ended
`- Interrupted          exit 130 / 143, after the state was saved
"""

from __future__ import annotations


class CfvidError(Exception):
    """Base of all errors meant for users; `assert` is for our own mistakes only."""

    exit_code = 1

    def __init__(self, what: str, *, why: str | None = None, fix: str | None = None) -> None:
        super().__init__(what, why, fix)
        self.what, self.why, self.fix = what, why, fix

    def __str__(self) -> str:
        lines = [self.what]
        if self.why:
            lines.append(f"  why: {self.why}")
        if self.fix:
            lines.append(f"  do:  {self.fix}")
        return "\n".join(lines)

    def __reduce__(self) -> tuple:
        return _rebuild, (type(self), self.what, self.why, self.fix)


def _rebuild(kind: type[CfvidError], what: str, why: str | None, fix: str | None) -> CfvidError:
    """Errors cross process borders; keyword-only arguments need help to be unpickled."""
    return kind(what, why=why, fix=fix)


class ConfigError(CfvidError):
    """A faulty command line, configuration file or value; found before any work starts."""

    exit_code = 2


class DataError(CfvidError):
    """A manifest, pool or target that cannot be used as asked."""

    exit_code = 3


class UnreadableSample(DataError):
    """One sample that no decoder could read."""


class SkipBudgetExceeded(DataError):
    """More unreadable samples than the stated budget."""


class ArtifactError(CfvidError):
    """A file written by cfvid that is missing, damaged, foreign or in use."""

    exit_code = 4


class DamagedArtifact(ArtifactError):
    """A file whose bytes are not those its record speaks of."""


class InputsChanged(ArtifactError):
    """A folder whose contents were made from other inputs than those asked for now."""


class FolderInUse(ArtifactError):
    """A run folder owned by another live process."""


class WeightsError(CfvidError):
    """A checkpoint or state dict that does not fit the network."""

    exit_code = 5


class TrainingError(CfvidError):
    """A loss, gradient or feature that is not finite."""

    exit_code = 6


class MissingPackage(CfvidError):
    """A package that has to be installed, or removed because it shadows another."""

    exit_code = 7


class RankLost(CfvidError):
    """Another process of the same run has ended; that one says why."""

    exit_code = 8


class Interrupted(CfvidError):
    """A signal asked the run to end; the state was saved first."""

    exit_code = 130

    @classmethod
    def by_signal(cls, number: int) -> Interrupted:
        error = cls(
            f"Stopped by signal {number}; the state was saved.",
            fix="Run the same command again to continue.",
        )
        error.exit_code = 128 + number
        return error
