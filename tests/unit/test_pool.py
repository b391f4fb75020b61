"""What is measured is never trained on: what is packaged to train on shares nothing with what is not."""

import json
import re
from importlib import resources

from corsa.matching import contains, normalise
from corsa.variations import Shape, library, passing_remarks, subjects_by_kind

# Capitalised words that name no subject: languages, and the first word of an inner sentence.
ALLOWED = {"English", "French", "German", "Spanish", "The"}


def records(name):
    text = resources.files("corsa").joinpath(f"data/{name}.jsonl").read_text("utf-8")
    return [json.loads(line) for line in text.splitlines()]


def prompts(name):
    return [record["prompt"] for record in records(name)]


def measured():
    found = prompts("drift")
    for record in records("demo"):
        found += [record["prompt"], *record["paraphrases"]]
        found += [probe["prompt"] for probe in record["locality"]]
    return found


def words(text):
    return re.findall(r"[^\W\d_]{2,}", text)


def names(text):
    return {word for word in words(text) if word[0].isupper()} - ALLOWED


def test_the_pool_is_large_and_mixed():
    pool = records("pool")
    assert len(pool) >= 160
    assert len({record["kind"] for record in pool}) >= 20
    assert all(set(record) == {"prompt", "kind"} for record in pool)
    assert all(record["prompt"] == record["prompt"].strip() != "" for record in pool)


def test_no_prompt_stands_in_the_pool_twice():
    pool = [normalise(prompt) for prompt in prompts("pool")]
    assert len(set(pool)) == len(pool)


def test_no_measured_prompt_is_in_the_pool():
    pool = {normalise(prompt) for prompt in prompts("pool")}
    assert pool.isdisjoint(normalise(prompt) for prompt in measured())


def test_no_edited_subject_is_in_the_pool():
    subjects = [normalise(record["subject"]) for record in records("demo")]
    clashes = [
        (subject, prompt)
        for subject in subjects
        for prompt in prompts("pool")
        if re.search(rf"(?<!\w){re.escape(subject)}(?!\w)", normalise(prompt))
    ]
    assert subjects
    assert clashes == []


def measured_names():
    known = set()
    for text in measured():
        known |= names(text.split(" ", 1)[-1])  # the first word is capitalised anyway
    for record in records("demo"):
        known |= names(record["subject"]) | names(record["target_new"])
    return known


def test_no_proper_noun_is_both_measured_and_in_the_pool():
    known = measured_names()
    assert {"Myanmar", "Canada", "Python"} <= known
    assert {
        prompt: names(prompt) & known for prompt in prompts("pool") if names(prompt) & known
    } == {}


# --- Other subjects, remarks and templates -------------------------------------------------------


def subjects():
    return [name for part in subjects_by_kind().values() for name in part]


def test_subjects_are_many_of_many_kinds_and_stand_there_once():
    found = [normalise(name) for name in subjects()]
    assert len(found) >= 500
    assert len(set(found)) == len(found)
    assert len(subjects_by_kind()) >= 15
    assert min(map(len, subjects_by_kind().values())) >= 15


def test_no_subject_is_named_by_anything_measured():
    texts = [*measured(), *(str(answer) for r in records("drift") for answer in answers(r))]
    texts += [text for r in records("demo") for text in (r["subject"], r["target_new"])]
    assert {name for name in subjects() if any(contains(text, name) for text in texts)} == set()


def answers(record):
    found = record.get("answer", ())
    return [found] if isinstance(found, str) else found


def test_no_proper_noun_is_both_measured_and_in_a_subject():
    known = {normalise(name) for name in measured_names()}
    assert {
        name: shared for name in subjects() if (shared := known & set(words(normalise(name))))
    } == {}


def test_remarks_are_many_and_name_nothing_measured():
    remarks = passing_remarks()
    assert len(set(remarks)) == len(remarks) >= 60
    known = measured_names()
    assert {remark: names(remark) & known for remark in remarks if names(remark) & known} == {}


def test_no_packaged_subject_makes_a_measured_prompt():
    asked = {normalise(text) for text in measured()}
    assert asked.isdisjoint(
        normalise(Shape("", template).about(name))
        for relation in library()
        for template in relation.wordings()
        for name in subjects()
    )


def test_no_paraphrase_of_the_demo_is_a_packaged_wording():
    """Else the demo's generality would be that of prompts it may have trained on."""
    shared = {
        text
        for record in records("demo")
        for relation in library()
        for template in relation.wordings()
        for text in record["paraphrases"]
        if normalise(text) == normalise(Shape("", template).about(record["subject"]))
    }
    assert shared == set()
