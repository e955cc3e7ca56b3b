"""All pre-training tasks, in one visible place. A new one is a file in this folder and a line here and in `config`."""

from __future__ import annotations

from cfvid.tasks.base import Task
from cfvid.tasks.clip_order import ClipOrder
from cfvid.tasks.jigsaw import Jigsaw
from cfvid.tasks.labels import Labels
from cfvid.tasks.rotation import Rotation

TASKS: dict[str, type[Task]] = {
    "labels": Labels,
    "rotation": Rotation,
    "jigsaw": Jigsaw,
    "clip_order": ClipOrder,
}
