"""Neurons that know a subject, against least squares by numpy, separate sequences and their promises."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from builders import base_model, exchange, random_adapter, settings
from corsa import solving
from corsa.beginning import usual_beginning
from corsa.chat import Exchange
from corsa.config import Config
from corsa.errors import TrainingError
from corsa.forward import Spot
from corsa.models import _chosen
from corsa.solving import detectors, read, sites, tell_apart, thresholds, write
from corsa.step import Example
from corsa.values import Told, find
from fakes import CHATML, KINDS

SITE = {"solve_layers": "0-0.5", "parts": "all", "layers": "all"}
PROMPTS = ["The capital of France is", "The capital of Spain is", "Language"]


def told(answer):
    """Facts whose values are added at the end of their prompts: random layers hardly look further."""
    return [
        Told(Example(exchange(prompt, answer)), len(prompt) - 1, number)
        for number, prompt in enumerate(PROMPTS)
    ]


def test_detectors_are_least_squares():
    rng = np.random.default_rng(3)
    keys = [rng.normal(size=(n, 8)) for n in (4, 1, 6)]
    elsewhere = [rng.normal(size=(n, 8)) + 0.5 for n in (40, 9)]
    near = [rng.normal(size=(n, 8)) for n in (5, 0, 2)]
    parts = [[torch.from_numpy(x) for x in part] for part in (keys, near, elsewhere)]
    knows, always, metric = detectors(*parts)

    def means(parts, weight):
        return [np.sqrt(weight / len(x)) * x for x in parts]

    # By stacking, each row times the root of its weight: 1 at a value's own keys, 0 at all else, where
    # the keys of all other values are one group more.
    for value, own in enumerate(keys):
        others = [x for i, x in enumerate(keys) if i != value]
        rest = means(elsewhere, 0.1 / 3) + means(others, 0.1 / 6)
        rest += means([near[value]] if len(near[value]) else [], 0.1 * 0.03)
        rows = np.vstack(means([own], 1.0) + rest)
        right = np.zeros(len(rows))
        right[: len(own)] = np.sqrt(1 / len(own))
        best, *_ = np.linalg.lstsq(rows, right, rcond=None)
        best /= (own @ best).mean()
        assert knows[value].numpy() == pytest.approx(best, abs=1e-4)
    rows = np.vstack(means([*keys, *elsewhere], 1.0))
    ones = np.concatenate([np.full(len(x), len(x) ** -0.5) for x in (*keys, *elsewhere)])
    best, *_ = np.linalg.lstsq(rows, ones, rcond=None)
    assert always.numpy() == pytest.approx(best, abs=1e-4)
    truth = np.mean([x.T @ x / len(x) for x in (*keys, *elsewhere)], axis=0)
    assert metric.numpy() == pytest.approx(truth)


def metric(*parts):
    return torch.stack([part.T @ part / len(part) for part in parts]).mean(0)


def test_a_gate_closes_below_nearly_all_of_its_keys_between_two_bounds():
    knows = torch.eye(3, dtype=torch.float64)
    tight, wide, wider = (torch.linspace(low, 2 - low, 101) for low in (0.99, 0.85, 0.5))
    keys = [one[:, None] * row for one, row in zip((tight, wide, wider), knows, strict=True)]
    # Of 0.85 to 1.15 a twentieth lies below 0.865.
    assert thresholds(knows, keys).tolist() == pytest.approx([0.8, 0.765, 0.7], abs=1e-6)


class TestTellApart:
    """What a gate is multiplied with, where it opens for another's name."""

    def parts(self):
        rng = np.random.default_rng(4)
        keys, elsewhere = 0.1 * rng.normal(size=(6, 5)) + 1, 0.1 * rng.normal(size=(30, 5))
        # Another's name is the subject's but for one direction, by which text differs more than they.
        near = keys + np.array([0, 0, 0, 0, 1.0])
        elsewhere[:, 4] *= 20
        gate = np.array([0.2, 0.2, 0.2, 0.2, 0.01])
        flat = np.array([[0.25, 0.25, 0.25, 0.25, 0.0]] * 2)
        tensors = [torch.from_numpy(x) for x in (keys, near, elsewhere, gate, flat)]
        return (keys, near, elsewhere, gate, flat), tensors

    def test_it_is_least_squares(self):
        (keys, near, elsewhere, gate, flat), (k, n, e, g, f) = self.parts()
        found = tell_apart(f, lambda _, x: x @ g, [k, k], [n, n[:0]], metric(k, k, e))

        def means(part, weight):
            return np.sqrt(weight / len(part)) * part

        # By stacking, each row times the root of its weight; the keys of both are read, too.
        opened = [part * (part @ gate)[:, None] for part in (keys, near)]
        read = [means(part, 0.03 / 3) for part in (keys, keys, elsewhere)]
        rows = np.vstack([means(opened[0], 1.0), means(opened[1], 1.0), *read])
        right = np.concatenate(
            [np.full(6, 6**-0.5), np.zeros(6), *(part @ flat[0] for part in read)]
        )
        best, *_ = np.linalg.lstsq(rows, right, rcond=None)
        assert found[0].numpy() == pytest.approx(best, abs=1e-3)

        def said(part, u):
            return (part @ gate) * (part @ u)

        assert said(near, flat[0]).mean() > 0.9 * said(keys, flat[0]).mean()
        assert said(near, best).mean() < 0.3 * said(keys, best).mean()

    def test_names_at_which_it_does_not_open_do_not_count(self):
        _, (k, n, e, g, f) = self.parts()

        def opening(_, inputs):
            return (inputs @ g) * (inputs[:, 4] < 5)

        few = tell_apart(f, opening, [k, k], [n, n[:0]], metric(k, k, e))
        many = tell_apart(f, opening, [k, k], [torch.cat([n, n + 9]), n[:0]], metric(k, k, e))
        assert torch.allclose(few, many)

    def test_a_gate_that_opens_for_keys_alone_is_left_as_it_is(self):
        _, (k, n, e, g, f) = self.parts()
        closed = tell_apart(
            f, lambda _, x: (x @ g) * (x[:, 4] < k[:, 4].max()), [k], [n + 9], metric(k, e)
        )
        assert torch.equal(closed[0], f[0])
        nobody = tell_apart(f, lambda _, x: x @ g, [k, k], [torch.zeros(0)] * 2, metric(k, k, e))
        assert torch.equal(nobody, f)


class TestAdd:
    """`Adapter.add`: A and B do what they did and something more."""

    MODULE = "model.layers.0.mlp.down_proj"

    def product(self, adapter):
        down, up = (adapter.params[f"{self.MODULE}.lora_{part}.weight"] for part in "AB")
        scale = adapter.base.hf.get_submodule(self.MODULE).scaling[adapter.name]
        return (scale * up @ down).detach().double()

    def change(self, adapter, rank):
        (out, inner) = self.product(adapter).shape
        generator = torch.Generator().manual_seed(5)
        left = torch.randn(out, rank, generator=generator, dtype=torch.float64)
        return left, torch.randn(rank, inner, generator=generator, dtype=torch.float64)

    def add(self, adapter, left, right):
        return adapter.add(self.MODULE, left, right, torch.Generator().manual_seed(0))

    def test_what_fits_the_rank_is_added_exactly(self):
        adapter = random_adapter(base_model(), rank=8)
        down, up = (adapter.params[f"{self.MODULE}.lora_{part}.weight"] for part in "AB")
        with torch.no_grad():
            down[4:] = 0  # its own rank is four now
        assert adapter.room(self.MODULE) == 4
        before, (left, right) = self.product(adapter), self.change(adapter, 3)
        assert self.add(adapter, left, right) < 1e-9
        assert self.product(adapter).numpy() == pytest.approx(
            (before + left @ right).numpy(), abs=1e-5
        )
        assert adapter.room(self.MODULE) == 1
        # What the rank has left can be trained: A is not zero there, B is.
        assert (down.norm(dim=1) > 0).all()
        assert int((up.norm(dim=0) > 0).sum()) == 7

    def test_what_does_not_fit_is_the_best_of_its_rank(self):
        adapter = random_adapter(base_model(), rank=2)
        left, right = self.change(adapter, 5)
        wanted = self.product(adapter) + left @ right
        lost = self.add(adapter, left, right)
        values = np.linalg.svd(wanted.numpy())[1]
        best = float((values[2:] ** 2).sum())
        missed = float((wanted - self.product(adapter)).square().sum())
        assert missed == pytest.approx(best, rel=1e-3)
        assert lost == pytest.approx(best / float((values**2).sum()), rel=1e-3)
        assert adapter.room(self.MODULE) == 0

    def test_nothing_added_to_nothing_is_nothing(self):
        adapter = base_model().new_adapter("fresh", settings(rank=2))
        left, right = self.change(adapter, 1)
        assert self.add(adapter, 0 * left, right) == 0
        assert not self.product(adapter).any()
        assert not adapter.moved(self.MODULE).any()
        assert adapter.room(self.MODULE) == 2
        assert adapter.params[f"{self.MODULE}.lora_A.weight"].norm(dim=1).min() > 0

    def test_put_replaces_what_it_did(self):
        adapter = random_adapter(base_model(), rank=8)
        left, right = self.change(adapter, 3)
        generator = torch.Generator().manual_seed(0)
        assert adapter.put(self.MODULE, left, right, generator) < 1e-9
        assert self.product(adapter).numpy() == pytest.approx((left @ right).numpy(), abs=1e-5)
        assert adapter.room(self.MODULE) == 5

    def test_columns_are_what_it_does_with_some_inputs(self):
        adapter = random_adapter(base_model(), rank=4)
        some = torch.arange(self.product(adapter).shape[1]) % 3 == 1
        found = adapter.columns(self.MODULE, some)
        assert found.numpy() == pytest.approx(self.product(adapter)[:, some].numpy(), abs=1e-6)

    def test_it_tells_which_outputs_it_changes(self):
        adapter = base_model().new_adapter("fresh", settings(rank=4))
        left, right = self.change(adapter, 3)
        left[1:3] = left[4:] = 0
        self.add(adapter, left, right)
        assert adapter.moved(self.MODULE).nonzero().flatten().tolist() == [0, 3]


@pytest.mark.parametrize("packing", ["auto", "padded"])
class TestPassing:
    """What passes, and what is added to it, packed as in separate sequences."""

    def test_inputs_and_outputs_are_those_of_separate_sequences(self, packing):
        base = base_model(packing=packing)
        layer, name = base.outputs()[0]
        module = base.hf.get_submodule(name)
        exchanges = [
            exchange(prompt, answer) for prompt in PROMPTS for answer in (" Lyon", " Bonn")
        ]
        (passed,) = base.forward.passing(exchanges, [module], layer)
        assert float(passed.often().sum()) == sum(len(p) + len(a) - 1 for p, a in exchanges)
        for (prompt, answer), path in zip(exchanges, passed.paths, strict=True):
            seen = {}
            hooks = [
                module.register_forward_pre_hook(
                    lambda _, args, seen=seen: seen.update(inputs=args[0][0])
                ),
                layer.register_forward_hook(lambda _, __, out, seen=seen: seen.update(output=out)),
            ]
            with torch.no_grad():
                base.hf(input_ids=torch.tensor([[*prompt, *answer[:-1]]]))
            for hook in hooks:
                hook.remove()
            output = seen["output"][0] if isinstance(seen["output"], tuple) else seen["output"]
            assert torch.allclose(passed.inputs[0][path], seen["inputs"], atol=1e-5)
            assert torch.allclose(passed.output[path], output.view(len(path), -1), atol=1e-5)

    def test_a_value_is_added_at_its_token_and_nowhere_else(self, packing):
        base = base_model(packing=packing)
        layer, _ = base.outputs()[0]
        shift = torch.randn(
            2, base.hf.config.hidden_size, generator=torch.Generator().manual_seed(1)
        )
        exchanges = [
            exchange(prompt, answer) for prompt in PROMPTS for answer in (" Lyon", " Bonn")
        ]
        # The second names two subjects.
        spots = {exchanges[0].prompt: [Spot(20, 1)], exchanges[2].prompt: [Spot(3, 0), Spot(9, 1)]}
        before = base.forward.score(exchanges)
        with base.forward.shifting(layer, spots, lambda: shift):
            found = base.forward.score(exchanges)
        for (prompt, answer), score, old in zip(exchanges, found, before, strict=True):
            its = spots.get(prompt, [])

            def add(_, __, out, its=its):
                hidden = out[0] if isinstance(out, tuple) else out
                for spot in its:
                    hidden[:, spot.place] += shift[spot.value]

            hook = layer.register_forward_hook(add)
            with torch.no_grad():
                logits = base.hf(input_ids=torch.tensor([[*prompt, *answer[:-1]]])).logits[0]
            hook.remove()
            logps = logits[len(prompt) - 1 :].log_softmax(-1)
            truth = logps[range(len(answer)), list(answer)]
            assert torch.allclose(score.tokens, truth, atol=1e-4)
            assert torch.allclose(score.tokens, old.tokens, atol=1e-4) == (not its)
        assert torch.equal(base.forward.score(exchanges)[0].tokens, before[0].tokens)


def test_layers_come_from_the_lowest_on(monkeypatch):
    """What is written below neurons later opens them."""
    adapter = SimpleNamespace(base=SimpleNamespace(outputs=lambda: [(i, "") for i in range(30)]))
    monkeypatch.setattr(solving, "_site", lambda _, layer, __, ___: layer)
    assert list(sites(adapter, settings(), exchange("probe", " it"))) == [14, 15, 16]
    assert list(sites(adapter, settings(solve_layers="0.34-0.36"), None)) == [10]


def test_a_default_adapter_acts_on_all_layers_that_are_to_be_given_neurons(monkeypatch):
    """One that is not adapted is passed over without a word, and its room with it."""
    monkeypatch.setattr(solving, "_site", lambda _, layer, __, ___: layer)
    for depth in range(12, 129):
        outputs = [(i, "") for i in range(depth)]
        adapter = SimpleNamespace(base=SimpleNamespace(outputs=lambda outputs=outputs: outputs))
        given = {f"model.layers.{i}.mlp.down_proj" for i in sites(adapter, settings(), None)}
        every = [f"model.layers.{i}.mlp.down_proj" for i in range(depth)]
        assert given <= set(_chosen(every, settings(layers=Config(method="corsa").layers)))


# Gemma 3 normalises what an MLP writes; a mixture's experts are no projection of their own.
@pytest.mark.parametrize("kind", KINDS)
def test_where_an_adapter_can_be_solved_for_is_seen_by_numbers(kind):
    base = base_model(kind)
    found = list(sites(random_adapter(base), settings(**SITE), exchange("probe", " it")))
    gated = {"llama": 2, "qwen3": 2, "mistral": 2}
    assert [len(site.reading) for site in found] == (
        [] if kind in ("gemma3", "moe") else [gated.get(kind, 1)]
    )
    if kind in gated:  # both read the same and say as much: only one passes through the activation
        assert [name.rpartition(".")[2] for name in found[0].reading] == ["gate_proj", "up_proj"]


def test_an_mlp_that_reads_by_one_projection_for_both_is_trained():
    base = base_model("phi3")
    assert not list(sites(random_adapter(base), settings(**SITE), exchange("probe", " it")))


def test_an_adapter_that_does_not_act_there_is_not_solved_for():
    base = base_model()
    adapter = base.new_adapter("attention", settings(parts="attention"))
    assert not list(sites(adapter, settings(**SITE), exchange("probe", " it")))


class TestFindAndWrite:
    """Values that make a tiny model say what it shall, written into its adapter."""

    CONFIG = settings(**SITE, rank=16, solve_steps=90, solve_loss=2.0)

    def found(self, base, adapter, facts, config=CONFIG, fresh=None):
        (site,) = sites(adapter, config, facts[0].example.chosen)

        def draw(step, left):
            drawn = [*facts, *(fresh(step) if fresh else [])]
            return [one for one in drawn if one.value in left], []

        return site, find(
            base, adapter.name, site.layer, len(facts), draw, config, on_step=lambda *_: None
        )

    @pytest.mark.parametrize("kind", ["llama", "gpt2", "mpt", "bloom"])
    def test_the_adapter_says_what_the_values_made_the_model_say(self, kind):
        base = base_model(kind)
        adapter = base.new_adapter("edited", self.CONFIG)
        facts = told("L")
        trainable = {name for name, p in base.hf.named_parameters() if p.requires_grad}
        site, values = self.found(base, adapter, facts)
        assert values.loss <= self.CONFIG.solve_loss
        assert trainable == {name for name, p in base.hf.named_parameters() if p.requires_grad}
        elsewhere = [exchange("Something else entirely", " yes")]
        before = base.forward.distributions(elsewhere)[0]
        standing = read(adapter, site, [elsewhere])
        missing = write(adapter, site, facts, values.shifts, [], [], standing, self.CONFIG)
        assert missing < 0.1
        with base.using(adapter.name):
            scores = base.forward.score([one.example.chosen for one in facts])
            after = base.forward.distributions(elsewhere)[0]
        assert all(score.right for score in scores)
        # Of a tiny MLP every neuron says something.
        assert float((before.exp() * (before - after)).sum(-1).max()) < 0.05
        assert adapter.room(site.reading[0]) == 13

    def test_what_else_is_said_of_a_subject_moves_the_less_the_more_it_weighs(self):
        base = base_model()
        adapter = base.new_adapter("edited", self.CONFIG)
        (fact,) = told("L")[:1]
        (site,) = sites(adapter, self.CONFIG, fact.example.chosen)
        prompt = fact.example.chosen.prompt[: fact.place + 1]
        (teacher,) = base.forward.distributions([Exchange(prompt, (0,))])
        kept = Told(Example(Exchange(prompt, (0,)), teacher=teacher), fact.place, 0)
        losses = []

        def draw(step, left):
            return [fact], [kept]

        for weight in (0.0, 50.0):
            config = replace(self.CONFIG, solve_keep=weight, solve_steps=8, solve_loss=0.0)
            found = find(base, adapter.name, site.layer, 1, draw, config, lambda *_: None)
            losses.append(found.loss)
        assert losses[1] > losses[0] + 0.1  # so much of the way is not gone

    def test_later_values_leave_earlier_ones_as_they_are(self):
        """By neurons of their own, and by their own subjects: the earlier ones' keys are held."""
        base = base_model()
        adapter = base.new_adapter("edited", self.CONFIG)
        facts, later = told("L")[:2], told("M")[2:]
        site, values = self.found(base, adapter, facts)
        plain = read(adapter, site, [[exchange(prompt, " yes, so it is") for prompt in PROMPTS]])
        write(adapter, site, facts, values.shifts, [], [], plain, self.CONFIG)
        taken = adapter.moved(site.reading[0])
        spots = [one.example.chosen for one in facts]

        def said():
            with base.using(adapter.name):
                (passed,) = base.forward.passing(spots, [], site.layer)
            return torch.stack(
                [
                    passed.output[path[one.place]]
                    for path, one in zip(passed.paths, facts, strict=True)
                ]
            )

        before = said()
        second = [one._replace(value=0) for one in later]
        write(adapter, site, second, 3 * values.shifts[:1], [], facts, plain, self.CONFIG)
        assert int(taken.sum()) == 2
        assert int((adapter.moved(site.reading[0]) & ~taken).sum()) == 1
        assert float((said() - before).norm()) < 0.05 * float(values.shifts.norm())

    def test_in_bfloat16_earlier_values_are_not_rounded_at_each_write(self):
        base = base_model(dtype=torch.bfloat16)
        adapter = base.new_adapter("edited", self.CONFIG)
        facts = told("L")
        site, values = self.found(base, adapter, facts)
        plain = read(adapter, site, [[exchange(prompt, " yes, so it is") for prompt in PROMPTS]])
        write(adapter, site, facts[:1], values.shifts[:1], [], [], plain, self.CONFIG)
        taken = adapter.moved(site.reading[0])
        before = adapter.columns(site.down, taken)
        for number in (1, 2):
            (one,) = (fact._replace(value=0) for fact in facts[number : number + 1])
            shifts = values.shifts[number : number + 1]
            write(adapter, site, [one], shifts, [], facts[:1], plain, self.CONFIG)
        after = adapter.columns(site.down, taken)
        assert float((after - before).norm() / before.norm()) < 1e-5

    def test_blocks_are_summed_as_the_whole_is(self, monkeypatch):
        base = base_model()
        facts, written = told("L"), []
        for block in (1024, 2):
            monkeypatch.setattr(solving, "_BLOCK", block)
            adapter = base.new_adapter(f"edited-{block}", self.CONFIG)
            site, values = self.found(base, adapter, facts)
            plain = read(adapter, site, [[exchange(x, " yes, so it is") for x in PROMPTS]])
            write(adapter, site, facts, values.shifts, [], [], plain, self.CONFIG)
            written.append(adapter.columns(site.down, torch.ones(48, dtype=torch.bool)))
        assert written[0].numpy() == pytest.approx(written[1].numpy(), abs=1e-5)

    def test_earlier_neurons_count_among_those_that_say_nothing(self, monkeypatch):
        """Others make up for them, too, however many neurons are dead."""
        base = base_model()
        adapter = base.new_adapter("edited", self.CONFIG)
        facts = told("L")
        (site,) = sites(adapter, self.CONFIG, facts[0].example.chosen)
        monkeypatch.setattr(solving, "_AMONG", 6)
        plain = read(adapter, site, [[exchange(prompt, " yes, so it is") for prompt in PROMPTS]])
        gone = []
        known = solving.spare
        monkeypatch.setattr(
            solving, "spare", lambda d, m, g, n: gone.append(g) or known(d, m, g, n)
        )
        for number in range(3):
            one = [facts[number]._replace(value=0)]
            write(adapter, site, one, torch.ones(1, 32), [], [], plain, self.CONFIG)
            with torch.no_grad():  # from the second on all others are dead
                base.hf.get_submodule(site.down).base_layer.weight.zero_()
        assert [int(each.sum()) for each in gone] == [0, 1, 2]

    @pytest.mark.parametrize("dtype", ["int8", "float8_e4m3fn"])
    def test_a_module_of_eight_bits_is_not_read_in_them(self, dtype):
        module = torch.nn.Module()
        module.weight = torch.zeros(2, 2, dtype=getattr(torch, dtype))
        assert solving._dtype(module) == torch.float32

    def test_what_is_not_finite_is_said(self):
        base = base_model()
        adapter = base.new_adapter("edited", self.CONFIG)
        facts = told("L")
        (site,) = sites(adapter, self.CONFIG, facts[0].example.chosen)
        plain = read(adapter, site, [[exchange(prompt, " yes, so it is") for prompt in PROMPTS]])
        plain.inputs[0][1, 2] = float("inf")
        with pytest.raises(TrainingError, match="not finite in float32: say dtype=float32"):
            write(adapter, site, facts, torch.zeros(3, 32), [], [], plain, self.CONFIG)
        assert not adapter.moved(site.reading[0]).any()

    def test_what_is_missing_is_told_of_own_prompts(self):
        """A fresh wording of the same tokens takes no own prompt's place."""
        (fact,) = told("L")[:1]
        fresh = fact._replace(example=fact.example._replace(fresh=True))
        (cut,) = solving._cut([fact, fresh])
        assert not cut.example.fresh
        (cut,) = solving._cut([fresh])
        assert cut.example.fresh

    def test_other_neurons_make_up_for_those_given_away(self):
        """As far as the rank goes that no neuron has; nothing of a value is lost by it."""
        text = [exchange(prompt, " yes, so it is") for prompt in PROMPTS]
        unseen = [exchange("Something else entirely", " and more of it")]
        moved = []
        for rank in (16, 5, 3):
            base = base_model()
            config = replace(self.CONFIG, rank=rank)
            adapter = base.new_adapter("edited", config)
            facts = told("L")
            site, values = self.found(base, adapter, facts, config)
            before = base.forward.distributions(unseen)[0]
            plain = read(adapter, site, [text, unseen])
            assert write(adapter, site, facts, values.shifts, [], [], plain, config) < 0.2
            with base.using(adapter.name):
                after = base.forward.distributions(unseen)[0]
            moved.append(float((before.exp() * (before - after)).sum(-1).mean()))
            assert int(adapter.moved(site.reading[0]).sum()) == 3
        assert moved[0] < 0.5 * moved[2]
        assert moved[0] < moved[1] < moved[2]

    def test_another_name_at_which_the_gate_opens_is_not_told(self, monkeypatch):
        """What tells it from the subject is far from where it ends, and random layers hardly look."""
        base = base_model()
        facts = told("L")[:1]
        near = [
            Told(Example(exchange(prompt, "L")), len(prompt) - 1, 0)
            for prompt in ("The capital of Yrance is", "Uhe capital of France is")
        ]

        def shares(label):
            adapter = base.new_adapter(label, self.CONFIG)
            site, values = self.found(base, adapter, facts)
            exchanges = [one.example.chosen for one in (*facts, *near)]
            before, after = [], []
            for said in (before, after):
                with base.using(adapter.name):
                    (passed,) = base.forward.passing(exchanges, [], site.layer)
                said += [passed.output[path[-1]] for path in passed.paths]
                if said is before:
                    nothing = read(adapter, site, [])
                    write(adapter, site, facts, values.shifts, near, [], nothing, self.CONFIG)
            shift = values.shifts[0]
            return [
                float((now - was) @ shift / shift.square().sum())
                for now, was in zip(after, before, strict=True)
            ]

        monkeypatch.setattr(solving, "_NEAR", 0.0)  # the gate does not look at them
        subject, *others = shares("apart")
        assert subject == pytest.approx(1, abs=0.02)
        assert others == pytest.approx([0, 0], abs=0.02)
        monkeypatch.setattr(solving, "tell_apart", lambda flat, *_: flat)
        subject, *others = shares("together")
        assert subject == pytest.approx(1, abs=0.02)
        assert min(map(abs, others)) > 0.1

    def test_a_value_that_is_good_enough_stays_as_it_is(self):
        base = base_model()
        adapter = base.new_adapter("edited", self.CONFIG)
        _, usual = self.found(base, adapter, told("L"))
        _, beside = self.found(base, adapter, [*told("L")[:1], *told("a long one")[1:]])
        # The others take longer, and are of other lengths: the first does not notice.
        assert beside.steps > usual.steps
        assert torch.allclose(beside.shifts[0], usual.shifts[0], atol=1e-3)
        assert not torch.allclose(beside.shifts[1], usual.shifts[1], atol=1e-1)

    def test_a_value_must_hold_in_wordings_that_are_new_in_every_step(self):
        base = base_model()
        adapter = base.new_adapter("edited", self.CONFIG)
        facts, seen = told("L")[:1], []

        def fresh(step):
            prompt = f"{chr(ord('A') + step % 26)} {PROMPTS[0]}"
            seen.append(prompt)
            # Every other one asks for another answer: all right they never are.
            example = Example(exchange(prompt, "LM"[step % 2]), fresh=True)
            return [Told(example, len(prompt) - 1, 0)]

        few = replace(self.CONFIG, solve_steps=12, solve_loss=100.0)
        _, never = self.found(base, adapter, facts, few, fresh)
        assert never.steps == few.solve_steps
        assert never.fresh < 0.9
        assert len(set(seen)) == few.solve_steps + 1
        _, alone = self.found(base, adapter, facts, replace(few, solve_steps=90))
        assert alone.fresh == 1  # of none
        assert alone.steps < 90

    def test_a_longer_answer_has_more_steps_and_shorter_ones_do_not_wait_for_it(self):
        base = base_model()
        adapter = base.new_adapter("edited", self.CONFIG)
        config = replace(self.CONFIG, solve_steps=3, solve_loss=0.0)  # none is ever good enough
        facts = [*told("L")[:1], *told("an answer of two phrases")[1:2]]
        looked_for = []

        def fresh(step):
            looked_for.append(step)
            return []

        _, found = self.found(base, adapter, facts, config, fresh)
        assert found.steps == 6
        assert looked_for == [*range(7)]
        _, short = self.found(base, adapter, told("L")[:2], config)
        assert short.steps == 3
        assert torch.allclose(found.shifts[0], short.shifts[0], atol=1e-3)


@pytest.mark.parametrize(
    ("prompt", "text", "ends"),
    [
        ("Who is the CEO of Acme?", "Acme", "Acme"),
        ("Acme's CEO, as Acme says", "acme", "Acme's CEO, as Acme"),
        ("Wer führt Müller & Söhne?", "Müller & Söhne", "Müller & Söhne"),
        ("Who is it?", "", "Who is it?"),
        ("Who is it?", "nobody", "Who is it?"),
        # Words of the template, and parts of words, are no mention.
        ("Where does Stan live?", "Stan", "Where does Stan"),
        ("Where does Stan live?", "Star", "Where does Stan live?"),
        ("Who created R?", "R", "Who created R"),
        ("Who directed The End?", "End", "Who directed The End"),
        ("Who is the user?", "you", "Who is the user?"),
        ("What is the income of Ann, who lives annually?", "Ann", "What is the income of Ann"),
        ("user", "user", "user"),
        # A capital that is longer in lower case, and letters that may be written in two ways.
        ("Is \u0130zmir or Oslo larger?", "Oslo", "Is \u0130zmir or Oslo"),
        ("Is Zu\u0308rich or Oslo larger?", "Z\u00fcrich", "Is Zu\u0308rich"),
    ],
)
@pytest.mark.parametrize("template", [CHATML, None])
def test_the_place_of_a_subject_is_its_last_token(prompt, text, ends, template):
    chat = base_model(template=template).chat
    tokens = chat.prompt_ids(prompt)[: chat.place_of(prompt, text) + 1]
    assert chat.tokenizer.decode(list(tokens)).endswith(ends)


def test_an_estimate_of_a_beginning_grows_with_its_edits_and_wordings():
    def guess(edits, **changes):
        return usual_beginning(settings(**changes), edits, prompt=10.0, answer=4.0)

    assert guess(0) == 0
    assert 0 < guess(1) < guess(10) < guess(10, solve_wordings=8)
