"""Directions that earlier facts have taken: what stays as it is, and what is free."""

import pytest
import torch
import transformers

from builders import base_model, exchange, random_adapter, settings
from corsa.errors import ModelError, TrainingError
from corsa.null_space import free, give_back, taken
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
    assert learned > 2


def test_a_smaller_share_takes_fewer_directions_and_lets_more_move():
    results = [round_after(share) for share in (0.5, 0.9, ALL)]
    widths = [sum(basis.shape[1] for basis in found.values()) for _, _, found, _ in results]
    assert widths == sorted(set(widths))
    assert results[0][0] > results[2][0]


# What all of them begin with is longer than what tells them apart.
LONG = "In the land behind the seven hills and the seven seas "
PREFIXED = [
    exchange(f"{LONG}{end}", " Bob") for end in ("Ann is", "it is", "who was", "X", "Y", "Z")
]


def by_hand(adapter, exchanges, module, share):
    """Q for A and B, by the singular values of all tokens: the common beginning once."""
    base = adapter.base
    layer = base.hf.get_submodule("model.layers.1")
    begin, tokens = 0, []
    prompts = [one.prompt for one in exchanges]
    while len({prompt[: begin + 1] for prompt in prompts}) == 1:
        begin += 1
    with base.using(adapter.name):
        for number, one in enumerate(exchanges):
            passed = next(iter(base.forward.passing([one], [base.hf.get_submodule(module)], layer)))
            tokens.append(passed.inputs[0][passed.paths[0]][begin if number else 0 :])
    read = torch.cat(tokens)
    read = read / read.norm(dim=1, keepdim=True)
    found = []
    for rows in (read, read @ adapter.params[f"{module}.lora_A.weight"].T):
        _, values, directions = torch.linalg.svd(rows.double())
        held = values.square().cumsum(0) / values.square().sum()
        found.append(directions[: int((held < share).sum()) + 1].T)
    return found


@pytest.mark.parametrize("packing", ["auto", "padded"])
@pytest.mark.parametrize("max_tokens", [None, 200])
def test_directions_are_those_with_most_of_what_is_read(packing, max_tokens):
    adapter = random_adapter(base_model(packing=packing), std=0.05, rank=24)
    if max_tokens:  # several passes
        adapter.base.forward.max_tokens = max_tokens
    found = taken(adapter, PREFIXED, 0.8, Silent())
    assert set(found) == set(adapter.params)
    module = "model.layers.1.mlp.gate_proj"
    for part, basis in zip("AB", by_hand(adapter, PREFIXED, module, 0.8), strict=True):
        other = found[f"{module}.lora_{part}.weight"].double()
        assert other.shape == basis.shape
        assert torch.allclose(other @ other.T, basis @ basis.T, atol=1e-3)


def test_a_token_a_hundred_times_as_long_is_one_token():
    adapter = random_adapter(base_model(), std=0.05, rank=24)
    before = taken(adapter, EARLIER, 0.8, Silent())
    name = "model.layers.0.self_attn.q_proj.lora_A.weight"
    passing = adapter.base.forward.passing

    def stretched(*words):
        for passed in passing(*words):
            for read in passed.inputs:
                read[passed.paths[0][0]] *= 100
            yield passed

    adapter.base.forward.passing = stretched
    after = taken(adapter, EARLIER, 0.8, Silent())
    assert torch.allclose(after[name] @ after[name].T, before[name] @ before[name].T, atol=1e-4)


def test_modules_that_no_step_changes_are_not_looked_at():
    adapter = random_adapter(base_model())
    fixed = "model.layers.1.mlp.gate_proj"
    found = taken(adapter, EARLIER, 0.8, Silent(), [fixed])
    assert set(adapter.params) - set(found) == {f"{fixed}.lora_{part}.weight" for part in "AB"}
    every = [name.removesuffix(".lora_A.weight") for name in adapter.params if ".lora_A." in name]
    assert set(taken(adapter, EARLIER, 0.8, Silent(), every)) == set(adapter.params)


def test_a_module_that_does_not_read_every_token_is_refused():
    adapter = random_adapter(base_model("moe"), parts="all")
    router = adapter.base.forward.passing

    def routed(*words):
        for passed in router(*words):
            yield passed._replace(inputs=[read[:1] for read in passed.inputs])

    adapter.base.forward.passing = routed
    with pytest.raises(ModelError, match=r"does not read every token.*null_space=0"):
        taken(adapter, EARLIER, 0.8, Silent())


def test_a_module_that_never_runs_reads_nothing():
    base = base_model()
    idle = torch.nn.Linear(2, 2)
    layer = base.hf.get_submodule("model.layers.0")
    (passed,) = base.forward.passing(EARLIER[:1], [idle], layer)
    assert len(passed.inputs[0]) == 0


def test_a_module_in_no_layer_is_refused():
    """OPT of other widths has projections in front of its layers and behind them."""
    sizes = {"hidden_size": 32, "word_embed_proj_dim": 16, "ffn_dim": 48, "num_hidden_layers": 2}
    config = transformers.OPTConfig(
        **sizes, num_attention_heads=2, vocab_size=300, max_position_embeddings=256
    )
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    adapter = random_adapter(base_model(model=model))
    with pytest.raises(ModelError, match=r"project_(in|out) is in no layer.*null_space=0"):
        taken(adapter, EARLIER, 0.8, Silent())


def test_what_is_not_finite_is_said():
    adapter = random_adapter(base_model())
    with torch.no_grad():
        next(iter(adapter.params.values())).fill_(float("nan"))
    with pytest.raises(TrainingError, match="not finite"):
        taken(adapter, EARLIER, 0.8, Silent())


def test_of_a_gradient_only_what_is_free_is_followed():
    basis = torch.tensor([[1.0], [0.0]])
    found = free({"a": torch.ones(3, 2), "b": torch.ones(3, 2)}, {"a": basis})
    assert torch.equal(found["a"], torch.tensor([[0.0, 1.0]] * 3))
    assert torch.equal(found["b"], torch.ones(3, 2))


def test_only_steps_along_what_is_taken_are_given_back():
    basis = torch.tensor([[1.0], [0.0]])
    before = {"a": torch.ones(3, 2), "b": torch.ones(3, 2)}
    params = {"a": torch.full((3, 2), 5.0), "b": torch.full((3, 2), 5.0)}
    give_back(params, before, {"a": basis, "not trained": basis})
    assert torch.equal(params["a"], torch.tensor([[1.0, 5.0]] * 3))
    assert torch.equal(params["b"], torch.full((3, 2), 5.0))
