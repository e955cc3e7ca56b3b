"""The command line: thin, all work is in the functions it calls.

    cfvid train --modality video                         the embedded default, end to end
    cfvid train --config my.yaml --output runs/a --cluster.num_clusters 64
    cfvid cluster --output runs/a                        one stage of a run folder, with its own configuration
"""

from __future__ import annotations

import argparse
import logging
import sys
from importlib import metadata
from pathlib import Path
from typing import NoReturn

from cfvid import __version__
from cfvid.errors import CfvidError, ConfigError

STAGE_HELP = {
    "train": "all stages in order, skipping what is done",
    "pretrain": "N_pre, from labels or from weights that you bring",
    "extract": "the features of the pool by N_pre",
    "cluster": "pseudo-labels from the features",
    "retrain": "N_cf, a new network from scratch on the pseudo-labels",
    "transfer": "score N_pre, N_cf and a random network on the targets",
    "report": "report.json, report.html and a table",
}


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
    commands.add_parser("doctor", help="versions, devices, decoders, disk; what to mend", allow_abbrev=False)
    manifest = commands.add_parser("manifest", help="make a manifest from folders or a CSV", allow_abbrev=False)
    manifest.add_argument("source", help="class folders, a CSV, or embedded:NAME")
    manifest.add_argument("--modality", required=True, help="whose media files to take")
    manifest.add_argument("--out", type=Path, required=True, metavar="FILE", help=".csv or .parquet")
    assign = commands.add_parser("assign", help="assign new samples to a run's clusters", allow_abbrev=False)
    assign.add_argument("source", help="class folders, a CSV or Parquet manifest, or embedded:NAME")
    assign.add_argument("--output", type=Path, required=True, metavar="DIR", help="the run folder")
    assign.add_argument("--out", type=Path, required=True, metavar="FILE", help="a Parquet file of pseudo-labels")
    return parser


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
        if rest:
            raise ConfigError(f"cfvid {options.command}: unknown arguments: {' '.join(rest)}")
        return _OTHER_COMMANDS[options.command](options)
    except CfvidError as error:
        print(f"cfvid: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("cfvid: stopped; run the same command again to continue", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 1


def _stage_command(options: argparse.Namespace, overrides: list[str]) -> int:
    if options.verbose:
        logging.getLogger("cfvid").setLevel(logging.DEBUG)
    from cfvid.pipeline import STAGES, describe_plan, dump_config, run_stages

    config = load(options, overrides)
    if options.print_config:
        print(dump_config(config), end="")
        return 0
    output = options.output or Path("runs") / Path(options.config or config.modality).stem
    if options.dry_run:
        print("\n".join(describe_plan(config, output)))
        return 0
    stages = list(STAGES) if options.command == "train" else [options.command]
    run_stages(config, output, stages=stages, fresh=options.fresh)
    return 0


def load(options: argparse.Namespace, overrides: list[str]):  # type: ignore[no-untyped-def]
    """The configuration that the options name.

    Raises:
        ConfigError: with every fault of every layer.
    """
    from cfvid.config import load_config
    from cfvid.modalities import MODALITIES
    from cfvid.models.zoo import ARCHITECTURES
    from cfvid.yaml_layers import Layer, from_overrides, read_yaml

    layers: list[Layer] = []
    last = from_overrides(overrides)
    if options.config:
        path = Path(options.config)
        layers.append(read_yaml(path if path.suffix else shipped_config(options.config)))
    stored = options.output / "config.yaml" if options.output else None
    modality = options.modality or (layers[0].values.get("modality") if layers else None)
    if modality is None and not layers and stored is not None and stored.is_file():
        layers.append(read_yaml(stored))  # a run folder knows its own configuration, defaults included
    elif modality in MODALITIES:
        layers.insert(0, read_yaml(shipped_config(modality)))
    elif modality is None and not last.faults:
        raise ConfigError("Which modality?", fix=f"Give --modality {{{','.join(MODALITIES)}}}, or --config FILE.")
    if options.modality:
        last.values["modality"] = options.modality
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
        raise ConfigError(
            f"There is no shipped configuration {name!r}.", fix=f"Name a file, or one of {', '.join(sorted(files))}."
        )
    return files[name]


def _doctor(_options: argparse.Namespace) -> int:
    from cfvid.doctor import examine

    return examine()


def _manifest(options: argparse.Namespace) -> int:
    raise NotImplementedError


def _assign(options: argparse.Namespace) -> int:
    raise NotImplementedError


_OTHER_COMMANDS = {"doctor": _doctor, "manifest": _manifest, "assign": _assign}
