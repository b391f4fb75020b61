"""Many exchanges as one sequence: a prefix tree with an ancestor mask.

The shared system prompt stands once, each prompt once, and both answers to it are branches. A token
attends to its ancestors and itself, and its position is its depth: exactly what a causal model sees
when every exchange is a sequence of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from corsa.chat import Exchange


@dataclass(frozen=True)
class PrefixTree:
    """Exchanges packed into one tree of N tokens, parents before children.

    The last token of an answer is predicted and never read, so it has no node.

    Attributes:
        tokens: shape (N,).
        positions: depth of each token, shape (N,).
        ancestors: `ancestors[i, j]`: i attends to j, shape (N, N), bool.
        rows: for each exchange the nodes whose logits predict its answer tokens, each of shape (T,).
        targets: for each exchange its answer tokens, each of shape (T,).
    """

    tokens: Tensor
    positions: Tensor
    ancestors: Tensor
    rows: tuple[Tensor, ...]
    targets: tuple[Tensor, ...]

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
    """Pack exchanges; equal beginnings are stored once, wherever they end.

    Args:
        exchanges: B exchanges, each with at least one prompt and one answer token.
        device: where the tensors go.

    Returns:
        The tree.
    """
    trie = _Trie()
    paths = [trie.insert(exchange)[len(exchange.prompt) - 1 :] for exchange in exchanges]
    ancestors, positions = _lineage(trie.parents)
    return PrefixTree(
        tokens=torch.tensor(trie.tokens, device=device),
        positions=positions.to(device),
        ancestors=ancestors.to(device),
        rows=tuple(torch.tensor(path, device=device) for path in paths),
        targets=tuple(torch.tensor(answer, device=device) for _, answer in exchanges),
    )


class _Trie:
    """Token sequences merged at their common beginnings; node ids count in order of insertion."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.parents: list[int] = []
        self._children: dict[tuple[int, int], int] = {}

    def insert(self, exchange: Exchange) -> list[int]:
        """Add what the model reads of one exchange; returns its nodes from root to leaf."""
        node, path = -1, []
        for token in (*exchange.prompt, *exchange.answer[:-1]):
            parent, node = node, self._children.setdefault((node, token), len(self.tokens))
            if node == len(self.tokens):
                self.tokens.append(token)
                self.parents.append(parent)
            path.append(node)
        return path


def _lineage(parents: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Ancestor matrix (N, N) and depths (N,) of nodes whose parents come before them."""
    ancestors = torch.eye(len(parents), dtype=torch.bool)
    depths = torch.zeros(len(parents), dtype=torch.long)
    for node, parent in enumerate(parents):
        if parent >= 0:
            ancestors[node] |= ancestors[parent]
            depths[node] = depths[parent] + 1
    return ancestors, depths


def chunks(exchanges: Sequence[Exchange], max_tokens: int) -> Iterator[list[int]]:
    """Cut a list into groups whose trees stay small: attention costs N².

    Args:
        exchanges: exchanges in any order; neighbours that begin alike share their beginning.
        max_tokens: nodes that a tree may have; a longer exchange gets a tree of its own.

    Yields:
        Indices into `exchanges`, in order.
    """
    group: list[int] = []
    trie = _Trie()
    for index, exchange in enumerate(exchanges):
        trie.insert(exchange)
        if group and len(trie.tokens) > max_tokens:
            yield group
            group, trie = [], _Trie()
            trie.insert(exchange)
        group.append(index)
    if group:
        yield group
