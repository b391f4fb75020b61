"""Coordinates in which no direction of the inputs counts more than another."""

import pytest
import torch

from builders import base_model, exchange, random_adapter, settings, with_reference
from corsa.step import Example
from corsa.training import RoundTrainer
from corsa.whitening import Whitening, packaged_texts, whitener

TEXTS = [tuple(range(3, 40)), tuple(range(60, 20, -1)), (9, 7, 5, 3, 1, 2, 4, 6, 8)]


def skewed(count, width, seed=0):
    """Inputs that share one direction, which has most of their energy."""
    made = torch.randn(count, width, generator=torch.Generator().manual_seed(seed))
    return made + 10 * torch.linspace(-1, 1, width)


def matrix(found, width):
    return found(torch.eye(width))


def test_it_is_the_inverse_square_root_of_what_the_inputs_have_in_common():
    inputs, damping = skewed(200, 12), 0.01
    wide = inputs.double()
    covariance = wide.T @ wide
    floor = damping * covariance.trace() / 12
    asked = covariance + floor * torch.eye(12)
    p = matrix(whitener(inputs, damping), 12).double()
    # P (C + floor) P is a multiple of the identity …
    product = p @ asked @ p
    torch.testing.assert_close(
        product / product[0, 0], torch.eye(12).double(), atol=1e-4, rtol=1e-4
    )
    # … and inputs have the energy that they had.
    assert float((p @ covariance @ p).trace()) == pytest.approx(float(covariance.trace()), rel=1e-4)
    torch.testing.assert_close(p, p.T, atol=1e-5, rtol=1e-5)


def test_fewer_inputs_than_they_are_wide_are_told_apart_as_far_as_they_go():
    inputs, damping = skewed(8, 20), 0.01
    wide = inputs.double()
    covariance = wide.T @ wide
    floor = damping * covariance.trace() / 20
    product = (p := matrix(whitener(inputs, damping), 20).double()) @ (
        covariance + floor * torch.eye(20)
    )
    product = product @ p
    torch.testing.assert_close(
        product / product[0, 0], torch.eye(20).double(), atol=1e-3, rtol=1e-3
    )


def test_of_a_wide_module_the_strongest_directions_are_told_apart(monkeypatch):
    monkeypatch.setattr("corsa.whitening._NARROW", 10)
    monkeypatch.setattr("corsa.whitening._DIRECTIONS", 4)
    inputs = skewed(200, 20)
    found = whitener(inputs, 0.01)
    assert found.directions.shape == (20, 4)
    p = matrix(found, 20)
    energy = float((inputs @ p).square().sum())
    assert energy == pytest.approx(float(inputs.square().sum()), rel=1e-3)
    shared = torch.nn.functional.normalize(inputs.mean(0), dim=0)
    assert float((shared @ p).norm()) < 0.2 * float(found.rest)


def whitened(adapter):
    return Whitening(adapter, TEXTS)


def a_matrices(adapter):
    return {n: p.detach().clone() for n, p in adapter.params.items() if "lora_A" in n}


def test_what_an_optimiser_does_to_a_it_does_in_the_other_coordinates():
    adapter = random_adapter(base_model(), std=0.05)
    whitening, before = whitened(adapter), adapter.state()
    steps = {n: torch.randn_like(p) for n, p in adapter.params.items()}
    decay = 0.25
    with whitening.turning(decay), torch.no_grad():
        for name, param in adapter.params.items():
            param.mul_(1 - decay).add_(steps[name])
    for name, param in adapter.params.items():
        step = steps[name]
        if "lora_A" in name:
            step = step @ matrix(whitening._of[name], step.shape[1])
        torch.testing.assert_close(
            param.detach(), before[name] * (1 - decay) + step, atol=1e-5, rtol=1e-4
        )


def test_a_gradient_is_that_of_the_loss_by_the_other_coordinates():
    adapter = random_adapter(base_model(), std=0.05)
    whitening = whitened(adapter)
    name, param = next((n, p) for n, p in adapter.params.items() if "lora_A" in n)
    p = matrix(whitening._of[name], param.shape[1])
    inner = torch.randn_like(param).requires_grad_()
    weights = torch.randn_like(param)
    loss = ((inner @ p) * weights).square().sum()
    (wanted,) = torch.autograd.grad(loss, inner)
    outer = (inner @ p).detach().requires_grad_()
    (raw,) = torch.autograd.grad((outer * weights).square().sum(), outer)
    b_name = name.replace("lora_A", "lora_B")
    turned = whitening.gradients({name: raw, b_name: adapter.params[b_name].detach()})
    torch.testing.assert_close(turned[name], wanted, atol=1e-3, rtol=1e-3)
    assert turned[b_name].equal(adapter.params[b_name])


def test_inputs_are_the_base_models_and_the_module_says_what_it_reads():
    base = base_model()
    first, second = random_adapter(base, std=0.05), random_adapter(base, name="b", std=1.0)
    one, other = whitened(first), whitened(second)
    with base.using(second.name):
        third = whitened(first)
    for name in one._of:
        assert one._of[name].scale.equal(other._of[name].scale)
        assert one._of[name].scale.equal(third._of[name].scale)
    kinds = {name.rpartition(".lora_A")[0].rpartition(".")[2]: w for name, w in one._of.items()}
    assert kinds["gate_proj"] is kinds["up_proj"]
    assert kinds["down_proj"] is not kinds["up_proj"]
    assert not any(m._forward_pre_hooks for m in base.hf.modules())


def test_a_round_is_learned_in_them_and_by_other_steps():
    ends = []
    for whitening in (False, True):
        base = base_model()
        adapter = random_adapter(base, std=0.05)
        examples = with_reference(base, [_example(" Ada"), _example(" Bob", "Where?")])
        config = settings(rank=8, alpha=16.0, learning_rate=1.5e-2, warmup_steps=0, decay_steps=2)
        trainer = RoundTrainer(
            adapter, examples, config, whitening=whitened(adapter) if whitening else None
        )
        with base.using(adapter.name):
            assert trainer.run(lambda event: None, lambda: None).converged
        ends.append(a_matrices(adapter))
    assert not any(ends[0][name].equal(ends[1][name]) for name in ends[0])


def _example(answer, prompt="Who?"):
    return Example(exchange(prompt, answer))


def test_packaged_texts_are_of_both_kinds():
    base = base_model()
    texts = packaged_texts(base)
    decoded = [base.tokenizer.decode(text) for text in texts]
    assert len(texts) == 64 + 23
    assert "The second edition was printed on better paper." in decoded[64]
    assert decoded[0].strip()
