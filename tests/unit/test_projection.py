"""Gradient surgery as properties, on many random sets of gradients."""

import pytest
import torch

import reference_step
from corsa.projection import (
    PROJECTIONS,
    WEIGHTS,
    gramian,
    merge,
    one_sided_weights,
    pcgrad_weights,
    sum_weights,
)

SCALES = (1e-10, 1e-3, 1.0, 1e10)
SEEDS = range(40)


def random_gradients(seed, count=2, width=6):
    """Rows of one random scale each, and a common part, so that half of them oppose each other."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(count, width, generator=generator, dtype=torch.float64)
    rows[1:] -= 1.5 * (seed % 3 - 1) * rows[0]
    return rows * 10 ** torch.randn(count, 1, generator=generator, dtype=torch.float64)


def as_dicts(rows):
    """The same gradients cut into two named tensors, one of them a matrix."""
    return [{"a": row[:4].view(2, 2), "b": row[4:]} for row in rows]


def flat(gradient):
    return torch.cat([gradient["a"].flatten(), gradient["b"]])


def test_the_random_gradients_do_and_do_not_oppose():
    signs = {bool((g := random_gradients(seed))[0] @ g[1] < 0) for seed in SEEDS}
    assert signs == {True, False}


@pytest.mark.parametrize("seed", SEEDS)
def test_gramian_holds_all_inner_products(seed):
    rows = random_gradients(seed, 3)
    torch.testing.assert_close(gramian(as_dicts(rows)), rows @ rows.T, rtol=1e-12, atol=0)


def test_gramian_does_not_lose_small_products_among_large_ones():
    # In float32 1e8 + 1 − 1e8 is 0, and the sign of the product would be lost.
    one = {"a": torch.tensor([1e4, 1.0, 1e4])}
    other = {"a": torch.tensor([1e4, -1.0, -1e4])}
    assert gramian([one, other])[0, 1].item() == -1.0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gramian_of_half_precision_gradients_is_exact(dtype):
    rows = torch.randn(2, 999, generator=torch.Generator().manual_seed(0)).to(dtype)
    found = gramian([{"a": row} for row in rows])
    torch.testing.assert_close(found, rows.double() @ rows.double().T, rtol=1e-12, atol=0)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("seed", SEEDS)
def test_pcgrad_of_two_opposes_neither(seed, scale):
    rows = scale * random_gradients(seed)
    update = flat(merge(as_dicts(rows), "pcgrad"))
    cosines = rows @ update / (rows.norm(dim=1) * update.norm())
    assert (cosines > -1e-9).all()


@pytest.mark.parametrize("projection", PROJECTIONS)
@pytest.mark.parametrize("seed", SEEDS)
def test_weights_on_the_gramian_are_the_direct_surgery(seed, projection):
    count = 2 if projection == "one-sided" else 2 + seed % 3
    rows = random_gradients(seed, count)
    direct = reference_step.merge(list(rows), projection)
    if projection == "pcgrad" and count > 2:
        direct = _direct_pcgrad(rows)
    weights = WEIGHTS[projection](rows @ rows.T)
    torch.testing.assert_close(
        weights @ rows, direct, rtol=1e-9, atol=1e-9 * rows.abs().max().item()
    )
    merged = flat(merge(as_dicts(rows), projection))
    torch.testing.assert_close(merged, direct, rtol=1e-9, atol=1e-9 * rows.abs().max().item())


def _direct_pcgrad(rows):
    """Algorithm 1 of Yu et al. on the vectors themselves: every other one is met as it was."""
    total = torch.zeros_like(rows[0])
    for i, row in enumerate(rows):
        bent = row.clone()
        for j, other in enumerate(rows):
            if i != j and bent @ other < 0:
                bent = bent - (bent @ other) / (other @ other) * other
        total = total + bent
    return total


def test_both_forms_worked_by_hand():
    """SFT is b = (−1, 1) and DPO a = (1, 0), with a·b = −1.

    PCGrad: b + a = (0, 1) and a + b/2 = (½, ½); their sum is (½, 3/2). One-sided: a becomes (½, ½)
    first, b·(½, ½) = 0 and so b stays; the mean of the two is (−¼, ¾).
    """
    a, b = torch.tensor([1.0, 0.0]), torch.tensor([-1.0, 1.0])
    gradients = [{"w": b}, {"w": a}]
    assert merge(gradients, "pcgrad")["w"].tolist() == [0.5, 1.5]
    assert merge(gradients, "one-sided")["w"].tolist() == [-0.25, 0.75]
    assert merge(gradients, "none")["w"].tolist() == [0.0, 1.0]


def test_one_sided_can_still_oppose_dpo_and_pcgrad_cannot():
    dpo = {"w": torch.tensor([1.0, 0.0])}
    sft = {"w": torch.tensor([-1.0, 1.0])}
    assert merge([sft, dpo], "one-sided")["w"] @ dpo["w"] < 0
    assert merge([sft, dpo], "pcgrad")["w"] @ dpo["w"] > 0


@pytest.mark.parametrize("seed", SEEDS)
def test_gradients_that_agree_are_only_added(seed):
    rows = random_gradients(seed)
    rows[1] *= 1 if rows[0] @ rows[1] >= 0 else -1
    gram = rows @ rows.T
    assert torch.equal(pcgrad_weights(gram), sum_weights(gram))
    assert one_sided_weights(gram).tolist() == [0.5, 0.5]


@pytest.mark.parametrize("seed", SEEDS)
def test_pcgrad_does_not_mind_the_order_of_two(seed):
    rows = random_gradients(seed)
    there, back = (flat(merge(as_dicts(r), "pcgrad")) for r in (rows, rows.flip(0)))
    torch.testing.assert_close(there, back, rtol=1e-9, atol=1e-12 * rows.abs().max().item())


@pytest.mark.parametrize("projection", PROJECTIONS)
@pytest.mark.parametrize("scale", SCALES)
def test_the_update_grows_with_the_gradients(scale, projection):
    for seed in SEEDS:
        rows = random_gradients(seed)
        scaled = flat(merge(as_dicts(scale * rows), projection))
        torch.testing.assert_close(
            scaled, scale * flat(merge(as_dicts(rows), projection)),
            rtol=1e-9, atol=1e-9 * scale * rows.abs().max().item(),
        )  # fmt: skip


@pytest.mark.parametrize("projection", PROJECTIONS)
def test_a_zero_gradient_bends_nothing_and_is_not_divided_by(projection):
    row, zero = torch.tensor([3.0, -4.0]), torch.zeros(2)
    share = 0.5 if projection == "one-sided" else 1.0
    for gradients in ([row, zero], [zero, row]):
        merged = merge([{"w": g} for g in gradients], projection)["w"]
        assert torch.equal(merged, share * row)
    assert torch.equal(merge([{"w": zero}, {"w": zero}], projection)["w"], zero)


@pytest.mark.parametrize("projection", PROJECTIONS)
def test_exact_opposites_leave_nothing(projection):
    row = torch.tensor([3.0, -4.0])
    merged = merge([{"w": row}, {"w": -row}], projection)["w"]
    assert merged.norm() <= (2.5 if projection == "one-sided" else 1e-6)


@pytest.mark.parametrize("projection", PROJECTIONS)
def test_a_single_gradient_comes_back_as_it_is(projection):
    gradient = {"w": torch.tensor([3.0, -4.0])}
    assert merge([gradient], projection) == gradient


@pytest.mark.parametrize("projection", PROJECTIONS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_the_update_keeps_shapes_and_dtype_and_the_gradients_stay(dtype, projection):
    gradients = as_dicts(random_gradients(4).to(dtype))
    before = [flat(g).clone() for g in gradients]
    merged = merge(gradients, projection)
    assert {k: (v.shape, v.dtype) for k, v in merged.items()} == {
        "a": ((2, 2), dtype),
        "b": ((2,), dtype),
    }
    assert all(torch.equal(flat(g), b) for g, b in zip(gradients, before, strict=True))
