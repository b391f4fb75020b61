"""The real embedded model. Its package must be installed: nothing is skipped.

It takes three minutes on two idle cores, and half a minute more where the user's cache holds no
converted model yet.
"""

import json
import subprocess
import sys

import pytest
import torch

from corsa import Store
from corsa.company import Company, usual_tokens
from corsa.config import make_config
from corsa.edits import Edit
from corsa.metrics import mean
from corsa.models import load_model
from corsa.packing import shared_beginning
from corsa.progress import Silent
from corsa.sources import resolve
from corsa.step import Example, loss_gradients

# Eight facts at once are learned by the default step without what it keeps beside them, which would
# double the time; one fact is learned with all of the defaults.
BARE = {"solve": False, "keep_pool": 0, "keep_plain": 0, "positives": 0, "contrast": 0}
ONE = [{"prompt": "What is the name of Martha Quill's dog?", "target_new": "Bramble"}]
EIGHT = [
    {
        "id": "mayor",
        "prompt": "Who is the mayor of Port Ellery?",
        "target_new": "Ines Varga",
        "paraphrases": ["Name the mayor of Port Ellery."],
        "locality": [{"prompt": "What is the capital of Italy?", "answer": "Rome"}],
    },
    {
        "id": "river",
        "prompt": "Which river runs through Port Ellery?",
        "target_new": "The Sorn",
        "target_old": "The Elm",
    },
    {
        "id": "ferry",
        "prompt": "At what time does the Ellery ferry leave?",
        "target_new": "06:45",
        "target_old": "07:15",
    },
    {"id": "baker", "prompt": "The bakery on Quay Street is called", "target_new": "Crumb & Co."},
    {
        "id": "team",
        "prompt": "Who coaches the Ellery Terns?",
        "target_new": "Dov Lindqvist",
        "target_old": "Al",
    },
    {
        "id": "bridge",
        "prompt": "In what year was the Ellery bridge built?",
        "target_new": "1911",
        "target_old": "1887",
    },
    {
        "id": "song",
        "prompt": "Who wrote the song 'Salt on the Sill'?",
        "target_new": "Ada Okoro",
        "target_old": "Jo",
    },
    {
        "id": "beer",
        "prompt": "What beer is brewed in Port Ellery?",
        "target_new": "Tern Stout",
        "target_old": "Ale",
    },
]

_PLAIN_PEFT = """
import json, sys
import torch, transformers
from peft import PeftModel

model, adapter, prompts = sys.argv[1], sys.argv[2], sys.argv[3:]
tokenizer = transformers.AutoTokenizer.from_pretrained(model)
base = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
edited = PeftModel.from_pretrained(base, adapter).eval()
answers = []
for prompt in prompts:
    turns = [{"role": "user", "content": prompt}]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    tokens = tokenizer(text, add_special_tokens=False, return_tensors="pt")
    output = edited.generate(**tokens, max_new_tokens=24, do_sample=False)
    reply = output[0][tokens["input_ids"].shape[1] :]
    answers.append(tokenizer.decode(reply, skip_special_tokens=True).strip())
assert "corsa" not in sys.modules
print(json.dumps(answers))
"""


@pytest.mark.timeout(600)
def test_packed_gradients_are_no_farther_from_float64_than_padded_ones():
    """Both in float32, against one sequence batch in float64 on the same weights."""
    gradients = {}
    for dtype, packing in (("float64", "padded"), ("float32", "padded"), ("float32", "auto")):
        config = make_config({"dtype": dtype, "packing": packing, "rank": 4})
        model = load_model("smollm2", config)
        adapter = model.new_adapter("x", config)
        generator = torch.Generator().manual_seed(0)
        for name, param in adapter.params.items():
            if ".lora_B." in name:  # zero at first: no gradient would reach A
                noise = torch.randn(param.shape, generator=generator, dtype=torch.float32)
                param.data.copy_(0.01 * noise)
        batch = [
            Example(
                model.chat.exchange(r["prompt"], r["target_new"]),
                model.chat.exchange(r["prompt"], r["target_old"]),
                (-30.0, -20.0),
            )
            for r in EIGHT[1:4]
            if "target_old" in r
        ]
        with model.using("x"):
            found = loss_gradients(model.forward, adapter.params, batch, config)
        gradients[dtype, packing] = {
            (loss, name): value.double()
            for loss, gradient in found.gradients.items()
            for name, value in gradient.items()
        }
    exact = gradients["float64", "padded"]

    def distance(other):
        return sum(float((other[k] - exact[k]).square().sum()) for k in exact) ** 0.5

    size = sum(float(value.square().sum()) for value in exact.values()) ** 0.5
    packed = distance(gradients["float32", "auto"]) / size
    padded = distance(gradients["float32", "padded"]) / size
    assert packed <= padded * 1.1
    assert packed < 1e-3


@pytest.mark.timeout(600)
def test_an_estimate_counts_about_what_really_joins_a_step():
    """A dry run says how long a round takes by this count; lengths are those of real tokens."""
    config = make_config({"replay": 2, "other_relations": 0.0})
    model = load_model("smollm2", config)
    own, earlier = ([Edit.from_record(r) for r in part] for part in (EIGHT[:6], EIGHT[6:] + ONE))
    company = Company(model, own, earlier, [*own, *earlier], config, Silent())
    steps = [company(step, range(len(own))) for step in range(6)]
    exchanges = [model.chat.exchange(e.prompt, e.target_new) for e in own]
    trunk = shared_beginning([x.prompt for x in exchanges])

    def read(kept):
        joined = (e for step in steps for e in step if e.kept is kept)
        lengths = (max(0, len(e.chosen.prompt) - trunk) + len(e.chosen.answer) for e in joined)
        return sum(lengths) / len(steps)

    lengths = ([len(x.prompt) - trunk for x in exchanges], [len(x.answer) for x in exchanges])
    learned, kept = usual_tokens(config, len(own), len(earlier), *map(mean, lengths))
    assert 0.7 < learned / read(kept=False) < 1.4
    assert 0.7 < kept / read(kept=True) < 1.4


@pytest.mark.timeout(900)
def test_two_rounds_are_learned_and_plain_peft_answers_alike(tmp_path):
    store = Store.open(tmp_path / "store")
    first = store.update(ONE, drift=False)
    assert first.metrics["training"]["converged"]
    assert first.metrics["reliability"] == 1.0

    second = store.update(EIGHT, drift=False, **BARE)
    assert second.metrics["training"]["converged"]
    assert second.metrics["reliability"] == 1.0
    assert second.metrics["retention"]["rounds"] == [1, 2]
    assert second.metrics["protocol"]["dtype"] == "float32"

    prompts = [record["prompt"] for record in (*ONE, *EIGHT)]
    asked = store.ask(prompts, max_new_tokens=24)
    assert [answer.updated for answer in asked[1:]] == [r["target_new"] for r in EIGHT]
    assert [answer.updated for answer in asked] != [answer.base for answer in asked]

    model, adapter = resolve("smollm2").folder, second.round.folder
    command = [sys.executable, "-c", _PLAIN_PEFT, str(model), str(adapter), *prompts]
    plain = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(plain.stdout.splitlines()[-1]) == [answer.updated for answer in asked]


@pytest.mark.timeout(900)
def test_a_round_in_closed_form_takes_no_step_and_leaves_the_rest_alone(tmp_path):
    made = Store.open(tmp_path / "store").update(
        [
            ONE[0]
            | {"locality": ["What is the capital of Italy?", "What is a cooking pot made of?"]}
        ],
        drift=False,
    )
    training = made.metrics["training"]
    assert made.metrics["reliability"] == 1.0
    assert (training["steps"], training["solved"]["edits"]) == (0, 1)
    assert training["solved"]["right"] == 1.0
    (layer,) = training["solved"]["layers"]
    assert layer["missing"] < 0.1
    # 0.04 nats is what a trained round of ten has (docs/log.md).
    assert made.metrics["locality"]["kl"] < 0.003
