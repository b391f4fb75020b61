"""The real embedded model with default settings. Its package must be installed: nothing is skipped.

Where the user's cache holds no converted model yet, the first test takes half a minute longer.
"""

import json
import subprocess
import sys

import pytest

from corsa import Store
from corsa.sources import resolve

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


@pytest.mark.timeout(900)  # three minutes on two idle cores
def test_two_rounds_are_learned_and_plain_peft_answers_alike(tmp_path):
    store = Store.open(tmp_path / "store")
    first = store.update(ONE, drift=False)
    assert first.metrics["training"]["converged"]
    assert first.metrics["reliability"] == 1.0

    second = store.update(EIGHT, drift=False)
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
