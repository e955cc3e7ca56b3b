"""The command line: thin, all work is in the functions it calls.

cfvid train --modality video                         the embedded default, end to end
cfvid train --config my.yaml --output runs/a --cluster.num_clusters 64
cfvid cluster --output runs/a                        one stage of a run folder, with its own configuration
"""

from __future__ import annotations

import argparse
import difflib
import logging
import os
import sys
from collections import Counter
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from cfvid import __version__
from cfvid.errors import CfvidError, ConfigError

if TYPE_CHECKING:
    from cfvid.config import RunConfig

STAGE_HELP = {
    "train": "all stages in order, skipping what is done",
    "pretrain": "N_pre, from labels or from weights that you bring",
    "extract": "the features of the pool by N_pre",
    "cluster": "pseudo-labels from the features",
    "retrain": "N_cf, a new network from scratch on the pseudo-labels",
    "transfer": "score N_pre, N_cf and a random network on the targets",
    "report": "report.json, report.html and a table",
}
_STAGE_FLAGS = ("modality", "config", "output", "fresh", "print-config", "dry-run", "verbose")


class _Parser(argparse.ArgumentParser):
    """Errors as exceptions, so that every fault has one look and one exit code."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{self.prog}: {message}", fix=f"{self.prog} --help lists what there is.")


def build_parser() -> argparse.ArgumentParser:
    """The parser; keys of the configuration are not its arguments but are read from what it leaves over."""
    parser = _Parser(prog="cfvid", description="ClusterFit for images and videos.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"cfvid {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=_Parser)
    for name, text in STAGE_HELP.items():
        _add_stage_arguments(
            commands.add_parser(
                name,
                help=text,
                description=f"{text[0].upper()}{text[1:]}.",
                epilog="Any key of the configuration can follow as --section.key VALUE; --print-config lists them.",
                allow_abbrev=False,
            )
        )
    text = "versions, devices, decoders, disk; what to mend"
    commands.add_parser("doctor", help=text, description=f"Prints {text}.", allow_abbrev=False)
    _add_manifest_arguments(
        commands.add_parser(
            "manifest",
            help="make a manifest from folders or a CSV",
            description="Lists the samples of a source in a file that can be edited and named as a source itself.",
            allow_abbrev=False,
        )
    )
    assign = commands.add_parser(
        "assign",
        help="assign new samples to a run's clusters",
        description="Writes sample_id, cluster and distance (squared) of every readable sample of a source.",
        epilog="Any key of the configuration can follow as --section.key VALUE, e.g. --runtime.device cpu.",
        allow_abbrev=False,
    )
    assign.add_argument("source", metavar="SOURCE", help="class folders, a CSV or Parquet manifest, or embedded:NAME")
    assign.add_argument("--output", type=Path, required=True, metavar="DIR", help="the run folder")
    assign.add_argument("--out", type=Path, required=True, metavar="FILE", help="a .parquet file of pseudo-labels")
    return parser


def _add_manifest_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SOURCE", help="class folders, a CSV, or embedded:NAME")
    parser.add_argument("--modality", required=True, help="video, image or frame: whose media files to take")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="a .csv or .parquet file")
    parser.add_argument("--media-root", type=Path, metavar="DIR", help="where the paths in a CSV start")
    parser.add_argument("--label-separator", metavar="TEXT", help="splits the labels in a CSV, e.g. '|'")
    parser.add_argument(
        "--trusted-root",
        type=Path,
        metavar="DIR",
        action="append",
        default=[],
        help="a folder that paths and links may lead to besides the source's own; can be repeated",
    )


def _add_stage_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--modality", help="video, image or frame: starts from its shipped defaults")
    parser.add_argument("--config", metavar="FILE", help="a YAML file, or the name of a shipped one")
    parser.add_argument("--output", type=Path, metavar="DIR", help="the run folder (default: runs/NAME)")
    parser.add_argument("--fresh", action="store_true", help="discard stages made from other inputs")
    parser.add_argument("--print-config", action="store_true", help="print the resolved configuration and stop")
    parser.add_argument("--dry-run", action="store_true", help="check everything, print the plan and stop")
    parser.add_argument("-v", "--verbose", action="store_true", help="log details")


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(message)s")
    logging.getLogger("cfvid").setLevel(logging.INFO)
    try:
        options, rest = build_parser().parse_known_args(arguments)
        if options.command in STAGE_HELP:
            return _stage_command(options, rest)
        if options.command == "assign":
            return _assign(options, rest)
        if rest:
            raise ConfigError(
                f"cfvid {options.command}: unknown arguments: {' '.join(rest)}",
                fix=f"cfvid {options.command} --help lists what there is.",
            )
        return _doctor() if options.command == "doctor" else _manifest(options)
    except CfvidError as error:
        return _fail(error)
    except ImportError as error:
        from cfvid.doctor import explain

        missing = explain(error)
        if missing is None:
            raise
        return _fail(missing)
    except KeyboardInterrupt:
        print("cfvid: stopped; run the same command again to continue", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of the output is gone; nor can what is left in the buffer be written when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _fail(error: CfvidError) -> int:
    print(f"cfvid: {error}", file=sys.stderr)
    return error.exit_code


def _stage_command(options: argparse.Namespace, overrides: list[str]) -> int:
    if options.verbose:
        logging.getLogger("cfvid").setLevel(logging.DEBUG)
    from cfvid.pipeline import STAGES, describe_plan, run_stages
    from cfvid.stages.context import dump_config

    config = load(overrides, modality=options.modality, config=options.config, output=options.output)
    if options.print_config:
        print(dump_config(config), end="", flush=True)
        return 0
    output = options.output or Path("runs") / Path(options.config or config.modality).stem
    if options.dry_run:
        print("\n".join(describe_plan(config, output)), flush=True)
        return 0
    _warn_of_twins()
    stages = list(STAGES) if options.command == "train" else [options.command]
    run_stages(config, output, stages=stages, fresh=options.fresh)
    return 0


def load(
    overrides: Sequence[str],
    *,
    modality: str | None = None,
    config: str | None = None,
    output: Path | None = None,
) -> RunConfig:
    """The configuration that a command line names.

    Args:
        overrides: `--section.key VALUE` tokens.
        modality: starts from its shipped defaults.
        config: a YAML file, or the name of a shipped one; without a modality, its own decides the defaults.
        output: the run folder, whose own configuration is taken when neither is given.

    Raises:
        ConfigError: with every fault of every layer.
    """
    from cfvid.config import load_config
    from cfvid.modalities import MODALITIES
    from cfvid.models.zoo import ARCHITECTURES
    from cfvid.yaml_layers import from_overrides, read_yaml

    last = from_overrides(overrides, flags=_STAGE_FLAGS)
    layers = []
    stored = output / "config.yaml" if output else None
    if config:
        path = Path(config)
        layers.append(read_yaml(path if path.suffix or path.is_file() else shipped_config(config)))
    elif modality is None and stored is not None and stored.is_file():
        layers.append(read_yaml(stored))  # a run folder knows its own configuration, defaults included
    elif modality is None:
        faults = "".join(f"\n    {fault}" for fault in last.faults)
        raise ConfigError(
            f"Which modality?{faults}", fix=f"Give --modality {{{','.join(MODALITIES)}}}, or --config FILE."
        )
    if modality is not None:
        last.values["modality"] = modality
    chosen = modality if modality is not None else layers[0].values.get("modality")
    if isinstance(chosen, str) and chosen in MODALITIES:
        layers.insert(0, read_yaml(shipped_config(chosen)))
    dims = {name: architecture.dims for name, architecture in ARCHITECTURES.items()}
    return load_config([*layers, last], modalities=MODALITIES, architectures=dims)


def shipped_config(name: str) -> Path:
    """The YAML file of a shipped configuration: in a checkout beside the package, else where pip put it.

    Raises:
        ConfigError: listing those that exist.
    """
    checkout = Path(__file__).parent.parent
    if (checkout / "pyproject.toml").is_file():
        files = {path.stem: path for path in (checkout / "configs").glob("*.yaml")}
    else:
        shipped = metadata.files("cfvid") or []
        files = {f.stem: Path(str(f.locate())) for f in shipped if "share/cfvid/configs" in f.as_posix()}
    if name not in files:
        near = difflib.get_close_matches(name, files, n=1)
        raise ConfigError(
            f"There is no shipped configuration {name!r}" + (f"; did you mean {near[0]}?" if near else "."),
            fix=f"Name a file, or one of {', '.join(sorted(files))}.",
        )
    return files[name]


def _warn_of_twins() -> None:
    from cfvid.doctor import find_twins

    for advice in find_twins():
        logging.getLogger(__name__).warning("%s", advice)


def _doctor() -> int:
    from cfvid.doctor import examine

    logging.getLogger("cfvid").setLevel(logging.WARNING)
    return examine()


def _manifest(options: argparse.Namespace) -> int:
    from cfvid.config import DataConfig, SourceConfig
    from cfvid.data.manifest_files import SEPARATOR, write_manifest
    from cfvid.data.readers import read_source
    from cfvid.modalities import MODALITIES
    from cfvid.stages.context import cache_folder

    if options.modality not in MODALITIES:
        raise ConfigError(f"--modality: {options.modality!r} is not one of {', '.join(MODALITIES)}")
    source = SourceConfig(
        path=options.source,
        media_root=str(options.media_root) if options.media_root else None,
        label_separator=options.label_separator,
    )
    data = DataConfig(pretrain=[source], targets={}, trusted_roots=[str(root) for root in options.trusted_root])
    suffixes = MODALITIES[options.modality].suffixes
    manifest = read_source(source, data=data, suffixes=suffixes, cache=cache_folder())
    outside = write_manifest(manifest, options.out)
    splits = Counter(sample.split for sample in manifest)
    counts = ", ".join(f"{count} in {split!r}" for split, count in sorted(splits.items()))
    print(f"{options.out}: {len(manifest)} samples ({counts}), {len(manifest.classes)} classes", flush=True)
    if options.out.suffix.lower() == ".csv" and any(len(sample.labels) > 1 for sample in manifest):
        print(f"Samples have several labels: read it with label_separator: '{SEPARATOR}'.")
    for root in outside:
        print(f"Its paths into {root} are absolute: name that folder in data.trusted_roots to use them.")
    return 0


def _assign(options: argparse.Namespace, overrides: Sequence[str]) -> int:
    from cfvid.artifacts import own_folder
    from cfvid.config import SourceConfig
    from cfvid.data.readers import EMBEDDED_PREFIX
    from cfvid.stages import Run
    from cfvid.stages.assign import assign_new

    if not (options.output / "config.yaml").is_file():
        raise ConfigError(f"{options.output} is no run folder: it has no config.yaml.", fix="Name one with --output.")
    config = load(overrides, output=options.output)
    path = options.source if options.source.startswith(EMBEDDED_PREFIX) else str(Path(options.source).absolute())
    with own_folder(options.output):
        num_assigned = assign_new(Run(config, options.output), SourceConfig(path=path), options.out)
    print(f"{options.out}: {num_assigned} samples", flush=True)
    return 0
