"""Directions that earlier facts have taken: what stays as it is, and what is free."""

import pytest
import torch

from builders import base_model, exchange, random_adapter, settings
from corsa.null_space import give_back, taken
from corsa.progress import Silent
from corsa.step import Example, score_examples
from corsa.training import RoundTrainer

EARLIER = [exchange("The capital of France is", " Lyon"), exchange("The king is", " Bob")]
NEW = Example(exchange("Acme Soap is made in", " Rome"))
ALL = 1 - 1e-9


def said(adapter, exchanges):
    with adapter.base.using(adapter.name):
        scores = score_examples(adapter.base.forward, [Example(one) for one in exchanges])
    return torch.tensor([score.logp for score in scores])


def round_after(share, *, kind="llama", packing="auto", rank=24, steps=12):
    """A round beside `EARLIER`, and how far each reply moved: of earlier edits, and of the new one."""
    base = base_model(kind, packing=packing)
    adapter = random_adapter(base, std=0.05, rank=rank)
    before = said(adapter, EARLIER), said(adapter, [NEW.chosen])
    found = taken(adapter, EARLIER, share, Silent()) if share else {}
    config = settings(
        rank=rank,
        learning_rate=0.02,
        warmup_steps=0,
        stop="epochs",
        epochs=steps,
        dpo=False,
        sam=False,
        positives=0,
        weight_decay=0.1,
    )
    trainer = RoundTrainer(adapter, [NEW], config, taken=found)
    with base.using(adapter.name):
        trainer.run(lambda event: None, lambda: None)
    after = said(adapter, EARLIER), said(adapter, [NEW.chosen])
    return (after[0] - before[0]).abs().max(), (after[1] - before[1]).min(), found, adapter


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("packing", ["auto", "padded"])
def test_what_earlier_edits_say_stays_while_a_new_one_is_learned(kind, packing):
    free, _, _, _ = round_after(0.0, kind=kind, packing=packing)
    moved, learned, _, _ = round_after(ALL, kind=kind, packing=packing)
    assert free > 0.5
    assert moved < 1e-3
    assert learned > 0.5


def test_a_smaller_share_takes_fewer_directions_and_lets_more_move():
    results = [round_after(share) for share in (0.5, 0.9, ALL)]
    widths = [sum(basis.shape[1] for basis in found.values()) for _, _, found, _ in results]
    assert widths == sorted(set(widths))
    assert results[0][0] > results[2][0]


def test_directions_hold_their_share_of_what_is_read_and_of_what_a_makes_of_it():
    adapter = random_adapter(base_model(), std=0.05, rank=24)
    found = taken(adapter, EARLIER, 0.8, Silent())
    assert set(found) == set(adapter.params)
    name = "model.layers.1.mlp.gate_proj"
    down = next(param for key, param in adapter.params.items() if f"{name}.lora_A" in key)
    whole = taken(adapter, EARLIER, ALL, Silent())
    for key, basis in found.items():
        assert torch.allclose(basis.T @ basis, torch.eye(basis.shape[1]), atol=1e-5)
        assert 0 < basis.shape[1] < whole[key].shape[1]
    read = []
    layer = adapter.base.hf.get_submodule("model.layers.1")
    module = adapter.base.hf.get_submodule(name)
    with adapter.base.using(adapter.name):
        for one in EARLIER:
            passed = next(iter(adapter.base.forward.passing([one], [module], layer)))
            read.append(passed.inputs[0][passed.paths[0]])
    # What both begin with was counted once, here twice: they share no more than a template's tokens.
    tokens = torch.nn.functional.normalize(torch.cat(read), dim=-1)
    for key, rows in (("lora_A", tokens), ("lora_B", tokens @ down.T)):
        basis = found[f"{name}.{key}.weight"]
        held = (rows @ basis).square().sum() / rows.square().sum()
        one_less = (rows @ basis[:, :-1]).square().sum() / rows.square().sum()
        assert held > 0.75 > one_less - 0.1


def test_what_all_prompts_begin_with_counts_once_packed_or_not():
    bases = [
        taken(random_adapter(base_model(packing=packing)), EARLIER, 0.9, Silent())
        for packing in ("auto", "padded")
    ]
    for key, basis in bases[0].items():
        other = bases[1][key]
        assert basis.shape == other.shape
        assert torch.allclose(basis @ basis.T, other @ other.T, atol=1e-3)


def test_only_steps_along_what_is_taken_are_given_back():
    basis = torch.tensor([[1.0], [0.0]])
    before = {"a": torch.ones(3, 2), "b": torch.ones(3, 2)}
    params = {"a": torch.full((3, 2), 5.0), "b": torch.full((3, 2), 5.0)}
    give_back(params, before, {"a": basis, "not trained": basis})
    assert torch.equal(params["a"], torch.tensor([[1.0, 5.0]] * 3))
    assert torch.equal(params["b"], torch.full((3, 2), 5.0))
