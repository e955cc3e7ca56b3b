"""Pieces of a sample in another order: which orders there are, and the network that tells them apart."""

from __future__ import annotations

import functools
import itertools
import math

import numpy as np
import torch
from torch import nn

from cfvid.models.zoo import Network, build_network
from cfvid.seeds import derive, stream


@functools.cache
def choose_permutations(num_pieces: int, count: int) -> np.ndarray:
    """Permutations that are far from each other, so that no two are told apart by one piece alone.

    Greedy, after Noroozi & Favaro (ECCV 2016): the next one has the largest smallest Hamming distance to those before
    it. Ties are broken by one fixed shuffle, so that more permutations begin with the fewer, whatever the seed of
    the run. 2000 of 9 pieces take seconds.

    Args:
        num_pieces: at most 9.
        count: how many; at most num_pieces!.

    Returns:
        uint8, (count, num_pieces), read-only: row k says which piece comes at each place.
    """
    num_all = math.factorial(num_pieces)
    flat = itertools.chain.from_iterable(itertools.permutations(range(num_pieces)))
    table = np.fromiter(flat, dtype=np.uint8, count=num_all * num_pieces).reshape(num_all, num_pieces)
    columns = np.ascontiguousarray(table[stream(0, "permutations", num_pieces).permutation(num_all)].T)
    nearest = np.full(num_all, num_pieces, dtype=np.uint8)
    """Hamming distance to the nearest one chosen."""
    chosen = [0]
    while len(chosen) < count:
        agree = np.zeros(num_all, dtype=np.uint8)
        for column in columns:
            agree += column == column[chosen[-1]]
        np.minimum(nearest, num_pieces - agree, out=nearest)
        chosen.append(int(nearest.argmax()))
    permutations = np.ascontiguousarray(columns[:, chosen].T)
    permutations.setflags(write=False)
    return permutations


class PermutationNetwork(nn.Module):
    """One trunk over all pieces, and a linear head over their features, one piece after the other.

    Args:
        trunk: maps a batch to (N, D).
        feature_dim: D.
        num_pieces: P; pieces of a sample follow each other in the batch.
        num_classes: permutations.
    """

    def __init__(self, trunk: nn.Module, *, feature_dim: int, num_pieces: int, num_classes: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.num_features = feature_dim * num_pieces
        self.head = nn.Linear(self.num_features, num_classes)
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)

    def forward(self, pieces: torch.Tensor) -> torch.Tensor:
        """Normalised float input (N * P, C, ...) -> logits, (N, num_classes)."""
        logits: torch.Tensor = self.head(self.trunk(pieces).reshape(-1, self.num_features))
        return logits


def build_permutation_network(
    arch: str, *, num_pieces: int, num_classes: int, seed: int
) -> tuple[PermutationNetwork, Network]:
    """A network with weights drawn from `seed` alone, and one of the same trunk with a head that is not trained."""
    network = build_network(arch, num_classes=1, seed=derive(seed, "pretrain", "weights"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "pretrain", "head"))
        pieces = PermutationNetwork(
            network.trunk, feature_dim=network.feature_dim, num_pieces=num_pieces, num_classes=num_classes
        )
    return pieces, network
