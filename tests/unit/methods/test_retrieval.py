from dataclasses import replace

import pytest

from builders import base_model, planned
from corsa.answerers import ContextAnswerer, ModelAnswerer
from corsa.config import make_config
from corsa.evaluation import drift_questions
from corsa.methods import Task, method_for, method_of_kind
from corsa.methods.retrieval import Retrieval, RetrievalAnswerer
from corsa.progress import Silent
from fakes import CHATML

FACTS = [
    ("Who is the mayor of Port Ellery?", "Ines Varga"),
    ("Which river runs through Port Ellery?", "The Sorn"),
    ("Who wrote the song 'Salt on the Sill'?", "Ada Okoro"),
]


def answerer(count=2, facts=FACTS):
    return RetrievalAnswerer(base_model(template=CHATML), facts, count)


def test_the_method_is_found_by_its_name_and_its_artefact():
    config = make_config({"method": "retrieval"})
    assert isinstance(method_for(config), Retrieval)
    assert isinstance(method_of_kind("retrieval"), Retrieval)
    assert not config.trains


def test_the_nearest_stands_last_and_no_more_than_asked_for():
    mayor, river, _ = FACTS
    question = "Who runs Port Ellery, who is its mayor?"
    assert answerer(2).history(question) == [river, mayor]
    assert answerer(1).history(question) == [mayor]


def test_of_equally_near_facts_the_newer_stands_last():
    facts = [("Who is king?", "Al"), ("Who is king?", "Bo")]
    assert answerer(2, facts).history("Who is king?") == facts
    assert answerer(1, facts).history("Who is king?") == facts[1:]


@pytest.mark.parametrize("question", ["What is 7 times 8?", "Translate 'bread' into French.", "?"])
def test_a_question_about_something_else_is_asked_as_it_is(question):
    assert answerer().history(question) == []


def test_most_drift_questions_are_asked_as_they_are():
    asked, retrieving = [q.prompt for q in drift_questions()], answerer()
    assert sum(not retrieving.history(prompt) for prompt in asked) > 0.9 * len(asked)


def test_all_three_ways_of_asking_see_the_nearest_facts():
    base = base_model(template=CHATML)
    alone = ModelAnswerer(base)
    retrieving, question = RetrievalAnswerer(base, FACTS, 1), "Who is mayor of Port Ellery?"
    told = ContextAnswerer(base, FACTS[:1])
    assert retrieving.answers([question], 4) == told.answers([question], 4)
    (ours,), (theirs,) = (who.logps([question], ["Bo"]) for who in (retrieving, told))
    assert ours.tokens.equal(theirs.tokens)
    (ours,), (theirs,) = (who.distributions([question], [(1,)]) for who in (retrieving, told))
    assert ours.equal(theirs)
    assert retrieving.answers(["What is 2 + 2?"], 4) == alone.answers(["What is 2 + 2?"], 4)


def test_a_round_holds_what_holds_and_is_read_back_alike(tmp_path):
    base = base_model(template=CHATML)
    earlier = [planned("Who is king?", "Al", round=1), planned("Where is it?", "Ur", round=1)]
    new = replace(planned("Who is king?", "Bo", round=2), supersedes=(earlier[0].key,))
    config = make_config({"method": "retrieval", "retrieved": 1})
    task = Task(base, None, [new], earlier, config, Silent(), lambda event: None)
    outcome = Retrieval().edit(task)
    assert outcome.answerer.facts == (("Where is it?", "Ur"), ("Who is king?", "Bo"))
    outcome.save(tmp_path)
    read, _ = Retrieval().open(base, tmp_path)
    assert (read.facts, read.count) == (outcome.answerer.facts, 1)
    assert read.history("Who is the king?") == [("Who is king?", "Bo")]
