"""The command line: thin, all work is in the functions it calls.

cfvid train --modality video                         the embedded default, end to end
cfvid train --config my.yaml --output runs/a --cluster.num_clusters 64
cfvid cluster --output runs/a                        one stage of a run folder, with its own configuration
cfvid experiment label-noise --size small            whole runs compared over several seeds
cfvid data prepare hmdb51 --root DIR --out hmdb51.parquet --fold 1
"""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from cfvid import __version__, launch
from cfvid.data_cli import (
    add_data_arguments,
    add_source_arguments,
    describe_manifest,
    read_named_source,
    run_data,
)
from cfvid.errors import CfvidError, ConfigError
from cfvid.option_names import named_by_options

STAGE_HELP = {
    "train": "all stages in order (but for the estimate), skipping what is done",
    "pretrain": "N_pre, from labels or from weights that you bring",
    "extract": "the features of the pool by N_pre",
    "cluster": "pseudo-labels from the features",
    "estimate": "what the pseudo-labels promise, before the retraining is paid for",
    "retrain": "N_cf, a new network from scratch on the pseudo-labels",
    "transfer": "score N_pre, N_cf and a random network on the targets",
    "report": "report.json, report.html and a table",
}
NETWORKS = ("n_cf", "n_pre")
EXPORT_FORMATS = ("torchvision", "hub", "onnx", "torch-export")
_EXPERIMENT_FLAGS = ("size", "config", "seeds", "points", "arms", "output", "jobs", "dry-run")
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
    add_data_arguments(
        commands.add_parser(
            "data",
            help="data sets in their official layouts as manifests",
            description="Lists the data sets that have a card, or makes a manifest of one.",
            allow_abbrev=False,
        ),
        parser_class=_Parser,
    )
    _add_experiment_arguments(
        commands.add_parser(
            "experiment",
            help="compare whole runs over several seeds: the paper's tables",
            description="Runs an experiment, resuming what was begun, and says what its scores mean.",
            epilog="Any key of the configuration can follow as --section.key VALUE, for all runs: --data.root DIR.",
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
    assign.add_argument("source", metavar="SOURCE", help="class folders, a manifest, tar shards, or embedded:NAME")
    assign.add_argument("--output", type=Path, required=True, metavar="DIR", help="the run folder")
    assign.add_argument("--out", type=Path, required=True, metavar="FILE", help="a .parquet file of pseudo-labels")
    _add_export_arguments(
        commands.add_parser(
            "export",
            help="write N_cf or N_pre for other programs",
            description="Writes a run's network for torchvision and timm, the Hugging Face Hub, ONNX or torch.export.",
            allow_abbrev=False,
        )
    )
    return parser


def _add_export_arguments(parser: argparse.ArgumentParser) -> None:
    formats = "torchvision (.safetensors, .pth), hub (a folder with a model card), onnx (.onnx), torch-export (.pt2)"
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="the run folder")
    parser.add_argument("--network", choices=NETWORKS, default="n_cf", help="default: n_cf")
    parser.add_argument("--format", choices=EXPORT_FORMATS, required=True, help=formats)
    parser.add_argument("--out", type=Path, required=True, metavar="PATH", help="a file, or for hub a new folder")


def _add_experiment_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="a shipped experiment, or a YAML file; `list` lists them")
    parser.add_argument("--size", choices=["smoke", "small", "paper"], default="small", help="default: small")
    parser.add_argument("--config", metavar="FILE", help="data and settings instead of the size's")
    parser.add_argument("--output", type=Path, metavar="DIR", help="default: runs/experiments/NAME-SIZE[-FILE]")
    parser.add_argument("--seeds", type=int, nargs="+", metavar="SEED", help="instead of the size's")
    parser.add_argument("--points", nargs="+", metavar="POINT", help="only these of what varies")
    parser.add_argument("--arms", nargs="+", metavar="ARM", help="only these of what is compared")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="groups of runs at a time (default: 1)")
    parser.add_argument("--dry-run", action="store_true", help="check every run's configuration, list them and stop")


def _add_manifest_arguments(parser: argparse.ArgumentParser) -> None:
    add_source_arguments(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="a .csv or .parquet file")


def _add_stage_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--modality", help="video, image or frame: starts from its shipped defaults")
    parser.add_argument("--config", metavar="FILE", help="a YAML file, or the name of a shipped one")
    parser.add_argument("--output", type=Path, metavar="DIR", help="the run folder (default: runs/NAME)")
    parser.add_argument("--fresh", action="store_true", help="discard stages made from other inputs")
    parser.add_argument("--print-config", action="store_true", help="print the resolved configuration and stop")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="check everything, print the plan with an estimate of time, memory and disk, and stop",
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="log details")


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    try:
        launch.check()
    except ConfigError as error:
        print(f"cfvid: {error}", file=sys.stderr)
        return error.exit_code
    rank = launch.rank()
    of_rank = f"[rank {rank}] " if rank else ""
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format=f"{of_rank}%(message)s")
    logging.getLogger("cfvid").setLevel(logging.WARNING if rank else logging.INFO)
    try:
        options, rest = build_parser().parse_known_args(arguments)
        if options.command in STAGE_HELP:
            return _stage_command(options, rest)
        if launch.num_processes() > 1:
            raise ConfigError(
                f"cfvid {options.command} is the work of one process, not of {launch.num_processes()}.",
                fix=f"Start it without torchrun; {', '.join(STAGE_HELP)} can be started with it.",
            )
        if options.command == "assign":
            return _assign(options, rest)
        if options.command == "experiment":
            return _experiment(options, rest)
        if rest:
            raise ConfigError(
                f"cfvid {options.command}: unknown arguments: {' '.join(rest)}",
                fix=f"cfvid {options.command} --help lists what there is.",
            )
        return _OTHERS[options.command](options)
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
    rank = launch.rank()
    print(f"cfvid: {f'rank {rank}: ' if rank else ''}{error}", file=sys.stderr)
    return error.exit_code


def _stage_command(options: argparse.Namespace, overrides: list[str]) -> int:
    if options.verbose and launch.rank() == 0:
        logging.getLogger("cfvid").setLevel(logging.DEBUG)
    from cfvid import ranks
    from cfvid.loading import load
    from cfvid.pipeline import TRAIN, describe_plan, run_stages
    from cfvid.stages.context import CONFIG_NAME, dump_config

    config = load(
        overrides,
        modality=options.modality,
        config=options.config,
        stored=options.output / CONFIG_NAME if options.output else None,
        flags=_STAGE_FLAGS,
    )
    if (options.print_config or options.dry_run) and launch.rank():
        return 0
    if options.print_config:
        print(dump_config(config), end="", flush=True)
        return 0
    output = options.output or Path("runs") / Path(options.config or config.modality).stem
    if options.dry_run:
        print("\n".join(describe_plan(config, output)), flush=True)
        return 0
    _warn_of_twins()
    stages = TRAIN if options.command == "train" else [options.command]
    run_stages(config, output, stages=stages, fresh=options.fresh)
    ranks.leave()
    return 0


def _warn_of_twins() -> None:
    from cfvid.doctor import find_twins

    for advice in find_twins():
        logging.getLogger(__name__).warning("%s", advice)


def _doctor(_options: argparse.Namespace) -> int:
    from cfvid.doctor import examine

    logging.getLogger("cfvid").setLevel(logging.WARNING)
    return examine()


def _manifest(options: argparse.Namespace) -> int:
    from cfvid.data.manifest_files import write_manifest

    with named_by_options(options):
        manifest = read_named_source(options)
        outside = write_manifest(manifest, options.out)
    print("\n".join(describe_manifest(manifest, options.out, outside=outside)), flush=True)
    return 0


def _export(options: argparse.Namespace) -> int:
    from cfvid.stages.export import export

    told = export(options.output, options.out, network=options.network, format=options.format)
    print(f"{options.out}: {told}", flush=True)
    return 0


def _experiment(options: argparse.Namespace, overrides: Sequence[str]) -> int:
    from cfvid.experiments.cells import expand
    from cfvid.experiments.experiment import describe, run_experiment
    from cfvid.experiments.spec import narrowed, on_data_of, read_experiment
    from cfvid.loading import read_named, shipped_files
    from cfvid.yaml_layers import from_overrides

    if options.name == "list":
        for name in sorted(shipped_files("experiments")):
            print(f"{name:18} {read_experiment(name).question}")
        return 0
    if options.jobs < 1:
        raise ConfigError(f"--jobs is {options.jobs}; at least 1 group of runs can be done at a time.")
    chosen = {"seeds": options.seeds, "points": options.points, "arms": options.arms}
    layer = from_overrides(overrides, flags=_EXPERIMENT_FLAGS)
    config = read_named(options.config) if options.config else None
    experiment = on_data_of(read_experiment(options.name), options.size, [*([config] if config else []), layer])
    experiment = narrowed(experiment, options.size, **chosen)
    named = [options.name, options.size, *([options.config] if config else [])]
    output = options.output or Path("runs/experiments") / "-".join(Path(part).stem for part in named)
    if options.dry_run:
        groups = expand(experiment, size=options.size, output=output, config=config, overrides=layer)
        print("\n".join(describe(experiment, groups)), flush=True)
        return 0
    _warn_of_twins()
    words = ["cfvid", "experiment", options.name, "--size", options.size]
    words += ["--config", options.config] if config else []
    for flag, values in chosen.items():
        words += [f"--{flag}", *map(str, values)] if values else []
    words += ["--jobs", str(options.jobs)] if options.jobs > 1 else []
    command = shlex.join([*words, *overrides])
    run_experiment(
        experiment, output, size=options.size, jobs=options.jobs, config=config, overrides=layer, command=command
    )
    return 0


def _assign(options: argparse.Namespace, overrides: Sequence[str]) -> int:
    from cfvid.data.shard_names import PIPE_PREFIX
    from cfvid.folder_lock import own_folder
    from cfvid.loading import load
    from cfvid.media.source import is_url
    from cfvid.sections.data import EMBEDDED_PREFIX, SourceConfig
    from cfvid.stages import Run
    from cfvid.stages.assign import assign_new
    from cfvid.stages.context import CONFIG_NAME

    stored = options.output / CONFIG_NAME
    if not stored.is_file():
        raise ConfigError(f"{options.output} is no run folder: it has no config.yaml.", fix="Name one with --output.")
    config = load(overrides, stored=stored, flags=_STAGE_FLAGS)
    is_place = not options.source.startswith((EMBEDDED_PREFIX, PIPE_PREFIX)) and not is_url(options.source)
    path = str(Path(options.source).absolute()) if is_place else options.source
    with own_folder(options.output):
        num_assigned = assign_new(Run(config, options.output), SourceConfig(path=path), options.out)
    print(f"{options.out}: {num_assigned} samples", flush=True)
    return 0


_OTHERS = {"doctor": _doctor, "manifest": _manifest, "data": run_data, "export": _export}
"""Commands that no key of the configuration can follow."""
