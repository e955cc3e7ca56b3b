"""What the tasks without labels ask: on inputs of which the right answer can be read off."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch

from cfvid.data.loader import Batch
from cfvid.sections.stages import PretrainConfig
from cfvid.tasks import TASKS
from cfvid.tasks.clip_order import ShuffledPieces
from cfvid.tasks.jigsaw import ShuffledTiles
from cfvid.tasks.permutation import PermutationNetwork, choose_permutations
from cfvid.tasks.rotation import Rotations


def batch_of(views: torch.Tensor) -> Batch:
    return Batch([f"s{i}" for i in range(len(views))], views[:, None], list(range(100, 100 + len(views))))


def test_the_configuration_knows_all_tasks() -> None:
    assert list(get_args(PretrainConfig.model_fields["task"].annotation)) == list(TASKS)


# ---------------------------------------------------------------------------------------------- rotation


def test_rotations_are_quarter_turns_to_the_left() -> None:
    picture = torch.tensor([[1, 2], [3, 4]], dtype=torch.uint8)
    by_hand = torch.tensor([[[1, 2], [3, 4]], [[2, 4], [1, 3]], [[4, 3], [2, 1]], [[3, 1], [4, 2]]], dtype=torch.uint8)
    views = torch.stack([picture, picture + 10])[:, None].expand(2, 3, 2, 2)
    examples = Rotations().examples(views, batch_of(views))
    assert examples.target.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    for row, (turned, target) in enumerate(zip(examples.inputs, examples.target, strict=True)):
        assert torch.equal(turned, (by_hand[target] + 10 * (row % 2)).expand(3, 2, 2))


def test_all_frames_of_a_clip_are_turned_alike() -> None:
    frame = torch.arange(9, dtype=torch.uint8).view(3, 3)
    clip = torch.stack([frame, frame + 20])[None, None].expand(1, 3, 2, 3, 3)
    inputs = Rotations().examples(clip, batch_of(clip)).inputs
    assert inputs.shape == (4, 3, 2, 3, 3)
    assert torch.equal(inputs[1, 0, 1], torch.rot90(frame + 20))


# ---------------------------------------------------------------------------------------------- permutations


def smallest_distance(permutations: np.ndarray) -> int:
    distances = (permutations[:, None] != permutations[None]).sum(-1)
    return int(distances[~np.eye(len(permutations), dtype=bool)].min())


def test_permutations_are_far_from_each_other() -> None:
    chosen = choose_permutations(9, 100)
    assert chosen.shape == (100, 9)
    assert (np.sort(chosen, axis=1) == np.arange(9)).all()
    rng = np.random.default_rng(0)
    drawn = [smallest_distance(np.stack([rng.permutation(9) for _ in range(100)])) for _ in range(20)]
    assert smallest_distance(chosen) == 6
    assert max(drawn) < 6
    assert (choose_permutations(9, 24) == chosen[:24]).all()
    assert smallest_distance(chosen[:24]) == 7


def test_all_permutations_can_be_chosen() -> None:
    assert {tuple(row) for row in choose_permutations(3, 6).tolist()} == {
        (0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0),
    }  # fmt: skip


def test_pieces_of_one_sample_meet_in_the_head() -> None:
    class Mean(torch.nn.Module):
        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            return batch.mean((2, 3))

    network = PermutationNetwork(Mean(), feature_dim=1, num_pieces=3, num_classes=3)
    torch.nn.init.eye_(network.head.weight)
    pieces = torch.arange(6.0).view(6, 1, 1, 1).expand(6, 1, 4, 4)
    assert network(pieces).tolist() == [[0, 1, 2], [3, 4, 5]]


# ---------------------------------------------------------------------------------------------- jigsaw


def test_tiles_land_where_the_permutation_says() -> None:
    cells = torch.arange(9, dtype=torch.uint8).view(3, 3).repeat_interleave(10, 0).repeat_interleave(10, 1)
    views = torch.nn.functional.pad(cells, (0, 2, 0, 1), value=99).expand(12, 3, 31, 32)  # what is over is left out
    permutations = choose_permutations(9, 5)
    examples = ShuffledTiles(permutations).examples(views, batch_of(views))
    assert examples.inputs.shape == (12 * 9, 3, 8, 8)
    assert examples.inputs.dtype == torch.uint8
    tiles = examples.inputs.reshape(12, 9, -1)
    assert torch.equal(tiles.amin(2), tiles.amax(2))  # no tile reaches into another cell
    assert tiles[..., 0].tolist() == permutations[examples.target.numpy()].tolist()
    assert len(examples.target.unique()) > 2


def test_tiles_are_random_parts_of_their_cells_and_some_pictures_are_grey() -> None:
    rows, columns = torch.meshgrid(torch.arange(30), torch.arange(30), indexing="ij")
    views = torch.stack([rows, columns, rows]).to(torch.uint8).expand(64, 3, 30, 30)
    tiles = ShuffledTiles(choose_permutations(9, 2)).examples(views, batch_of(views)).inputs.reshape(64, 9, 3, 8, 8)
    is_grey = (tiles[:, :, 0] == tiles[:, :, 1]).flatten(1).all(1)
    assert 0.1 < is_grey.float().mean() < 0.5
    corners = tiles[~is_grey][:, :, :2, 0, 0] % 10
    assert set(corners.flatten().tolist()) == {0, 1, 2}
    again = ShuffledTiles(choose_permutations(9, 2)).examples(views, batch_of(views)).inputs
    assert torch.equal(again, tiles.flatten(0, 1))


# ---------------------------------------------------------------------------------------------- clip order


def test_pieces_land_where_the_permutation_says_with_gaps_between_them() -> None:
    views = torch.arange(16, dtype=torch.uint8).view(1, 1, 16, 1, 1).expand(20, 3, 16, 2, 2)
    orders = choose_permutations(3, 6)
    examples = ShuffledPieces(orders, num_frames=4, gap=2).examples(views, batch_of(views))
    assert examples.inputs.shape == (60, 3, 4, 2, 2)
    frames = examples.inputs.reshape(20, 3, 3, 4, 4)[:, :, 0, :, 0].numpy()
    first = np.array([0, 6, 12])
    assert (frames == first[orders[examples.target.numpy()]][..., None] + np.arange(4)).all()
    assert len(examples.target.unique()) > 3


@pytest.mark.parametrize("name", TASKS)
def test_tasks_say_which_networks_they_are_for(name: str) -> None:
    assert TASKS[name].dims <= {2, 3}
    assert TASKS[name].needs_labels == (name == "labels")
