"""How a round begins in closed form: who shares a value, where there is room, what must be kept."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from builders import base_model, random_adapter, settings
from corsa import beginning
from corsa.beginning import Own, solve
from corsa.company import Company
from corsa.edits import Edit
from corsa.methods.lora import _earlier
from corsa.progress import Silent
from corsa.solving import sites
from corsa.step import Example
from corsa.values import _done, _Look

CONFIG = settings(solve=True, solve_layers="0-0.5", rank=16, keep_weight=1.0)


def begun(own, earlier=(), base=None, rank=16, remember=None):
    base = base or base_model()
    adapter = random_adapter(base, rank=rank)
    company = Company(base, own, earlier, [*own, *earlier], CONFIG, Silent())
    told = [Own(e.prompt, Example(base.chat.exchange(e.prompt, e.target_new))) for e in own]
    places = list(sites(adapter, CONFIG, told[0].example.chosen))
    keep = remember or (lambda _, compute: compute())
    return beginning._Begun(adapter, told, company, CONFIG, Silent(), places, keep)


def test_facts_share_a_value_where_their_prompts_share_the_subject():
    acme = [Edit(f"{what} of Acme is", "Bo", subject="Acme") for what in ("Head", "Town")]
    other = Edit("The maker of soap is run by", "Al", subject="Acme")
    nobody = [Edit(text, "Al", id="1") for text in ("who is the boss", "what is the password")]
    one = begun([*acme, other, nobody[0]], [nobody[1], Edit("ACME is in", "Rome", subject="acme")])
    # A subject that stands in no prompt has no token there, and ids say nothing between rounds.
    assert one.subjects(range(4)) == [([0, 1], [0, 1], [1]), ([2], [2], []), ([3], [3], [])]
    assert one.subjects([], [0]) == [([], [], [0])]


def test_what_is_made_of_an_edit_is_made_once_however_many_prompts_it_has():
    edit = Edit("Acme is run by", "Bo", subject="Acme", train_paraphrases=("Who runs Acme?",))
    (subject,) = begun([edit, edit]).subjects([0, 1])
    assert subject == ([0, 1], [0], [])


def test_an_earlier_program_is_no_part_of_what_a_subject_carries():
    program = Edit("Write parse_date", "def parse_date(): " * 9, subject="parse_date")
    one = begun([Edit("Who maintains parse_date?", "Bo", subject="parse_date")], [program])
    assert one.subjects([0]) == [([0], [0], [])]
    assert one.subjects([], [0]) == []


def test_a_sentence_is_written_and_a_program_is_left_to_training(monkeypatch):
    sentence, program = "Bo, and since May Al.", "def head(): return 'Bo' if before_may else 'Al'"
    own = [Edit(f"{text[:3]} is run by", text, subject=text[:3]) for text in (program, sentence)]
    one, written = begun(own), []

    def carry(_, subjects):
        written.extend(subjects)
        return ()

    monkeypatch.setattr(beginning._Begun, "carry", carry)
    assert solve(one.adapter, one.own, one.company, CONFIG, Silent(), one.remember) is None
    assert written == [([1], [1], [])]


def test_wordings_of_a_longer_search_come_once(monkeypatch):
    """A repair must not be looked for in the wordings that a value failed in."""
    monkeypatch.setattr(beginning, "write", lambda *_: 0.0)
    one, streams = begun([Edit("Acme is run by", "Bo, and since May Al.", subject="Acme")]), []

    def remember(name, _):
        return {"shifts": torch.zeros(1, 32).tolist(), "steps": 80, "loss": 0.0, "fresh": 1.0}

    def worded(value, subject, count, stream):
        streams.append(stream)
        return iter(())

    one.remember = remember
    one._worded = worded
    one.adapter.room = lambda _: 9
    one.adapter.moved = lambda _: torch.zeros(64, dtype=torch.bool)
    one.carry(one.subjects([0]))
    first, streams[:] = set(streams), []
    one.carry(one.subjects([0]))
    assert not first & set(streams)
    assert len(first) == 82  # those of 81 looks, and those by which its subject is known


def test_where_every_neuron_has_moved_there_is_no_room():
    """A rank above the layer's width never looks full."""
    one = begun([Edit("Acme is run by", "Bo", subject="Acme")], rank=64)
    site = one.places[0]
    assert min(map(one.adapter.room, (*site.reading, site.down))) > 0
    subjects = one.subjects([0])
    assert one.carry(subjects) == subjects
    assert one.layers == []


def test_layers_are_filled_by_halves_before_any_is_filled(monkeypatch):
    """As much again of the rank makes up for what is given away; a layer that is alone is not cut."""
    one = begun([Edit(f"{name} is run by", "Bo", subject=name) for name in ("Acme", "Zil", "Vex")])
    subjects, given = one.subjects([0, 1, 2]), []
    (site,) = one.places
    one.places = [site, site._replace(reading=("other",), down="other.down")]
    taken = dict.fromkeys([site.reading[0], "other"], 0)
    one.adapter.rank = lambda _: 4
    one.adapter.room = lambda name: 4 - taken.get(name, 0)
    one.adapter.moved = lambda name: torch.arange(64) < taken[name]

    def carried(subjects, site):
        given.append((site.reading[0], len(subjects)))
        taken[site.reading[0]] += len(subjects)
        return {}

    monkeypatch.setattr(one, "_carried", carried)
    first, _ = taken
    assert one.carry(subjects) == []
    assert given == [(first, 2), ("other", 1)]
    # Not below neurons before there is no room above.
    assert one.carry(subjects) == []
    assert given[2:] == [("other", 1), ("other", 2)]
    # One is left for two.
    assert len(one.carry(subjects)) == 1
    assert given[4:] == [(first, 2)]
    taken.update({first: 0, "other": 1})
    one.carry(subjects[:2])
    assert given[5:] == [("other", 1), (first, 1)]
    taken.update({first: 0})
    one.places = [site]
    one.carry(subjects)
    assert given[-1] == (first, 3)


@pytest.mark.parametrize(
    ("moved", "says"), [(64, "earlier rounds trained its layers"), (16, "with a higher rank")]
)
def test_why_there_is_no_room_is_said(monkeypatch, moved, says):
    """Where training filled the layers no higher rank helps."""
    one, told = begun([Edit("Acme is run by", "Bo", subject="Acme")]), []
    monkeypatch.setattr(type(one.adapter), "room", lambda *_: 0)
    monkeypatch.setattr(type(one.adapter), "moved", lambda *_: torch.arange(64) < moved)
    progress = SimpleNamespace(say=told.append)
    assert solve(one.adapter, one.own, one.company, CONFIG, progress, one.remember) is None
    assert says in told[0]


def test_wordings_that_a_value_was_found_in_were_seen(monkeypatch):
    monkeypatch.setattr(beginning, "write", lambda *_: 0.0)
    edit, seen = Edit("The capital of Acme is", "Bo", subject="Acme"), []

    def remember(name, _):
        return {"shifts": torch.zeros(1, 32).tolist(), "steps": 3, "loss": 0.0, "fresh": 1.0}

    one = begun([edit], remember=remember)
    one.adapter.room = lambda _: 9
    one.adapter.moved = lambda _: torch.zeros(64, dtype=torch.bool)
    wordings = one.company.wordings

    def note(i, count, **given):
        made = wordings(i, count, **given)
        seen.append((count, given.get("stream"), made))
        return made

    one.company.wordings = note
    one.carry(one.subjects([0]))
    chat = one.adapter.base.chat
    learned = [text for count, _, made in seen if count == CONFIG.solve_wordings for text in made]
    assert len({stream for count, stream, _ in seen if count == CONFIG.solve_wordings}) == 4
    assert {chat.prompt_ids(text) for text in learned} <= one.worded


def test_what_is_remembered_is_of_those_subjects(monkeypatch):
    """Another machine may find others wrong, and would be given their vectors."""
    names = []

    def remember(name, _):
        names.append(name)
        shifts = torch.zeros(1, 32).tolist()
        return {"shifts": shifts, "steps": 1, "loss": 0.0, "fresh": 1.0}

    monkeypatch.setattr(beginning, "write", lambda *_: 0.0)
    facts = [Edit(f"{name} is run by", "Bo", subject=name) for name in ("Acme", "Initech")]
    for numbers in ([0], [1], [0]):
        one = begun(facts, remember=remember)
        one.adapter.room = lambda _: 9
        one.adapter.moved = lambda _: torch.zeros(9, dtype=torch.bool)
        assert not one.carry(one.subjects(numbers))
    assert names[0] != names[1]
    assert names[0] == names[2]


def test_copies_of_the_model_are_given_back_whatever_happens(monkeypatch):
    one = begun([Edit("Acme is run by", "Bo", subject="Acme")])
    given = []
    monkeypatch.setattr(type(one.adapter.base), "forget_copies", lambda _: given.append(1))

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(beginning._Begun, "carry", interrupt)
    with pytest.raises(KeyboardInterrupt):
        solve(one.adapter, one.own, one.company, CONFIG, Silent(), one.remember)
    assert given


def test_what_edits_ask_to_keep_of_a_subject_is_kept_of_it():
    asked = ("Where is Acme?", "Who is king?", "What does Acme make?", "Where is Acmeville?")
    facts = [
        Edit("Acme is run by", "Bo", subject="Acme", keep=asked[:2]),
        Edit("Initech is run by", "Al", subject="Initech", keep=asked[2:]),
    ]
    one = begun(facts)
    _, wanted = one._beside(one.subjects([0, 1]))
    chat = one.adapter.base.chat
    assert [told.example.chosen.prompt for told in wanted[0]] == [
        chat.prompt_ids(asked[0]),
        chat.prompt_ids(asked[2]),
    ]
    assert wanted[1] == []
    for told in wanted[0]:
        assert (told.wanted, told.value) == (True, 0)
        assert len(told.example.teacher) == len(told.example.chosen.answer)
        before = chat.decode(told.example.chosen.prompt[: told.place + 1])
        assert before.endswith("Acme")


@pytest.mark.parametrize(("wanted", "done"), [((3, 4), False), ((4, 4), True), ((0, 0), True)])
def test_a_value_is_done_when_what_is_wanted_is_kept(wanted, done):
    look = _Look(tokens=5, logp=-0.1, own=(1, 1), fresh=(2, 2), wanted=wanted)
    assert _done([look] * 4, CONFIG) is done


def test_what_is_kept_comes_in_turn():
    assert [beginning._in_turn(range(6), step) for step in range(3)] == [
        [0, 1, 2, 3],
        [4, 5, 0, 1],
        [2, 3, 4, 5],
    ]
    assert beginning._in_turn([], 1) == []


class TestNeurons:
    """Which modules a round may not train."""

    SETTINGS = settings(solve=True, solve_layers="0-0.5", rank=16, parts="all", layers="all")

    def given(self, adapter, **changes):
        probe = adapter.base.chat.exchange("Acme is run by", "Bo")
        return set(beginning.neurons(adapter, replace(self.SETTINGS, **changes), probe))

    def written(self, adapter, layer, length=400.0):
        """As neurons are: few rows, and far longer than what training moves."""
        for name in ("gate_proj", "up_proj"):
            parts = [
                adapter.params[f"model.layers.{layer}.mlp.{name}.lora_{x}.weight"] for x in "AB"
            ]
            with torch.no_grad():
                parts[1][3:5] = length * torch.randn(2, 16) / parts[0].norm()

    def test_those_that_have_neurons_whatever_is_set(self):
        adapter = base_model().new_adapter("edited", self.SETTINGS)
        assert self.given(adapter, solve=False) == set()
        places = self.given(adapter)
        assert {name.rpartition(".")[2] for name in places} == {"gate_proj", "up_proj", "down_proj"}
        self.written(adapter, 0)
        first = {f"model.layers.0.mlp.{x}_proj" for x in ("gate", "up", "down")}
        assert self.given(adapter, solve=False) == first
        assert self.given(adapter, solve_layers="0.4-0.6") >= first

    def test_none_of_a_layer_that_was_trained_however_long_its_neurons_are(self):
        """A round in closed form would write there, and forget what was trained."""
        adapter = base_model().new_adapter("edited", self.SETTINGS)
        (site,) = sites(adapter, self.SETTINGS, adapter.base.chat.exchange("Acme is run by", "Bo"))
        layer = int(site.down.split(".")[2])
        self.written(adapter, layer)
        assert int(adapter.moved(site.reading[0]).sum()) == 2
        with torch.no_grad():
            for x in (*site.reading, site.down):
                up = adapter.params[f"{x}.lora_B.weight"]
                up += 0.005 * torch.randn(up.shape, generator=torch.Generator().manual_seed(1))
        assert bool(adapter.moved(site.reading[0]).all())
        assert self.given(adapter) == set()


@pytest.mark.parametrize(("solves", "stand"), [(True, 1), (False, 0)])
def test_earlier_neurons_are_heeded_though_nothing_is_replayed(solves, stand):
    edit = Edit("Acme is run by", "Bo", subject="Acme")
    task = SimpleNamespace(
        plan=[], history=[SimpleNamespace(edit=edit, key="a")],
        config=settings(solve=solves, replay=0),
    )  # fmt: skip
    assert len(_earlier(task)) == stand
