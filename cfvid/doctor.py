"""`cfvid doctor`: what is installed, what really works, and what to mend.

At its top this file imports nothing but the standard library: it has to run where packages are missing or broken.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from cfvid import __version__
from cfvid.errors import MissingPackage

if TYPE_CHECKING:
    import numpy as np

PACKAGES: dict[str, tuple[str, ...]] = {
    "torch": ("torch",),
    "torchvision": ("torchvision",),
    "pytorchvideo": ("pytorchvideo",),
    "decord": ("decord", "eva-decord", "decord2"),
    "av": ("av", "pyav"),
    "faiss": ("faiss-gpu", "faiss-cpu", "faiss", "faiss-gpu-cu11", "faiss-gpu-cu12", "faiss-gpu-cu13"),
    "accelerate": ("accelerate",),
    "pydantic": ("pydantic",),
    "yaml": ("PyYAML",),
    "pyarrow": ("pyarrow",),
    "sklearn": ("scikit-learn",),
    "scipy": ("scipy",),
    "threadpoolctl": ("threadpoolctl",),
    "torchmetrics": ("torchmetrics",),
    "safetensors": ("safetensors",),
    "huggingface_hub": ("huggingface_hub", "huggingface-hub"),
    "PIL": ("pillow", "pillow-simd"),
    "matplotlib": ("matplotlib",),
    "jinja2": ("Jinja2",),
    "tensorboard": ("tensorboard",),
    "tqdm": ("tqdm",),
    "filelock": ("filelock",),
    "fsspec": ("fsspec",),
    "psutil": ("psutil",),
    "numpy": ("numpy",),
}
"""Each module that cfvid needs, and the distributions known to provide it, the usual one first."""
OPTIONAL = {
    "torchcodec": "torchcodec",
    "onnx": "onnx",
    "onnxscript": "onnx",
    "aiohttp": "http",
    "s3fs": "s3",
    "gcsfs": "gcs",
}
"""Modules, called like their distributions, that some uses of cfvid need, and the extra that installs each."""
_WATCHED = {**PACKAGES, "cv2": tuple(f"opencv-{kind}" for kind in ("python", "python-headless", "contrib-python",
                                                                  "contrib-python-headless"))}  # fmt: skip
"""Modules looked at for twins: two distributions that overwrite each other's files."""
_SCARCE_BYTES = 2**30


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    name: str
    text: str
    advice: str | None = None
    """What to do about it; None when all is well."""


def examine() -> int:
    """Look at everything and print it.

    Returns:
        0 when all is well, 1 when there is something to mend.
    """
    advice = []
    for title, look in _SECTIONS.items():
        print(title)
        for finding in _guarded(look):
            print(f"  {finding.name:<16} {finding.text}", flush=True)
            advice += [finding.advice] if finding.advice else []
    print("to mend")
    for line in dict.fromkeys(advice):
        print(f"  - {line}")
    if not advice:
        print("  nothing")
    return 1 if advice else 0


def _guarded(look: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    try:
        yield from look()
    except ImportError as error:
        missing = explain(error)
        yield Finding("not checked", str(error), missing.fix if missing else f"Mend the import: {error}")
    except Exception as error:  # whatever is broken here is what the user wants to hear of
        yield Finding("broken", _one_line(error), f"Look into: {_one_line(error)}")


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]


# ---------------------------------------------------------------------------------------------- packages


def explain(error: ImportError) -> MissingPackage | None:
    """An import that failed, as an error for users; None when it is not about a package that cfvid needs."""
    module = (error.name or "").partition(".")[0]
    if module in OPTIONAL:
        return MissingPackage(
            f"The package {module} is not installed or broken.",
            why=str(error),
            fix=f"pip install 'cfvid[{OPTIONAL[module]}]'",
        )
    if module not in PACKAGES:
        return None
    is_absent = isinstance(error, ModuleNotFoundError) and error.name == module
    return MissingPackage(
        f"The package {PACKAGES[module][0]} is {'not installed' if is_absent else 'broken'}.",
        why=str(error),
        fix=_install(module, again=not is_absent),
    )


def _install(module: str, *, again: bool = False) -> str:
    return f"pip install {'--force-reinstall ' if again else ''}'{_requirement(module)}'"


def _requirement(module: str) -> str:
    """What cfvid's own metadata ask for on this machine, e.g. `torch>=2.10`; else the distribution's name."""
    name = next((name for name in PACKAGES[module] if name.lower() in _requirements()), PACKAGES[module][0])
    return _requirements().get(name.lower(), name)


def _requirements() -> dict[str, str]:
    """cfvid's requirements without extras, by lower-case name; the last one wins whose marker may hold here."""
    is_linux = sys.platform == "linux" and platform.machine() == "x86_64"
    found = {}
    try:
        lines = metadata.requires("cfvid") or []
    except metadata.PackageNotFoundError:
        lines = []  # a checkout that was not installed
    for line in lines:
        specification, _, marker = line.partition(";")
        # The only markers in use choose between the two builds of faiss.
        if "extra" in marker or (marker and is_linux != ("==" in marker)):
            continue
        name = re.match(r"[\w.-]+", specification)
        if name:
            found[name.group().lower()] = specification.replace(" ", "")
    return found


def _versions() -> Iterator[Finding]:
    yield Finding("python", f"{platform.python_version()} on {platform.platform(terse=True)}")
    yield Finding("cfvid", __version__)
    owners = _owners()
    for module, names in PACKAGES.items():
        try:
            importlib.import_module(module)
        except Exception as error:
            if isinstance(error, ModuleNotFoundError) and error.name == module:
                yield Finding(names[0], "missing", _install(module))
            else:
                yield Finding(names[0], f"broken: {_one_line(error)}", _install(module, again=True))
        else:
            installed = owners[module] or [(names[0], "unknown version")]
            yield Finding(names[0], ", ".join(v if n == names[0] else f"{n} {v}" for n, v in installed))
    for module, extra in OPTIONAL.items():
        try:
            yield Finding(module, f"{metadata.version(module)} (optional)")
        except metadata.PackageNotFoundError:
            yield Finding(module, f"not installed (optional: pip install 'cfvid[{extra}]')")


def _owners() -> dict[str, list[tuple[str, str]]]:
    """For each watched module, name and version of the installed distributions that provide it."""
    owners: dict[str, set[tuple[str, str]]] = {module: set() for module in _WATCHED}
    for distribution in metadata.distributions():
        name = distribution.metadata["Name"] or "unknown"
        for module in _provided_by(distribution, name) & owners.keys():
            owners[module].add((name, distribution.version))
    return {module: sorted(found) for module, found in owners.items()}


def _provided_by(distribution: metadata.Distribution, name: str) -> set[str]:
    """Top modules, from what the distribution says, or from its files; and what it is known for."""
    known = {module for module, names in _WATCHED.items() if _normal(name) in map(_normal, names)}
    said = distribution.read_text("top_level.txt")
    if said is not None:
        return known | set(said.split())
    return known | {file.parts[0] for file in distribution.files or [] if file.parts[1:] == ("__init__.py",)}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def find_twins() -> list[str]:
    """Advice for each module that several installed distributions provide, or one in several versions.

    Which of their files are found is an accident, and removing one of them breaks the other.
    """
    advice = []
    for module, owners in _owners().items():
        if len(owners) > 1:
            names = list(dict.fromkeys(name for name, _ in owners))
            keep = _requirement(module) if module in PACKAGES else names[0]
            listed = " and ".join(f"{name} {version}" for name, version in owners)
            advice.append(
                f"{listed} both provide `{module}`: pip uninstall -y {' '.join(names)} && pip install '{keep}'"
            )
    return advice


def _twins() -> Iterator[Finding]:
    twins = find_twins()
    for advice in twins:
        yield Finding("twins", advice.partition(":")[0], advice)
    if not twins:
        yield Finding("twins", "none")


# ---------------------------------------------------------------------------------------------- hardware


def _devices() -> Iterator[Finding]:
    import psutil
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = psutil.virtual_memory()
    yield Finding("CPU", f"{cores} cores, {_size(memory.total)} memory, {_size(memory.available)} of it free")
    for number in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(number)
        bf16 = "bf16" if torch.cuda.is_bf16_supported() else "no bf16"
        yield Finding(f"CUDA {number}", f"{gpu.name}, {_size(gpu.total_memory)}, {bf16}")
    if not torch.cuda.is_available():
        yield Finding("CUDA", f"none that torch sees (torch was built for CUDA {torch.version.cuda})")


def _disk() -> Iterator[Finding]:
    from cfvid.stages.context import cache_folder

    for name, folder in (("working folder", Path.cwd()), ("cache", cache_folder())):
        existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        free = shutil.disk_usage(existing).free
        advice = f"Free some space for {folder}." if free < _SCARCE_BYTES else None
        yield Finding(name, f"{_size(free)} free in {folder}", advice)


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.1f} GiB"


# ---------------------------------------------------------------------------------------------- what works


def _decoders() -> Iterator[Finding]:
    from cfvid.data.embedded import generate
    from cfvid.media.image import read_image
    from cfvid.media.video import OPTIONAL_DECODERS, VIDEO_DECODERS

    with tempfile.TemporaryDirectory(prefix="cfvid-doctor-") as scratch:
        clip = next(_tiny(generate("gestures", Path(scratch), **_TINY)))
        for decoder in VIDEO_DECODERS:
            fault = _fault_of(decoder, clip)
            module = _MODULE_OF.get(decoder, decoder)
            advice = _install(module, again=bool(_owners()[module])) if fault else None
            yield Finding(decoder, f"broken: {fault}" if fault else "decodes H.264", advice)
        for decoder, reader in OPTIONAL_DECODERS.items():
            try:
                reader.check_installed()
            except MissingPackage as error:
                is_there = importlib.util.find_spec(decoder) is not None
                text = f"broken: {error.why}" if is_there else "not installed (optional)"
                yield Finding(decoder, text, error.fix if is_there else None)
            else:
                fault = _fault_of(decoder, clip)
                advice = f"pip install --upgrade 'cfvid[{OPTIONAL[decoder]}]'" if fault else None
                yield Finding(decoder, f"broken: {fault}" if fault else "decodes H.264 (optional)", advice)
        picture = read_image(next(_tiny(generate("shapes", Path(scratch), **_TINY))))
        fine = picture.shape == (_TINY["size"], _TINY["size"], 3) and picture.std() > 1
        yield Finding("pillow", "decodes JPEG" if fine else "broken", None if fine else _install("PIL", again=True))


def _fault_of(decoder: str, clip: Path) -> str | None:
    """What is wrong with a decoder, tried in a child process, as in a run: a broken one may crash."""
    from cfvid.media.guard import GuardedPool

    with GuardedPool(_decode, attempts=(decoder,), num_workers=_NUM_CHILDREN, deadline_s=30.0) as pool:
        (outcome,) = pool.imap([str(clip)])
    if outcome.value is not None and len(outcome.value) == _CLIP_FRAMES and outcome.value.std() > 1:
        return None
    return "; ".join(outcome.reasons) or "decodes to wrong pictures"


_TINY = {"num_train_per_class": 1, "num_val_per_class": 1, "size": 32}
_CLIP_FRAMES = 30
_NUM_CHILDREN = 1
_MODULE_OF = {"pyav": "av"}
"""Of decoders that are not called like their module."""


def _tiny(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def _decode(path: str, decoder: str) -> np.ndarray:
    """uint8 (F, H, W, 3), all frames of a video."""
    from cfvid.media.video import open_video

    with open_video(Path(path), decoder=decoder) as reader:
        return reader.read(range(len(reader.times_s)))


def _ffmpeg() -> Iterator[Finding]:
    import av

    versions = ", ".join(f"{name} {'.'.join(map(str, version))}" for name, version in av.library_versions.items())
    yield Finding("of PyAV", versions)


def _compiler() -> Iterator[Finding]:
    import torch

    from cfvid.errors import ConfigError
    from cfvid.training.device import check_compiler

    try:
        check_compiler(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    except ConfigError as error:
        yield Finding("torch.compile", f"does not work (needed with compile: true only): {error.why}")
    else:
        yield Finding("torch.compile", "works")


def _kmeans() -> Iterator[Finding]:
    import numpy as np
    import torch

    from cfvid.clustering.faiss_engine import FaissEngine
    from cfvid.faiss_import import faiss

    num_gpus = faiss.get_num_gpus() if hasattr(faiss, "get_num_gpus") else 0
    build = "GPU" if hasattr(faiss, "StandardGpuResources") else "CPU"
    idle = bool(torch.cuda.device_count()) and not num_gpus
    yield Finding("faiss", f"{build} build, sees {num_gpus} GPUs" + ("; torch does k-means there" if idle else ""))
    points_ND = np.repeat(np.eye(4, 8, dtype=np.float32), 16, axis=0)
    for where in ("CPU", "GPU")[: 2 if num_gpus else 1]:
        engine = FaissEngine(use_gpu=where == "GPU")
        fitted = engine.fit(
            points_ND,
            num_clusters=4,
            spherical=False,
            iterations=5,
            restarts=3,
            max_points_per_centroid=None,
            seed=0,
        )
        clusters, _ = engine.assign(points_ND, fitted.centroids_KD)
        fine = len(set(clusters[::16].tolist())) == 4 and (clusters.reshape(4, 16) == clusters[::16, None]).all()
        text = "finds four groups of points" if fine else "broken: does not find four groups of points"
        yield Finding(f"k-means on {where}", text, None if fine else _install("faiss", again=True))


def _architectures() -> Iterator[Finding]:
    from cfvid.modalities import MODALITIES
    from cfvid.models.zoo import architectures

    for name, modality in MODALITIES.items():
        yield Finding(name, ", ".join(architectures(modality.network_dims)))


_SECTIONS: dict[str, Callable[[], Iterator[Finding]]] = {
    "versions": _versions,
    "twins": _twins,
    "devices": _devices,
    "disk": _disk,
    "ffmpeg": _ffmpeg,
    "decoders": _decoders,
    "compiler": _compiler,
    "k-means": _kmeans,
    "architectures": _architectures,
}
