"""What joins a step: drawn anew from its number alone, and never what was edited as it was before."""

import re
from dataclasses import replace

import pytest
import torch

from builders import base_model, random_adapter, settings
from corsa import company as companies
from corsa.company import Company, pool_prompts, usual_tokens
from corsa.edits import Edit, Probe
from corsa.matching import contains
from corsa.progress import Silent
from corsa.variations import passing_remarks, topic_of

GARO = Edit("Garo Bells was employed in", "Oslo", subject="Garo Bells")
VEX = Edit("Vex 911, created by", "Lada", subject="Vex 911")
KING = Edit("Who is king?", "Ann")
LUND = Edit("Mira Lund died in", "Graz", subject="Mira Lund")
OLD = Edit("The twin city of Beirut is", "Brno", subject="Beirut")
ROUND = [GARO, VEX, KING]
QUIET = {"keep_pool": 0, "keep_plain": 0, "replay": 0}
REMARKS = passing_remarks()
TELLING = {"positives": 1, "positive_weight": 2.0, "contrast": 1, "keep_weight": 4.0}


@pytest.fixture(scope="module")
def base():
    base = base_model("llama")
    random_adapter(base)
    return base


def company(base, own=ROUND, earlier=(), edited=None, **changes):
    edited = [*own, *earlier] if edited is None else edited
    return Company(base, own, earlier, edited, settings(**{**TELLING, **changes}), Silent())


def text(tokens):
    return bytes(token for token in tokens if token < 256).decode("utf-8", "replace")


def parts(joined):
    learned = [example for example in joined if not example.kept]
    return learned, joined[len(learned) :]


def same(one, other):
    return len(one) == len(other) and all(
        a[:4] == b[:4]
        and a.fresh == b.fresh
        and (a.teacher is b.teacher or torch.equal(a.teacher, b.teacher))
        for a, b in zip(one, other, strict=True)
    )


def test_of_a_long_answer_a_fresh_wording_learns_the_beginning_and_the_prompt_all(base):
    long = Edit("Garo Bells was employed in", "Oslo " * 40, subject="Garo Bells")
    whole = base.chat.exchange(long.prompt, long.target_new).answer
    worded, replayed = (
        parts(company(base, own, earlier, **QUIET | {"replay": 1})(0, range(len(own))))[0]
        for own, earlier in (([long], ()), ([KING], [long]))
    )
    assert [e.chosen.answer for e in worded] == [whole[:32]]
    assert [e.chosen.answer for e in replayed[:2]] == [whole, whole[:32]]


def test_every_edit_of_a_step_brings_a_fresh_wording_and_who_else_it_might_be_about(base):
    joined = company(base, **QUIET, other_relations=0.0)(0, [1, 0])
    learned, kept = parts(joined)
    assert [text(e.chosen.answer) for e in learned] == [" Lada", " Oslo"]
    assert all(e.weight == 2.0 and e.rejected is None for e in learned)
    assert [len(e.chosen.answer) == 1 for e in kept] == [True, False, True, False]
    assert all(e.weight == 1.0 and len(e.teacher) == len(e.chosen.answer) for e in kept)
    for (positive, twin, own), edit in zip(
        [(learned[0], kept[0], kept[1]), (learned[1], kept[2], kept[3])], [VEX, GARO], strict=True
    ):
        asked, about, apart = (text(e.chosen.prompt) for e in (positive, twin, own))
        assert edit.prompt != asked
        # Remark and template are the same, only the subject is another.
        before, after = asked.split(edit.subject)
        assert about.startswith(before)
        assert about.endswith(after)
        assert about != asked
        head, tail = edit.prompt.split(edit.subject)
        assert head in apart
        assert apart.endswith(tail)


def test_dpo_may_tell_subjects_apart_too(base, monkeypatch):
    changes = QUIET | {"positives": 0, "contrast": 0, "keep_weight": 0.0, "contrast_dpo": True}
    joining = company(base, **changes)
    pairs = joining(0, [1, 0, 2])
    # An edit without a subject brings none.
    for example, edit in zip(pairs, (VEX, GARO), strict=True):
        head, tail = edit.prompt.split(edit.subject)
        asked = text(example.rejected.prompt)
        assert text(example.chosen.prompt).endswith(edit.prompt)
        assert head in asked
        assert asked.endswith(tail)
        assert edit.prompt not in asked
        assert example.rejected.answer == example.chosen.answer
        assert example.weight == 0.0
        with base.using(None):
            scores = base.forward.score([example.chosen, example.rejected])
        assert example.reference == pytest.approx([float(s.tokens.sum()) for s in scores], abs=1e-4)
    others = {joining(step, [0])[0].rejected.prompt for step in range(20)}
    assert len(others) > 3
    with monkeypatch.context() as short:
        short.setattr(type(base), "context_length", property(lambda _: 1))
        assert company(base, **changes)(0, [0]) == []


def test_an_estimate_counts_what_dpo_tells_apart():
    without, beside = (
        usual_tokens(settings(contrast_dpo=on), 4, 0, 10.0, 3.0) for on in (False, True)
    )
    assert beside.learned - without.learned == 4 * (10 + 3)
    assert beside.kept == without.kept


def test_an_edit_without_a_subject_brings_wordings_alone(base):
    learned, kept = parts(company(base, **QUIET)(0, [2]))
    assert kept == []
    assert text(learned[0].chosen.prompt).endswith(KING.prompt)
    assert len(text(learned[0].chosen.prompt)) > len(KING.prompt)


def test_no_wording_comes_twice(base):
    joining = company(base, **QUIET, keep_weight=0.0)
    prompts = [text(e.chosen.prompt) for step in range(30) for e in joining(step, [0, 1, 2])]
    assert len(set(prompts)) > 0.8 * len(prompts)


def test_what_joins_depends_on_the_step_and_the_indices_alone(base):
    one, other = (company(base, earlier=[OLD], replay=2) for _ in range(2))
    forwards = [one(step, [0, 2]) for step in range(4)]
    backwards = [other(step, [0, 2]) for step in reversed(range(4))]
    assert all(map(same, forwards, backwards[::-1]))
    assert not same(forwards[0], forwards[1])
    # An edit brings the same whoever else is in its step.
    alone, together = (parts(one(0, own))[0][-1] for own in ([1], [0, 1]))
    assert alone == together


def test_earlier_edits_that_came_undone_are_replayed_first(base):
    earlier = [OLD, LUND, *(Edit(f"Place {n} is in", f"Land {n}") for n in range(8))]
    joining = company(base, own=[], earlier=earlier, edited=[], positives=0, replay=3)

    def replayed(step, lost):
        return [text(e.chosen.prompt) for e in joining(step, [], lost)]

    for step in range(5):
        two, many = replayed(step, [1, 4]), replayed(step, [5, 6, 7, 8])
        assert len(set(two)) == len(set(many)) == 3
        assert {two[0][-12:], two[1][-12:]} == {"Lund died in", "Place 2 is in"[-12:]}
        assert all(
            prompt.endswith(tuple("3456"[i] + " is in" for i in range(4))) for prompt in many
        )
    assert len({tuple(replayed(step, [5, 6, 7, 8])) for step in range(9)}) > 1


def test_the_seed_changes_what_joins(base):
    one, other = (company(base, **QUIET, seed=seed)(0, [0]) for seed in (1, 2))
    assert not same(one, other)


@pytest.mark.parametrize(
    ("changes", "learned", "kept"),
    [
        ({}, 3, 4),  # three wordings, two of them about somebody; the two own prompts; no pool
        ({"positives": 0}, 0, 2),
        ({"positives": 2}, 6, 6),
        ({"contrast": 0}, 3, 0),
        ({"contrast": 2}, 3, 8),
        ({"positives": 0, "contrast": 0}, 0, 0),
        ({"keep_weight": 0.0}, 3, 0),
        ({"keep_pool": 3}, 3, 7),
        ({"keep_plain": 2}, 3, 6),
        ({"other_relations": 1.0, "contrast": 0}, 3, 2),
        ({"other_relations": 1.0, "contrast": 0, "positives": 0}, 0, 2),
    ],
)
def test_every_part_has_a_switch(base, changes, learned, kept):
    joined = company(base, **{**QUIET, "other_relations": 0.0, **changes})(3, [0, 1, 2])
    assert tuple(map(len, parts(joined))) == (learned, kept)


def test_replayed_edits_bring_their_prompt_a_wording_and_its_twin(base):
    joining = company(base, earlier=[OLD], **{**QUIET, "replay": 3})
    learned, kept = parts(joining(0, []))
    assert [e.weight for e in learned] == [1.0, 2.0]
    assert text(learned[0].chosen.prompt).endswith(OLD.prompt)
    assert text(learned[1].chosen.prompt) != text(learned[0].chosen.prompt)
    assert len(kept) == 1
    bare = {**QUIET, "replay": 1, "positives": 0, "contrast": 0, "other_relations": 0.0}
    plain = company(base, earlier=[OLD, LUND], **bare)
    drawn = [plain(step, [0]) for step in range(12)]
    assert all(len(joined) == 1 for joined in drawn)
    assert {text(joined[0].chosen.answer) for joined in drawn} == {" Brno", " Graz"}


def test_something_else_about_subjects_of_replayed_edits_is_kept_too(base):
    bare = {**QUIET, "replay": 1, "positives": 0, "contrast": 0, "other_relations": 1.0}
    _, kept = parts(company(base, earlier=[OLD], **bare)(0, []))
    assert [contains(text(e.chosen.prompt), OLD.subject) for e in kept] == [True]
    assert OLD.prompt not in text(kept[0].chosen.prompt)
    off = {**bare, "keep_weight": 0.0}
    assert parts(company(base, earlier=[OLD], **off)(0, []))[1] == []
    more = Edit(f"{OLD.subject} is known for", "Rome", subject=OLD.subject)
    assert parts(company(base, earlier=[OLD], edited=[*ROUND, OLD, more], **bare)(0, []))[1] == []


def test_the_teacher_is_the_base_model_whatever_acts(base):
    joining = company(base, keep_pool=2)
    plain = joining(0, [0])
    with base.using("edited"):
        again = joining(0, [0])
        acting = base.forward.distributions([e.chosen for e in parts(again)[1]])
    assert same(plain, again)
    assert not any(
        torch.allclose(e.teacher, logps) for e, logps in zip(parts(again)[1], acting, strict=True)
    )


def test_nothing_that_was_edited_is_kept(base):
    """Not by its prompt and not by its subject, whichever round it is of."""
    edited = [*ROUND, OLD, Edit("What is Stan Getz?", "x", subject="Getz")]
    named = Edit("How are you?", "x", subject="capital")
    remarked = Edit("Which village?", "x", subject="village")
    joining = company(base, earlier=[OLD], edited=[*edited, named, remarked], near_miss=0.3)
    names = [e.subject for e in [*edited, named, remarked] if e.subject]
    for step in range(40):
        for example in parts(joining(step, [0, 1, 2]))[1]:
            prompt = text(example.chosen.prompt)
            found = [name for name in names if contains(prompt, name)]
            # A longer name, or something else about an edit's own subject.
            assert set(found) <= {"Garo Bells", "Vex 911", "Beirut"}
    assert any(contains(prompt, "capital") for prompt in pool_prompts())
    assert any(contains(remark, "village") for remark in REMARKS)
    assert not any(contains(text(x.prompt), "capital") for pool, _ in joining._pools for x in pool)
    assert joining._remarks
    assert not any(contains(remark, "village") for remark in joining._remarks)


def test_nothing_packaged_is_kept_about_what_a_probe_names(base):
    """In whatever words: what is measured of neighbours is what editing does, not what keeping does."""
    probes = ("Austria is governed from", "Who worked on PENICILLIN?")
    measured = Edit("Who leads Acme?", "Ann", locality=tuple(Probe(p, None) for p in probes))

    def about(joining, name):
        return [x for pool, _ in joining._pools for x in pool if contains(text(x.prompt), name)]

    for name in ("Austria", "penicillin", "Botswana"):
        found = about(company(base, [KING], keep_pool=2), name)
        left = about(company(base, [measured], edited=[measured], keep_pool=2), name)
        assert found
        assert left == (found if name == "Botswana" else [])


def test_plain_text_is_read_as_the_base_reads_it(base):
    """Without the template: the first token is given, every other one is compared."""
    joining = company(base, [KING], **{**QUIET, "keep_plain": 1, "positives": 0})
    passages = [joining(step, [0]) for step in range(20)]
    for (example,) in passages:
        front = text(base.chat.passage([65, 66]).prompt)[:-1]
        read = text((*example.chosen.prompt, *example.chosen.answer)).removeprefix(front)
        assert len(example.chosen.answer) == len(example.teacher) == 32
        assert any(remark.startswith(read[:20]) or read.startswith(remark) for remark in REMARKS)
        assert torch.equal(example.teacher, base.forward.distributions([example.chosen])[0])
    assert len({example.chosen for (example,) in passages}) == 20


def test_nothing_else_is_kept_about_a_subject_of_several_edits(base):
    more = Edit("Garo Bells was born in", "Rome", subject="Garo Bells")
    changes = {**QUIET, "other_relations": 1.0, "contrast": 0, "positives": 1}
    assert len(parts(company(base, [GARO], **changes)(0, [0]))[1]) == 1
    assert parts(company(base, [GARO], edited=[GARO, more], **changes)(0, [0]))[1] == []


def test_nothing_is_asked_about_others_where_no_step_needs_it(base, monkeypatch):
    asked = []
    real = Company._replies
    monkeypatch.setattr(
        Company, "_replies", lambda self, ps, n: asked.extend(ps) or real(self, ps, n)
    )
    joining = company(base, **QUIET)
    assert joining.standing()
    assert not asked
    joining.ask()
    assert len(asked) > len(ROUND)
    assert not {edit.prompt for edit in ROUND}.intersection(asked)


def test_what_the_base_says_is_read_at_length_but_where_it_names_what_is_edited(base):
    edit = Edit("Who leads Acme?", "Ann", subject="Acme", keep=("Hello?",))
    changes = {**QUIET, "keep_pool": 2, "solve": True}
    joining = company(base, [edit], **changes, keep_tokens=3)
    replied, *_ = joining.standing()
    assert [len(x.answer) for pool, _ in joining._pools for x in pool[:1]] == [3, 3]
    (long, *_) = [x for x in replied if len(x.answer) == 32]
    said = "".join(text(long.answer).split()[:1])
    named = Edit("Who is it?", "Ann", subject=said)
    joining = company(base, [edit], edited=[edit, named], **changes)
    (again,) = [x for x in joining.standing()[0] if x.prompt == long.prompt]
    assert len(again.answer) == 1


def test_what_the_user_wants_kept_joins(base):
    edit = Edit(KING.prompt, "Ann", keep=("Hello?", "Who is king?"))
    longest = []
    for tokens in (2, 12):
        _, kept = parts(company(base, [edit], **QUIET, keep_tokens=tokens)(0, [0]))
        assert [text(e.chosen.prompt)[-6:] for e in kept] == ["Hello?"]
        longest.append(len(kept[0].chosen.answer))
    assert longest == [2, 12]


def test_what_the_user_wants_kept_may_name_what_was_edited(base):
    edit = Edit(
        "Who leads Acme?", "Ann", subject="Acme", keep=("Where is Acme?", "who leads ACME?")
    )
    alone = {**QUIET, "contrast": 0, "positives": 0, "other_relations": 0.0}
    _, kept = parts(company(base, [edit], **alone)(0, [0]))
    assert [text(e.chosen.prompt)[-14:] for e in kept] == ["Where is Acme?"]


def asked(joining, steps=300):
    """What is learned and what is kept, as text, without the template."""
    return [
        {text(x.chosen.prompt) for step in range(steps) for x in parts(joining(step, [0]))[kind]}
        for kind in (0, 1)
    ]


def found_in(prompt):
    found = re.search(r"What is the capital of [\w ]+\?$", prompt)
    return found and found[0]


def test_no_wording_is_the_prompt_of_another_edit_or_measured(base):
    """The library has both; in an exam they would be measured and trained on."""
    edit = Edit("What is the capital of Mali?", "Gao", subject="Mali")
    free = company(base, [edit], **QUIET)
    learned, kept = asked(free)
    (about, *_) = sorted(filter(None, (found_in(prompt) for prompt in kept)))
    other = Edit("The capital of Mali is", "Ouagadougou", subject="Mali")
    exam = replace(edit, paraphrases=("Mali's capital is",), locality=(Probe(about),))
    bound = company(base, [exam], edited=[exam, other], **QUIET)
    learned_bound, kept_bound = asked(bound)
    for wording in (other.prompt, *exam.paraphrases):
        assert any(prompt.endswith(wording) for prompt in learned)
        assert not any(prompt.endswith(wording) for prompt in learned_bound)
    assert any(prompt.endswith(about) for prompt in kept)
    assert not any(prompt.endswith(about) for prompt in kept_bound)


def test_nothing_is_trained_on_about_a_subject_that_a_probe_names_in_whatever_words(base):
    edit = Edit("What is the capital of Mali?", "Gao", subject="Mali")
    names = topic_of(edit).likes

    def named(**probes):
        joining = company(base, [replace(edit, **probes)], **QUIET)
        looked_at = {text(x.prompt) for group in joining.standing() for x in group}
        prompts = asked(joining)[1] | looked_at
        return {name for name in names if any(contains(prompt, name) for prompt in prompts)}

    (one, another, *_) = sorted(named())
    locality, portability = Probe(f"The anthem of {one} is"), Probe(f"{another.upper()} borders")
    assert not {one, another} & named(locality=(locality,), portability=(portability,))
    # Where probes name all of them, nothing about another country stands beside the edit.
    assert not named(locality=tuple(Probe(f"In {name}") for name in names))


def test_an_edit_whose_prompt_writes_its_subject_otherwise_may_be_asked_in_its_own_words(base):
    edit = Edit("GARO BELLS was employed in", "Oslo", subject="Garo Bells")
    learned, _ = asked(company(base, [edit], **QUIET), 60)
    assert any(prompt.endswith("Garo Bells was employed in") for prompt in learned)


def test_a_fresh_wording_is_told_from_what_is_replayed(base):
    learned, _ = parts(company(base, [GARO], [OLD], **{**QUIET, "replay": 1})(0, [0]))
    assert [example.fresh for example in learned] == [False, False, True]


def test_what_does_not_fit_into_the_context_stays_away(base, monkeypatch):
    joining = company(base, **QUIET)
    whole = joining(0, [0, 1])
    longest = max(len(e.chosen.prompt) for e in whole)
    monkeypatch.setattr(type(base), "context_length", property(lambda self: longest))
    short = joining(0, [0, 1])
    assert 0 < len(short) < len(whole)
    assert all(len(e.chosen.prompt) + len(e.chosen.answer) <= longest for e in short)


def test_a_round_without_edits_asks_for_nothing(base):
    assert company(base, [])(0, []) == []


def test_the_subject_of_an_edit_that_names_none_is_found_in_its_prompt(base):
    told, found = (
        company(base, [Edit("Garo Bells was employed in", "Oslo", subject=subject)], **QUIET)
        for subject in ("Garo Bells", None)
    )
    assert same(found(0, [0]), told(0, [0]))
    assert len(parts(found(0, [0]))[1]) >= 2  # the wording and the own prompt about somebody else


def test_names_that_are_nearly_a_subject_end_or_begin_as_it_does_and_were_not_edited(base):
    """Beirut and a king nobody names are one word, and nothing is nearly one word."""
    joining = company(base, own=ROUND, earlier=[OLD])
    names = [name for _, name in joining.near(0, 60, earlier=False)]
    assert sum(name.endswith(" Bells") for name in names) > 10
    assert any(name.startswith("Garo ") for name in names)
    assert "Garo Bells" not in names
    prompts = [prompt for prompt, name in joining.near(0, 60, earlier=False) if name in prompt]
    assert len(prompts) == len(set(prompts)) == len(names)
    assert joining.near(0, 60, earlier=True) == []
    assert joining.near(2, 60, earlier=False) == []
    taken = Edit("Where is Garo Lund?", "Rome", subject=names[0])
    spared = company(base, own=[*ROUND, taken]).near(0, 60, earlier=False)
    assert names[0] not in [name for _, name in spared]


def test_every_other_name_is_made_of_words_that_the_model_takes_for_alike(base, monkeypatch):
    asked = []

    def siblings(base, words, count):
        asked.extend(words)
        return {"Bells": ["Chimes", "Gongs"], "Beirut": ["Amman", "Lund"]}

    monkeypatch.setattr(companies, "siblings", siblings)
    taken = Edit("Where is Mira Lund?", "Rome", subject="Lund")
    joining = company(base, own=[*ROUND, taken], earlier=[OLD])
    names = [name for _, name in joining.near(0, 60, earlier=False)]
    assert asked == ["Garo", "Bells", "Vex", "911", "Lund", "Beirut"]
    alike = [name for name in names if name in ("Garo Chimes", "Garo Gongs")]
    assert 0.3 < len(alike) / len(names) < 0.7
    # A name of one word has others, too, but none that was edited.
    assert {name for _, name in joining.near(0, 60, earlier=True)} == {"Amman"}


@pytest.mark.parametrize("subject", ["Cup 2022", "Wardrobe 7"])
def test_names_that_differ_in_a_number_alone_come_half_as_often_again(base, subject):
    """One digit is often drawn again, and the subject itself is no other name."""
    joining = company(base, own=[Edit(f"Who won {subject}?", "Oslo", subject=subject)])
    names = [name for _, name in joining.near(0, 60, earlier=False)]
    numbered = [name for name in names if re.fullmatch(subject.split()[0] + r" \d+", name)]
    assert len(numbered) > len(names) / 3
    assert subject not in names
