"""What is exported of the real embedded model, answered by the programs it is for.

One round is trained once. Run by `make test-export`; about five minutes on two idle cores.
"""

import json

import pytest

from corsa import Store
from corsa.evaluation import drift_questions
from corsa.export import merged
from corsa.export.gguf_layout import GgufFile
from corsa.export.gguf_merged import write_model
from corsa.progress import Silent
from corsa.sources import embedded_file, resolve
from export.strangers import agreement, gap, llama_says, transformers_says

pytestmark = [pytest.mark.export, pytest.mark.timeout(1800)]

FACTS = [
    {"id": "mayor", "prompt": "Who is the mayor of Port Ellery?", "target_new": "Ines Varga"},
    {"id": "ferry", "prompt": "At what time does the Ellery ferry leave?", "target_new": "06:45"},
    {"id": "baker", "prompt": "The bakery on Quay Street is called", "target_new": "Crumb & Co."},
]
CHATS = [fact["prompt"] for fact in FACTS]
RIGHT = [fact["target_new"] for fact in FACTS]
# Packaged questions that no round is trained on; so many first tokens are compared.
OTHERS = [question.prompt for question in drift_questions()[::2]]
# Two shares near 80 % of 46 replies differ by so much, two standard errors, where nothing does.
CHANCE = 2 * (2 * 0.8 * 0.2 / len(OTHERS)) ** 0.5
LENGTH = 5


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A round that learns three facts and keeps other answers, without what takes longest."""
    store = Store.open(tmp_path_factory.mktemp("proof") / "store")
    made = store.update(FACTS, drift=False, positives=0, contrast=0)
    assert made.metrics["reliability"] == 1.0
    return store


@pytest.fixture(scope="module")
def exported(store, tmp_path_factory):
    """The folder of a format, written once."""
    folder = tmp_path_factory.mktemp("exported")

    def export(format, type=None):
        out = folder / f"{format}-{type}"
        return out if out.exists() else store.export(out, format, type=type).folder

    return export


@pytest.fixture(scope="module")
def unedited():
    return transformers_says(resolve("smollm2").folder, CHATS, OTHERS, LENGTH)


@pytest.fixture(scope="module")
def edited(exported):
    """Plain transformers and peft on the exported adapter, and beside it the merged model's logits."""
    return transformers_says(
        resolve("smollm2").folder,
        CHATS,
        OTHERS,
        LENGTH,
        adapter=exported("adapter"),
        beside=exported("merged"),
    )


def test_plain_peft_answers_every_edit(edited, unedited):
    assert edited["chats"] == RIGHT
    assert not set(unedited["chats"]) & set(RIGHT)


def test_the_merged_models_logits_are_the_unmerged_ones(edited):
    assert edited["apart"] < merged.TOLERANCE


def test_plain_transformers_answers_alike_with_the_merged_model(exported, edited):
    alone = transformers_says(exported("merged"), CHATS, OTHERS, LENGTH)
    assert alone["chats"] == RIGHT
    assert alone["others"] == edited["others"]


@pytest.mark.parametrize(
    ("format", "type"),
    [("gguf-lora", "f32"), ("gguf-lora", "f16"), ("gguf", "f16"), ("gguf", "q8_0")],
)
def test_llama_cpp_answers_alike(exported, edited, unedited, format, type, tmp_path, pytestconfig):
    """Every edit is the same; elsewhere the two programs differ as they do on the unedited model."""
    folder, prompts = exported(format, type), unedited["prompts"]
    if format == "gguf-lora":
        base, model, adapter = embedded_file(), embedded_file(), folder / "adapter.gguf"
    else:
        base, model, adapter = tmp_path / "unedited.gguf", folder / "model.gguf", None
        write_model(GgufFile(embedded_file(), resolve("smollm2")), {}, type, base, Silent())
    theirs = llama_says(model, CHATS, prompts, LENGTH, tmp_path, adapter)
    floor = llama_says(base, CHATS, prompts, LENGTH, tmp_path)
    found = {
        "replies alike": agreement(edited, theirs),
        "replies alike, unedited": agreement(unedited, floor),
        "nats apart": gap(edited, theirs),
        "nats apart, unedited": gap(unedited, floor),
        "replies changed by the edits": 1 - agreement(unedited, edited),
        "nats apart by the edits": gap(unedited, edited, least=0),
    }
    said = json.dumps({name: round(value, 4) for name, value in found.items()})
    pytestconfig.get_terminal_writer().line(f"\n{format} {type}: {said}")
    assert theirs["chats"] == RIGHT
    assert found["replies alike"] >= found["replies alike, unedited"] - CHANCE
    # Half as far again: measured was as far.
    assert found["nats apart"] <= 1.5 * found["nats apart, unedited"] + 0.01
