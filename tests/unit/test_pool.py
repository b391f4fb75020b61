"""What is measured is never trained on: the pool shares nothing with the drift set or the demo."""

import json
import re
from importlib import resources

from corsa.matching import normalise

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


def test_no_proper_noun_is_both_measured_and_in_the_pool():
    known = set()
    for text in measured():
        known |= names(text.split(" ", 1)[-1])  # the first word is capitalised anyway
    for record in records("demo"):
        known |= names(record["subject"]) | names(record["target_new"])
    assert {"Myanmar", "Canada", "Python"} <= known
    assert {
        prompt: names(prompt) & known for prompt in prompts("pool") if names(prompt) & known
    } == {}
