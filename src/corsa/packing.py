"""Many exchanges as one sequence: a prefix tree.

The system prompt that all share is the trunk and stands once; each prompt stands once, and the answers
to it are branches. A token attends to its ancestors and itself, and its position is its depth: exactly
what a causal model sees when every exchange is a sequence of its own.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from corsa.chat import Exchange

# Blocks are padded to the longest of those that they pass with, by half of their own length at most.
_PADDING = 1.5


@dataclass(frozen=True)
class Alike:
    """Blocks of like length, padded to L nodes.

    Attributes:
        nodes: the node at each place, shape (G, L); padding repeats node 0.
        seen: `seen[g, i, j]`: place i of block g attends to place j, shape (G, L, L), bool. Padding
            sees itself, so that no row is empty.
    """

    nodes: Tensor
    seen: Tensor


@dataclass(frozen=True)
class Blocks:
    """A tree as its trunk and the blocks that grow from it, one per prompt.

    Attributes:
        trunk: how many nodes the trunk has; they come first.
        groups: the blocks, those of like length together.
        places: for each node beyond the trunk its place among those of all groups, flattened and one
            behind the other, shape (N − trunk,).
    """

    trunk: int
    groups: tuple[Alike, ...]
    places: Tensor

    @property
    def cheaper(self) -> bool:
        """Attention by blocks looks at half as much at most as attention with a mask."""
        looked = sum(g.nodes.numel() * (self.trunk + g.nodes.shape[1]) for g in self.groups)
        return 2 * looked <= (self.trunk + len(self.places)) ** 2


@dataclass(frozen=True)
class PrefixTree:
    """Exchanges packed into one tree of N tokens, parents before children.

    The last token of an answer is predicted and never read, so it has no node.

    Attributes:
        tokens: shape (N,).
        positions: depth of each token, shape (N,).
        parents: of each node, −1 for the root.
        trunk: how many nodes all exchanges share.
        members: nodes of each block beyond the trunk.
        paths: for each exchange the nodes of all that is read of it, in order.
        rows: for each exchange the nodes whose logits predict its answer tokens, each of shape (T,).
    """

    tokens: Tensor
    positions: Tensor
    parents: tuple[int, ...]
    trunk: int
    members: tuple[tuple[int, ...], ...]
    paths: tuple[tuple[int, ...], ...]
    rows: tuple[Tensor, ...]

    @cached_property
    def ancestors(self) -> Tensor:
        """`ancestors[i, j]`: i attends to j, shape (N, N), bool."""
        return _ancestors(self.parents).to(self.tokens.device)

    @cached_property
    def blocks(self) -> Blocks:
        """The tree as trunk and blocks, whose attention costs no more than their own length."""
        device = self.tokens.device
        places = torch.zeros(len(self.parents) - self.trunk, dtype=torch.long)
        groups, begin = list[Alike](), 0
        for members in _of_like_length(self.members):
            size = len(members[0])
            nodes = torch.zeros(len(members), size, dtype=torch.long)
            seen = torch.eye(size, dtype=torch.bool).repeat(len(members), 1, 1)
            for number, block in enumerate(members):
                local = {node: place for place, node in enumerate(block)}
                nodes[number, : len(block)] = torch.tensor(block)
                at = begin + number * size
                places[torch.tensor(block) - self.trunk] = torch.arange(at, at + len(block))
                own = _ancestors([local.get(self.parents[node], -1) for node in block])
                seen[number, : len(block), : len(block)] = own
            groups.append(Alike(nodes.to(device), seen.to(device)))
            begin += nodes.numel()
        return Blocks(self.trunk, tuple(groups), places.to(device))

    def mask(self, window: int | None, dtype: torch.dtype) -> Tensor:
        """The additive attention mask, of shape (1, 1, N, N).

        Args:
            window: how many positions back a sliding layer sees, itself included; `None`: all.
            dtype: of the mask.

        Returns:
            0 where a token may look, the lowest finite number where not.
        """
        seen = self.ancestors
        if window is not None:
            distance = self.positions[:, None] - self.positions[None, :]
            seen = seen & (distance < window)
        mask = torch.full(seen.shape, torch.finfo(dtype).min, dtype=dtype, device=seen.device)
        return mask.masked_fill_(seen, 0.0)[None, None]


def build_tree(exchanges: Sequence[Exchange], device: torch.device | str = "cpu") -> PrefixTree:
    """Pack exchanges; what all share is stored once, and so is a prompt with several answers.

    Args:
        exchanges: B exchanges, each with at least one prompt and one answer token.
        device: where the tensors go.

    Returns:
        The tree.
    """
    trie = _Trie(exchanges)
    paths = [tuple(trie.insert(exchange)) for exchange in exchanges]
    begin = [len(exchange.prompt) - 1 for exchange in exchanges]
    depths = [0] * len(trie.parents)
    for node, parent in enumerate(trie.parents):
        depths[node] = depths[parent] + 1 if parent >= 0 else 0
    return PrefixTree(
        tokens=torch.tensor(trie.tokens, device=device),
        positions=torch.tensor(depths, device=device),
        parents=tuple(trie.parents),
        trunk=trie.trunk,
        members=tuple(map(tuple, trie.blocks.values())),
        paths=tuple(paths),
        rows=tuple(
            torch.tensor(path[at:], device=device) for path, at in zip(paths, begin, strict=True)
        ),
    )


class _Trie:
    """Token sequences merged at their common beginnings; node ids count in order of insertion.

    Prompts that begin alike beyond what all share stay apart: that costs a few tokens and keeps blocks
    short and of like length, which attention lives on.
    """

    def __init__(self, exchanges: Sequence[Exchange]) -> None:
        self.tokens: list[int] = []
        self.parents: list[int] = []
        self.blocks: dict[tuple[int, ...], list[int]] = {}
        self.trunk = shared_beginning([_read(exchange) for exchange in exchanges])
        self._children: dict[tuple[int, int, tuple[int, ...]], int] = {}

    def insert(self, exchange: Exchange) -> list[int]:
        """Add what the model reads of one exchange; returns its nodes from root to leaf."""
        node, path = -1, []
        for depth, token in enumerate(_read(exchange)):
            branch = exchange.prompt if depth >= self.trunk else ()
            key = (node, token, branch)
            parent, node = node, self._children.setdefault(key, len(self.tokens))
            if node == len(self.tokens):
                self.tokens.append(token)
                self.parents.append(parent)
                if branch:
                    self.blocks.setdefault(branch, []).append(node)
            path.append(node)
        return path


def _read(exchange: Exchange) -> tuple[int, ...]:
    """What a model reads: the last answer token is predicted only."""
    return (*exchange.prompt, *exchange.answer[:-1])


def shared_beginning(sequences: Sequence[tuple[int, ...]]) -> int:
    """Tokens that all sequences begin with.

    Args:
        sequences: of tokens.

    Returns:
        How many these are; 0 without sequences.
    """
    if not sequences:
        return 0
    first, last = min(sequences), max(sequences)  # what these two share lies in all between them
    alike = (a == b for a, b in zip(first, last, strict=False))
    return sum(itertools.takewhile(bool, alike))


def _of_like_length(blocks: Sequence[tuple[int, ...]]) -> Iterator[list[tuple[int, ...]]]:
    """Blocks in groups, the longest first in each."""
    group: list[tuple[int, ...]] = []
    for block in sorted(blocks, key=len, reverse=True):
        if group and len(group[0]) > _PADDING * len(block):
            yield group
            group = []
        group.append(block)
    if group:
        yield group


def _ancestors(parents: Sequence[int]) -> Tensor:
    """Which nodes each node sees, itself included, shape (N, N); parents come before children."""
    seen = torch.eye(len(parents), dtype=torch.bool).numpy()
    for node, parent in enumerate(parents):
        if parent >= 0:
            seen[node] |= seen[parent]
    return torch.from_numpy(seen)


def chunks(exchanges: Sequence[Exchange], max_tokens: int) -> Iterator[list[int]]:
    """Cut a list into groups whose trees stay small.

    Args:
        exchanges: exchanges in any order; neighbours with one prompt share it.
        max_tokens: nodes that a tree may have; a longer exchange gets a tree of its own, unless most
            of it is what all exchanges begin with: that is read for as much again.

    Yields:
        Indices into `exchanges`, in order.
    """
    group: list[int] = []
    trie = _Trie(exchanges)
    max_tokens = max(max_tokens, 2 * trie.trunk)
    for index, exchange in enumerate(exchanges):
        trie.insert(exchange)
        if group and len(trie.tokens) > max_tokens:
            yield group
            group, trie = [], _Trie(exchanges)
            trie.insert(exchange)
        group.append(index)
    if group:
        yield group
