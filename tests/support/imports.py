"""Reads the imports of a package from its source, without running it."""

from __future__ import annotations

import ast
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Arrow:
    """One import of one module of the package by another."""

    module: str
    imported: str
    place: str
    """file:line."""


def modules_of(package: Path) -> dict[str, Path]:
    """Every module of a package by its dotted name."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def arrows_of(package: Path) -> list[Arrow]:
    """Every import inside the package: at the top, inside functions, and for type checkers alike."""
    modules = modules_of(package)
    arrows = []
    for module, path in modules.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            for name in _imported_by(node, module, is_package=path.name == "__init__.py"):
                target = next((n for n in _from_longest(name) if n in modules), None)
                if target is not None and target != module:
                    place = f"{path.relative_to(package.parent)}:{getattr(node, 'lineno', 0)}"
                    arrows.append(Arrow(module, target, place))
    return arrows


def _imported_by(node: ast.AST, module: str, *, is_package: bool) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            parts = module.split(".")
            home = parts[: len(parts) - node.level + is_package]
            base = ".".join([*home, *([node.module] if node.module else [])])
        yield from (f"{base}.{alias.name}" for alias in node.names)
    elif isinstance(node, ast.Call) and _called(node) in ("import_module", "__import__"):
        yield from (a.value for a in node.args[:1] if isinstance(a, ast.Constant) and isinstance(a.value, str))


def _called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def _from_longest(name: str) -> Iterator[str]:
    """a.b.c -> a.b.c, a.b, a: `from a.b import c` imports the module c, or a name of a.b."""
    parts = name.split(".")
    return (".".join(parts[:n]) for n in range(len(parts), 0, -1))


def back_arrows(package: Path, order: Sequence[str]) -> list[str]:
    """Imports that point down `order` (top first; names of files and folders of the package), and unlisted modules."""
    rank = {name: number for number, name in enumerate(order)}
    units = {module.split(".")[1] for module in modules_of(package) if "." in module}
    faults = [f"{unit} has no place in the order" for unit in sorted(units - rank.keys())]
    for arrow in arrows_of(package):
        names = [module.split(".")[1:2] for module in (arrow.module, arrow.imported)]
        (source,), (target,) = (names[0] or [""]), (names[1] or [""])
        if source in rank and target in rank and rank[target] > rank[source]:
            faults.append(f"{arrow.place}: {arrow.module} imports {arrow.imported}, which is further down")
        if source == "" and target:
            faults.append(f"{arrow.place}: {arrow.module} is imported by all, and imports {arrow.imported}")
    return faults


def circle(package: Path) -> list[str] | None:
    """Modules that import one another in a circle, or None."""
    following: dict[str, list[str]] = {module: [] for module in modules_of(package)}
    for arrow in arrows_of(package):
        following[arrow.module].append(arrow.imported)
    done: set[str] = set()

    def visit(module: str, way: list[str]) -> list[str] | None:
        if module in way:
            return [*itertools.dropwhile(lambda name: name != module, way), module]
        if module in done:
            return None
        done.add(module)
        return next(filter(None, (visit(name, [*way, module]) for name in following[module])), None)

    return next(filter(None, (visit(module, []) for module in following)), None)
