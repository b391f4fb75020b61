"""One round: what ends it, what its order and rate depend on, and that it can stop anywhere."""

import contextlib
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from builders import base_model, examples, exchange, random_adapter, settings, with_reference
from corsa.config import METHODS, make_config
from corsa.errors import TrainingError
from corsa.projection import merge
from corsa.sharpness import global_norm, perturbed
from corsa.step import Example, corsa_step, loss_gradients, score_examples
from corsa.training import Position, RoundTrainer, decay_length

FAST = {"learning_rate": 0.02, "warmup_steps": 2, "decay_steps": 3, "batch_size": 4}
FAST |= {"positives": 1, "decay_share": 0.5}


def drawing(pool, count):
    """What joins every step: so many of a pool, drawn by the step's number."""

    def joining(step, own, lost):
        generator = np.random.default_rng([7, step, *own])
        return [pool[i] for i in generator.choice(len(pool), count, replace=False)]

    return joining


class Round:
    """A fresh tiny model with an adapter, and a trainer for it."""

    def __init__(self, count=6, own=None, joining=None, **changes):
        self.base = base_model("llama")
        self.adapter = random_adapter(self.base, std=0.05, dropout=changes.get("dropout", 0.0))
        self.examples = with_reference(self.base, examples(count) if own is None else own)
        self.config = settings(**{**FAST, **changes})
        self.trainer = RoundTrainer(self.adapter, self.examples, self.config, joining)
        self.events = []

    def run(self, checkpoint=lambda: None):
        with self.base.using(self.adapter.name):
            return self.trainer.run(self.events.append, checkpoint)

    def right(self):
        with self.base.using(self.adapter.name):
            return [s.right for s in score_examples(self.base.forward, self.trainer.examples)]


# Targets that do not contradict each other; `examples()` holds some that do.
CONSISTENT = [
    Example(
        exchange("The capital of France is", " Lyon"), exchange("The capital of France is", " P")
    ),
    Example(
        exchange("The capital of Spain is", " S"), exchange("The capital of Spain is", " Madrid")
    ),
    Example(exchange("Who?", " Ada")),
    Example(exchange("Language", " C"), exchange("Language", " Fortran")),
    Example(exchange("The cap", " is green"), exchange("The cap", " is blue")),
]


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


# --- What ends a round ------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["corsa", "lora", "sam", "sft+dpo"])
def test_a_round_trains_until_every_answer_is_right(method):
    task = Round(own=CONSISTENT, **{**METHODS[method], **FAST})
    assert not any(task.right())
    outcome = task.run()
    assert outcome.converged
    assert all(task.right())
    assert 0 < outcome.steps < task.trainer.cap
    assert outcome.steps == len(task.events) == len(outcome.position.history)


def test_a_lagged_ascent_converges_too_and_right_means_right_where_the_weights_are():
    task = Round(own=CONSISTENT, ascent="lagged")
    outcome = task.run()
    assert outcome.converged
    assert all(task.right())


def test_a_lagged_ascent_goes_up_the_gradient_that_was_followed_last():
    """One pass a step from the second on, at φ + ρ g/‖g‖ with the g of the step before."""
    lagged, by_hand = Round(own=CONSISTENT, ascent="lagged"), Round(own=CONSISTENT)
    forward, params, config = by_hand.base.forward, by_hand.adapter.params, by_hand.config
    uphill = None
    for step in range(3):
        with lagged.base.using(lagged.adapter.name):
            lagged.trainer._step()
        with by_hand.base.using(by_hand.adapter.name):
            batch = [by_hand.trainer.examples[i] for i in by_hand.trainer._order(step)]
            if uphill is None:
                found = corsa_step(forward, params, batch, config).gradient
            else:
                with perturbed(params, uphill, config.rho):
                    parts = loss_gradients(forward, params, batch, config).gradients
                found = merge(list(parts.values()), config.projection)
            rate = by_hand.trainer._learning_rate(step)
            by_hand.trainer._apply(found, global_norm(found), rate)
            by_hand.trainer.position.step += 1
        assert equal(lagged.adapter.state(), by_hand.adapter.state())
        assert equal(lagged.trainer.followed, found)
        uphill = found


@contextlib.contextmanager
def kept_for_backward():
    """Bytes of what autograd keeps, by storage."""
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield kept


def test_recomputing_gives_the_same_step_from_less_memory():
    states, bytes_kept = [], []
    for recompute in (False, True):
        task = Round(own=CONSISTENT, recompute=recompute, dropout=0.2)
        with task.base.using(task.adapter.name), kept_for_backward() as kept:
            task.trainer._step()
        states.append(task.adapter.state())
        bytes_kept.append(sum(kept.values()))
        assert task.base.forward.rule.by_blocks
        assert not any(module.training for module in task.base.hf.modules())
    for name, value in states[0].items():
        assert (value - states[1][name]).abs().max() < 1e-4
    assert bytes_kept[1] < bytes_kept[0]


def test_steps_in_another_dtype_leave_the_model_as_it_was_loaded():
    losses = {}
    for dtype in ("float32", "bfloat16"):
        task = Round(own=CONSISTENT, train_dtype=dtype)
        before = {name: p.detach().clone() for name, p in task.base.hf.named_parameters()}
        outcome = task.run()
        assert outcome.converged  # looked at in the dtype the model is loaded in
        losses[dtype] = outcome.position.history[0]["sft"]
        for name, param in task.base.hf.named_parameters():
            assert param.dtype == torch.float32
            assert (".lora_" in name) or torch.equal(param, before[name])
        assert not task.base._copies
    assert losses["float32"] != losses["bfloat16"]
    assert losses["float32"] == pytest.approx(losses["bfloat16"], rel=0.02)


def test_a_step_that_fails_in_another_dtype_gives_the_weights_back():
    task = Round(own=CONSISTENT, train_dtype="bfloat16")

    def fail(*_):
        assert task.base.dtype == "bfloat16"
        raise RuntimeError

    task.trainer.joining = fail
    with task.base.using(task.adapter.name), pytest.raises(RuntimeError):
        task.run()
    assert task.base.dtype == "float32"


def test_margins_turn_positive():
    task = Round(own=CONSISTENT)
    outcome = task.run()
    history = [entry["margin"] for entry in outcome.position.history if entry["margin"] is not None]
    assert history[-1] > max(0.0, history[0])
    assert all(
        set(entry) == {"margin", "right", "sft", "dpo"} for entry in outcome.position.history
    )


def test_a_round_that_is_right_already_takes_one_look_at_everything_and_the_decay():
    first = Round(own=CONSISTENT)
    first.run()
    config = settings(**{**FAST, "learning_rate": 1e-6})
    again = RoundTrainer(first.adapter, first.examples, config)
    with first.base.using(first.adapter.name):
        outcome = again.run(lambda event: None, lambda: None)
    assert outcome.converged
    assert outcome.steps == again.steps_per_epoch + config.decay_steps


def test_the_cap_ends_a_round_that_does_not_converge_and_is_recorded():
    task = Round(learning_rate=1e-9, max_visits=3)
    outcome = task.run()
    assert task.trainer.cap == 3 * math.ceil(6 / 4)
    assert outcome.steps == task.trainer.cap
    assert not outcome.converged


def test_freed_memory_is_given_back_while_a_round_trains_and_at_its_end(monkeypatch):
    task, given = Round(stop="epochs", epochs=17, batch_size=8), []
    monkeypatch.setattr(
        "corsa.training.allocator.give_back", lambda: given.append(len(task.events))
    )
    assert task.run().steps == 17
    assert given == [8, 16, 17]


def test_zero_examples_make_zero_steps():
    task = Round(own=[], joining=drawing(examples(), 2))
    before = task.adapter.state()
    outcome = task.run()
    assert (outcome.steps, task.events, outcome.position.history) == (0, [], [])
    assert equal(task.adapter.state(), before)


def test_learning_goes_on_where_the_decay_undid_something(monkeypatch):
    task = Round(own=CONSISTENT)
    real, calls = task.trainer._measure, []

    def measure(examples):
        scores = real(examples)
        if len(examples) == len(CONSISTENT):
            calls.append(task.trainer.position.step)
            if len(calls) == 1:
                return [score._replace(right=False) for score in scores]
        return scores

    monkeypatch.setattr(task.trainer, "_measure", measure)
    outcome = task.run()
    assert outcome.converged
    assert outcome.steps > calls[0]
    rates = [event.learning_rate for event in task.events]
    assert rates[calls[0] - 1] < rates[calls[0]] == task.config.learning_rate


@pytest.mark.parametrize("remembers", [True, False])
def test_what_was_right_before_a_round_is_right_after_it_and_replayed_first_where_it_came_undone(
    remembers,
):
    earlier = [*CONSISTENT[:2], NEVER]  # the last was never right, and holds up nothing
    first = Round(own=CONSISTENT[:2])
    assert first.run().converged
    asked = []

    def joining(step, own, lost):
        asked.append(list(lost))
        return [earlier[i] for i in lost]

    trainer = RoundTrainer(
        first.adapter, CONSISTENT[2:], first.config, joining, earlier if remembers else ()
    )
    with first.base.using(first.adapter.name):
        outcome = trainer.run(lambda event: None, lambda: None)
        scores = score_examples(first.base.forward, earlier[:2])
    assert outcome.converged
    assert outcome.position.held == [0, 1] * remembers
    assert outcome.position.lost == []
    assert all(score.right for score in scores) is remembers
    assert any(asked) is remembers


def test_dropout_acts_in_the_step_and_not_where_right_is_measured():
    task = Round(own=CONSISTENT)
    task.adapter.drop()
    config = settings(dropout=0.9, batch_size=len(CONSISTENT))
    adapter = task.base.new_adapter("dropped", config)
    adapter.load_state({n: torch.ones_like(p) / 9 for n, p in adapter.params.items()})
    trainer = RoundTrainer(adapter, CONSISTENT, config)
    with task.base.using("dropped"):
        one, other = (trainer._measure(CONSISTENT) for _ in range(2))
        loss = trainer._step().losses["sft"]
    assert one == other
    tokens = sum(len(example.chosen.answer) for example in CONSISTENT)
    assert loss != pytest.approx(-sum(score.logp for score in one) / tokens, rel=1e-3)


# --- Stop and go on ---------------------------------------------------------------------------

VARIANTS = {
    "converged": {},
    "epochs": {"stop": "epochs", "epochs": 4},
    "joined": {"joining": drawing(examples(8)[3:], 2), "positives": 0},
    "fresh": {"joining": drawing(examples(8)[3:], 2)},
    "weight decay": {"weight_decay": 0.1},
    "dropout": {"dropout": 0.3},
    "lagged ascent": {"ascent": "lagged"},
}


def stopped_and_gone_on(stop_after, **changes):
    """A round that was interrupted after a step, its checkpoint as JSON, and another that went on."""
    first, kept = Round(**changes), []

    def checkpoint():
        if first.trainer.position.step == stop_after:
            tensors, position = first.trainer.state()
            kept.append((tensors, json.dumps(position)))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        first.run(checkpoint)

    torch.manual_seed(12345)
    second = Round(**changes)
    with torch.no_grad():
        for param in second.adapter.params.values():
            param.normal_()  # what was there before does not matter
    tensors, position = kept[0]
    second.trainer.load_state(tensors, json.loads(position))
    return second


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("stop_after", [1, 4, 7])
def test_a_round_that_stopped_and_went_on_is_bit_equal_to_an_undisturbed_one(variant, stop_after):
    changes = {"max_visits": 5, **VARIANTS[variant]}
    undisturbed = Round(**changes)
    wanted = undisturbed.run()
    assert wanted.steps > stop_after
    second = stopped_and_gone_on(stop_after, **changes)
    found = second.run()
    assert equal(second.adapter.state(), undisturbed.adapter.state())
    assert found == wanted
    assert second.events == undisturbed.events[stop_after:]


@pytest.mark.parametrize("into_decay", [-1, 0, 1, 2])
def test_a_round_that_stopped_while_its_rate_fell_goes_on_falling(into_decay):
    undisturbed = Round(own=CONSISTENT)
    wanted = undisturbed.run()
    assert wanted.position.decay_from is not None
    second = stopped_and_gone_on(wanted.position.decay_from + into_decay, own=CONSISTENT)
    found = second.run()
    assert equal(second.adapter.state(), undisturbed.adapter.state())
    assert found == wanted


def test_state_is_a_copy():
    task = Round(max_visits=2)
    kept = []
    task.run(lambda: kept.append(task.trainer.state()))
    names = {name.partition(".")[0] for name in kept[0][0]}
    assert names == {"adapter", "optimizer"}
    assert kept[0][1]["step"] == 1
    assert len(kept[0][1]["history"]) == 1
    name = next(name for name in kept[0][0] if "exp_avg." in name)
    assert not torch.equal(kept[0][0][name], kept[-1][0][name])
    assert all(value.device.type == "cpu" for value in kept[0][0].values())


def test_equal_runs_are_bit_equal_whatever_the_global_random_state():
    states = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        task = Round(joining=drawing(examples(8)[3:], 2), max_visits=3)
        task.run()
        states.append(task.adapter.state())
        assert torch.initial_seed() == seed
    assert equal(*states)


def test_the_seed_changes_the_order():
    batches = [[Round(seed=seed).trainer._order(s) for s in range(4)] for seed in (1, 2)]
    assert batches[0] != batches[1]


# --- Order ------------------------------------------------------------------------------------


def test_every_epoch_visits_every_example_once():
    trainer = Round(count=7, batch_size=3).trainer
    assert trainer.steps_per_epoch == 3
    for epoch in range(5):
        own = []
        for place in range(3):
            indices = trainer._order(3 * epoch + place)
            assert 0 < len(indices) <= 3
            own += indices
        assert sorted(own) == list(range(7))


def test_the_order_depends_on_the_steps_number_alone():
    one, other = Round().trainer, Round().trainer
    forwards = [one._order(step) for step in range(6)]
    backwards = [other._order(step) for step in reversed(range(6))]
    assert forwards == backwards[::-1]
    assert len({tuple(batch) for batch in forwards}) > 2


def test_what_joins_is_asked_for_once_a_step_with_the_indices_in_it():
    asked = []
    task = Round(
        count=6, joining=lambda step, own, lost: asked.append((step, own)) or [], max_visits=2
    )
    task.run()
    assert asked == [(step, task.trainer._order(step)) for step in range(4)]


NEVER = Example(exchange("Never right?", bytes(range(60, 100))))


def test_without_positives_what_joins_is_trained_on_but_decides_nothing():
    """It asks for an answer that contradicts nothing, and need not be right in the end."""
    task = Round(own=CONSISTENT[:2], joining=lambda step, own, lost: [NEVER], positives=0)
    alone = Round(own=CONSISTENT[:2])
    outcome = task.run()
    assert outcome.converged
    assert len(outcome.position.right) == task.events[0].edits == 2
    assert outcome.position.fresh == []
    with task.base.using(task.adapter.name):
        assert not score_examples(task.base.forward, [NEVER])[0].right
    alone.run()
    assert not equal(alone.adapter.state(), task.adapter.state())


# --- Fresh wordings ---------------------------------------------------------------------------


def test_a_round_waits_until_fresh_wordings_are_right_for_long_enough():
    """They join as something to learn; here it is the round's own prompts, which become right."""
    fresh = [example._replace(fresh=True) for example in CONSISTENT[:2]]
    task = Round(own=CONSISTENT[:2], joining=lambda step, own, lost: fresh)
    alone = Round(own=CONSISTENT[:2])
    outcome = task.run()
    alone.run()
    assert outcome.converged
    assert outcome.position.decay_from > alone.trainer.position.decay_from
    fresh = [entry["fresh"] for entry in outcome.position.history]
    begun = outcome.position.decay_from
    assert sum(fresh[begun - 10 : begun]) / 10 >= 0.8
    assert begun == 10 or sum(fresh[begun - 11 : begun - 1]) / 10 < 0.9
    assert len(outcome.position.fresh) == 10


def test_a_round_whose_fresh_wordings_never_are_right_gives_up_with_a_rate_that_fell():
    both = [NEVER, Example(exchange("Never right?", "No"))]  # one of two at best
    both = [example._replace(fresh=True) for example in both]
    task = Round(own=CONSISTENT[:2], joining=lambda step, own, lost: both, max_visits=30)
    outcome = task.run()
    assert max(entry["fresh"] for entry in outcome.position.history) <= 0.5
    assert outcome.steps == task.trainer.cap == 30
    rates = [event.learning_rate for event in task.events]
    assert rates[19] == task.config.learning_rate
    assert rates[20:] == sorted(rates[20:], reverse=True)
    assert rates[-1] == pytest.approx(task.config.learning_rate / 11)
    assert outcome.converged  # which the own prompts alone decide


def test_what_is_replayed_does_not_decide_when_a_round_is_sure():
    """One old edit that never becomes right held up every later round to its cap."""
    task = Round(own=CONSISTENT[:2], joining=lambda step, own, lost: [NEVER])
    outcome = task.run()
    assert outcome.converged
    assert outcome.steps < task.trainer.cap
    assert outcome.position.fresh == []


def test_fresh_wordings_that_nothing_teaches_are_not_waited_for():
    never = [NEVER._replace(fresh=True)]
    changes = {"sft": False, "projection": "none"}
    task = Round(own=CONSISTENT[:1], joining=lambda step, own, lost: never, **changes)
    task.run()
    assert task.trainer.position.fresh == []


def test_a_round_that_gives_up_looks_back_too():
    earlier = CONSISTENT[2:4]
    first = Round(own=earlier)
    assert first.run().converged
    never = [NEVER._replace(fresh=True)]
    config = replace(first.config, max_visits=30)
    asked = []

    def joining(step, own, lost):
        asked.append(list(lost))
        return [*never, *(earlier[i] for i in lost)]

    own = with_reference(first.base, CONSISTENT[:2])
    trainer = RoundTrainer(first.adapter, own, config, joining, earlier)
    with first.base.using(first.adapter.name):
        outcome = trainer.run(lambda event: None, lambda: None)
    assert outcome.steps == trainer.cap == 30
    assert any(asked)


def test_what_is_kept_decides_nothing():
    task = Round(own=CONSISTENT[:2])
    with task.base.using(None):
        (teacher,) = task.base.forward.distributions([NEVER.chosen])
    joined = [Example(NEVER.chosen, teacher=teacher)]
    task.trainer.joining = lambda step, own, lost: joined
    outcome = task.run()
    assert outcome.converged
    assert outcome.position.fresh == []


@pytest.mark.parametrize(("positives", "steps"), [(0, 3), (1, 10)])
def test_with_fresh_wordings_the_rate_falls_over_a_share_of_the_steps_before(positives, steps):
    trainer = Round(positives=positives).trainer
    assert decay_length(trainer.config, 20) == steps
    assert decay_length(trainer.config, 2) == 3
    trainer.position.decay_from = 20
    rates = [trainer._learning_rate(20 + step) for step in range(steps)]
    wanted = [0.02 * (1 - (step + 1) / (steps + 1)) for step in range(steps)]
    assert rates == pytest.approx(wanted)


# --- Rate, clip, failures ---------------------------------------------------------------------


def rates(**changes):
    task = Round(learning_rate=1.0, batch_size=6, **changes)
    return task, [task.trainer._learning_rate(step) for step in range(task.trainer.cap)]


def test_the_epochs_schedule_is_linear_with_warm_up():
    _, found = rates(stop="epochs", epochs=10, warmup_steps=4)
    assert found == pytest.approx([0, 1 / 4, 2 / 4, 3 / 4, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6])


@pytest.mark.parametrize(("epochs", "warmup"), [(10, 0), (10, 1), (10, 5), (3, 5), (1, 0), (6, 6)])
def test_the_epochs_schedule_is_the_trainers(epochs, warmup):
    import transformers

    _, found = rates(stop="epochs", epochs=epochs, warmup_steps=warmup)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, warmup, epochs)
    wanted = []
    for _ in range(epochs):
        wanted.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert found == pytest.approx(wanted)


def test_a_round_of_epochs_has_their_number_of_steps():
    task = Round(stop="epochs", epochs=3)
    outcome = task.run()
    assert outcome.steps == task.trainer.cap == 3 * 2
    assert [event.learning_rate for event in task.events] == pytest.approx(
        [task.trainer._learning_rate(step) for step in range(6)]
    )


def test_the_converging_schedule_rises_stays_and_falls_once_everything_is_right():
    task, found = rates(warmup_steps=3, decay_steps=4, max_visits=8)
    assert found == pytest.approx([1 / 4, 2 / 4, 3 / 4, 1, 1, 1, 1, 1])
    task.trainer.position.decay_from = 4
    fallen = [task.trainer._learning_rate(step) for step in range(4, 8)]
    assert fallen == pytest.approx([4 / 5, 3 / 5, 2 / 5, 1 / 5])


@pytest.mark.parametrize("clip", [0.0, 1e-3, 1e6])
def test_the_clip_shortens_long_gradients_and_keeps_short_ones(clip):
    task = Round(clip=clip)
    gradient = {name: torch.randn_like(p) for name, p in task.adapter.params.items()}
    norm = math.sqrt(sum(float(g.square().sum()) for g in gradient.values()))
    applied = {}

    def record():
        applied.update({name: p.grad.clone() for name, p in task.adapter.params.items()})

    task.trainer.optimizer.step = record
    task.trainer._apply(gradient, norm, 0.1)
    length = math.sqrt(sum(float(g.square().sum()) for g in applied.values()))
    assert length == pytest.approx(min(norm, clip) if clip else norm, rel=1e-5)
    name = next(iter(gradient))
    torch.testing.assert_close(applied[name] * norm, gradient[name] * length)


def test_a_step_is_adamws():
    """The first step of Adam goes by the sign alone: the rate in every coordinate."""
    task = Round(clip=0.0)
    before = task.adapter.state()
    gradient = {name: torch.randn_like(p) for name, p in task.adapter.params.items()}
    task.trainer._apply(gradient, 1.0, 0.25)
    for name, value in task.adapter.state().items():
        torch.testing.assert_close(
            value, before[name] - 0.25 * gradient[name].sign(), atol=1e-4, rtol=0
        )
    assert all(p.grad is None for p in task.adapter.params.values())


@pytest.mark.parametrize("sam", [True, False])
def test_a_loss_that_is_not_finite_ends_the_round_before_it_spoils_the_weights(sam):
    task = Round(sam=sam)
    with torch.no_grad():
        next(iter(task.adapter.params.values()))[0, 0] = float("inf")
    before = task.adapter.state()
    with pytest.raises(TrainingError, match=r"step 1 is not finite.*lower learning_rate") as error:
        task.run()
    assert "\n" not in str(error.value)
    assert equal(task.adapter.state(), before)


def test_a_gradient_that_is_not_finite_uphill_ends_the_round_too():
    task = Round(rho=1e30)
    before = task.adapter.state()
    with pytest.raises(TrainingError, match="rho"):
        task.run()
    assert equal(task.adapter.state(), before)


def test_the_paper_preset_is_the_papers():
    config = make_config({"preset": "paper"})
    wanted = {
        "sft": True, "dpo": True, "sam": True, "projection": "pcgrad",
        "rank": 32, "alpha": 64.0, "dropout": 0.0, "beta": 0.1, "rho": 0.05, "sft_weight": 1.0,
        "learning_rate": 2e-4, "weight_decay": 0.0, "clip": 1.0, "warmup_steps": 5,
        "batch_size": 32, "micro_batch": 8, "stop": "epochs", "epochs": 10, "seed": 42,
        "replay": 0, "positives": 0, "contrast": 0, "keep_pool": 0, "keep_plain": 0,
        "reference": "base",
    }  # fmt: skip
    assert {name: getattr(config, name) for name in wanted} == wanted


# --- What is told -----------------------------------------------------------------------------


def test_events_tell_how_the_batch_stood_before_the_step():
    task = Round(count=4, max_visits=2)
    with task.base.using(task.adapter.name):
        scores = score_examples(task.base.forward, task.examples)
    task.run()
    first = task.events[0]
    margins = [score.margin for score in scores if score.margin is not None]
    assert first.margin == pytest.approx(sum(margins) / len(margins), rel=1e-4)
    assert first.edits == 4
    assert first.step == 1
    assert [event.step for event in task.events] == [1, 2]
    assert first.gradient_norm > 0


def test_the_expected_steps_are_never_less_than_those_done_nor_more_than_the_cap():
    task = Round(own=CONSISTENT)
    outcome = task.run()
    assert all(event.step <= event.expected_steps <= task.trainer.cap for event in task.events)
    assert task.events[-1].expected_steps == outcome.steps


def test_fresh_wordings_are_expected_to_take_longer_before_a_step_is_done():
    plain, varied = (Round(positives=count, max_visits=90).trainer for count in (0, 1))
    assert varied.cap > varied._expected_steps() > 2 * plain._expected_steps()


def test_position_can_be_written_as_json():
    task = Round(max_visits=2)
    task.run()
    _, position = task.trainer.state()
    assert Position(**json.loads(json.dumps(position))) == task.trainer.position
