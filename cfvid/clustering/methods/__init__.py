"""All ways to make pseudo-labels by name, in one visible place."""

from __future__ import annotations

from cfvid.clustering.methods.base import Method
from cfvid.clustering.methods.distillation import distillation
from cfvid.clustering.methods.kmeans import kmeans
from cfvid.clustering.methods.per_label import per_label
from cfvid.clustering.methods.prototypes import prototypes

METHODS: dict[str, Method] = {
    "kmeans": kmeans,
    "per_label": per_label,
    "prototypes": prototypes,
    "distillation": distillation,
}
