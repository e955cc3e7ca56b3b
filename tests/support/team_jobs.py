"""What several processes do in tests: each function is called by every one of them."""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import resource
import signal
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from support.tiny import configure
from support.zygote import die_at_call
from torch import nn

from cfvid import launch, ranks
from cfvid.artifacts import Record
from cfvid.clustering import passes
from cfvid.clustering.hierarchical_engine import HierarchicalEngine
from cfvid.clustering.streaming_engine import StreamingEngine
from cfvid.data.sample_ids import SampleIds
from cfvid.errors import CfvidError
from cfvid.media.guard import GuardedPool
from cfvid.pipeline import run_stages
from cfvid.stages import Run, context
from cfvid.stages.soft_labels import forget_soft_labels, map_soft_labels
from cfvid.training import loop, objective
from cfvid.training.targets import Targets

_PATIENCE_S = 120
"""After which a process that hangs says where, and ends."""


def run(job: str, arguments: list[Any]) -> int:
    """Call a function of this module; gives an exit code as the command line does."""
    logging.getLogger("cfvid").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    faulthandler.dump_traceback_later(_PATIENCE_S, exit=True)
    try:
        globals()[job](*arguments)
    except CfvidError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except BaseException:
        traceback.print_exc()
        return 99
    return 0


def stages(config: str, output: str, names: list[str]) -> None:
    """Stages of a run."""
    run_stages(configure(json.loads(Path(config).read_text())), Path(output), stages=names)


def stages_of_one_reading(config: str, output: str, names: list[str]) -> None:
    """As `stages`, where the sources can be read by the main process alone."""

    def unreadable(*arguments: Any, **options: Any) -> Any:
        raise AssertionError(f"rank {launch.rank()} reads a source")

    if launch.rank():
        context.read_sources = unreadable
    stages(config, output, names)


def stages_on_two_machines(config: str, output: str, names: list[str], cache: str) -> None:
    """As `stages`, where the last process has a cache of its own and cannot see the main one's media."""
    values = json.loads(Path(config).read_text())
    values["data"]["pretrain"] = {"path": "embedded:textures", "per_class": [2, 1]}
    values["runtime"] |= {"cache": f"{cache}{launch.rank()}"}
    if launch.rank():
        context._are_there = lambda roots: all(root.startswith(f"{cache}1") for root in roots)
    run_stages(configure(values), Path(output), stages=names)


def stages_until(config: str, output: str, names: list[str], step: int, rank: int, what: str) -> None:
    """As `stages`, but at a step of the training one rank is told to stop (`SIGTERM`), killed, or sees a `nan`."""
    forward, calls = loop._forward, 0

    def disturbed(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        is_it = calls == step and ranks.rank() == rank
        if is_it and what == "SIGKILL":
            os.kill(os.getpid(), signal.SIGKILL)
        if is_it and what == "SIGTERM":
            os.kill(os.getpid(), signal.SIGTERM)
        loss, mass, sums = forward(*arguments)
        if is_it and what == "nan":
            sums[1] = float("nan")
        return loss, mass, sums

    loop._forward = disturbed
    stages(config, output, names)


def stages_counting_looks(config: str, output: str, names: list[str], tried: str) -> None:
    """As `stages`; each rank writes the ids of the samples that it has given to decoders into a file."""
    looks: list[str] = []
    imap = GuardedPool.imap

    def counting(self: GuardedPool, payloads: Any, **options: Any) -> Any:
        def counted() -> Iterator[Any]:
            for payload in payloads:
                looks.append(payload.sample_id)
                yield payload

        return imap(self, counted(), **options)

    GuardedPool.imap = counting  # type: ignore[method-assign]
    stages(config, output, names)
    Path(f"{tried}{launch.rank()}").write_text(json.dumps(looks))


def stages_with_little_disk(config: str, output: str, names: list[str], rank: int, num_bytes: int) -> None:
    """As `stages`, but one rank can write no file larger than that."""
    if launch.rank() == rank:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, num_bytes))
    stages(config, output, names)


def stages_in_parts(config: str, output: str, names: list[str], part_logits: int) -> None:
    """As `stages`, with logits that are made in parts of so many."""
    loop.MOST_LOGITS, objective._PART_LOGITS = 1, part_logits
    stages(config, output, names)


def stages_dying_at_write(config: str, output: str, names: list[str], call: int) -> None:
    """As `stages`, but the main rank is killed at its n-th write, fsync or rename."""
    if launch.rank() == 0:
        die_at_call(call)
    stages(config, output, names)


def plain_training(config: str, output: str) -> None:
    """A training of a network without batch normalisation, whose statistics would be those of each rank's share."""
    run, folder = Run(configure(json.loads(Path(config).read_text())), Path(output)), Path(output)
    accelerator, samples = run.accelerator, run.manifest("pretrain").split("train")
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, len(samples.classes)),
    )
    training = run.config.pretrain.training
    with run.loader(samples, stage="plain") as loader:
        data = loop.TrainingData(
            loader=loader,
            objective=Targets(samples.classes, samples.labels_by_id),
            modality=run.modality,
            ids=samples.ids,
            seed=0,
            stage="plain",
            batch_size=training.batch_size,
        )
        loop.train(network, data, config=training, folder=folder, accelerator=accelerator, runtime=run.config.runtime)
    save_file(
        {name: w.contiguous() for name, w in network.state_dict().items()},
        folder / f"weights{ranks.rank()}.safetensors",
    )


def collectives(out: str) -> None:
    """What the processes tell each other, as each has heard it."""
    _join()
    heard = {
        "rank": ranks.rank(),
        "from_main": ranks.from_main(f"said by {ranks.rank()}"),
        "gathered": ranks.gathered(ranks.rank()),
        "everywhere": ranks.everywhere(10 * ranks.rank()),
        "summed": ranks.summed([1, ranks.rank()]).tolist(),
        "shares": [ranks.shares(7), ranks.shares(3, smallest=2), ranks.shares(1, smallest=2)],
        "part": [ranks.own_part(7).start, ranks.own_part(7).stop],
    }
    with ranks.alone() as is_main:
        heard["alone"] = [is_main, ranks.count(), ranks.from_main(ranks.rank())] if is_main else [is_main]
    (Path(out) / f"heard{ranks.rank()}.json").write_text(json.dumps(heard))
    ranks.leave()


def clustering(points: str, out: str, engine: str, settings: dict[str, Any], num: int) -> None:
    """k-means over a file of points, and each point's nearest centroids."""
    _join()
    if not ranks.is_main():
        passes.follow()
        return
    streaming = StreamingEngine()
    chosen = streaming if engine == "streaming" else HierarchicalEngine(streaming)
    points_ND = np.load(points, mmap_mode="r")
    fitted = chosen.fit(points_ND, **settings)
    ids, distances = chosen.nearest(points_ND, fitted.centroids_KD, num=num)
    passes.dismiss()
    np.savez(out, centroids=fitted.centroids_KD, objective=fitted.objective, ids=ids, distances=distances)


def mapped_soft_labels(cluster: str, ids: list[str], out: str, all_alike: bool) -> None:
    """What each process sees of a cluster folder's soft labels."""
    _join()
    folder = Path(cluster)
    record = Record.read(folder, kind="pseudo-labels")
    soft = map_soft_labels(folder, record, SampleIds(ids), folder, all_alike=all_alike)
    assert soft is not None
    assert isinstance(soft.shares_NT, np.memmap)
    np.savez(f"{out}{ranks.rank()}.npz", classes=soft.classes_NT, shares=soft.shares_NT, num=soft.num_classes)
    ranks.barrier()
    forget_soft_labels(folder)


def _join() -> None:
    Accelerator(cpu=True)
    ranks.join()
