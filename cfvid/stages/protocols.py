"""How a network is scored on a target: all protocols by name."""

from __future__ import annotations

from collections.abc import Callable

from cfvid.stages.context import Run
from cfvid.stages.evaluations import Evaluation
from cfvid.stages.frozen import knn, linear, low_shot, retrieval, svm
from cfvid.stages.outcome import Outcome
from cfvid.stages.trained import finetune, heads

FROZEN: dict[str, Callable[[Run, Evaluation], Outcome]] = {
    "linear": linear,
    "knn": knn,
    "svm": svm,
    "low_shot": low_shot,
    "retrieval": retrieval,
}
"""The protocols that look at frozen features."""
TRAINED: dict[str, Callable[[Run, Evaluation], Outcome]] = {"heads": heads, "finetune": finetune}
"""Those that train on the target's samples."""
PROTOCOLS = FROZEN | TRAINED
"""All of them, by name."""
LAYERED = (*FROZEN, "heads")
"""Those that look at all layers of the linear probe."""
