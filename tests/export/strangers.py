"""Other people's programs at work on what was exported, each in a process of its own without corsa."""

import json
import subprocess
import sys
from pathlib import Path

# What both programs print: {"chats": replies, "others": [[token ids], …], "first": [{id: log p}, …]}.
_TRANSFORMERS = """
import json, sys
import torch, transformers

spec = json.load(sys.stdin)
load = transformers.AutoModelForCausalLM.from_pretrained
tokenizer = transformers.AutoTokenizer.from_pretrained(spec["model"])
model = load(spec["model"], dtype=torch.float32).eval()
if spec["adapter"]:
    from peft import PeftModel
    model = PeftModel.from_pretrained(model, spec["adapter"]).eval()

def prompt(question):
    turns = [{"role": "user", "content": question}]
    return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)

@torch.no_grad()
def reply(text, length):
    tokens = tokenizer(text, add_special_tokens=False, return_tensors="pt")
    whole = model.generate(**tokens, max_new_tokens=length, do_sample=False)
    return whole[0, tokens["input_ids"].shape[1]:].tolist()

@torch.no_grad()
def first(text):
    tokens = tokenizer(text, add_special_tokens=False, return_tensors="pt")
    logps = model(**tokens).logits[0, -1].log_softmax(-1)
    top = logps.topk(5)
    return dict(zip(top.indices.tolist(), top.values.tolist()))

@torch.no_grad()
def logits(question, answer):
    tokens = tokenizer(prompt(question) + answer, add_special_tokens=False, return_tensors="pt")
    return model(**tokens).logits

chats = [tokenizer.decode(reply(prompt(q), 24), skip_special_tokens=True).strip() for q in spec["chats"]]
others = [prompt(question) for question in spec["others"]]
found = {
    "chats": chats,
    "prompts": others,
    "end": tokenizer.eos_token_id,
    "others": [reply(text, spec["length"]) for text in others],
    "first": [first(text) for text in others],
}
if spec["beside"]:
    own = [logits(q, a) for q, a in zip(spec["chats"], chats)]
    model = load(spec["beside"], dtype=torch.float32).eval()
    theirs = [logits(q, a) for q, a in zip(spec["chats"], chats)]
    found["apart"] = max(float((a - b).abs().max()) for a, b in zip(own, theirs))
assert "corsa" not in sys.modules
print(json.dumps(found))
"""

_LLAMA_CPP = """
import json, os, sys
import xllamacpp

spec = json.load(sys.stdin)
params = xllamacpp.CommonParams()
params.model.path = spec["model"]
params.n_ctx, params.n_parallel, params.verbosity = 2048, 1, -1
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1  # several spin while they wait
params.warmup = False
if spec["adapter"]:
    lora = xllamacpp.CommonAdapterLoraInfo()
    lora.path, lora.scale = spec["adapter"], 1.0
    params.lora_adapters = [lora]
server = xllamacpp.Server(params)

def chat(question):
    turns = [{"role": "user", "content": question}]
    asked = {"messages": turns, "max_tokens": 24, "temperature": 0}
    return server.handle_chat_completions(asked)["choices"][0]["message"]["content"].strip()

def complete(text):
    asked = {"prompt": text, "max_tokens": spec["length"], "temperature": 0, "logprobs": 200}
    return server.handle_completions(asked)["choices"][0]["logprobs"]["content"]

completed = [complete(text) for text in spec["prompts"]]
found = {
    "chats": [chat(question) for question in spec["chats"]],
    "others": [[token["id"] for token in each] for each in completed],
    "first": [{t["id"]: t["logprob"] for t in each[0]["top_logprobs"]} for each in completed],
}
assert "corsa" not in sys.modules
with open(spec["out"], "w") as file:  # the server writes to standard output, too
    json.dump(found, file)
os._exit(0)
"""


def _run(program, spec):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        input=json.dumps(spec),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def transformers_says(model, chats, others, length, adapter=None, beside=None):
    """What plain transformers answers, with plain peft where an adapter is given."""
    spec = {
        "model": str(model),
        "adapter": adapter and str(adapter),
        "beside": beside and str(beside),
        "chats": chats,
        "others": others,
        "length": length,
    }
    return json.loads(_run(_TRANSFORMERS, spec).splitlines()[-1])


def llama_says(model, chats, prompts, length, folder: Path, adapter=None):
    """What llama.cpp answers; `prompts` are whole texts, as the chat template wrote them."""
    out = folder / "llama.json"
    out.unlink(missing_ok=True)
    spec = {
        "model": str(model),
        "adapter": adapter and str(adapter),
        "chats": chats,
        "prompts": prompts,
        "length": length,
        "out": str(out),
    }
    _run(_LLAMA_CPP, spec)
    return json.loads(out.read_text("utf-8"))


def agreement(one, other):
    """Share of the other prompts whose first tokens are the same."""
    ends = {one.get("end"), other.get("end")}  # a token that only some programs give
    same = [
        [token for token in a if token not in ends] == [token for token in b if token not in ends]
        for a, b in zip(one["others"], other["others"], strict=True)
    ]
    return sum(same) / len(same)


def gap(one, other, least=4):
    """Mean distance of log p of the first token's likeliest candidates, in nats."""
    distances = [
        abs(mine[token] - theirs[token])
        for mine, theirs in zip(one["first"], other["first"], strict=True)
        for token in mine
        if token in theirs
    ]
    assert len(distances) >= least * len(one["first"])
    return sum(distances) / len(distances)
