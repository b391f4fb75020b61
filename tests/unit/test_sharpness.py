"""The step uphill and the way back."""

import pytest
import torch

from corsa.sharpness import global_norm, perturbed

DTYPES = [torch.float32, torch.bfloat16, torch.float64]


def weights(dtype, seed=0):
    """Values over many magnitudes: adding and subtracting would not give them back."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        size = 10 ** (3 * torch.randn(shape, generator=generator))
        return (size * torch.randn(shape, generator=generator)).to(dtype)

    return {"A": random(50, 7), "B": random(999), "zero": torch.zeros(3, dtype=dtype)}


def copies(params):
    return {name: param.clone() for name, param in params.items()}


def equal(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_are_bit_equal_after_perturbation(dtype):
    params, direction = weights(dtype), weights(dtype, seed=1)
    before = copies(params)
    with perturbed(params, direction, 0.05):
        assert not equal(params, before)
    assert equal(params, before)


def test_subtracting_would_not_be_bit_equal():
    params, direction = weights(torch.float32), weights(torch.float32, seed=1)
    step = {name: 0.05 / global_norm(direction) * g for name, g in direction.items()}
    drifted = {name: (param + step[name]) - step[name] for name, param in params.items()}
    assert not equal(params, drifted)


@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_are_bit_equal_after_an_exception(dtype):
    params, direction = weights(dtype), weights(dtype, seed=1)
    before = copies(params)
    with pytest.raises(KeyboardInterrupt), perturbed(params, direction, 0.05):
        raise KeyboardInterrupt
    assert equal(params, before)


def test_weights_are_bit_equal_where_the_direction_does_not_fit():
    params = weights(torch.float32)
    before = copies(params)
    direction = {name: torch.ones_like(param) for name, param in params.items()}
    del direction["zero"]
    with pytest.raises(KeyError), perturbed(params, direction, 0.05):
        pass
    assert equal(params, before)


def test_weights_are_bit_equal_after_a_direction_that_is_not_finite():
    params = weights(torch.float32)
    before = copies(params)
    direction = {name: torch.full_like(param, float("nan")) for name, param in params.items()}
    with perturbed(params, direction, 0.05):
        pass
    assert equal(params, before)


@pytest.mark.parametrize("rho", [1e-3, 0.05, 2.0])
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_the_distance_moved_is_rho_whatever_the_gradients_size(rho, scale):
    params = {"A": torch.randn(4, 3).double(), "B": torch.randn(5).double()}
    direction = {name: scale * torch.randn_like(param) for name, param in params.items()}
    before = copies(params)
    with perturbed(params, direction, rho):
        moved = {name: param - before[name] for name, param in params.items()}
    assert global_norm(moved) == pytest.approx(rho, rel=1e-9)
    cosine = sum(float((moved[n] * direction[n]).sum()) for n in moved) / (
        rho * global_norm(direction)
    )
    assert cosine == pytest.approx(1.0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_zero_direction_moves_nothing(dtype):
    params = weights(dtype)
    before = copies(params)
    with perturbed(params, {name: torch.zeros_like(p) for name, p in params.items()}, 0.05):
        assert equal(params, before)
    assert equal(params, before)


def test_rho_zero_moves_nothing():
    params = weights(torch.float32)
    before = copies(params)
    with perturbed(params, weights(torch.float32, seed=1), 0.0):
        assert equal(params, before)


def test_parameters_that_want_gradients_are_moved_in_place():
    param = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    with perturbed({"p": param}, {"p": torch.tensor([3.0, 4.0])}, 0.5):
        torch.testing.assert_close(param.detach(), torch.tensor([1.3, 2.4]))
        (gradient,) = torch.autograd.grad((param**2).sum(), param)
    torch.testing.assert_close(gradient, torch.tensor([2.6, 4.8]))
    assert param.requires_grad
    assert param.grad is None
    assert param.tolist() == [1.0, 2.0]


def test_global_norm_is_over_all_tensors():
    assert global_norm({"a": torch.tensor([3.0]), "b": torch.tensor([[0.0, 4.0]])}) == 5.0


def test_global_norm_does_not_lose_small_entries_in_half_precision():
    # In bfloat16 256 + 1 is 256.
    assert global_norm({"a": torch.ones(1000, dtype=torch.bfloat16)}) == pytest.approx(1000**0.5)
