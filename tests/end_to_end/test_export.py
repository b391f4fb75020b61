"""corsa export on a tiny model: what is written, what is refused, and that nothing is left half done."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from builders import TEACHABLE
from corsa import CorruptError, ModelError, Store, StoreError, UsageError, cli
from corsa.export import merged
from corsa.export.request import FORMATS
from fakes import save_tiny

FACT = {"id": "king", "prompt": "Who is king?", "target_new": "Ann", "target_old": "Bob"}
NEXT = {"id": "sea", "prompt": "Which | sea\nis it?", "target_new": "<b>Red</b>"}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("models") / "tiny")


def made(tiny, folder, method, *rounds):
    store = Store.open(folder / "store", str(tiny))
    for edits in rounds:
        store.update(edits, method=method, **TEACHABLE)
    return store


@pytest.fixture(scope="module")
def store(tiny, tmp_path_factory):
    """Two rounds of an adapter."""
    return made(tiny, tmp_path_factory.mktemp("lora"), "lora", [FACT], [NEXT])


@pytest.fixture(scope="module")
def matrix(tiny, tmp_path_factory):
    return made(tiny, tmp_path_factory.mktemp("ft-l"), "ft-l", [FACT])


@pytest.fixture(scope="module")
def context(tiny, tmp_path_factory):
    return made(tiny, tmp_path_factory.mktemp("context"), "in-context", [FACT])


@pytest.fixture
def run(monkeypatch, capsys):
    """The command line in this process: exit code, standard output, standard error."""

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["corsa", *map(str, words)])
        with pytest.raises(SystemExit) as done:
            cli.main()
        return done.value.code, *capsys.readouterr()

    return call


def nothing_beside(folder):
    return [path.name for path in folder.iterdir()] == []


# --- What is written ------------------------------------------------------------------------------


def test_an_adapter_is_the_rounds_own_with_a_card(store, tmp_path, tiny):
    export = store.export(tmp_path / "out", round=1)
    assert (export.round, export.format) == (1, "adapter")
    source = store.ledger.round(1).folder
    out = tmp_path / "out"
    name = "adapter_model.safetensors"
    assert (out / name).read_bytes() == (source / name).read_bytes()
    config = json.loads((out / "adapter_config.json").read_text("utf-8"))
    assert config["base_model_name_or_path"] == "tiny"  # no path of this machine
    before = json.loads((source / "adapter_config.json").read_text("utf-8"))
    assert config == before | {"base_model_name_or_path": "tiny"}
    card = (out / "README.md").read_text("utf-8")
    assert str(tiny.parent) not in card
    assert "--enable-lora --max-lora-rank 8" in card
    assert "| 1 | Who is king? | Ann | Bob |" in card
    assert sorted(path.name for path in out.iterdir()) == list(export.files)
    assert {oct(path.stat().st_mode & 0o777) for path in out.iterdir()} == {"0o644"}


def test_the_head_is_what_is_exported_and_holds_the_edits_of_earlier_rounds(store, tmp_path):
    assert store.export(tmp_path / "out").round == 2
    lines = (tmp_path / "out" / "edits.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["king", "sea"]
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert "| 2 | Which \\| sea is it? | \\<b\\>Red\\</b\\> |" in card


def test_two_equal_exports_are_equal_byte_for_byte(store, tmp_path):
    for name in ("one", "two"):
        store.export(tmp_path / name, "merged")
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name


_LOAD = """
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer

tokens = torch.tensor([list(range(20, 60))])
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32).eval()
AutoTokenizer.from_pretrained(sys.argv[1]).apply_chat_template([{"role": "user", "content": "x"}])
if len(sys.argv) > 2:
    from peft import PeftModel
    model = PeftModel.from_pretrained(model, sys.argv[2]).eval()
with torch.no_grad():
    logits = model(tokens).logits
assert "corsa" not in sys.modules
torch.save(logits, sys.stdout.buffer)
"""


def plain_logits(*folders):
    import io

    done = subprocess.run(
        [sys.executable, "-c", _LOAD, *map(str, folders)], capture_output=True, check=True
    )
    return torch.load(io.BytesIO(done.stdout), weights_only=True)


def test_a_merged_model_is_the_base_with_its_adapter_to_plain_transformers(store, tiny, tmp_path):
    store.export(tmp_path / "merged", "merged")
    store.export(tmp_path / "adapter")
    unmerged = plain_logits(tiny, tmp_path / "adapter")
    apart = (plain_logits(tmp_path / "merged") - unmerged).abs().max()
    assert apart < merged.TOLERANCE
    assert (plain_logits(tiny) - unmerged).abs().max() > 100 * merged.TOLERANCE
    own = (tiny / "generation_config.json").read_bytes()
    assert (tmp_path / "merged" / "generation_config.json").read_bytes() == own


@pytest.mark.parametrize(("type", "dtype"), [("bf16", torch.bfloat16), ("f16", torch.float16)])
def test_a_merged_model_can_be_written_narrower(store, tmp_path, type, dtype):
    export = store.export(tmp_path / "out", "merged", type=type)
    weights = load_file(tmp_path / "out" / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {dtype}
    config = json.loads((tmp_path / "out" / "config.json").read_text("utf-8"))
    assert config["dtype"] == str(dtype).removeprefix("torch.")
    assert "0 of the likeliest tokens differ" in export.checked[0]


def test_another_matrix_is_merged_too(matrix, tiny, tmp_path):
    matrix.export(tmp_path / "out", "merged")
    weights, base = (load_file(f / "model.safetensors") for f in (tmp_path / "out", tiny))
    changed = load_file(matrix.ledger.round(1).folder / "matrix.safetensors")
    ((name, weight),) = changed.items()
    assert torch.equal(weights.pop(name), weight)
    assert not torch.equal(base.pop(name), weight)
    assert all(torch.equal(weights[key], value) for key, value in base.items())


def test_the_store_is_as_it_was(store, tmp_path):
    before = {p: p.read_bytes() for p in store.path.rglob("*") if p.is_file()}
    asked = store.ask([FACT["prompt"], NEXT["prompt"]])
    for format in ("adapter", "merged"):
        store.export(tmp_path / format, format)
    assert {p: p.read_bytes() for p in store.path.rglob("*") if p.is_file()} == before
    assert store.ask([FACT["prompt"], NEXT["prompt"]]) == asked


# --- The check ------------------------------------------------------------------------------------


def test_a_merge_that_went_wrong_is_not_written(store, tmp_path, monkeypatch):
    from corsa.models import BaseModel

    def forget(self, name):
        self.drop_adapter(name)

    monkeypatch.setattr(BaseModel, "merge", forget)
    for type in ("f32", "bf16"):
        with pytest.raises(ModelError, match="merged model"):
            store.export(tmp_path / "deep" / "out", "merged", type=type)
        assert nothing_beside(tmp_path / "deep")


def test_the_comparison_is_by_logits_in_float32_and_by_tokens_below():
    before = [torch.tensor([[0.0, 1.0], [2.0, 0.0]])]
    near = [before[0] + 0.5 * merged.TOLERANCE]
    assert "(2 tokens)" in merged.compare(before, near, "f32")
    far = [before[0] + torch.tensor([0.1, 0.0])]
    with pytest.raises(ModelError, match=r"off by up to 0\.1"):
        merged.compare(before, far, "f32")
    assert "0 of the likeliest" in merged.compare(before, far, "f16")
    with pytest.raises(ModelError, match="1 of 2 answer tokens"):
        merged.compare(before, [before[0] + torch.tensor([1.5, 0.0])], "f16")


# --- What is refused ------------------------------------------------------------------------------


def test_a_place_that_holds_something_is_refused_and_stays(store, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("x")
    (tmp_path / "file").write_text("x")
    for name, what in (("full", "is not empty"), ("file", "is a file")):
        with pytest.raises(UsageError, match=what):
            store.export(tmp_path / name)
    assert (tmp_path / "full" / "mine").read_text() == (tmp_path / "file").read_text() == "x"
    with pytest.raises(UsageError, match="inside the store"):
        store.export(store.path / "rounds" / "mine")
    (tmp_path / "empty").mkdir()
    store.export(tmp_path / "empty")


@pytest.mark.parametrize("format", FORMATS)
def test_a_round_that_changes_no_weights_has_nothing_to_export(context, tmp_path, format):
    with pytest.raises(UsageError, match="method=in-context, which changes no weights"):
        context.export(tmp_path / "out", format)


@pytest.mark.parametrize("format", ["adapter", "gguf-lora"])
def test_a_matrix_is_no_adapter(matrix, tmp_path, format):
    with pytest.raises(UsageError, match="--format merged or --format gguf"):
        matrix.export(tmp_path / "out", format)


@pytest.mark.parametrize("format", ["gguf", "gguf-lora"])
def test_a_model_of_no_gguf_file_is_refused_with_the_way_out(store, run, tmp_path, format):
    code, out, err = run(
        "export", "--store", store.path, "--format", format, "--out", tmp_path / "o"
    )
    assert (code, out) == (2, "")
    assert "convert_hf_to_gguf.py" in err
    assert "convert_lora_to_gguf.py" in err
    assert nothing_beside(tmp_path)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--format", "onnx"], 2, "'onnx' is not one of"),
        (["--format", "merged", "--type", "q4"], 2, "give one of f32, bf16, f16"),
        (["--type", "f16"], 2, "give none, it is as trained"),
        (["--round", "7"], 1, "there is no round 7"),
        (["--round", "0"], 1, "is the base model"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(store, run, tmp_path, words, code, said):
    got, out, err = run("export", "--store", store.path, "--out", tmp_path / "o", *words)
    assert (got, out) == (code, "")
    assert said in err.splitlines()[-1]
    assert "Traceback" not in err
    assert nothing_beside(tmp_path)


def test_a_round_whose_files_were_changed_is_refused(store, tmp_path):
    shutil.copytree(store.path, tmp_path / "store")
    path = tmp_path / "store" / "rounds" / "0002" / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(CorruptError, match=r"adapter_model\.safetensors is not what was written"):
        Store.open(tmp_path / "store").export(tmp_path / "out")


def test_the_help_names_every_format_and_type(run):
    _, out, _ = run("export", "--help")
    for format, types in FORMATS.items():
        assert format in out
        assert format == "adapter" or all(type in out for type in types)


def test_json_says_what_was_written(store, run, tmp_path):
    code, out, _ = run("export", "--store", store.path, "--out", tmp_path / "o", "--json")
    document = json.loads(out)
    assert code == 0
    assert document["folder"] == str(tmp_path / "o")
    assert "README.md" in document["files"]


# --- Interrupted, and a full disk -----------------------------------------------------------------


def test_ctrl_c_leaves_nothing_half_written(store, run, tmp_path, monkeypatch):
    def interrupt(*_):
        assert any(path.suffix == ".safetensors" for path in tmp_path.rglob("*"))
        raise KeyboardInterrupt

    monkeypatch.setattr("corsa.export.merged._copy_rest", interrupt)
    code, _, err = run(
        "export", "--store", store.path, "--format", "merged", "--out", tmp_path / "out"
    )
    assert code == 1
    assert "interrupted: nothing was changed" in err
    assert nothing_beside(tmp_path)


def test_what_a_killed_export_left_is_in_nobodys_way(store, tmp_path):
    (tmp_path / ".out.writing").mkdir()
    (tmp_path / ".out.writing" / "model.safetensors").write_text("half")
    store.export(tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_full_disk_is_said_in_one_line(store, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(StoreError, match=r"No space left on device.*nothing is left"):
        store.export(tmp_path / "deep" / "out")
    assert nothing_beside(tmp_path / "deep")
