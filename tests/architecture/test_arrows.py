"""Imports point up one list, without circles, and no stage asks which modality it works for."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from support.imports import arrows_of, back_arrows, circle, modules_of

import cfvid
from cfvid.modalities import MODALITIES

PACKAGE = Path(cfvid.__file__).parent
ORDER = (
    "errors",
    "launch",
    "child_processes",
    "ranks",
    "progress",
    "seeds",
    "parts",
    "artifacts",
    "tables",
    "folder_lock",
    "shipped",
    "faiss_import",
    "yaml_layers",
    "config_faults",
    "sections",
    "option_names",
    "config",
    "media",
    "data",
    "modalities",
    "models",
    "features",
    "training",
    "clustering",
    "evaluation",
    "loading",
    "tasks",
    "stages",
    "report",
    "planning",
    "preflight",
    "pipeline",
    "experiments",
    "doctor",
    "data_cli",
    "cli",
    "__main__",
)
"""Files and folders of the package, from the top: each may import what stands above it."""


def test_imports_point_up() -> None:
    assert back_arrows(PACKAGE, ORDER) == []


def test_nothing_imports_in_a_circle() -> None:
    assert circle(PACKAGE) is None


def test_everything_was_read() -> None:
    pairs = {(arrow.module, arrow.imported) for arrow in arrows_of(PACKAGE)}
    assert pairs >= {
        ("cfvid.__main__", "cfvid.cli"),
        ("cfvid.cli", "cfvid.pipeline"),  # inside a function
        ("cfvid.data_cli", "cfvid.data.manifest"),  # for type checkers
        ("cfvid.data.readers", "cfvid.data.embedded"),  # from cfvid.data import embedded
        ("cfvid.stages", "cfvid.stages.cluster"),
        ("cfvid.artifacts", "cfvid"),
    }
    assert len(modules_of(PACKAGE)) > 50


# ---------------------------------------------------------------------------------------------- self-checks


def package(root: Path, **files: str) -> Path:
    """A package `p`; double underscores in names are folders."""
    folder = root / "p"
    (folder / "low").mkdir(parents=True)
    (folder / "high").mkdir()
    for name in ("__init__", "high/__init__", "low/__init__", "high/a", "high/b", "low/c", "main"):
        (folder / f"{name}.py").write_text(files.get(name.replace("/", "_").strip("_"), ""))
    return folder


@pytest.mark.parametrize(
    "line",
    [
        "import p.low",
        "import p.low.c as x",
        "from p.low.c import name",
        "from p.low import c",
        "from p import low",
        "from ..low import c",
        "from .. import low",
        "from ..low.c import name",
        "def f():\n    from p.low import c",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from p.low import c",
        "try:\n    import p.low.c\nexcept ImportError:\n    pass",
        "import importlib\nimportlib.import_module('p.low.c')",
        "class A:\n    import p.low",
    ],
)
def test_a_planted_back_arrow_is_found(line: str, tmp_path: Path) -> None:
    order = ("high", "low", "main")
    fine = package(tmp_path / "fine", low_c="from p.high.a import x\nfrom ..high import b", main="import p.low.c, os")
    assert back_arrows(fine, order) == []
    faulty = package(tmp_path / "faulty", high_a=line)
    [told] = back_arrows(faulty, order)
    assert told.startswith("p/high/a.py:")
    assert "p.high.a imports p.low" in told


def test_planted_circles_and_unlisted_modules_are_found(tmp_path: Path) -> None:
    inside = package(tmp_path / "1", high_a="from p.high import b", high_b="def f():\n    from p.high.a import x")
    assert circle(inside) == ["p.high.a", "p.high.b", "p.high.a"]
    by_package = package(tmp_path / "2", high___init="from p.high.a import x", high_a="from p.high import x")
    (by_package / "high" / "__init__.py").write_text("from p.high.a import x")
    assert circle(by_package) == ["p.high", "p.high.a", "p.high"]
    longer = package(tmp_path / "3", high_a="import p.low.c", low_c="import p.main", main="import p.high.a")
    assert circle(longer) is not None
    assert circle(package(tmp_path / "4", high_a="import p.high.b", low_c="import p.high.a, p.high.b")) is None
    assert back_arrows(inside, ("high", "main")) == ["low has no place in the order"]
    (inside / "__init__.py").write_text("from p.high import a")
    assert "is imported by all" in back_arrows(inside, ("high", "low", "main"))[0]


# ---------------------------------------------------------------------------------------------- modalities


def branches_on(names: set[str], source: str) -> list[int]:
    """Lines that compare something with one of these texts, match it, or look it up by them."""
    lines = []
    for node in ast.walk(ast.parse(source)):
        operands: list[ast.expr | None] = []
        if isinstance(node, ast.Compare):
            operands = [node.left, *node.comparators]
        elif isinstance(node, ast.MatchValue):
            operands = [node.value]
        elif isinstance(node, ast.Dict):
            operands = list(node.keys)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            operands = list(node.args) if node.func.attr in ("startswith", "endswith", "__eq__") else []
        constants = [
            leaf.value
            for operand in operands
            if operand
            for leaf in ast.walk(operand)
            if isinstance(leaf, ast.Constant)
        ]
        lines += [node.lineno] if names.intersection(c for c in constants if isinstance(c, str)) else []
    return lines


def test_no_code_asks_for_the_modality_by_name() -> None:
    found = [
        f"{path.relative_to(PACKAGE)}:{line}"
        for module, path in modules_of(PACKAGE).items()
        if not module.startswith("cfvid.modalities")
        for line in branches_on(set(MODALITIES), path.read_text(encoding="utf-8"))
    ]
    assert found == []


@pytest.mark.parametrize(
    "line",
    [
        "if name == 'video': pass",
        "x = 1 if 'image' != name else 2",
        "y = name in ('frame', 'other')",
        "match name:\n    case 'video': pass",
        "z = {'video': 1, 'image': 2}[name]",
        "w = name.startswith('video')",
    ],
)
def test_a_planted_branch_is_found(line: str) -> None:
    assert branches_on(set(MODALITIES), line)
    assert not branches_on(set(MODALITIES), line.replace("video", "a").replace("image", "b").replace("frame", "c"))
