"""What a step costs as answers get longer: seconds of a processor and peak memory.

    python benchmarks/long_answers.py 5 64 256 [--pass-tokens 512]

Four edits whose two answers have that many tokens each, the embedded model, method corsa, nothing
replayed or kept. A pass of the model takes so many answer tokens at most. Each length runs in a process
of its own: peak memory never goes down.
"""

import argparse
import json
import resource
import subprocess
import sys
import time

import numpy as np
import torch

from corsa import step
from corsa.chat import Exchange
from corsa.config import Config, make_config
from corsa.models import load_model
from corsa.step import Example, corsa_step

EDITS = 4


def measure(tokens: int, pass_tokens: int) -> dict[str, float]:
    """One step."""
    step._PASS_TOKENS = pass_tokens
    config = make_config({"keep_pool": 0, "keep_plain": 0, "replay": 0})
    base = load_model("smollm2", Config())
    adapter = base.new_adapter("measured", config)
    rng = np.random.default_rng(0)

    def random(count: int) -> tuple[int, ...]:
        return tuple(int(t) for t in rng.integers(1000, 40000, count))

    batch = []
    for _ in range(EDITS):
        prompt = random(60)
        pair = Exchange(prompt, random(tokens)), Exchange(prompt, random(tokens))
        batch.append(Example(*pair, reference=(-10.0 * tokens, -10.0 * tokens)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with base.using(adapter.name):
        start = time.process_time()
        corsa_step(base.forward, adapter.params, batch, config)
        seconds = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "answer tokens": tokens,
        "tokens of a pass": pass_tokens,
        "processor seconds": round(seconds, 1),
        "peak MiB": peak >> 10,
        "of these the step's": (peak - before) >> 10,
        "threads": torch.get_num_threads(),
    }


def main() -> None:
    """Print one line of JSON for each length."""
    arguments = argparse.ArgumentParser(description="What a step costs as answers get longer.")
    arguments.add_argument("tokens", type=int, nargs="+")
    arguments.add_argument("--pass-tokens", type=int, default=step._PASS_TOKENS)
    asked = arguments.parse_args()
    if len(asked.tokens) == 1:
        print(json.dumps(measure(asked.tokens[0], asked.pass_tokens)))
        return
    for tokens in asked.tokens:
        one = [sys.executable, __file__, str(tokens), "--pass-tokens", str(asked.pass_tokens)]
        subprocess.run(one, check=True)


if __name__ == "__main__":
    main()
