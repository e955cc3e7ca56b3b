"""The stages, each a function of a `Run` with the same meaning as its subcommand."""

from cfvid.stages.cluster import cluster
from cfvid.stages.context import Run
from cfvid.stages.estimate import estimate
from cfvid.stages.extract import extract
from cfvid.stages.pretrain import pretrain
from cfvid.stages.retrain import retrain
from cfvid.stages.transfer import transfer

__all__ = ["Run", "cluster", "estimate", "extract", "pretrain", "retrain", "transfer"]
