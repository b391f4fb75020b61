import math
from collections import Counter
from types import SimpleNamespace

import pytest
import torch

from corsa.answerers import Reply
from corsa.demo import demo_rounds
from corsa.edits import Edit, Probe
from corsa.evaluation import (
    Question,
    drift_questions,
    first_tokens,
    measure,
    questions_of,
    reply_length,
)
from corsa.forward import AnswerLogps
from corsa.matching import normalise
from corsa.planning import PlannedEdit
from corsa.progress import Silent


class Scripted:
    """Answers what the script says; a reply's tokens are its characters' codes."""

    def __init__(self, replies, logps=None, stream=None):
        self.replies = replies
        self.known = logps or {}
        self.stream = stream
        self.calls = []

    def answers(self, prompts, max_new_tokens, system=None, progress=None):
        self.calls.append((tuple(prompts), max_new_tokens, system))
        return [reply(self.replies[prompt]) for prompt in prompts]

    def logps(self, prompts, targets, system=None):
        rows = [self.known[pair] for pair in zip(prompts, targets, strict=True)]
        return [AnswerLogps(torch.tensor(v), torch.tensor([right] * len(v))) for v, right in rows]

    def distributions(self, prompts, replies, system=None):
        for tokens in replies:
            yield self.stream.expand(len(tokens), -1)


def reply(text):
    return Reply(text, tuple(map(ord, text)))


def scores(questions, now, before, **options):
    flat = torch.zeros(4).log_softmax(-1)
    nothing = {
        (q.prompt, t): ([0.0], True) for q in questions for t in (q.target_new, q.target_old)
    }
    updated = options.pop("updated", Scripted(now, nothing, flat))
    base = options.pop("base", Scripted(before, nothing, flat))
    replies = base.answers([q.prompt for q in questions], 9)
    options.setdefault("previous", {})
    return measure(
        questions, updated, base, replies, max_new_tokens=9, progress=Silent(), **options
    )


def one(question, now, before="Bob", **options):
    (score,) = scores([question], {question.prompt: now}, {question.prompt: before}, **options)
    return score


def edit_question(old="Bob"):
    return Question(1, "a", "edit", "Who leads X?", ("Ann",), "Ann", old)


def test_everything_about_an_edit_is_asked():
    edit = Edit(
        "p",
        "Ann",
        id="a",
        target_old="Bob",
        paraphrases=("p1", "p2"),
        train_paraphrases=("t1",),
        keep=("k1",),
        locality=(Probe("l1"), Probe("l2", ("x",))),
        portability=(Probe("q", ("y", "z")),),
    )
    asked = questions_of(PlannedEdit(3, edit, "given", already_said=False))
    assert [(q.kind, q.prompt, q.answers) for q in asked] == [
        ("edit", "p", ("Ann",)),
        ("paraphrase", "p1", ("Ann",)),
        ("paraphrase", "p2", ("Ann",)),
        ("locality", "l1", ()),
        ("locality", "l2", ("x",)),
        ("portability", "q", ("y", "z")),
    ]
    assert {(q.round, q.edit_id, q.target_new, q.target_old) for q in asked} == {
        (3, "a", "Ann", "Bob")
    }


def test_replies_are_cut_at_half_as_much_again_as_the_longest_target():
    base = SimpleNamespace(tokenizer=lambda text: {"input_ids": list(text)})
    assert reply_length(base, []) == 32
    assert reply_length(base, [Question(1, "a", "edit", "p", ("x" * 21,), "x" * 21)]) == 32
    assert reply_length(base, [Question(1, "a", "locality", "p", ("x" * 101,), "x")]) == 151


# --- Right, old, leak, agreement -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("now", "exact", "contains", "old"),
    [
        ("Ann.", True, True, False),
        ("It is Ann", False, True, False),
        ("Anna", False, False, False),
        ("It is bob", False, False, True),
        ("Ann, not Bob", False, True, False),
        ("", False, False, False),
    ],
)
def test_a_reply_is_right_or_old_or_neither(now, exact, contains, old):
    score = one(edit_question(), now)
    assert (score.exact, score.contains, score.old) == (exact, contains, old)
    assert (score.base_old, score.base_contains) == (True, False)
    assert (score.leak, score.agrees, score.kl, score.first_tokens) == (None, None, None, ())


def test_an_edit_that_is_compared_verbatim_is_so_in_all_its_wordings_and_in_no_probe():
    edit = Edit(
        "p",
        "DF.add",
        id="a",
        target_old="df.add",
        paraphrases=("p1",),
        portability=(Probe("q", ("Ann",)),),
        verbatim=True,
    )
    asked = questions_of(PlannedEdit(1, edit, "given", already_said=False))
    own, worded, probe = scores(
        asked, {"p": "df.add", "p1": "DF.add", "q": "ann"}, dict.fromkeys(("p", "p1", "q"), "no")
    )
    assert (own.exact, own.contains, own.old, own.base_old) == (False, False, True, False)
    assert (worded.exact, worded.contains, probe.exact) == (True, True, True)


def test_without_an_old_answer_nothing_falls_back():
    score = one(edit_question(old=None), "Bob")
    assert (score.old, score.base_old) == (False, False)
    assert score.margin is None


def test_old_answers_are_looked_for_in_edits_alone():
    score = one(Question(1, "a", "paraphrase", "p", ("Ann",), "Ann", "Bob"), "Bob")
    assert (score.old, score.base_old, score.exact) == (None, None, False)


def near(answers=()):
    return Question(1, "a", "locality", "Who leads Y?", answers, "Ann", "Bob")


@pytest.mark.parametrize(
    ("now", "before", "answers", "leak"),
    [
        ("It is Ann", "Cid", (), True),
        ("Anna", "Cid", (), False),
        ("Cid", "Cid", (), False),
        ("Ann", "Ann or Cid", (), False),  # the base said so, too
        ("Ann", "Cid", ("Ann",), False),  # it is right here
        ("Ann", "Cid", ("Dan", "ann."), False),
        ("Ann", "Cid", ("Dan",), True),
    ],
)
def test_a_new_target_leaks_where_it_is_neither_right_nor_the_bases_own(now, before, answers, leak):
    score = one(near(answers), now, before)
    assert score.leak is leak
    assert score.exact is (None if not answers else "Ann" in answers or "ann." in answers)


def test_any_target_of_the_round_may_leak_into_a_drift_question():
    question = Question(0, "d", "drift", "What is 1 + 1?", ("2",))
    assert one(question, "Ann 2", "2", leaking=["Eve", "Ann"]).leak is True
    assert one(question, "Bob", "2", leaking=["Eve", "Ann"]).leak is False
    assert one(question, "3", "2", leaking=["2"]).leak is False
    assert one(near(), "Eve", "Cid", leaking=["Eve"]).leak is False


def test_what_else_is_asked_of_a_subject_is_scored_as_a_neighbour_is():
    question = Question(1, "a", "subject", "Where is X?", (), "Ann")
    assert one(question, "Ann", "Rome", leaking=["Eve"]).leak is True
    assert one(question, "Eve", "Rome", leaking=["Eve"]).leak is False
    assert one(question, "Rome, Italy", "Rome, Italy").agrees is True
    assert one(question, "Paris", "Rome", previous={question.prompt: (1,)}).previous_agrees is False


def test_agreement_is_that_of_the_first_five_tokens():
    assert one(near(), "abcdeX", "abcdeY").agrees is True
    assert one(near(), "abcdX", "abcdY").agrees is False
    assert one(near(), "abc", "abcd").agrees is False
    assert one(near(), "abcdeX", "abcdeY").first_tokens == tuple(map(ord, "abcde"))
    assert first_tokens(reply("ab")) == (97, 98)


def test_agreement_with_the_round_before_is_measured_where_it_is_known():
    question = near()
    previous = {question.prompt: tuple(map(ord, "abcde"))}
    assert one(question, "abcdeX", previous=previous).previous_agrees is True
    assert one(question, "abcdX", previous=previous).previous_agrees is False
    assert one(question, "abcdX").previous_agrees is None


# --- Numbers from log-probabilities ---------------------------------------------------------------


def test_margins_are_sums_and_means_over_the_two_answers():
    question = edit_question()
    prompt, flat = question.prompt, torch.zeros(4).log_softmax(-1)
    new, old = (prompt, "Ann"), (prompt, "Bob")
    updated = Scripted({prompt: "Ann"}, {new: ([-1.0, -2.0], True), old: ([-4.0], False)}, flat)
    base = Scripted({prompt: "Bob"}, {new: ([-6.0, -2.0], False), old: ([-0.5], True)}, flat)
    score = one(question, "Ann", updated=updated, base=base)
    assert (score.margin, score.margin_per_token, score.base_margin) == (1.0, 2.5, -7.5)
    assert score.teacher_forced is True


def test_margins_go_to_the_right_edits_when_some_have_no_old_answer():
    flat = torch.zeros(4).log_softmax(-1)
    questions = [
        Question(1, "a", "edit", "p1", ("Ann",), "Ann"),
        Question(1, "a", "locality", "l1", (), "Ann"),
        Question(1, "b", "edit", "p2", ("Eve",), "Eve", "Bob"),
    ]
    known = {
        ("p1", "Ann"): ([-1.0], False),
        ("p2", "Eve"): ([-2.0], True),
        ("p2", "Bob"): ([-5.0], False),
    }
    replies = {"p1": "x", "l1": "y", "p2": "z"}
    measured = scores(
        questions,
        replies,
        replies,
        updated=Scripted(replies, known, flat),
        base=Scripted(replies, known, flat),
    )
    assert [s.margin for s in measured] == [None, None, 3.0]
    assert [s.teacher_forced for s in measured] == [False, None, True]


def test_divergence_is_per_token_from_base_to_edited():
    question = near()
    p, q = torch.tensor([0.5, 0.5]), torch.tensor([0.25, 0.75])
    replies = {question.prompt: "abc"}
    by_hand = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    score = one(
        question,
        "abc",
        "abc",
        updated=Scripted(replies, {}, q.log()),
        base=Scripted(replies, {}, p.log()),
    )
    assert score.kl == pytest.approx(by_hand, abs=1e-6)


def test_a_base_that_says_nothing_gives_no_divergence():
    assert one(near(), "Ann", "").kl is None


def test_the_system_prompt_and_the_length_reach_the_model():
    question = near()
    flat = torch.zeros(4).log_softmax(-1)
    updated = Scripted({question.prompt: "x"}, {}, flat)
    one(question, "x", updated=updated, system="Be brief.")
    assert updated.calls == [((question.prompt,), 9, "Be brief.")]


# --- The packaged questions ------------------------------------------------------------------------


def test_the_drift_questions_are_many_of_many_kinds():
    questions = drift_questions()
    kinds = Counter(q.edit_id.rpartition("-")[0] for q in questions)
    assert len(questions) >= 60
    assert len(kinds) >= 12
    assert min(kinds.values()) >= 2
    assert {q.kind for q in questions} == {"drift"}
    assert {q.round for q in questions} == {0}


def test_no_drift_question_stands_twice_or_is_changed_by_the_demo():
    questions = drift_questions()
    prompts = {normalise(q.prompt) for q in questions}
    assert len(prompts) == len({q.edit_id for q in questions}) == len(questions)
    taught = [Edit.from_record(record) for facts in demo_rounds() for record in facts]
    used = {
        normalise(prompt)
        for edit in taught
        for prompt in (
            edit.prompt,
            *edit.paraphrases,
            *edit.train_paraphrases,
            *edit.keep,
            *(probe.prompt for probe in (*edit.locality, *edit.portability)),
        )
    }
    assert not prompts & used
