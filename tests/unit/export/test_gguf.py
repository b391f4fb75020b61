"""GGUF files: the order of rows is found by numbers, checked against transformers' own way back."""

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers.modeling_gguf_pytorch_utils import LlamaTensorProcessor

from builders import planned
from corsa.errors import ModelError, UsageError
from corsa.export import gguf_lora, gguf_merged
from corsa.export.formats import write_export
from corsa.export.gguf_base import base_file
from corsa.export.gguf_layout import GgufFile, Weights, dequantised
from corsa.export.request import Request
from corsa.files import canonical_json
from corsa.ledger import Round
from corsa.progress import Silent
from corsa.sources import ModelSource
from fakes import CHATML, save_tiny

HEADS = {"attn_q": 4, "attn_k": 2}  # of the tiny llama
NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
MODULES = [f"model.layers.{layer}.{name}" for layer in (0, 1) for name in NAMES]
RANK, ALPHA = 2, 6.0


def to_gguf(name, weight):
    """As llama.cpp's converter turns rows round, said in loops."""
    heads = HEADS.get(name)
    if not heads:
        return weight
    size = len(weight) // heads
    order = [
        head * size + half * size // 2 + i
        for head in range(heads)
        for i in range(size // 2)
        for half in (0, 1)
    ]
    return weight[order]


def tensor_name(module):
    _, _, layer, rest = module.split(".", 3)
    return f"blk.{layer}.{NAMES[rest]}.weight"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def tensors(folder):
    """The tiny model's tensors as its GGUF file has them."""
    weights = Weights(folder)
    found = {
        tensor_name(m): to_gguf(NAMES[m.split(".", 3)[3]], weights[f"{m}.weight"]) for m in MODULES
    }
    found["token_embd.weight"] = weights["model.embed_tokens.weight"]
    found["output_norm.weight"] = weights["model.norm.weight"]
    return found


@pytest.fixture
def write_file(tmp_path):
    def write(tensors, architecture="llama"):
        path = tmp_path / "tiny.gguf"
        writer = gguf.GGUFWriter(path, architecture)
        writer.add_block_count(2)
        writer.add_head_count(4)
        writer.add_head_count_kv(2)
        writer.add_file_type(gguf.LlamaFileType.ALL_F32)
        writer.add_token_list(["a", "b"])
        writer.add_chat_template(CHATML)
        for name, numbers in tensors.items():
            writer.add_tensor(name, np.ascontiguousarray(numbers))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    return write


@pytest.fixture
def source(folder):
    return ModelSource("tiny", "gguf", folder, None, "0" * 64)


def request_for(tmp_path, monkeypatch, source, path, type, kind="lora", few=()):
    """A round of random matrices on every module, to be exported; of `few` kinds, few rows change."""
    round_folder = tmp_path / "round"
    round_folder.mkdir()
    weights, generator = Weights(source.folder), torch.Generator().manual_seed(0)
    if kind == "lora":
        state = {}
        for module in MODULES:
            out, into = weights[f"{module}.weight"].shape
            state[f"base_model.model.{module}.lora_A.weight"] = torch.randn(
                RANK, into, generator=generator
            )
            state[f"base_model.model.{module}.lora_B.weight"] = torch.randn(
                out, RANK, generator=generator
            )
            if module.split(".", 3)[3] in few:
                state[f"base_model.model.{module}.lora_B.weight"][RANK:] *= 1e-3
        save_file(state, round_folder / "adapter_model.safetensors")
        (round_folder / "adapter_config.json").write_text(
            canonical_json({"r": RANK, "lora_alpha": ALPHA})
        )
    else:
        state = {
            f"{MODULES[0]}.weight": torch.randn(
                weights[f"{MODULES[0]}.weight"].shape, generator=generator
            )
        }
        save_file(state, round_folder / "matrix.safetensors")
    monkeypatch.setattr("corsa.export.gguf_lora.write_documents", lambda *_, **__: None)
    monkeypatch.setattr("corsa.export.gguf_merged.write_documents", lambda *_, **__: None)
    found = ModelSource(str(path), "gguf", source.folder, None, "0" * 64)
    record = {"artefact": {"kind": kind}, "method": "corsa"}
    model = {"name": str(path), "revision": None, "sha256": "0" * 64}
    round = Round(1, 0, round_folder, record)
    return state, Request(round, [planned()], model, type, lambda: found, Silent())


def read(path):
    reader = gguf.GGUFReader(path)
    return reader, {tensor.name: tensor for tensor in reader.tensors}


def back(name, weight):
    """A GGUF tensor as transformers turns it back."""
    process = LlamaTensorProcessor({"num_attention_heads": 4, "num_key_value_heads": 2}).process
    return process(weight, name).weights


def test_q_and_k_are_found_in_llamas_order_and_all_else_as_it_is(write_file, tensors, source):
    file = GgufFile(write_file(tensors), source)
    weights = Weights(source.folder)
    for module in MODULES:
        place = file.place(module)
        assert place.tensor == tensor_name(module)
        assert not place.transposed
        own = weights[f"{module}.weight"]
        turned = NAMES[module.split(".", 3)[3]] in HEADS
        assert (place.rows.tolist() != list(range(len(own)))) == turned
        assert np.array_equal(back(place.tensor, own[place.rows]), own)


def test_a_module_that_keeps_its_weight_the_other_way_round_is_found(
    write_file, tensors, source, tmp_path
):
    other = {
        f"{m}.weight": torch.from_numpy(Weights(source.folder)[f"{m}.weight"].T.copy())
        for m in MODULES
    }
    save_file(other, tmp_path / "model.safetensors")
    turned = ModelSource("tiny", "gguf", tmp_path, None, "0" * 64)
    assert GgufFile(write_file(tensors), turned).place(MODULES[-1]).transposed


def test_an_order_that_is_not_known_is_refused_with_the_way_out(write_file, tensors, source):
    tensors["blk.1.ffn_up.weight"] = tensors["blk.1.ffn_up.weight"][::-1]
    file = GgufFile(write_file(tensors), source)
    file.place("model.layers.0.mlp.up_proj")
    with pytest.raises(ModelError, match=r"blk\.1\.ffn_up\.weight.*convert_hf_to_gguf\.py"):
        file.place("model.layers.1.mlp.up_proj")


def test_one_number_of_another_model_is_noticed(write_file, tensors, source):
    tensors["blk.0.attn_v.weight"] = tensors["blk.0.attn_v.weight"].copy()
    tensors["blk.0.attn_v.weight"][3, 5] += 1e-6
    with pytest.raises(ModelError, match="no order known"):
        GgufFile(write_file(tensors), source).place("model.layers.0.self_attn.v_proj")


def test_a_module_the_file_has_not_is_named(write_file, tensors, source):
    del tensors["blk.0.ffn_up.weight"]
    file = GgufFile(write_file(tensors), source)
    for module in ("model.layers.0.mlp.up_proj", "model.layers.0.mlp.unheard_of"):
        with pytest.raises(ModelError, match=f"no tensor for {module}"):
            file.place(module)


def test_an_architecture_that_gguf_does_not_know_is_refused(write_file, tensors, source):
    with pytest.raises(ModelError, match="'unheard-of' is unknown"):
        GgufFile(write_file(tensors, "unheard-of"), source)


@pytest.mark.parametrize(("type", "dtype"), [("f32", np.float32), ("f16", np.float16)])
def test_a_lora_file_adds_what_the_adapter_adds(
    tmp_path, monkeypatch, write_file, tensors, source, type, dtype
):
    path = write_file(tensors)
    state, request = request_for(tmp_path, monkeypatch, source, path, type)
    gguf_lora.write(request, tmp_path)
    reader, found = read(tmp_path / "adapter.gguf")
    fields = {f.name: f.contents() for f in reader.fields.values()}
    assert fields["general.type"] == "adapter"
    assert fields["adapter.type"] == "lora"
    assert fields["general.architecture"] == "llama"
    assert fields["adapter.lora.alpha"] == ALPHA
    assert len(found) == 2 * len(MODULES)
    for module in MODULES:
        name = tensor_name(module)
        a, b = found[f"{name}.lora_a"].data, found[f"{name}.lora_b"].data
        assert a.dtype == b.dtype == dtype
        key = f"base_model.model.{module}"
        wanted = state[f"{key}.lora_B.weight"] @ state[f"{key}.lora_A.weight"]
        delta = back(name, b.astype(np.float32) @ a.astype(np.float32))
        np.testing.assert_allclose(delta, wanted.numpy(), atol=1e-5 if type == "f32" else 1e-2)
    assert f"FROM {path}\n" in (tmp_path / "Modelfile").read_text("utf-8")


@pytest.mark.parametrize(("type", "error"), [("f32", 1e-5), ("f16", 1e-2), ("q8_0", 0.2)])
def test_a_merged_file_holds_the_sum_and_the_files_own_words(
    tmp_path, monkeypatch, write_file, tensors, source, type, error
):
    path = write_file(tensors)
    state, request = request_for(tmp_path, monkeypatch, source, path, type)
    gguf_merged.write(request, tmp_path)
    reader, found = read(tmp_path / "model.gguf")
    weights = Weights(source.folder)
    for module in MODULES:
        key = f"base_model.model.{module}"
        delta = state[f"{key}.lora_B.weight"] @ state[f"{key}.lora_A.weight"] * (ALPHA / RANK)
        tensor = found[tensor_name(module)]
        merged = back(tensor.name, dequantised(tensor))
        np.testing.assert_allclose(merged, weights[f"{module}.weight"] + delta.numpy(), atol=error)
        narrow = type if tensor.shape[0] % 32 == 0 else {"q8_0": "f16"}.get(type, type)
        assert tensor.tensor_type.name == narrow.upper()
    norm = found["output_norm.weight"]
    assert norm.tensor_type.name == "F32"
    assert np.array_equal(norm.data, weights["model.norm.weight"])
    fields = {f.name: f.contents() for f in reader.fields.values()}
    assert fields["tokenizer.ggml.tokens"] == ["a", "b"]
    assert fields["tokenizer.chat_template"] == CHATML
    assert fields["llama.attention.head_count_kv"] == 2
    assert fields["general.file_type"] == {"f32": 0, "f16": 1, "q8_0": 7}[type]


def test_matrices_of_which_few_rows_changed_are_not_written_in_eight_bits(
    tmp_path, monkeypatch, write_file, tensors, source
):
    """A neuron carries an edit alone: rounding its gate to a 127th of the largest in 32 loses it."""
    _, request = request_for(
        tmp_path, monkeypatch, source, write_file(tensors), "q8_0", few={"mlp.gate_proj"}
    )
    gguf_merged.write(request, tmp_path)
    _, found = read(tmp_path / "model.gguf")
    wide = {name for name in map(tensor_name, MODULES) if found[name].shape[0] % 32 == 0}
    gates = {f"blk.{layer}.ffn_gate.weight" for layer in (0, 1)}
    assert gates < wide
    for name in wide:
        assert found[name].tensor_type.name == ("F16" if name in gates else "Q8_0")


def test_another_matrix_takes_the_place_of_the_files(
    tmp_path, monkeypatch, write_file, tensors, source
):
    state, request = request_for(
        tmp_path, monkeypatch, source, write_file(tensors), "f32", kind="matrix"
    )
    gguf_merged.write(request, tmp_path)
    _, found = read(tmp_path / "model.gguf")
    (wanted,) = state.values()
    name = tensor_name(MODULES[0])
    assert np.array_equal(back(name, dequantised(found.pop(name))), wanted.numpy())
    assert all(np.array_equal(dequantised(t), tensors[name]) for name, t in found.items())


def test_a_model_of_no_gguf_file_is_refused_with_llama_cpps_converters(
    tmp_path, monkeypatch, write_file, tensors, source
):
    _, request = request_for(tmp_path, monkeypatch, source, write_file(tensors), "f32")
    plain = ModelSource("owner/name", "hub", source.folder, "abc", "0" * 64)
    object.__setattr__(request, "find_base", lambda: plain)
    for format in ("gguf", "gguf-lora"):
        with pytest.raises(UsageError, match=r"convert_hf_to_gguf\.py.*convert_lora_to_gguf\.py"):
            write_export(request, format, tmp_path / "out")
        assert not (tmp_path / "out").exists()
    with pytest.raises(UsageError, match="did not come from a GGUF file"):
        base_file(request)
