"""Attention over a prefix tree, block by block, for transformers models on a CPU.

With a mask, attention over N nodes costs N² however few of them see each other. In a tree a node sees
the trunk and its own block, so the two are attended to apart and share one softmax: the same numbers for
N · (trunk + block) products, which grows with the number of edits instead of with its square.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from corsa.packing import Alike, Blocks

NAME = "corsa_tree"

_blocks: ContextVar[Blocks] = ContextVar("blocks")


@contextmanager
def attending(model: Any, blocks: Blocks) -> Iterator[None]:
    """Inside the block the model's attention is that of a tree.

    Args:
        model: a transformers model whose layers all attend fully.
        blocks: of the tree that is about to pass.

    Yields:
        Nothing.
    """
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, _tree_attention)
    config = model.config.get_text_config()
    before, token = config._attn_implementation, _blocks.set(blocks)
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = before
        _blocks.reset(token)


def _tree_attention(
    _: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *__: Any,
    scaling: float | None = None,
    **___: Any,
) -> tuple[Tensor, None]:
    """Attention of one layer, as transformers calls it; the blocks stand for the mask it brings.

    Args:
        query: shape (1, H, N, D).
        key: shape (1, H / groups, N, D).
        value: likewise.
        scaling: of the scores.

    Returns:
        The output, shape (1, N, H, D), and no weights.
    """
    blocks = _blocks.get()
    q, k, v = query[0], key[0], value[0]
    heads, _, width = q.shape
    scale = width**-0.5 if scaling is None else scaling
    outputs = []
    trunk = blocks.trunk
    if trunk:
        causal = scaled_dot_product_attention(
            query[:, :, :trunk],
            key[:, :, :trunk],
            value[:, :, :trunk],
            is_causal=True,
            scale=scale,
            enable_gqa=len(k) != heads,
        )
        outputs.append(causal[0])
    if blocks.groups:
        # Scores rounded to a narrow type cost more accuracy than all else, and products are few.
        wide = torch.promote_types(q.dtype, torch.float32)
        q, k, v = q.to(wide) * scale, k.to(wide), v.to(wide)
        parts = [_in_blocks(q, k, v, trunk, alike) for alike in blocks.groups]
        outputs.append(torch.cat(parts, 1)[:, blocks.places].to(query.dtype))
    return torch.cat(outputs, 1).transpose(0, 1)[None], None


def _in_blocks(q: Tensor, k: Tensor, v: Tensor, trunk: int, blocks: Alike) -> Tensor:
    """Outputs at every place of blocks of like length, shape (H, G · L, D); q is scaled already."""
    (heads, _, width), kept = q.shape, len(k)
    count, size = blocks.nodes.shape
    groups, places = heads // kept, blocks.nodes.flatten()
    # Queries that share keys stand together: (kept, count, groups · size, width).
    asked = q[:, places].view(kept, groups, count, size, width).transpose(1, 2)
    asked = asked.reshape(kept, count, groups * size, width)
    own_keys = k[:, places].view(kept * count, size, width)
    own_values = v[:, places].view(kept * count, size, width)
    hidden = torch.zeros_like(blocks.seen, dtype=q.dtype)
    hidden = hidden.masked_fill_(~blocks.seen, torch.finfo(q.dtype).min)
    hidden = hidden.repeat(kept, groups, 1)
    own = torch.baddbmm(hidden, asked.flatten(0, 1), own_keys.transpose(1, 2))
    own = own.view(kept, count, groups * size, size)
    shared = asked.flatten(1, 2) @ k[:, :trunk].transpose(1, 2)
    scores = torch.cat([shared.view(kept, count, groups * size, trunk), own], -1)
    of_trunk, of_own = torch.split(scores.softmax(-1), [trunk, size], -1)
    out = torch.bmm(of_own.flatten(0, 1), own_values).view(kept, count * groups * size, width)
    out = out + of_trunk.flatten(1, 2) @ v[:, :trunk]
    out = out.view(kept, count, groups, size, width).transpose(1, 2)
    flat: Tensor = out.reshape(heads, count * size, width)
    return flat
