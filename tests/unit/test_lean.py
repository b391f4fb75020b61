"""Lean LoRA layers: the same function as peft's own code, and peft's own code where it is not."""

import copy

import pytest
import torch

from builders import base_model, random_adapter
from fakes import KINDS

IDS = torch.arange(2, 30)[None]


def by_peft(base):
    """The same model with peft's own forward in every layer."""
    other = copy.deepcopy(base.hf)
    for module in other.modules():
        if "lora_A" in dict(module.named_children()):
            vars(module).pop("forward", None)
    return other


def outcome(hf):
    logits = hf(input_ids=IDS).logits
    params = [p for n, p in hf.named_parameters() if ".lora_" in n]
    return logits.detach(), torch.autograd.grad(logits.square().mean(), params)


def lean_layers(base):
    return [layer for layer in base._lora_layers() if "forward" in vars(layer)]


@pytest.mark.parametrize("kind", KINDS)
def test_logits_and_gradients_are_those_of_peft(kind):
    base = base_model(kind, dtype=torch.float64)
    adapter = random_adapter(base)
    with base.using(adapter.name):
        logits, gradients = outcome(base.hf)
        by_peft_logits, by_peft_gradients = outcome(by_peft(base))
    assert (logits - by_peft_logits).abs().max() < 1e-9
    for one, other in zip(gradients, by_peft_gradients, strict=True):
        assert (one - other).abs().max() <= 1e-9 * max(1.0, float(other.abs().max()))


def test_the_short_way_is_taken():
    base = base_model()
    adapter = random_adapter(base)
    assert len(lean_layers(base)) == len(base._lora_layers()) > 0
    for layer in base._lora_layers():
        layer.lora_B[adapter.name].forward = None  # peft's code would call it
    with base.using(adapter.name):
        base.hf(input_ids=IDS)


def test_layers_that_are_not_plain_projections_keep_peft_s_code():
    base = base_model("gpt2")  # Conv1D
    random_adapter(base)
    assert not lean_layers(base)


def test_no_adapter_acting_gives_the_base_models_logits():
    base = base_model()
    before = base.hf(input_ids=IDS).logits
    random_adapter(base)
    assert torch.equal(base.hf(input_ids=IDS).logits, before)


def test_dropout_acts_in_training_and_not_elsewhere():
    base = base_model()
    adapter = random_adapter(base, dropout=0.5)
    with base.using(adapter.name), torch.no_grad():
        still = [base.hf(input_ids=IDS).logits for _ in range(2)]
        with adapter.dropout():
            moving = [base.hf(input_ids=IDS).logits for _ in range(2)]
    assert torch.equal(*still)
    assert not torch.allclose(*moving)


def test_two_adapters_acting_together_are_left_to_peft():
    base = base_model(dtype=torch.float64)
    first, second = random_adapter(base, name="one"), random_adapter(base, name="two")
    with torch.no_grad():
        for key, param in second.params.items():
            if ".lora_B." in key:
                param.mul_(-2)
    with base.using(first.name), torch.no_grad():
        base._peft.base_model.set_adapter(["one", "two"])
        together = base.hf(input_ids=IDS).logits
        wanted = by_peft(base)(input_ids=IDS).logits
        base._peft.base_model.set_adapter("one")
        alone = base.hf(input_ids=IDS).logits
    assert torch.equal(together, wanted)
    assert not torch.allclose(together, alone)


def test_a_narrow_base_is_computed_in_its_own_type_and_the_adapter_learns_in_float32():
    base = base_model(dtype=torch.bfloat16)
    adapter = random_adapter(base)
    with base.using(adapter.name):
        logits, gradients = outcome(base.hf)
        by_peft_logits, _ = outcome(by_peft(base))
    assert logits.dtype == torch.bfloat16
    assert all(g.dtype == torch.float32 for g in gradients)
    assert (logits - by_peft_logits).abs().max() < 0.05 * by_peft_logits.abs().max()
