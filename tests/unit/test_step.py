"""One step against the slow oracle, for every combination of switches."""

import itertools

import pytest
import torch

import reference_step
from builders import (
    as_pairs,
    base_model,
    examples,
    exchange,
    random_adapter,
    settings,
    with_reference,
)
from corsa import step as step_module
from corsa.config import Config, make_config
from corsa.errors import ConfigError
from corsa.projection import PROJECTIONS
from corsa.step import Example, corsa_step, loss_gradients, score_examples

# Every switch setting that trains something and does not contradict itself.
SWITCHES = [
    {"sft": sft, "dpo": dpo, "projection": projection, "sam": sam}
    for sft, dpo, projection, sam in itertools.product(
        (True, False), (True, False), PROJECTIONS, (True, False)
    )
    if (sft and dpo) or ((sft or dpo) and projection == "none")
]
BOTH = {"sft": True, "dpo": True}
BETA, RHO, WEIGHT = 0.3, 0.7, 0.6


def name_of(switches):
    losses = "+".join(loss for loss in ("sft", "dpo") if switches[loss])
    return f"{losses}-{switches['projection']}{'-sam' if switches['sam'] else ''}"


def configured(**changes):
    return settings(**{"beta": BETA, "rho": RHO, "sft_weight": WEIGHT, **changes})


class Subject:
    """A tiny model with an adapter that acts, its batch, and what a step and the oracle make of it."""

    def __init__(self, kind="gpt2", packing="auto", dtype=torch.float64):
        self.base = base_model(kind, dtype=dtype, packing=packing)
        self.adapter = random_adapter(self.base)
        self.batch = with_reference(self.base, examples())

    def step(self, batch=None, **changes):
        with self.base.using(self.adapter.name):
            return corsa_step(
                self.base.forward, self.adapter.params, batch or self.batch, configured(**changes)
            )

    def oracle(self, batch=None, **changes):
        config, batch = configured(**changes), batch or self.batch
        with self.base.using(self.adapter.name):
            return reference_step.corsa_gradient(
                self.base.hf, self.adapter.params, as_pairs(batch),
                sft=config.sft, dpo=config.dpo, projection=config.projection,
                rho=config.rho if config.sam else None, beta=config.beta,
                sft_weight=config.sft_weight, reference=[e.reference for e in batch],
            )  # fmt: skip


@pytest.fixture(scope="module")
def subject():
    """GPT-2, the tiny model that computes in float64 throughout."""
    return Subject()


def difference(one, other):
    """‖one − other‖ / ‖other‖ over all parameters."""
    assert one.keys() == other.keys()
    off = sum(float((one[n] - other[n]).square().sum()) for n in one) ** 0.5
    return off / sum(float(g.square().sum()) for g in other.values()) ** 0.5


@pytest.mark.parametrize("size", [1, 3, 8])
@pytest.mark.parametrize("switches", SWITCHES, ids=name_of)
def test_the_step_is_the_oracles(subject, switches, size):
    batch = subject.batch[:size]
    found = subject.step(batch, **switches).gradient
    assert difference(found, subject.oracle(batch, **switches)) < 1e-8


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma3", "moe", "mistral", "bloom"])
@pytest.mark.parametrize("projection", ["none", "pcgrad"])
def test_the_step_is_the_oracles_for_other_models(kind, projection):
    other = Subject(kind)
    changes = {"projection": projection, "rho": 0.05}
    # Their norms pass through float32, so that two ways to one number differ by its rounding.
    assert difference(other.step(**changes).gradient, other.oracle(**changes)) < 2e-6


@pytest.mark.parametrize("projection", PROJECTIONS)
def test_pairs_that_are_settled_bend_nothing(subject, projection):
    """The direction of a gradient that has vanished is one like any other to a projection."""
    far = [e._replace(reference=(e.reference[0] - 200, e.reference[1])) for e in subject.batch]
    found = subject.step(far, projection=projection, sam=False)
    assert 0 < found.losses["dpo"] < 1e-6
    alone = subject.oracle(far, projection="none", dpo=False, sam=False)
    half = 0.5 if projection == "one-sided" else 1.0  # it takes the mean of both losses
    assert difference(found.gradient, {n: half * g for n, g in alone.items()}) < 1e-8
    one_left = [*far[1:], subject.batch[0]]
    found = subject.step(one_left, projection=projection, sam=False).gradient
    assert difference(found, subject.oracle(one_left, projection=projection, sam=False)) < 1e-8
    nothing = subject.step(far, sft=False, projection="none")
    assert max(float(g.abs().max()) for g in nothing.gradient.values()) == 0


def test_all_switches_make_different_steps(subject):
    """Else a switch that does nothing would pass the test above with an oracle as blind."""
    steps = [subject.step(**switches).gradient for switches in SWITCHES]
    for one, other in itertools.combinations(steps, 2):
        assert difference(one, other) > 1e-3


def test_the_two_losses_oppose_each_other_here(subject):
    with subject.base.using(subject.adapter.name):
        found = loss_gradients(
            subject.base.forward, subject.adapter.params, subject.batch, configured()
        ).gradients
    assert sum(float((found["sft"][n] * found["dpo"][n]).sum()) for n in found["sft"]) < 0


@pytest.mark.parametrize("switches", SWITCHES, ids=name_of)
def test_a_step_computes_the_losses_its_switches_name(subject, switches):
    result = subject.step(**switches)
    assert list(result.losses) == [loss for loss in ("sft", "dpo") if switches[loss]]
    pairs = as_pairs(subject.batch)
    with subject.base.using(subject.adapter.name), torch.no_grad():
        wanted = {
            "sft": WEIGHT * reference_step.sft_loss(subject.base.hf, pairs),
            "dpo": reference_step.dpo_loss(
                subject.base.hf, pairs, [e.reference for e in subject.batch], BETA
            ),
        }
    for name, value in result.losses.items():
        assert value == pytest.approx(wanted[name].item(), rel=1e-10)


@pytest.mark.parametrize(
    ("method", "switches"),
    [
        ("corsa", {"sft": True, "dpo": True, "projection": "pcgrad", "sam": True}),
        ("lora", {"sft": True, "dpo": False, "projection": "none", "sam": False}),
        ("sam", {"sft": True, "dpo": False, "projection": "none", "sam": True}),
        ("sft+dpo", {"sft": True, "dpo": True, "projection": "none", "sam": False}),
    ],
)
def test_a_methods_name_is_a_setting_of_the_switches(method, switches):
    config = make_config({"method": method})
    assert {name: getattr(config, name) for name in switches} == switches


@pytest.mark.parametrize("projection", ["pcgrad", "one-sided"])
@pytest.mark.parametrize("off", ["sft", "dpo"])
def test_projection_with_one_loss_is_an_error_that_says_so(off, projection):
    with pytest.raises(ConfigError, match="needs two losses"):
        Config(**{off: False, "projection": projection})


@pytest.mark.parametrize("sam", [True, False])
def test_no_loss_at_all_is_an_error_that_says_so(sam):
    with pytest.raises(ConfigError, match="nothing to train"):
        Config(sft=False, dpo=False, projection="none", sam=sam)


@pytest.mark.parametrize("switches", [s for s in SWITCHES if s["sam"]], ids=name_of)
def test_rho_zero_is_the_plain_step(subject, switches):
    flat = subject.step(**{**switches, "rho": 0.0})
    plain = subject.step(**{**switches, "sam": False})
    assert all(torch.equal(flat.gradient[n], plain.gradient[n]) for n in plain.gradient)


@pytest.mark.parametrize("micro_batch", [1, 3, 4, 100])
@pytest.mark.parametrize("switches", SWITCHES, ids=name_of)
def test_accumulation_is_invisible(subject, switches, micro_batch):
    """8 = 4 + 4 = 3 + 3 + 2, with answers of one to sixteen tokens and examples without a pair."""
    whole = subject.step(**switches)
    parts = subject.step(**switches, micro_batch=micro_batch)
    assert difference(parts.gradient, whole.gradient) < 1e-10
    assert parts.losses == pytest.approx(whole.losses, rel=1e-10)
    assert [s.right for s in parts.scores] == [s.right for s in whole.scores]
    assert [s.logp for s in parts.scores] == pytest.approx([s.logp for s in whole.scores])


@pytest.mark.parametrize("switches", SWITCHES, ids=name_of)
def test_long_answers_go_through_in_parts_and_change_nothing(subject, switches, monkeypatch):
    whole = subject.step(**switches)
    passes, answer_logps = [], subject.base.forward.answer_logps

    def counted(exchanges, *rest):
        passes.append(sum(len(answer) for _, answer in exchanges))
        return answer_logps(exchanges, *rest)

    monkeypatch.setattr(subject.base.forward, "answer_logps", counted)
    monkeypatch.setattr("corsa.step._PASS_TOKENS", 20)
    parts = subject.step(**switches)
    assert max(passes) <= 33  # one pair of sixteen and seventeen tokens cannot be parted
    assert len(passes) > 2
    assert difference(parts.gradient, whole.gradient) < 1e-10
    assert parts.losses == pytest.approx(whole.losses, rel=1e-10)


@pytest.mark.parametrize("switches", SWITCHES, ids=name_of)
def test_packed_steps_are_padded_steps(subject, switches):
    padded = Subject(packing="padded")
    assert padded.base.forward.rule.windows is None
    assert subject.base.forward.rule.windows is not None
    changes = {**switches, "micro_batch": 3}
    one, other = subject.step(**changes), padded.step(**changes)
    assert difference(one.gradient, other.gradient) < 1e-10


@pytest.mark.parametrize("switches", SWITCHES, ids=name_of)
def test_the_order_of_a_batch_does_not_matter(subject, switches):
    there = subject.step(**switches)
    back = subject.step(subject.batch[::-1], **switches)
    assert difference(back.gradient, there.gradient) < 1e-10


@pytest.mark.parametrize("switches", SWITCHES, ids=name_of)
def test_a_batch_without_old_answers(subject, switches):
    batch = [example for example in subject.batch if example.rejected is None]
    found = subject.step(batch, **switches)
    if switches["dpo"]:
        assert found.losses["dpo"] == 0.0
    if switches["sft"]:
        share = 0.5 if switches["projection"] == "one-sided" else 1.0  # a mean, not a sum
        alone = subject.step(batch, dpo=False, sam=switches["sam"]).gradient
        scaled = {name: share * gradient for name, gradient in alone.items()}
        assert difference(found.gradient, scaled) < 1e-10
    else:
        assert not any(gradient.any() for gradient in found.gradient.values())


@pytest.mark.parametrize("switches", SWITCHES, ids=name_of)
def test_parameters_are_bit_equal_after_a_step(switches):
    subject = Subject(dtype=torch.float32)
    before = subject.adapter.state()
    subject.step(**switches)
    after = subject.adapter.state()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(param.grad is None for param in subject.base.hf.parameters())


def test_parameters_are_bit_equal_when_the_second_phase_raises(monkeypatch):
    subject = Subject(dtype=torch.float32)
    before = subject.adapter.state()
    moved, real, calls = [], loss_gradients, []

    def fails_uphill(forward, params, batch, config):
        calls.append(len(batch))
        if len(calls) == 2:
            moved.extend(name for name in params if not torch.equal(params[name], before[name]))
            raise torch.OutOfMemoryError("no memory uphill")
        return real(forward, params, batch, config)

    monkeypatch.setattr(step_module, "loss_gradients", fails_uphill)
    with pytest.raises(torch.OutOfMemoryError):
        subject.step()
    assert sorted(moved) == sorted(before)  # it did stand uphill
    after = subject.adapter.state()
    assert all(torch.equal(before[name], after[name]) for name in before)


# --- Scores -----------------------------------------------------------------------------------


@pytest.mark.parametrize("sam", [True, False])
def test_scores_are_taken_at_the_unperturbed_weights(subject, sam):
    with subject.base.using(subject.adapter.name):
        wanted = score_examples(subject.base.forward, subject.batch)
        pairs = as_pairs(subject.batch)
        logps = [reference_step.answer_logps(subject.base.hf, *p.chosen).sum() for p in pairs]
    found = subject.step(sam=sam, rho=5.0).scores
    assert [s.right for s in found] == [s.right for s in wanted]
    assert [s.logp for s in found] == pytest.approx([s.logp for s in wanted], rel=1e-10)
    assert [s.logp for s in found] == pytest.approx([logp.item() for logp in logps], rel=1e-10)


def test_margins_are_between_the_two_answers_and_null_without_an_old_one(subject):
    with subject.base.using(subject.adapter.name):
        sums = reference_step.reference_sums(subject.base.hf, as_pairs(subject.batch))
    for score, example, (new, old) in zip(subject.step().scores, subject.batch, sums, strict=True):
        if example.rejected is None:
            assert score.margin is None
        else:
            assert score.margin == pytest.approx(new - old, rel=1e-10)


def test_without_dpo_old_answers_are_not_run(subject):
    assert all(score.margin is None for score in subject.step(dpo=False).scores)


# --- What is only kept ------------------------------------------------------------------------


FIRST = 2.5


def kept(subject, batch):
    """The same prompts as something to keep, with what the base model says of every token."""
    with subject.base.using(None):
        teachers = subject.base.forward.distributions([example.chosen for example in batch])
    return [
        Example(example.chosen, weight=example.weight, teacher=teacher)
        for example, teacher in zip(batch, teachers, strict=True)
    ]


def keeping(subject, batch, weight, first=FIRST):
    """Value and gradient of keeping under the oracle, one sequence at a time."""
    params = subject.adapter.params
    with subject.base.using(subject.adapter.name):
        loss = weight * reference_step.keep_loss(
            subject.base.hf,
            [pair.chosen for pair in as_pairs(batch)],
            [example.teacher for example in batch],
            [
                [e.weight * (1.0 if i else first) for i in range(len(e.chosen.answer))]
                for e in batch
            ],
        )
        parts = torch.autograd.grad(loss, list(params.values()))
    return loss.item(), dict(zip(params, parts, strict=True))


@pytest.mark.parametrize("micro_batch", [0, 1, 3])
def test_what_is_kept_has_a_mean_of_its_own(subject, micro_batch):
    """L = w · mean over new tokens + v · mean over kept tokens, each by itself the oracle's."""
    # Of these answers one is longer than a phrase, beside which what is kept weighs less.
    own = [e for e in subject.batch[:5] if len(e.chosen.answer) <= 16]
    keep = kept(subject, subject.batch[5:])
    keep[0] = keep[0]._replace(weight=1.7)
    plain = {"dpo": False, "sam": False}
    result = subject.step(
        [*own, *keep], **plain, keep_weight=0.4, keep_first=FIRST, micro_batch=micro_batch
    )
    new = subject.oracle(own, **plain)
    value, old = keeping(subject, keep, 0.4)
    assert value > 1e-3
    assert difference(result.gradient, {name: new[name] + old[name] for name in new}) < 1e-8
    assert result.losses == pytest.approx(
        {"sft": subject.step(own, **plain).losses["sft"], "keep": value}, rel=1e-8
    )


@pytest.mark.parametrize("micro_batch", [0, 1])
def test_beside_long_answers_what_is_kept_weighs_less(subject, micro_batch):
    """As much against one of their tokens as against one of a phrase of 16."""
    keep = kept(subject, subject.batch[5:])
    short, long = (
        example._replace(chosen=exchange(example.chosen.prompt, [5 + i % 7 for i in range(tokens)]))
        for example, tokens in zip(subject.batch, (16, 40), strict=False)
    )
    plain = {"dpo": False, "sam": False, "keep_weight": 0.4, "keep_first": FIRST}
    value, old = keeping(subject, keep, 0.4)
    for own, share in (([short], 1.0), ([long], 16 / 40), ([short, long], 32 / 56)):
        result = subject.step([*own, *keep], **plain, micro_batch=micro_batch)
        assert result.losses["keep"] == pytest.approx(share * value, rel=1e-8)
        new = subject.oracle([e._replace(rejected=None) for e in own], dpo=False, sam=False)
        wanted = {name: new[name] + share * old[name] for name in new}
        assert difference(result.gradient, wanted) < 1e-8


def test_the_first_token_of_what_is_kept_counts_more(subject):
    keep = kept(subject, subject.batch[5:])
    plain = {"dpo": False, "sam": False, "keep_weight": 1.0}
    one, more = (subject.step(keep, **plain, keep_first=first) for first in (1.0, FIRST))
    assert one.losses["keep"] == pytest.approx(keeping(subject, keep, 1.0, 1.0)[0], rel=1e-8)
    assert more.losses["keep"] == pytest.approx(keeping(subject, keep, 1.0)[0], rel=1e-8)
    assert difference(one.gradient, more.gradient) > 1e-3


def test_of_a_last_token_only_its_place_is_looked_at(subject):
    """So that a prompt can be kept at its first token before anybody knows what it says."""
    prompt = subject.batch[0].chosen.prompt
    found = [
        subject.step(kept(subject, [Example(exchange(prompt, [token]))]), dpo=False, sam=False)
        for token in (0, 77)
    ]
    assert difference(found[0].gradient, found[1].gradient) == 0.0
    assert found[0].losses == found[1].losses


def test_where_the_model_is_its_own_teacher_nothing_pulls(subject):
    with subject.base.using(subject.adapter.name):
        teachers = subject.base.forward.distributions([e.chosen for e in subject.batch])
    batch = [Example(e.chosen, teacher=t) for e, t in zip(subject.batch, teachers, strict=True)]
    found = subject.step(batch, dpo=False, sam=False)
    assert found.losses["keep"] == pytest.approx(0.0, abs=1e-10)
    assert max(float(g.abs().max()) for g in found.gradient.values()) < 1e-10


@pytest.mark.parametrize("micro_batch", [0, 1, 3])
def test_values_of_the_two_supervised_terms_are_told_apart(subject, micro_batch):
    batch = [*kept(subject, subject.batch[5:]), *subject.batch[:5]]
    losses = subject.step(batch, micro_batch=micro_batch).losses
    assert set(losses) == {"sft", "dpo", "keep"}
    assert losses["sft"] == pytest.approx(subject.step(subject.batch[:5]).losses["sft"])
    only = subject.step(batch, sft=False, micro_batch=micro_batch).losses
    assert only == pytest.approx({name: losses[name] for name in ("dpo", "keep")})


@pytest.mark.parametrize("switches", SWITCHES, ids=name_of)
def test_nothing_is_kept_where_its_weight_is_zero(subject, switches):
    batch = [*subject.batch[:5], *kept(subject, subject.batch[5:])]
    found = subject.step(batch, **switches, keep_weight=0.0)
    assert difference(found.gradient, subject.oracle(subject.batch[:5], **switches)) < 1e-8
    assert "keep" not in found.losses


@pytest.mark.parametrize("micro_batch", [0, 1, 3])
def test_a_weight_of_two_is_standing_there_twice(subject, micro_batch):
    one, two, three = (e._replace(rejected=None) for e in subject.batch[:3])
    plain = {"dpo": False, "sam": False}
    batch = [one, two._replace(weight=2.0), three]
    found = subject.step(batch, **plain, micro_batch=micro_batch)
    assert difference(found.gradient, subject.oracle([one, two, two, three], **plain)) < 1e-8


@pytest.mark.parametrize("micro_batch", [1, 2, 5])
@pytest.mark.parametrize("switches", SWITCHES, ids=name_of)
def test_accumulation_is_invisible_with_weights_and_teachers(subject, switches, micro_batch):
    keep = kept(subject, subject.batch[5:])
    batch = [*subject.batch[:4], subject.batch[4]._replace(rejected=None, weight=2.0), *keep]
    whole = subject.step(batch, **switches)
    parts = subject.step(batch, **switches, micro_batch=micro_batch)
    assert difference(parts.gradient, whole.gradient) < 1e-10
    assert parts.losses == pytest.approx(whole.losses, rel=1e-10)


# --- What joins -------------------------------------------------------------------------------


def test_without_sam_what_joins_is_part_of_the_batch(subject):
    own, joined = subject.batch[:3], subject.batch[3:]
    with subject.base.using(subject.adapter.name):
        found = corsa_step(
            subject.base.forward, subject.adapter.params, own, configured(sam=False), joined
        )
    assert difference(found.gradient, subject.oracle(sam=False)) < 1e-8
    assert len(found.scores) == 3
    assert found.joined == subject.step(sam=False).scores[3:]


@pytest.mark.parametrize("projection", PROJECTIONS)
def test_uphill_is_decided_without_what_joins(subject, projection):
    """ε from the round's own edits; the gradient that is followed, at φ + ε, from everything."""
    own, joined = subject.batch[:3], subject.batch[3:]
    config = configured(projection=projection)
    params, before = subject.adapter.params, subject.adapter.state()
    with subject.base.using(subject.adapter.name):
        found = corsa_step(subject.base.forward, params, own, config, joined)
    uphill = subject.oracle(own, projection=projection, sam=False)
    length = sum(float(g.square().sum()) for g in uphill.values()) ** 0.5
    moved = {name: before[name] + RHO / length * uphill[name] for name in before}
    try:
        subject.adapter.load_state(moved)
        wanted = subject.oracle(projection=projection, sam=False)
    finally:
        subject.adapter.load_state(before)
    assert difference(found.gradient, wanted) < 1e-8
    assert difference(found.gradient, subject.oracle(projection=projection)) > 1e-3
    assert found.losses == subject.step(own, projection=projection).losses
    assert len(found.scores) == 3
