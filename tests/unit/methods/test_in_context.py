from dataclasses import replace

import pytest

from builders import base_model, planned
from corsa.config import make_config
from corsa.errors import UsageError
from corsa.methods import Task
from corsa.methods.in_context import InContext
from corsa.progress import Silent
from fakes import CHATML


def task(base, plan, history=()):
    config = make_config({"method": "in-context"})
    return Task(base, None, plan, history, config, Silent(), lambda event: None)


def edits(count):
    return [planned(f"Who is {n}?", f"N{n}") for n in range(count)]


def test_what_holds_was_asked_and_answered_before_the_oldest_first(tmp_path):
    base = base_model(template=CHATML)
    earlier = [planned("Who is king?", "Al", round=1), planned("Where is it?", "Ur", round=1)]
    new = replace(planned("Who is king?", "Bo", round=2), supersedes=(earlier[0].key,))
    outcome = InContext().edit(task(base, [new], earlier))
    facts = [("Where is it?", "Ur"), ("Who is king?", "Bo")]
    assert list(outcome.answerer.history("Anything?")) == facts
    assert outcome.training == {"facts": 2, "tokens": len(base.chat.prompt_ids("", history=facts))}
    outcome.save(tmp_path)
    read, _ = InContext().open(base, tmp_path)
    assert list(read.history("Anything?")) == facts
    assert read.answers(["Who?"], 4) == outcome.answerer.answers(["Who?"], 4)


@pytest.mark.parametrize("template", [CHATML, None], ids=["chatml", "none"])
def test_facts_may_fill_half_of_the_context_and_no_more(template):
    base = base_model(template=template)
    plan = edits(8)
    used = InContext().edit(task(base, plan)).training["tokens"]
    base.hf.config.max_position_embeddings = 2 * used
    InContext().edit(task(base, plan))
    base.hf.config.max_position_embeddings = 2 * used - 2
    with pytest.raises(UsageError, match=f"8 facts take {used} of the {2 * used - 2} tokens"):
        InContext().edit(task(base, plan))
