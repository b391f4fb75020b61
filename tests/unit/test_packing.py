"""The prefix tree: what it stores, who sees whom, and how lists are cut."""

import itertools

import pytest
import torch

from builders import examples, exchange
from corsa.packing import build_tree, chunks

# Two answers to one prompt, and another prompt that begins like it.
TRIO = [
    exchange([1, 2, 3], [4, 5, 9]),
    exchange([1, 2, 3], [4, 6, 9]),
    exchange([1, 2, 7], [8, 9]),
]


def path_to(tree, node):
    """Tokens from the root to a node, read from the ancestor matrix."""
    nodes = tree.ancestors[node].nonzero().flatten()
    return tree.tokens[nodes[tree.positions[nodes].argsort()]].tolist()


def test_a_tree_worked_by_hand():
    tree = build_tree(TRIO)
    # 1 ─ 2 ─┬─ 3 ─ 4 ─┬─ 5        the last answer tokens (9) have no node
    #        │         └─ 6
    #        └─ 7 ─ 8
    assert tree.tokens.tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    assert tree.positions.tolist() == [0, 1, 2, 3, 4, 4, 2, 3]
    assert [row.tolist() for row in tree.rows] == [[2, 3, 4], [2, 3, 5], [6, 7]]
    seen = [row.nonzero().flatten().tolist() for row in tree.ancestors]
    assert seen == [
        [0],
        [0, 1],
        [0, 1, 2],
        [0, 1, 2, 3],
        [0, 1, 2, 3, 4],
        [0, 1, 2, 3, 5],
        [0, 1, 6],
        [0, 1, 6, 7],
    ]


def all_exchanges():
    return [
        e for example in examples() for e in (example.chosen, example.rejected) if e is not None
    ]


def test_each_answer_token_is_predicted_from_exactly_what_stands_before_it():
    exchanges = all_exchanges()
    tree = build_tree(exchanges)
    for (prompt, answer), rows in zip(exchanges, tree.rows, strict=True):
        assert len(rows) == len(answer)
        for count, row in enumerate(rows):
            assert path_to(tree, row) == [*prompt, *answer[:count]]


def test_positions_are_depths_and_parents_come_first():
    tree = build_tree(all_exchanges())
    assert torch.equal(tree.positions, tree.ancestors.sum(1) - 1)
    assert not tree.ancestors.triu(1).any()
    assert tree.ancestors.diagonal().all()


def test_the_trunk_and_each_prompt_are_stored_once():
    exchanges = all_exchanges()
    tree = build_tree(exchanges)
    read = [(*e.prompt, *e.answer[:-1]) for e in exchanges]
    columns = (len(set(tokens)) == 1 for tokens in zip(*read, strict=False))
    trunk = sum(itertools.takewhile(bool, columns))
    stored = {
        (path[:end], e.prompt if end > trunk else ())
        for e, path in zip(exchanges, read, strict=True)
        for end in range(1, len(path) + 1)
    }
    assert tree.trunk == trunk
    assert len(tree.tokens) == len(stored)
    assert sorted(path_to(tree, node) for node in range(len(tree.tokens))) == sorted(
        list(path) for path, _ in stored
    )


@pytest.mark.parametrize("chosen", [slice(None), slice(0, 1), slice(0, 2)])
def test_blocks_see_what_the_whole_tree_sees(chosen):
    tree = build_tree(all_exchanges()[chosen])
    blocks, trunk = tree.blocks, tree.trunk
    seen = torch.zeros_like(tree.ancestors)
    seen[:trunk, :trunk] = torch.ones(trunk, trunk).tril().bool()
    seen[trunk:, :trunk] = True
    rows = [
        (block[i], block[block_seen[i]])
        for group in blocks.groups
        for block, block_seen in zip(group.nodes, group.seen, strict=True)
        for i in range(len(block))
    ]
    for node, place in enumerate(blocks.places.tolist(), trunk):
        itself, looked_at = rows[place]
        assert itself == node
        seen[node, looked_at] = True
    assert torch.equal(seen, tree.ancestors)
    assert all(group.seen.any(-1).all() for group in blocks.groups)


def test_blocks_of_unlike_length_are_padded_apart():
    lengths = [2] * 30 + [3] * 20 + [40, 41, 600]
    tree = build_tree([exchange([1, *[n + 2] * length], [3]) for n, length in enumerate(lengths)])
    assert [g.nodes.shape for g in tree.blocks.groups] == [(1, 600), (2, 41), (50, 3)]
    assert sum(g.nodes.numel() for g in tree.blocks.groups) < 1.5 * len(tree.tokens)
    assert not tree.blocks.cheaper  # most of it is one block
    assert build_tree([exchange([1, *[n] * 40], [3]) for n in range(4)]).blocks.cheaper


def test_a_repeated_exchange_costs_nothing():
    assert len(build_tree([TRIO[0]] * 3).tokens) == len(build_tree(TRIO[:1]).tokens)


def test_an_answer_of_one_token_is_predicted_by_the_prompts_last():
    tree = build_tree([exchange([1, 2], [3])])
    assert tree.tokens.tolist() == [1, 2]
    assert tree.rows[0].tolist() == [1]


def test_one_prompt_may_be_the_beginning_of_another_answer():
    tree = build_tree([exchange([1, 2], [3, 4, 5]), exchange([1, 2, 3], [4, 6])])
    assert tree.tokens.tolist() == [1, 2, 3, 4]
    assert [row.tolist() for row in tree.rows] == [[1, 2, 3], [2, 3]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_mask_is_zero_where_a_token_may_look_and_finite_elsewhere(dtype):
    tree = build_tree(TRIO)
    mask = tree.mask(None, dtype)
    assert mask.shape == (1, 1, 8, 8)
    assert mask.dtype == dtype
    assert torch.equal(mask[0, 0] == 0, tree.ancestors)
    assert mask.isfinite().all()
    assert mask.amin() == torch.finfo(dtype).min


@pytest.mark.parametrize("window", [1, 2, 3, 100])
def test_a_window_counts_positions_and_the_token_itself(window):
    tree = build_tree(TRIO)
    seen = tree.mask(window, torch.float32)[0, 0] == 0
    for node in range(len(tree.tokens)):
        line = path_to(tree, node)
        looked_at = [n for n in range(len(tree.tokens)) if seen[node, n]]
        assert len(looked_at) == min(window, len(line))
        assert [int(tree.positions[n]) for n in looked_at] == list(
            range(max(0, len(line) - window), len(line))
        )
        assert all(tree.ancestors[node, n] for n in looked_at)


@pytest.mark.parametrize("limit", [1, 8, 30, 60, 10_000])
def test_chunks_hold_everything_once_in_order_and_stay_small(limit):
    exchanges = all_exchanges()
    groups = list(chunks(exchanges, limit))
    assert [i for group in groups for i in group] == list(range(len(exchanges)))
    assert all(groups)
    for group in groups:
        assert len(group) == 1 or len(build_tree([exchanges[i] for i in group]).tokens) <= limit


def test_a_long_common_beginning_is_not_read_for_every_exchange_anew():
    exchanges = [exchange("x" * 40 + str(i), "abc") for i in range(10)]
    groups = list(chunks(exchanges, 20))
    assert [len(group) for group in groups] == [10]
    assert len(build_tree(exchanges).tokens) == 40 + 10 * 3


def test_chunks_are_no_smaller_than_they_must_be():
    exchanges = all_exchanges()
    groups = list(chunks(exchanges, 60))
    assert len(groups) > 1
    for group, following in itertools.pairwise(groups):
        grown = [exchanges[i] for i in [*group, following[0]]]
        # No beginning is common to all, so each prompt stands by itself.
        by_prompt = [
            [e for e in grown if e.prompt == prompt] for prompt in {e.prompt for e in grown}
        ]
        assert sum(len(build_tree(same).tokens) for same in by_prompt) > 60


def test_no_exchanges_make_no_chunks():
    assert list(chunks([], 10)) == []
