"""The oracle of the step, checked against strangers and against numbers worked by hand.

Strangers: TRL's DPO trainer (DPO and SFT terms, values and gradients), transformers' own loss,
TorchJD's PCGrad, finite differences, and SAM by moving a deep copy of the model.
"""

import ast
import copy
import math
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model

import reference_step
from fakes import CHATML, KINDS, byte_tokenizer, tiny_model
from reference_step import (
    Pair,
    answer_logps,
    corsa_gradient,
    dpo_loss,
    merge,
    reference_sums,
    sft_loss,
)

pytestmark = [
    # peft asks transformers for the old name of a property
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
]

LORA = LoraConfig(
    r=4, lora_alpha=8, target_modules=["c_attn", "c_fc"], fan_in_fan_out=True, task_type="CAUSAL_LM"
)
BETA = 0.3

# Answers of very different lengths: a mean of means is not the mean over tokens.
CONVERSATIONS = [
    ("Who?", "Ada", "Charles Babbage"),
    ("Capital of France now", "Lyon, since the flood", "P"),
    ("Language", "C", "Fortran"),
]


@pytest.fixture
def policy():
    """GPT-2 (the one tiny model that is float64 throughout) with a LoRA that does something."""
    model = get_peft_model(tiny_model("gpt2", torch.float64), copy.deepcopy(LORA)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.2)
    return model


def trainable(model):
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def pairs_by_hand():
    return [
        Pair(([72, 105, 32], [65, 66, 258]), ([72, 105, 32], [67, 258])),
        Pair(([90, 91], [70, 71, 72, 73, 74, 258])),  # plain SFT
        Pair(([100], [101, 258]), ([100], [102, 103, 104, 258])),
    ]


def base_reference(model, pairs):
    with model.disable_adapter():
        return reference_sums(model, pairs)


def flat(gradients):
    return torch.cat([gradient.double().flatten() for gradient in gradients])


# --- the judge is independent -----------------------------------------------------------------


def test_the_oracle_imports_only_torch():
    tree = ast.parse(Path(reference_step.__file__).read_text(encoding="utf-8"))
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            imported.add(node.module.split(".")[0])
    assert imported == {"torch", "typing"}
    assert "__import__" not in ast.dump(tree)


# --- log-probabilities and losses -------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_answer_logps_are_transformers_own_loss(kind):
    model = tiny_model(kind, torch.float64)
    prompt, answer = list(range(40, 57)), [9, 200, 31, 258]
    logps = answer_logps(model, prompt, answer)
    assert logps.shape == (4,)
    assert logps.dtype == torch.float64
    labels = torch.tensor([[-100] * len(prompt) + answer])
    with torch.no_grad():
        theirs = model(input_ids=torch.tensor([prompt + answer]), labels=labels).loss
    # transformers computes its loss in float32
    torch.testing.assert_close(-logps.mean(), theirs.double(), rtol=1e-6, atol=0)


class Unigram(torch.nn.Module):
    """Two tokens, whose logits are the parameters: everything can be worked out on paper."""

    def __init__(self, *logits):
        super().__init__()
        self.z = torch.nn.Parameter(torch.tensor(logits, dtype=torch.float64))

    def forward(self, input_ids):
        class Output:
            logits = self.z.expand(*input_ids.shape, 2)

        return Output


def test_losses_worked_by_hand():
    # p(0) = 3/4, p(1) = 1/4
    model = Unigram(math.log(3), 0.0)
    pairs = [Pair(([0], [0, 1, 1]), ([0], [1])), Pair(([0], [0]))]
    # four chosen tokens: 0, 1, 1, 0; the mean of the two means would be another number
    sft = -(2 * math.log(3 / 4) + 2 * math.log(1 / 4)) / 4
    assert sft_loss(model, pairs).item() == pytest.approx(sft, rel=1e-14)
    # one pair counts: chosen log(3/4 · 1/16) = log 3/64, rejected log 1/4; the reference had
    # log 1/8 and log 1/2; the difference of log-ratios is log (3/64 · 8) − log (1/4 · 2) = log 3/4;
    # with β = 1 the loss is −log σ(log 3/4) = −log (3/7)
    reference = [(math.log(1 / 8), math.log(1 / 2)), (math.nan, math.nan)]
    dpo = dpo_loss(model, pairs, reference, 1.0)
    assert dpo.item() == pytest.approx(math.log(7 / 3), rel=1e-14)
    # with β = 2: −log σ(log 9/16) = log (25/9)
    dpo = dpo_loss(model, pairs, reference, 2.0)
    assert dpo.item() == pytest.approx(math.log(25 / 9), rel=1e-14)


def test_without_a_rejected_answer_there_is_no_dpo():
    model = Unigram(1.0, 0.0)
    pairs = [Pair(([0], [0, 1])), Pair(([0], [0]))]
    assert dpo_loss(model, pairs, [(0.0, 0.0)] * 2, BETA).item() == 0.0
    arguments = {"sft": False, "projection": "none", "beta": BETA, "reference": [(0.0, 0.0)] * 2}
    gradient = corsa_gradient(model, {"z": model.z}, pairs, dpo=True, rho=0.1, **arguments)
    assert gradient["z"].tolist() == [0.0, 0.0]
    # nor where both answers are the same: no gradient, so no direction for SAM, and no NaN
    pairs = [Pair(([0], [0, 1]), ([0], [0, 1]))] * 2
    gradient = corsa_gradient(model, {"z": model.z}, pairs, dpo=True, rho=0.1, **arguments)
    assert gradient["z"].tolist() == [0.0, 0.0]
    with pytest.raises(ValueError, match="needs a loss"):
        corsa_gradient(model, {"z": model.z}, pairs, dpo=False, rho=None, **arguments)


# TRL's trainer on the same adapter, conversations and reference (the base, adapter off).
@pytest.mark.parametrize(
    ("loss_types", "loss_weights"),
    [(["sigmoid"], [1.0]), (["sft"], [1.0]), (["sigmoid", "sft"], [1.0, 0.6])],
)
def test_losses_and_gradients_are_trls(policy, tmp_path, monkeypatch, loss_types, loss_weights):
    monkeypatch.setenv("TQDM_DISABLE", "1")
    accelerate_state = pytest.importorskip("accelerate.state")
    from datasets import Dataset, disable_caching
    from trl import DPOConfig, DPOTrainer

    disable_caching()
    try:
        trainer = DPOTrainer(
            model=tiny_model("gpt2", torch.float64),
            peft_config=copy.deepcopy(LORA),
            args=DPOConfig(
                str(tmp_path),
                loss_type=loss_types,
                loss_weights=loss_weights,
                beta=BETA,
                max_length=None,
                use_cpu=True,
                bf16=False,
                activation_checkpointing=False,
                report_to="none",
                disable_tqdm=True,
            ),
            train_dataset=Dataset.from_list(
                [
                    {
                        "prompt": [{"role": "user", "content": prompt}],
                        "chosen": [{"role": "assistant", "content": chosen}],
                        "rejected": [{"role": "assistant", "content": rejected}],
                    }
                    for prompt, chosen, rejected in CONVERSATIONS
                ]
            ),
            processing_class=byte_tokenizer(CHATML),
        )
        trainer.model.load_state_dict(policy.state_dict())
        rows = list(trainer.train_dataset)
        loss = trainer.compute_loss(trainer.model, trainer.data_collator(rows))
        loss.backward()
    finally:  # process-wide, and other tests may want another precision
        accelerate_state.AcceleratorState._reset_state(reset_partial_state=True)

    pairs = [
        Pair((row["prompt_ids"], row["chosen_ids"]), (row["prompt_ids"], row["rejected_ids"]))
        for row in rows
    ]
    reference = base_reference(policy, pairs)
    weights = dict(zip(loss_types, loss_weights, strict=True))
    ours = 0.0
    if "sigmoid" in weights:
        ours += dpo_loss(policy, pairs, reference, BETA).item()
    if "sft" in weights:
        ours += weights["sft"] * sft_loss(policy, pairs).item()
    # TRL sums up log-probabilities in float32
    assert loss.item() == pytest.approx(ours, rel=1e-5)

    gradient = corsa_gradient(
        policy,
        trainable(policy),
        pairs,
        sft="sft" in weights,
        dpo="sigmoid" in weights,
        projection="none",
        rho=None,
        beta=BETA,
        sft_weight=weights.get("sft", 1.0),
        reference=reference,
    )
    theirs = {name: parameter.grad for name, parameter in trainable(trainer.model).items()}
    assert gradient.keys() == theirs.keys()
    ours, theirs = flat(gradient.values()), flat(theirs.values())
    assert (ours - theirs).norm() < 1e-5 * ours.norm()


# --- merging ----------------------------------------------------------------------------------

A = torch.tensor([1.0, 0.0], dtype=torch.float64)  # DPO, the one that is bent first
B = torch.tensor([-1.0, 1.0], dtype=torch.float64)  # SFT


def test_merges_worked_by_hand():
    assert merge([B, A], "none").tolist() == [0.0, 1.0]
    # a·b = −1, |a|² = 1, |b|² = 2: a' = a + b/2 = (½, ½), b' = b + a = (0, 1)
    assert merge([B, A], "pcgrad").tolist() == [0.5, 1.5]
    # a' as before; b against a', not a: b·a' = 0, so b stays; half of a' + b. It opposes a still.
    assert merge([B, A], "one-sided").tolist() == [-0.25, 0.75]
    assert merge([B, A], "one-sided") @ A < 0
    # the other way round b is the one bent: ((0, 1) + (1, 0)) / 2
    assert merge([A, B], "one-sided").tolist() == [0.5, 0.5]


def test_gradients_that_agree_are_left_alone():
    a, b = A, torch.tensor([1.0, 3.0], dtype=torch.float64)
    assert merge([b, a], "none").tolist() == [2.0, 3.0]
    assert merge([b, a], "pcgrad").tolist() == [2.0, 3.0]
    assert merge([b, a], "one-sided").tolist() == [1.0, 1.5]


@pytest.mark.parametrize("projection", ["none", "pcgrad", "one-sided"])
def test_one_gradient_is_its_own_merge(projection):
    assert merge([B], projection).tolist() == B.tolist()


def test_a_vanished_gradient_bends_nothing():
    zero = torch.zeros_like(A)
    assert merge([B, zero], "pcgrad").tolist() == B.tolist()
    assert merge([zero, B], "one-sided").tolist() == (B / 2).tolist()


def test_an_unknown_projection_is_refused():
    with pytest.raises(ValueError, match="unknown projection 'pc'"):
        merge([A, B], "pc")


def test_pcgrad_is_torchjds():
    from torchjd.aggregation import PCGrad

    stranger, conflicts = PCGrad(), 0
    for trial in range(200):
        matrix = torch.randn(2, 2 + trial % 40, dtype=torch.float64)
        matrix[0] *= 10.0 ** (trial % 5 - 2)  # the two losses are rarely of one size
        conflicts += bool(matrix[0] @ matrix[1] < 0)
        torch.testing.assert_close(
            merge(list(matrix), "pcgrad"), stranger(matrix), rtol=1e-12, atol=1e-12
        )
    assert 50 < conflicts < 150


# --- the step ---------------------------------------------------------------------------------


def test_sam_worked_by_hand():
    # Two tokens with logits (0, 0). SFT on token 0: g = (−½, ½), so ε = ρ (−1, 1)/√2, and at φ+ε
    # p(1) = σ(√2 ρ): the gradient there is σ(√2 ρ) (−1, 1).
    rho = 0.7
    pairs = [Pair(([0], [0]), ([0], [1]))]
    reference = [(math.log(1 / 2), math.log(1 / 2))]
    model = Unigram(0.0, 0.0)
    arguments = {"projection": "none", "rho": rho, "beta": BETA, "reference": reference}
    gradient = corsa_gradient(model, {"z": model.z}, pairs, sft=True, dpo=False, **arguments)
    expected = 1 / (1 + math.exp(-math.sqrt(2) * rho))
    assert gradient["z"].tolist() == pytest.approx([-expected, expected], rel=1e-14)
    # DPO, token 0 over token 1: the loss is −log σ(β (z₀ − z₁)), ε is the same, and at φ+ε the
    # gradient is β σ(β √2 ρ) (−1, 1).
    gradient = corsa_gradient(model, {"z": model.z}, pairs, sft=False, dpo=True, **arguments)
    expected = BETA / (1 + math.exp(-BETA * math.sqrt(2) * rho))
    assert gradient["z"].tolist() == pytest.approx([-expected, expected], rel=1e-14)
    assert model.z.tolist() == [0.0, 0.0]


@pytest.mark.parametrize(("sft", "dpo"), [(True, False), (False, True), (True, True)])
def test_gradient_against_finite_differences(policy, sft, dpo):
    params, pairs, weight = trainable(policy), pairs_by_hand(), 0.6
    reference = base_reference(policy, pairs)
    gradient = corsa_gradient(
        policy,
        params,
        pairs,
        sft=sft,
        dpo=dpo,
        projection="none",
        rho=None,
        beta=BETA,
        sft_weight=weight,
        reference=reference,
    )

    def loss(direction, step):
        moved = copy.deepcopy(policy)
        with torch.no_grad():
            for name, parameter in trainable(moved).items():
                parameter += step * direction[name]
            return sft * weight * sft_loss(moved, pairs).item() + (
                dpo * dpo_loss(moved, pairs, reference, BETA).item()
            )

    everywhere = {name: torch.randn_like(parameter) for name, parameter in params.items()}
    for name in [None, *params]:  # all at once, then each parameter on its own
        direction = {
            other: value if name in (None, other) else torch.zeros_like(value)
            for other, value in everywhere.items()
        }
        numerical = (loss(direction, 1e-5) - loss(direction, -1e-5)) / 2e-5
        analytical = sum((gradient[other] * direction[other]).sum() for other in params).item()
        assert analytical == pytest.approx(numerical, rel=1e-5, abs=1e-8)


def separate_gradients(model, pairs, reference, weight):
    """[SFT, DPO] by backward() on everything at once, on whatever the weights are now."""
    rows = []
    for loss in (weight * sft_loss(model, pairs), dpo_loss(model, pairs, reference, BETA)):
        model.zero_grad()
        loss.backward()
        rows.append(flat(parameter.grad for parameter in trainable(model).values()))
    return torch.stack(rows)


@pytest.mark.parametrize("projection", ["none", "pcgrad"])
def test_sam_by_moving_a_deep_copy(policy, projection):
    from torchjd.aggregation import PCGrad, Sum

    stranger = {"none": Sum(), "pcgrad": PCGrad()}[projection]
    pairs, rho, weight = pairs_by_hand(), 0.5, 0.6
    # The second pair says first what the first says no longer: DPO has something to fight over.
    pairs.append(Pair(pairs[0].rejected, ([72, 105, 32], [65])))
    reference = base_reference(policy, pairs)
    gradient = corsa_gradient(
        policy,
        trainable(policy),
        pairs,
        sft=True,
        dpo=True,
        projection=projection,
        rho=rho,
        beta=BETA,
        sft_weight=weight,
        reference=reference,
    )

    at_phi = stranger(separate_gradients(copy.deepcopy(policy), pairs, reference, weight))
    moved = copy.deepcopy(policy)
    epsilon = rho * at_phi / at_phi.norm()
    vector = torch.nn.utils.parameters_to_vector(trainable(moved).values())
    torch.nn.utils.vector_to_parameters(vector.detach() + epsilon, trainable(moved).values())
    for name, parameter in moved.named_parameters():  # the base is where it was
        assert torch.equal(parameter, policy.get_parameter(name)) == (not parameter.requires_grad)
    rows = separate_gradients(moved, pairs, reference, weight)
    torch.testing.assert_close(flat(gradient.values()), stranger(rows), rtol=1e-9, atol=1e-12)
    assert (flat(gradient.values()) - at_phi).norm() > 1e-3 * at_phi.norm()  # SAM did something


def test_the_projection_sees_conflict_in_the_step(policy):
    # One question, two opposite orders: SFT learns "A", DPO is told to prefer "C" over "A".
    pairs = [Pair(([72], [65])), Pair(([72], [67]), ([72], [65]))]
    pairs += [Pair(([72], [65]))] * 3
    reference = base_reference(policy, pairs)
    sft, dpo = separate_gradients(copy.deepcopy(policy), pairs, reference, 1.0)
    assert sft @ dpo < 0
    for projection in ("none", "pcgrad", "one-sided"):
        gradient = corsa_gradient(
            policy,
            trainable(policy),
            pairs,
            sft=True,
            dpo=True,
            projection=projection,
            rho=None,
            beta=BETA,
            reference=reference,
        )
        bent_sft = sft - (sft @ dpo) / (dpo @ dpo) * dpo
        bent_dpo = dpo - (sft @ dpo) / (sft @ sft) * sft
        expected = {
            "none": sft + dpo,
            "pcgrad": bent_sft + bent_dpo,
            "one-sided": (sft + bent_dpo) / 2,
        }[projection]
        torch.testing.assert_close(flat(gradient.values()), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_weights_are_put_back_exactly(dtype, monkeypatch):
    model = tiny_model("llama", dtype)
    params = {name: p for name, p in model.named_parameters() if "proj" in name}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    pairs = pairs_by_hand()
    arguments = {
        "sft": True,
        "dpo": True,
        "projection": "pcgrad",
        "rho": 0.3,
        "beta": BETA,
        "reference": reference_sums(model, pairs),
    }

    def unchanged():
        state = model.state_dict()
        return all(torch.equal(state[name], value) for name, value in before.items())

    corsa_gradient(model, params, pairs, **arguments)
    assert unchanged()

    losses = reference_step.sft_loss
    calls = []

    def fails_the_second_time(*args):
        calls.append(unchanged())
        if len(calls) == 2:
            raise RuntimeError("out of memory")
        return losses(*args)

    monkeypatch.setattr(reference_step, "sft_loss", fails_the_second_time)
    with pytest.raises(RuntimeError, match="out of memory"):
        corsa_gradient(model, params, pairs, **arguments)
    assert calls == [True, False]
    assert unchanged()
