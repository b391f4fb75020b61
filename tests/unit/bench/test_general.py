import json
import math
from types import SimpleNamespace

import pytest
import torch

from builders import Scripted, base_model, finished, random_adapter, settings
from corsa.answerers import ContextAnswerer, ModelAnswerer
from corsa.bench import general
from corsa.bench.general import mmlu, wikitext
from corsa.errors import UsageError
from fakes import GEMMA

TEXT = "".join(f" The year {year} was = no = other . \n" for year in range(1200, 1900))


def text_file(folder, text=TEXT):
    path = folder / "wiki.test.tokens"
    path.write_text(text, "utf-8")
    return path


def questions_file(folder, *questions):
    path = folder / "test.jsonl"
    path.write_text("".join(json.dumps(question) + "\n" for question in questions), "utf-8")
    return path


# --- WikiText -----------------------------------------------------------------------------------


@pytest.mark.parametrize("template", [None, GEMMA])  # Gemma's tokenizer puts bos in front
def test_perplexity_and_divergence_agree_with_one_plain_pass_per_window(
    tmp_path, monkeypatch, template
):
    monkeypatch.setattr(general, "WINDOWS", 3)
    monkeypatch.setattr(general, "WINDOW_TOKENS", 50)
    base = base_model(template=template)
    adapter = random_adapter(base)
    numbers = wikitext(
        finished(base=base, after=ModelAnswerer(base, adapter.name), data=text_file(tmp_path))
    )
    tokens = base.tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    front = [base.tokenizer.bos_token_id] if template == GEMMA else []
    count = len(tokens)
    nll, nll_base, divergence = [], [], []
    for start in (0, count // 3, 2 * count // 3):
        window = torch.tensor(tokens[start : start + 50])
        ids = torch.cat([torch.tensor(front, dtype=torch.long), window])[None]
        rows = slice(len(front), -1)
        with torch.no_grad():
            before = base.hf(input_ids=ids).logits[0, rows].double().log_softmax(-1)
            with base.using(adapter.name):
                after = base.hf(input_ids=ids).logits[0, rows].double().log_softmax(-1)
        nll_base.append(-before.gather(1, window[1:, None]))
        nll.append(-after.gather(1, window[1:, None]))
        divergence.append((before.exp() * (before - after)).sum(1))
    ppl, ppl_base = (math.exp(torch.cat(parts).mean()) for parts in (nll, nll_base))
    assert numbers["wikitext_ppl"] == pytest.approx(ppl, rel=1e-4)
    assert numbers["wikitext_ppl_base"] == pytest.approx(ppl_base, rel=1e-4)
    assert numbers["wikitext_ppl_ratio"] == pytest.approx(ppl / ppl_base, rel=1e-4)
    assert numbers["wikitext_kl"] == pytest.approx(float(torch.cat(divergence).mean()), rel=1e-3)
    assert numbers["wikitext_kl"] > 0.01


def test_an_unedited_model_predicts_as_the_base_does(tmp_path):
    base = base_model()
    after = ModelAnswerer(base, base.new_adapter("fresh", settings()).name)
    numbers = wikitext(finished(base=base, after=after, data=text_file(tmp_path)))
    assert numbers["wikitext_ppl_ratio"] == 1.0
    assert numbers["wikitext_kl"] == 0.0


def test_who_changes_no_weights_is_not_measured_on_plain_text(tmp_path):
    base = base_model()
    for after in (ContextAnswerer(base, [("p", "new")]), Scripted()):
        numbers = wikitext(finished(base=base, after=after, data=text_file(tmp_path)))
        assert set(numbers.values()) == {None}


def test_a_text_shorter_than_a_window_gives_no_number(tmp_path):
    base = base_model()
    after = ModelAnswerer(base, random_adapter(base).name)
    model = finished(base=base, after=after, data=text_file(tmp_path, "short"))
    assert set(wikitext(model).values()) == {None}


# --- MMLU ---------------------------------------------------------------------------------------


def question(subject, number, answer=0):
    return {
        "subject": subject,
        "question": f" What is {subject} {number}?",
        "choices": ["one", "two", "three", "four"],
        "answer": answer,
    }


def prompt(subject, number):
    choices = "A. one\nB. two\nC. three\nD. four"
    return f"What is {subject} {number}?\n{choices}\nAnswer with one letter: A, B, C or D."


def saying(letters):
    """Prefers a letter per prompt, and would prefer D by its end-of-turn."""
    return Scripted(
        logps={
            (asked, letter): [-1.0 if letter == said else -2.0, 0.0 if letter == "D" else -9.0]
            for asked, said in letters.items()
            for letter in "ABCD"
        }
    )


def test_answers_that_changed_and_accuracy_worked_by_hand(tmp_path):
    """Right, wrong, wrong, right before; right, right, wrong by another letter, right after."""
    rows = [question("art", i, answer) for i, answer in enumerate((0, 1, 2, 3))]
    before = saying(dict(zip((prompt("art", i) for i in range(4)), "AAAD", strict=True)))
    after = saying(dict(zip((prompt("art", i) for i in range(4)), "ABBD", strict=True)))
    base = SimpleNamespace(identity=lambda: ["worked by hand"])
    model = finished(base=base, before=before, after=after, data=questions_file(tmp_path, *rows))
    expected = {"mmlu": 0.75, "mmlu_base": 0.5, "mmlu_flips": 0.5, "mmlu_base_commonest": 0.75}
    assert mmlu(model) == expected


def test_the_first_questions_of_every_subject_are_asked(tmp_path):
    rows = [question(subject, i) for i in range(6) for subject in ("art", "law")]
    base = base_model(template=GEMMA)
    asked = []

    class Listening(ModelAnswerer):
        def logps(self, prompts, targets, system=None):
            asked.extend(zip(prompts, targets, strict=True))
            return super().logps(prompts, targets, system)

    path = questions_file(tmp_path, *rows)
    numbers = mmlu(
        finished(base=base, before=ModelAnswerer(base), after=Listening(base), data=path)
    )
    expected = [prompt(subject, i) for i in range(4) for subject in ("art", "law")]
    assert asked == [(each, letter) for each in expected for letter in "ABCD"]
    assert numbers["mmlu_flips"] == 0.0
    assert numbers["mmlu"] == numbers["mmlu_base"]


def test_what_the_base_answers_is_computed_once(tmp_path):
    base = base_model(template=GEMMA)
    path = questions_file(tmp_path, question("once", 0))
    after = saying({prompt("once", 0): "A"})
    first = mmlu(finished(base=base, before=ModelAnswerer(base), after=after, data=path))
    assert mmlu(finished(base=base, before=None, after=after, data=path)) == first


# --- Data ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("measure", [wikitext, mmlu])
def test_missing_data_is_named(tmp_path, measure):
    base = base_model()
    path = tmp_path / "nowhere.jsonl"
    with pytest.raises(
        UsageError, match=r"nowhere\.jsonl (does not exist|cannot be read: .*No such file)"
    ):
        measure(finished(base=base, after=ModelAnswerer(base, "edited"), data=path))


def test_without_a_file_the_data_sets_come_from_the_hub(tmp_path, monkeypatch):
    asked = []

    def hub(repository, file, instead):
        asked.append((repository, file, instead))
        path = tmp_path / "rows.jsonl"
        asks = {"subject": "s", "question": "Q", "choices": [*"abcd"], "answer": 0}
        lines = [asks | {"text": " = A =\n"}, asks | {"text": " b\n"}]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
        return path

    monkeypatch.setattr(general, "from_hub", hub)
    assert general.wikitext_of(None) == " = A =\n b\n"
    assert [row["text"] for row in general.questions_of(None)] == [" = A =\n", " b\n"]
    assert asked == [
        ("Salesforce/wikitext", "wikitext-2-v1/test-00000-of-00001.parquet", "wikitext=FILE"),
        ("cais/mmlu", "all/test-00000-of-00001.parquet", "mmlu=FILE"),
    ]
