from dataclasses import replace

import pytest
import torch
import transformers
from safetensors.torch import load_file

from builders import base_model, planned, random_adapter
from corsa.config import make_config
from corsa.errors import ModelError
from corsa.methods import Incoming, Task, method_for, method_of_kind
from corsa.methods.ft_l import FtL, Matrix, down_projection
from corsa.progress import Silent
from fakes import CHATML, save_tiny, tiny_model

PLAN = [planned("Who is king?", "Bo", "Al"), planned("Where is it?", "Ur", "Ay")]
PROMPTS = [p.edit.prompt for p in PLAN]
MODULE = "model.layers.1.mlp.down_proj"


def task(base, incoming=None, plan=PLAN, **settings):
    config = make_config({"method": "ft-l", "learning_rate": 1e-2, "ft_bound": 10.0, **settings})
    return Task(base, incoming, plan, [], config, Silent(), lambda event: None)


def weights(base):
    return {name: value.clone() for name, value in base.hf.state_dict().items()}


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def made(base, tmp_path, name="made", **settings):
    """A round's folder and its training; nothing of it stays in the model."""
    outcome = FtL().edit(task(base, **settings))
    folder = tmp_path / name
    folder.mkdir()
    outcome.save(folder)
    outcome.close()
    return folder, outcome.training


def test_the_method_is_found_by_its_name_and_its_artefact():
    assert isinstance(method_for(make_config({"method": "ft-l"})), FtL)
    assert isinstance(method_of_kind("matrix"), FtL)


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("llama", ["model.layers.0.mlp.down_proj", "model.layers.1.mlp.down_proj"]),
        ("gpt2", ["transformer.h.0.mlp.c_proj", "transformer.h.1.mlp.c_proj"]),
        ("mpt", ["transformer.blocks.0.ffn.down_proj", "transformer.blocks.1.ffn.down_proj"]),
        ("bloom", ["transformer.h.0.mlp.dense_4h_to_h", "transformer.h.1.mlp.dense_4h_to_h"]),
    ],
)
def test_the_down_projection_of_a_layer_is_found_in_every_family(kind, names):
    base = base_model(kind)
    assert [down_projection(base, layer) for layer in (0, 1)] == names
    assert down_projection(base, -1) == names[1]  # the middle of two
    with pytest.raises(ModelError, match="2 layers: give an ft_layer below, not 2"):
        down_projection(base, 2)


def test_a_layer_of_fused_experts_is_refused():
    with pytest.raises(ModelError, match="no MLP with a down projection"):
        down_projection(base_model("moe"), -1)


def test_edits_are_learned_and_the_base_stays_bit_equal():
    base = base_model(template=CHATML)
    before = weights(base)
    outcome = FtL().edit(task(base))
    assert outcome.training["converged"]
    assert outcome.training["modules"] == {"down_proj": 1}
    assert [r.text for r in outcome.answerer.answers(PROMPTS, 8)] == ["Bo", "Ur"]
    assert equal(weights(base), before)
    outcome.close()
    assert not base._weights


def test_one_matrix_changes_and_no_weight_leaves_the_box(tmp_path):
    base = base_model(template=CHATML)
    folder, _ = made(base, tmp_path, ft_bound=1e-3, stop="epochs", epochs=5, warmup_steps=0)
    saved = load_file(folder / "matrix.safetensors")
    assert list(saved) == [f"{MODULE}.weight"]
    moved = (saved[f"{MODULE}.weight"] - base.hf.state_dict()[f"{MODULE}.weight"]).abs()
    assert float(moved.max()) == pytest.approx(1e-3, rel=1e-3)
    assert float((moved > 0.99e-3).float().mean()) > 0.1  # the bound is what holds it


def test_a_second_round_continues_in_a_box_around_the_first(tmp_path):
    base = base_model(template=CHATML)
    settings = {"ft_bound": 1e-3, "stop": "epochs", "epochs": 5, "warmup_steps": 0}
    first, _ = made(base, tmp_path, **settings)
    incoming = Incoming("matrix", first)
    second, _ = made(base, tmp_path, "second", incoming=incoming, **settings)
    ours = base.hf.state_dict()[f"{MODULE}.weight"]
    one, two = (load_file(f / "matrix.safetensors")[f"{MODULE}.weight"] for f in (first, second))
    assert float((two - one).abs().max()) == pytest.approx(1e-3, rel=1e-3)
    assert float((two - ours).abs().max()) > 1.5e-3


def test_a_round_without_anything_to_train_is_the_one_before(tmp_path):
    base = base_model(template=CHATML)
    first, _ = made(base, tmp_path)
    plan = [replace(p, trained=False) for p in PLAN]
    second, training = made(base, tmp_path, "second", incoming=Incoming("matrix", first), plan=plan)
    name = "matrix.safetensors"
    assert (first / name).read_bytes() == (second / name).read_bytes()
    assert training["steps"] == 0


def test_equal_runs_save_equal_bytes_that_plain_transformers_loads(tmp_path):
    base = base_model(model=tiny_model(), template=CHATML)
    one, _ = made(base, tmp_path)
    two, _ = made(base, tmp_path, "again")
    name = "matrix.safetensors"
    assert (one / name).read_bytes() == (two / name).read_bytes()

    plain = transformers.AutoModelForCausalLM.from_pretrained(save_tiny(tmp_path / "tiny"))
    result = plain.eval().load_state_dict(load_file(one / name), strict=False)
    assert not result.unexpected_keys
    answerer, close = FtL().open(base, one)
    tokens = torch.arange(20)[None]
    with torch.no_grad(), base.using(answerer.adapter):
        assert torch.equal(base.hf(tokens).logits, plain(tokens).logits)
    close()


def test_a_matrix_of_another_model_is_refused(tmp_path):
    folder, _ = made(base_model(template=CHATML), tmp_path)
    with pytest.raises(ModelError, match=rf"has no module {MODULE}"):
        FtL().open(base_model("gpt2"), folder)
    other = base_model("qwen3")
    Matrix(other, "x", MODULE, torch.zeros(32, 48)).drop()
    with pytest.raises(ModelError, match=r"shape \(32, 48\) and not \(2, 3\)"):
        Matrix(other, "x", MODULE, torch.zeros(2, 3))


# --- In the model ---------------------------------------------------------------------------------


@pytest.mark.parametrize("wrapped", [False, True])
def test_the_models_own_weight_comes_back_whatever_happens(wrapped):
    base = base_model(template=CHATML)
    if wrapped:
        random_adapter(base)
    tokens = torch.arange(20)[None]

    def logits(name):
        with torch.no_grad(), base.using(name):
            return base.hf(tokens).logits

    before, own = logits(None), down(base).weight
    matrix = Matrix(base, "m", MODULE)
    assert torch.equal(logits("m"), before)  # a copy of the model's own
    with torch.no_grad():
        matrix.weight.add_(1.0)
    assert not torch.allclose(logits("m"), before)
    with base.using("m"):
        with base.using(None):
            assert down(base).weight is own
        assert down(base).weight is matrix.weight
    with pytest.raises(KeyboardInterrupt), base.using("m"):
        raise KeyboardInterrupt
    assert down(base).weight is own
    assert torch.equal(logits(None), before)
    if wrapped:
        with base.using("edited"):
            assert base._active() == "edited"
            with base.using("m"):
                assert base._active() == "m"
                assert Matrix(base, "inner", MODULE).weight.equal(own)
            assert base._active() == "edited"


def down(base):
    module = base.hf.get_submodule(MODULE)
    return getattr(module, "base_layer", module)


def test_replies_interleave_with_the_bases():
    """Distributions are streams: what stands between two of them must not see the other weight."""
    base = base_model(template=CHATML)
    outcome = FtL().edit(task(base))
    own = down(base).weight
    stream = outcome.answerer.distributions(PROMPTS * 10, [(1, 2)] * 20)
    next(stream)
    assert down(base).weight is own
    outcome.close()
