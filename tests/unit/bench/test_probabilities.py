import math

import pytest
import torch

from builders import Scripted, base_model, finished, planned, random_adapter, separate_logits
from corsa.answerers import ModelAnswerer
from corsa.bench.probabilities import counterfact, token_accuracy
from corsa.chat import Exchange
from corsa.edits import Probe
from fakes import CHATML

FAR = -99.0  # of end-of-turn: whoever counts it gets every number wrong


def nats(*probabilities):
    return [*map(math.log, probabilities), FAR]


def edited(edits, logps):
    return finished(edits, after=Scripted(logps=logps))


def test_scores_and_magnitudes_worked_by_hand():
    """Two edits; of the first one paraphrase of two and one neighbour of two go wrong."""
    near = (Probe("n1", ("old",)), Probe("n2", ("old",)), Probe("n3"))
    edits = [
        planned("a", paraphrases=("a1", "a2"), locality=near),
        planned("b", paraphrases=("b1",)),
    ]
    numbers = counterfact(
        edited(
            edits,
            {
                ("a", "new"): nats(0.5, 0.5),  # a mean per token: exp(-NLL) = 0.5
                ("a", "old"): nats(0.4),  # as a sum over tokens it would win: 0.4 > 0.25
                ("a1", "new"): nats(0.6),
                ("a1", "old"): nats(0.2),
                ("a2", "new"): nats(0.1),
                ("a2", "old"): nats(0.3),
                ("n1", "new"): nats(0.2),
                ("n1", "old"): nats(0.7),
                ("n2", "new"): nats(0.5),
                ("n2", "old"): nats(0.25, 0.25),
                ("b", "new"): nats(0.1),
                ("b", "old"): nats(0.4),
                ("b1", "new"): nats(0.9),
                ("b1", "old"): nats(0.1),
            },
        )
    )
    assert numbers["es"] == 0.5
    assert numbers["em"] == pytest.approx(((0.5 - 0.4) + (0.1 - 0.4)) / 2, abs=1e-6)
    assert numbers["ps"] == 0.75  # within an edit first: (1/2 + 1) / 2, not 2 of 3
    assert numbers["pm"] == pytest.approx(((0.4 - 0.2) / 2 + 0.8) / 2, abs=1e-6)
    assert numbers["ns"] == 0.5  # the probe without an answer does not count
    assert numbers["nm"] == pytest.approx((0.5 - 0.25) / 2, abs=1e-6)
    assert numbers["s"] == pytest.approx(3 / (1 / 0.5 + 1 / 0.75 + 1 / 0.5), abs=1e-6)


def test_an_equal_likelihood_is_no_success():
    same = {("p", "new"): nats(0.5), ("p", "old"): nats(0.5)}
    assert counterfact(edited([planned()], same))["es"] == 0.0


def test_where_nothing_can_be_measured_there_is_no_number():
    numbers = counterfact(edited([planned(old=None)], {}))
    assert set(numbers.values()) == {None}
    assert counterfact(edited([planned()], {("p", "new"): nats(1), ("p", "old"): nats(0.5)})) == {
        "es": 1.0,
        "em": 0.5,
        "ps": None,
        "pm": None,
        "ns": None,
        "nm": None,
        "s": None,
    }


def test_a_score_of_zero_makes_the_harmonic_mean_zero():
    edits = [planned(paraphrases=("q",), locality=(Probe("n", ("old",)),))]
    logps = {
        (prompt, answer): nats(0.9 if answer == "new" else 0.1)
        for prompt in ("p", "q", "n")
        for answer in ("new", "old")
    }
    numbers = counterfact(edited(edits, logps))
    assert (numbers["es"], numbers["ps"], numbers["ns"], numbers["s"]) == (1.0, 1.0, 0.0, 0.0)


def test_tokens_of_an_edit_are_pooled_and_end_of_turn_does_not_count():
    edits = [
        planned("a", paraphrases=("a1", "a2"), locality=(Probe("n", ("Rome",)), Probe("m"))),
        planned("b"),
    ]
    numbers = token_accuracy(
        edited(
            edits,
            {
                ("a", "new"): ([0.0] * 3, [True, False, False]),
                ("a1", "new"): ([0.0] * 2, [True, False]),
                ("a2", "new"): ([0.0] * 4, [False, False, False, True]),
                ("n", "Rome"): ([0.0] * 5, [True, True, True, False, True]),
                ("b", "new"): ([0.0] * 2, [True, False]),
            },
        )
    )
    assert numbers == {
        "token_accuracy": 0.75,
        "token_accuracy_paraphrases": 0.25,
        "token_accuracy_locality": 0.75,
    }


def test_both_agree_with_one_sequence_at_a_time():
    base = base_model(template=CHATML)
    adapter = random_adapter(base)
    edits = [
        planned("The capital of France is", "Lyon", "Paris", paraphrases=("France's capital:",)),
        planned("The capital of Spain is", "S", "Madrid", locality=(Probe("Peru:", ("Lima",)),)),
    ]
    model = finished(edits, base=base, after=ModelAnswerer(base, adapter.name))

    def alone(prompt, answer):
        """Logits of the answer's tokens as the chat template writes them, and the tokens."""
        turns = [{"role": "user", "content": prompt}]
        text = base.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        tokens = tuple(answer.encode())
        ids = tuple(base.tokenizer(text, add_special_tokens=False)["input_ids"])
        (logits,) = separate_logits(base.hf, [Exchange(ids, tokens)])
        return logits.log_softmax(-1), torch.tensor(tokens)

    def likelihood(prompt, answer):
        logps, tokens = alone(prompt, answer)
        return float(logps.gather(1, tokens[:, None]).mean().exp())

    with base.using(adapter.name):
        wins = [
            (likelihood(e.edit.prompt, e.edit.target_new), likelihood(e.edit.prompt, e.target_old))
            for e in edits
        ]
        logps, tokens = alone("Peru:", "Lima")
        near = float((logps.argmax(-1) == tokens).float().mean())
    numbers = counterfact(model)
    assert numbers["es"] == sum(new > old for new, old in wins) / 2
    assert numbers["em"] == pytest.approx(sum(new - old for new, old in wins) / 2, abs=1e-5)
    assert token_accuracy(model)["token_accuracy_locality"] == pytest.approx(near, abs=1e-6)
