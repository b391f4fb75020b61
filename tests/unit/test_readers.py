"""Every kind of bad file is refused whole, with the line and a text that says what to do."""

import csv
import json
import time

import pytest
from hypothesis import given, settings, strategies as st

from corsa.edits import FIELDS, Edit, Probe
from corsa.errors import BadEditsError, Fault, UsageError
from corsa.layouts import COUNTERFACT, EASYEDIT
from corsa.matching import normalise, strip_answer
from corsa.readers import edits_from_records, parse_edits, read_edits, write_edits
from corsa.validation import RESERVED, edit_from_record

GOOD = '{"prompt": "Who leads Acme?", "target_new": "Ann"}'
OTHER = '{"prompt": "Where is Acme?", "target_new": "Oslo"}'


def faults_of(text, name="facts.jsonl"):
    data = text.encode() if isinstance(text, str) else text
    with pytest.raises(BadEditsError) as caught:
        parse_edits(data, name)
    return caught.value.faults


def lines(*records):
    return "\n".join(r if isinstance(r, str) else json.dumps(r) for r in records)


def record(**fields):
    return {"prompt": "Who leads Acme?", "target_new": "Ann"} | fields


def rows(*cells):
    return "".join(f"{row}\n" for row in cells)


# ------------------------------------------------------------------------------- good files


FULL = {
    "id": "acme-head",
    "prompt": " Who leads Acme? ",
    "target_new": "Ann\t",
    "target_old": "Ben",
    "subject": "Acme",
    "paraphrases": ["Acme's head is", "Name the head of Acme."],
    "train_paraphrases": ["The head of Acme is"],
    "keep": ["Who leads Bolt?"],
    "locality": ["Where is Bolt?", {"prompt": "Who owns Bolt?", "answer": "Cy"}],
    "portability": [{"prompt": "Who is the spouse of Acme's head?", "answer": ["Di", "Diana"]}],
    "relation": "head",
    "source": {"page": [1, 2]},
}
FULL_EDIT = Edit(
    prompt="Who leads Acme?",
    target_new="Ann",
    id="acme-head",
    target_old="Ben",
    subject="Acme",
    paraphrases=("Acme's head is", "Name the head of Acme."),
    train_paraphrases=("The head of Acme is",),
    keep=("Who leads Bolt?",),
    locality=(Probe("Where is Bolt?"), Probe("Who owns Bolt?", ("Cy",))),
    portability=(Probe("Who is the spouse of Acme's head?", ("Di", "Diana")),),
    metadata={"relation": "head", "source": {"page": [1, 2]}},
)


def as_csv(record):
    cells = {k: v if isinstance(v, str) else json.dumps(v) for k, v in record.items()}
    quoted = ['"' + cell.replace('"', '""') + '"' for cell in cells.values()]
    return ",".join(cells) + "\n" + ",".join(quoted) + "\n"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("f.jsonl", "\n" + json.dumps(FULL) + "\r\n\n"),
        ("f.NDJSON", json.dumps(FULL)),
        ("f.json", json.dumps([FULL], indent=2)),
        ("f.txt", json.dumps([FULL])),
        ("f", json.dumps(FULL)),
        ("f.jsonl", "\ufeff" + json.dumps(FULL)),
    ],
)
def test_a_record_is_the_same_edit_in_every_format(tmp_path, name, text):
    (tmp_path / name).write_text(text, encoding="utf-8", newline="")
    assert read_edits(tmp_path / name) == ((FULL_EDIT,), ())


@pytest.mark.parametrize("name", ["f.csv", "f"])
def test_csv_holds_lists_as_json(name):
    flat = {k: v for k, v in FULL.items() if k != "source"}
    (edit,), warnings = parse_edits(as_csv(flat | {"source": "page 1"}), name)
    assert edit == edit_from_record(FULL | {"source": "page 1"})
    assert warnings == ()


def test_null_and_empty_cells_are_absent():
    wanted = Edit("Who leads Acme?", "Ann")
    optional = {name: None for name in FIELDS if name not in ("prompt", "target_new")}
    assert edit_from_record(record(**optional)) == wanted
    text = rows("prompt,target_new,id,paraphrases,locality,note", "Who leads Acme?,Ann,,, ,")
    assert parse_edits(text, "f.csv").edits == (wanted,)


@pytest.mark.parametrize("cell", ["true", "TRUE", " True "])
def test_what_is_compared_verbatim_may_differ_in_case_alone(cell):
    old, new = "x = DF.append(y)", "x = df.append(y)"
    (edit,) = parse_edits(
        rows("prompt,target_new,target_old,verbatim", f"Add y.,{new},{old},{cell}"), "f.csv"
    ).edits
    assert edit.verbatim is True
    assert edits_from_records([edit]).edits == (edit,)
    with pytest.raises(BadEditsError, match="nothing to edit"):
        edit_from_record({"prompt": "Add y.", "target_new": new, "target_old": old})
    with pytest.raises(BadEditsError, match="two targets for one prompt"):
        edits_from_records([edit, {"prompt": "Add y.", "target_new": old}])


def test_a_long_csv_cell_is_read_and_the_limit_is_left_as_it_was():
    before = csv.field_size_limit()
    long = "x" * (before + 10)
    (edit,), _ = parse_edits(rows("prompt,target_new", f"Say it,{long}"), "f.csv")
    assert edit.target_new == long
    assert csv.field_size_limit() == before


def test_a_quoted_csv_cell_may_span_lines():
    text = 'prompt,target_new\r\n"Who\r\nleads Acme?",Ann\r\n'
    assert parse_edits(text, "f.csv").edits[0].prompt == "Who\nleads Acme?"


def test_unusual_line_ends_inside_json_strings_do_not_split_a_record():
    prompt = "one\u2028two\u2029three"
    text = json.dumps(record(prompt=prompt), ensure_ascii=False)
    assert parse_edits(text, "f.jsonl").edits[0].prompt == prompt


def test_newlines_and_tabs_are_text():
    assert edit_from_record(record(prompt="a\n\tb")).prompt == "a\n\tb"


def test_python_records_and_edits_are_read_alike():
    assert edits_from_records([FULL]).edits == edits_from_records([FULL_EDIT]).edits == (FULL_EDIT,)
    assert edits_from_records([record(keep=("Who leads Bolt?",))]).edits[0].keep


def test_the_values_of_metadata_are_copies():
    given_record = record(source={"page": [1]})
    edit = edit_from_record(given_record)
    given_record["source"]["page"].append(2)
    assert edit.metadata == {"source": {"page": [1]}}


# --------------------------------------------------------------------------------- warnings


def test_a_name_close_to_a_known_one_is_warned_of_once():
    text = lines(record(paraphrase=["x"]), record(prompt="Q", paraphrase=["y"], note="z"))
    (first, _), warnings = parse_edits(text, "facts.jsonl")
    assert warnings == (
        "facts.jsonl:1: 'paraphrase' is kept as metadata; did you mean 'paraphrases'?",
    )
    assert first.metadata == {"paraphrase": ["x"]}


@pytest.mark.parametrize("name", ["Subject", "target-old", "train_paraphrase", "portabilty"])
def test_likely_typos_are_noticed(name):
    assert len(edits_from_records([record(**{name: "x"})]).warnings) == 1


@pytest.mark.parametrize("name", ["source", "uid", "note", "relation", "date", "case_id"])
def test_other_columns_pass_in_silence(name):
    (edit,), warnings = edits_from_records([record(**{name: "x"})])
    assert (dict(edit.metadata), warnings) == ({name: "x"}, ())


def test_a_paraphrase_that_is_the_prompt_is_left_out_with_a_warning():
    text = lines(OTHER, record(paraphrases=["WHO leads  Acme?", "Acme's head is"]))
    edits, (warning,) = parse_edits(text, "facts.jsonl")
    assert edits[1].paraphrases == ("Acme's head is",)
    assert warning == (
        "facts.jsonl:2: left out, because this file changes the answer: "
        "`paraphrases` 'WHO leads  Acme?' is the prompt of facts.jsonl:2"
    )


MEASURED_ON_A_PROMPT = {
    "locality": [{"prompt": "who leads acme?", "answer": "Ben"}],
    "portability": [{"prompt": "Who leads Acme? ", "answer": "Ann"}],
    "paraphrases": ["WHO leads Acme?"],
}


@pytest.mark.parametrize("target", ["Ann", "Cy"])
@pytest.mark.parametrize("name", MEASURED_ON_A_PROMPT)
@pytest.mark.parametrize("place", [0, 1])
def test_a_probe_on_the_prompt_of_another_edit_is_left_out_with_a_warning(name, target, place):
    other = "Where is Bolt?" if name == "paraphrases" else {"prompt": "p", "answer": "x"}
    probed = record(prompt="q", target_new=target, **{name: [*MEASURED_ON_A_PROMPT[name], other]})
    both = [record(), record()]
    both[place] = probed
    edits, (warning,) = parse_edits(lines(*both), "f.jsonl")
    assert len(getattr(edits[place], name)) == 1
    assert warning.startswith(f"f.jsonl:{place + 1}: left out, because this file changes the")
    shown = "WHO leads Acme?" if name == "paraphrases" else "ho leads"
    assert f"`{name}` '" in warning
    assert shown in warning
    assert warning.endswith(f"is the prompt of f.jsonl:{2 - place}")


def test_all_that_a_record_loses_is_in_one_warning():
    text = lines(record(), OTHER, record(prompt="q", **MEASURED_ON_A_PROMPT, keep=["k"]))
    edits, (warning,) = parse_edits(text, "f.jsonl")
    assert edits[2] == Edit("q", "Ann", keep=("k",))
    assert warning.count("is the prompt of f.jsonl:1") == 3


@pytest.mark.parametrize("name", ["locality", "portability"])
def test_an_edit_whose_probe_is_its_own_prompt_contradicts_itself(name):
    ((_, what),) = faults_of(lines(record(**{name: MEASURED_ON_A_PROMPT[name]})))
    assert "trains on it as `prompt`; the exam is never trained on" in what


def test_notes_of_a_store_are_no_metadata():
    (edit,), warnings = parse_edits(lines(record(note="x", corsa={"plan": [1]})), "f.jsonl")
    assert (edit, warnings) == (Edit("Who leads Acme?", "Ann", metadata={"note": "x"}), ())
    assert edits_from_records([counterfact(corsa={})]) == edits_from_records([counterfact()])


# -------------------------------------------------------------------------- layouts of others


def counterfact(**fields):
    rewrite = {
        "prompt": "The head of {} is",
        "relation_id": "P488",
        "target_new": {"str": "Ann", "id": "Q1"},
        "target_true": {"str": "Ben", "id": "Q2"},
        "subject": "Acme",
    }
    return {
        "case_id": 7,
        "pararel_idx": 3,
        "requested_rewrite": rewrite | fields.pop("rewrite", {}),
        "paraphrase_prompts": ["Acme is headed by"],
        "neighborhood_prompts": ["The head of Bolt is"],
        "attribute_prompts": ["The head of Dune is"],
        "generation_prompts": ["Acme's head likes"],
    } | fields


def easyedit(**fields):
    return {
        "case_id": 7,
        "prompt": "The head of Acme is",
        "target_new": "Ann",
        "subject": "Acme",
        "ground_truth": "Ben",
        "rephrase_prompt": "Acme is headed by",
        "locality_prompt": "The head of Bolt is",
        "locality_ground_truth": "Cy",
    } | fields


def test_counterfact_rows_are_read():
    assert edits_from_records([counterfact()]) == (
        (
            Edit(
                "The head of Acme is",
                "Ann",
                id="cf-7",
                target_old="Ben",
                subject="Acme",
                paraphrases=("Acme is headed by",),
                locality=(Probe("The head of Bolt is", ("Ben",)),),
                metadata={"relation": "P488"},
            ),
        ),
        (),
    )


def test_easyedit_rows_are_read_with_one_warning_for_the_file():
    second = easyedit(case_id=8, prompt="The head of Echo is", rephrase_prompt="Echo is headed by")
    (edit, _), (warning,) = parse_edits(json.dumps([easyedit(), second]), "flat.json")
    assert edit == Edit(
        "The head of Acme is",
        "Ann",
        id="case-7",
        target_old="Ben",
        subject="Acme",
        paraphrases=("Acme is headed by",),
        locality=(Probe("The head of Bolt is", ("Cy",)),),
    )
    assert warning.startswith("flat.json: EasyEdit's `rephrase_prompt` is often a generation")


def test_easyedit_without_a_rephrasing_is_not_warned_of():
    assert edits_from_records([easyedit(rephrase_prompt=None)]).warnings == ()


def test_easyedit_as_csv_and_layouts_side_by_side():
    assert parse_edits(as_csv(easyedit()), "f.csv").edits == (edit_from_record(easyedit()),)
    mixed = [counterfact(), easyedit(prompt="The head of Echo is"), record()]
    assert [edit.id for edit in edits_from_records(mixed).edits][:2] == ["cf-7", "case-7"]


@pytest.mark.parametrize(
    ("row", "what"),
    [
        (
            counterfact(requested_rewrite=[]),
            "`requested_rewrite` must be an object",
        ),
        (
            counterfact(rewrite={"prompt": None}),
            "`requested_rewrite.prompt` is missing",
        ),
        (counterfact(rewrite={"target_new": {}}), "`requested_rewrite.target_new.str` is missing"),
        (counterfact(rewrite={"prompt": "Its head is"}), "has no {} for the subject"),
        (counterfact(rewrite={"subject": None}), "`requested_rewrite.subject` is missing"),
        (counterfact(paraphrase_prompts="x"), "`paraphrase_prompts` must be a list"),
        (counterfact(neighborhood_prompts=[""]), "`neighborhood_prompts[1].prompt` is empty"),
        (counterfact(target_old="Cy"), "has both `target_old` and CounterFact's `requested_"),
        (easyedit(ground_truth=["Ben"]), "`ground_truth` must be a string, found the list ['Ben']"),
        (easyedit(rephrase_prompt=""), "`rephrase_prompt[1]` is empty"),
        (
            easyedit(locality_prompt=None),
            "`locality_prompt[1].prompt` must be a string, found null",
        ),
        (easyedit(target_old="Cy"), "has both `target_old` and EasyEdit's `ground_truth`"),
        (easyedit(case_id=True), "`case_id` must be a string, found true"),
    ],
)
def test_faults_in_foreign_rows_use_the_names_of_their_authors(row, what):
    with pytest.raises(BadEditsError) as caught:
        edit_from_record(row, "row 1")
    assert any(what in fault.what for fault in caught.value.faults)


# -------------------------------------------------------------------------- files and bytes


def test_a_missing_file_a_folder_and_an_unreadable_path_are_named(tmp_path):
    for path, what in [
        (tmp_path / "none.jsonl", "it cannot be read: No such file"),
        (tmp_path, "it cannot be read: "),
        (tmp_path / "a\0b", "it cannot be read"),
    ]:
        with pytest.raises(BadEditsError) as caught:
            read_edits(path)
        ((where, found),) = caught.value.faults
        assert where == str(path)
        assert what in found


BAD_FILES = {
    "empty file": ("f.jsonl", "", "f.jsonl", "the file is empty"),
    "blank file": ("f.json", " \n\n", "f.json", "the file is empty"),
    "empty array": ("f.json", "[ ]", "f.json", "there are no records"),
    "header only": ("f.csv", "prompt,target_new\n", "f.csv", "there are no records"),
    "latin-1": ("f.jsonl", f"{GOOD}\n".encode() + b'{"prompt": "caf\xe9"}', "f.jsonl:2", "0xe9 at"),
    "utf-16": ("f.jsonl", GOOD.encode("utf-16"), "f.jsonl:1", "iconv -f UTF-16 -t UTF-8 f.jsonl"),
    "utf-16 bare": ("f.json", GOOD.encode("utf-16-le"), "f.json:1", "this is UTF-16"),
    "broken line": ("f.jsonl", f"{GOOD}\n{GOOD[:-1]}", "f.jsonl:2", "not JSON at column 50"),
    "two on a line": ("f.jsonl", f"{GOOD}{OTHER}", "f.jsonl:1", "more text after the value"),
    "array as jsonl": ("f.jsonl", f"[\n{GOOD}\n]", "f.jsonl:1", "an array is a .json file"),
    "pretty jsonl": ("f.jsonl", '\n{\n"prompt": 1}', "f.jsonl:2", "one whole record on each line"),
    "jsonl as json": ("f.json", f"{GOOD}\n{OTHER}", "f.json:1", "one array of records"),
    "unclosed array": ("f.json", f"[\n{GOOD}\n", "f.json:3", "',' or ']' is missing"),
    "no comma": ("f.json", f"[\n{GOOD}\n{OTHER}]", "f.json:3", "',' or ']' is missing"),
    "trailing comma": ("f.json", f"[\n{GOOD},\n]", "f.json:3", "not JSON at column 1"),
    "after the array": ("f.json", f"[{GOOD}]\nx", "f.json:2", "more text after the array"),
    "not an object": ("f.jsonl", f'{GOOD}\n"a"', "f.jsonl:2", "an object, found the string 'a'"),
    "a list": ("f.json", f'[{GOOD},\n["a"]]', "f.json:2", "an object, found the list ['a']"),
    "null record": ("f.json", f"[{GOOD},\nnull]", "f.json:2", "an object, found null"),
    "duplicate key": ("f.jsonl", GOOD[:-1] + ', "prompt": "x"}', "f.jsonl:1", "'prompt' stands 2"),
    "nested key": (
        "f.jsonl",
        GOOD[:-1] + ', "m": {"a": 1, "a": 2}}',
        "f.jsonl:1",
        "'a' stands 2 times in one object",
    ),
    "nan": ("f.jsonl", GOOD[:-1] + ', "score": NaN}', "f.jsonl:1", "NaN is not a number"),
    "infinity": ("f.json", f"[{GOOD[:-1]}," + '"s": -Infinity}]', "f.json:1", "-Infinity is not"),
    "too large": ("f.jsonl", GOOD[:-1] + ', "score": 1e999}', "f.jsonl:1", "1e999 is not a number"),
    "too long": (
        "f.jsonl",
        GOOD[:-1] + f', "n": {"9" * 5000}}}',
        "f.jsonl:1",
        "999 is not a number",
    ),
    "deep json": ("f.jsonl", GOOD[:-1] + ', "m": ' + "[" * 10**5, "f.jsonl:1", "nested too deeply"),
    "deep array": ("f.json", f"[{GOOD},\n" + "[" * 10**5, "f.json:2", "nested too deeply"),
    "deep metadata": (
        "f.jsonl",
        GOOD[:-1] + ', "m": ' + "[" * 33 + "]" * 33 + "}",
        "f.jsonl:1",
        "'m' cannot be kept as metadata: it is nested deeper than 32 levels",
    ),
    "no header": ("f.csv", "Who leads Acme?,Ann\n", "f.csv:1", "must name the columns"),
    "semicolons": ("f.csv", "prompt;target_new\na;b\n", "f.csv:1", "separated by commas"),
    "header typo": ("f.csv", "promt,target_new\na,b\n", "f.csv:1", "did you mean 'promt'?"),
    "header lacks": ("f.csv", "prompt,subject\na,b\n", "f.csv:1", "it has no `target_new`"),
    "header twice": ("f.csv", "prompt,target_new,prompt\n", "f.csv:1", "'prompt' stands 2 times"),
    "header unnamed": ("f.csv", "prompt,target_new,\na,b,c\n", "f.csv:1", "without a name"),
    "few cells": (
        "f.csv",
        "prompt,target_new\na,b\n\nc\n",
        "f.csv:4",
        "has 1 cell, the header 2",
    ),
    "many cells": ("f.csv", "prompt,target_new\na,b,c\n", "f.csv:2", "needs double quotes around"),
    "list cell": (
        "f.csv",
        rows("prompt,target_new,keep", '"a\nb",c,', "d,e,one wording"),
        "f.csv:4",
        'found \'one wording\'; write a list as ["first", "second"]',
    ),
    "list cell nan": (
        "f.csv",
        "prompt,target_new,keep\na,b,[NaN]\n",
        "f.csv:2",
        "NaN is not a number",
    ),
    "flag cell": (
        "f.csv",
        "prompt,target_new,verbatim\na,b,yes\n",
        "f.csv:2",
        "`verbatim` must be true or false, found the string 'yes'",
    ),
    "flag": (
        "f.jsonl",
        GOOD[:-1] + ', "verbatim": 1}',
        "f.jsonl:1",
        "`verbatim` must be true or false, found the number 1",
    ),
    "blank cell": ("f.csv", "prompt,target_new\na, \n", "f.csv:2", "`target_new` is missing"),
    "nul": ("f.csv", "prompt,target_new\na,b\0\n", "f.csv:2", "unprintable character U+0000"),
    "open quote": ("f.csv", 'prompt,target_new\na,b\n"c,d\n', "f.csv:3", "not CSV from here on"),
    "quote in header": ("f.csv", '"prompt"x,target_new\n', "f.csv:1", "not CSV from here on"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_bad_file_is_refused_at_its_line(kind):
    name, text, where, what = BAD_FILES[kind]
    found = faults_of(text, name)
    assert any(fault.where == where and what in fault.what for fault in found), found


def test_invalid_utf8_is_named_on_every_line():
    found = faults_of(b"a\xff\nb\n\xfec", "f.csv")
    assert [fault.where for fault in found] == ["f.csv:1", "f.csv:3"]
    assert "byte 0xff at column 2" in found[0].what
    assert "byte 0xfe at column 1" in found[1].what


# ------------------------------------------------------------------------------ one record


BAD_RECORDS = {
    "no target": ({"prompt": "p"}, "`target_new` is missing"),
    "near name": ({"prompt": "p", "target": "x"}, "is missing; did you mean 'target'?"),
    "null prompt": (record(prompt=None), "`prompt` is missing"),
    "number": (record(target_new=7), "`target_new` must be a string, found the number 7"),
    "bool": (record(subject=True), "`subject` must be a string, found true"),
    "object": (record(target_old={"str": "x"}), "found the object {'str': 'x'}"),
    "id number": (record(id=3), "`id` must be a string, found the number 3"),
    "empty id": (record(id=""), "`id` is empty"),
    "string for a list": (
        record(paraphrases="x"),
        "`paraphrases` must be a list, found the string",
    ),
    "number in a list": (record(keep=["a", 1]), "`keep[2]` must be a string, found the number 1"),
    "blank in a list": (record(train_paraphrases=[" \t"]), "`train_paraphrases[1]` is empty"),
    "blank prompt": (record(prompt=" \u00a0\n"), "`prompt` is empty"),
    "probe": (record(locality=[3]), "`locality[1].prompt` must be a string, found the number 3"),
    "probe key": (record(locality=[{"prompt": "a", "anwser": "b"}]), "unknown key 'anwser'"),
    "probe answer": (
        record(locality=[{"prompt": "a", "answer": 4}]),
        "`locality[1].answer` must be a string, found the number 4",
    ),
    "no answer": (record(portability=["a"]), "`portability[1].answer` is missing"),
    "answers": (record(portability=[{"prompt": "a", "answer": []}]), "`portability[1].answer` is"),
    "blank answer": (
        record(portability=[{"prompt": "a", "answer": ["x", ""]}]),
        "`portability[1].answer[2]` is empty",
    ),
    "bell": (record(prompt="a\x07b"), "the unprintable character U+0007 at character 2: 'a\\x07b'"),
    "return": (record(target_new="a\r\nb"), "the unprintable character U+000D at character 2"),
    "c1": (record(keep=["\x85x"]), "`keep[1]` holds the unprintable character U+0085"),
    "surrogate": (record(target_new="a\ud800"), "the unprintable character U+D800 at character 2"),
    "surrogate in metadata": (record(note=["\udfff"]), "surrogates not allowed"),
    "same target": (record(target_old=' "ann". '), "there is nothing to edit"),
    "only quotes": (record(target_new='"."'), "nothing but quotes and a full stop"),
    "date": (
        record(day=time.gmtime),
        "'day' cannot be kept as metadata: Object of type builtin_function",
    ),
    "nan": (record(score=[float("nan")]), "float values are not JSON"),
    "digits": (record(score=10**6000), "Exceeds the limit (4300 digits)"),
    "name": (record() | {3: "x"}, "a name must be a string, found the number 3"),
    "reserved": (record(corsa="x"), "'corsa' cannot be kept as metadata: the name is reserved"),
    "long value": (record(prompt=["x" * 1000] * 1000), "found the list ['xxx"),
}


@pytest.mark.parametrize("kind", BAD_RECORDS)
def test_a_bad_record_is_refused_by_field(kind):
    bad, what = BAD_RECORDS[kind]
    with pytest.raises(BadEditsError) as caught:
        edits_from_records([record(prompt="another"), bad])
    ((where, found),) = caught.value.faults
    assert where == "edit 2"
    assert what in found
    assert len(found) < 250


@pytest.mark.parametrize("value", [None, 7, "text", [record()]])
def test_only_objects_are_records(value):
    with pytest.raises(BadEditsError, match="edit 1: a record is an object, found"):
        edits_from_records([value])


def test_no_records_are_refused():
    with pytest.raises(BadEditsError, match="edits: there are no records"):
        edits_from_records([])


# --------------------------------------------------------------------------- between records


BAD_PAIRS = {
    "repeated": (
        record(),
        record(prompt="WHO leads acme?", target_new="Ann.", id="b"),
        "repeats f.jsonl:1 (id 'e",
    ),
    "same id": (record(id="a"), record(id="a", prompt="q"), "the id 'a' is taken by f.jsonl:1"),
    "two targets": (
        record(id="a"),
        record(id="b", target_new="Ben"),
        "two targets for one prompt 'who leads acme?': f.jsonl:1 (id 'a', target 'Ann') and "
        "f.jsonl:2 (id 'b', target 'Ben')",
    ),
    "two targets for a fact": (
        record(id="a", subject="Acme", relation="head"),
        record(id="b", subject="ACME", relation="head", prompt="q", target_new="Ben"),
        "two targets for one subject and relation 'acme / head'",
    ),
    "measured and trained": (
        record(id="a", train_paraphrases=["Acme's head is"]),
        record(prompt="q", paraphrases=["acme's  HEAD is"]),
        "`paraphrases` \"acme's  HEAD is\" is measured, but f.jsonl:1 (id 'a', target 'Ann') "
        "trains on it as `train_paraphrases`; the exam is never trained on",
    ),
    "measured and kept": (
        record(keep=["k"]),
        record(prompt="q", locality=["K"]),
        "trains on it as `keep`; the exam is never trained on",
    ),
    "portability trained": (
        record(keep=["k"]),
        record(prompt="q", portability=[{"prompt": "k", "answer": "x"}]),
        "`portability` 'k' is measured",
    ),
    "keep is a prompt": (
        record(id="a"),
        record(prompt="q", keep=["Who leads Acme?"]),
        "`keep` 'Who leads Acme?' is changed by f.jsonl:1 (id 'a'",
    ),
    "keep is trained": (
        record(train_paraphrases=["t"]),
        record(prompt="q", keep=["T"]),
        "`keep` 'T' is changed by f.jsonl:1",
    ),
    "trained is another prompt": (
        record(id="a"),
        record(prompt="q", target_new="Ben", train_paraphrases=["Who leads Acme?"]),
        "is trained towards two targets: f.jsonl:1 (id 'a', target 'Ann') and f.jsonl:2",
    ),
    "trained twice": (
        record(train_paraphrases=["t"]),
        record(prompt="q", target_new="Ben", train_paraphrases=["t"]),
        "`train_paraphrases` 't' is trained towards two targets",
    ),
}


@pytest.mark.parametrize("kind", BAD_PAIRS)
def test_records_that_contradict_each_other_are_both_named(kind):
    first, second, what = BAD_PAIRS[kind]
    ((where, found),) = faults_of(lines(first, second), "f.jsonl")
    assert where == "f.jsonl:2"
    assert what in found


def test_the_exam_is_guarded_against_later_edits_too():
    first = record(paraphrases=["Acme's head is"])
    second = record(prompt="q", train_paraphrases=["Acme's head is"])
    ((where, found),) = faults_of(lines(first, second), "f.jsonl")
    assert where == "f.jsonl:1"
    assert "f.jsonl:2" in found


def test_one_edit_can_contradict_itself():
    found = faults_of(lines(record(keep=["Who leads Acme?", "t"], train_paraphrases=["t"])))
    assert [("`keep`" in fault.what, fault.where) for fault in found] == [
        (True, "facts.jsonl:1")
    ] * 2


def test_the_same_fact_in_other_words_is_no_fault():
    first = record(subject="Acme", relation="head", train_paraphrases=["q"])
    second = record(subject="Acme", relation="head", prompt="q")
    assert len(edits_from_records([first, second]).edits) == 2


def test_every_fault_is_listed_in_the_order_of_the_file():
    text = lines(
        record(id="a", target_new="Ben"),
        "{broken",
        GOOD,
        {"prompt": 1, "keep": [""]},
        '{"prompt": "q", "target_new": "x", "y": NaN}',
    )
    found = faults_of(text)
    assert [int(fault.where.removeprefix("facts.jsonl:")) for fault in found] == [2, 3, 4, 4, 4, 5]
    with pytest.raises(BadEditsError) as caught:
        parse_edits(text, "facts.jsonl")
    assert str(caught.value).startswith("6 faults, nothing was written:\n  facts.jsonl:2: not JSON")
    assert "`keep[1]` is empty" in str(caught.value)


def test_json_arrays_name_the_line_where_a_record_starts():
    text = json.dumps([json.loads(OTHER), {"prompt": "x"}, {"prompt": "y"}], indent=1)
    assert [fault.where for fault in faults_of(text, "f.json")] == ["f.json:6", "f.json:9"]


def test_records_that_share_a_line_are_numbered():
    text = f'[{GOOD}, {{"prompt": "x"}},\n{{"prompt": "y"}}]'
    found = [fault.where for fault in faults_of(text, "f.json")]
    assert found == ["f.json:1 (record 2)", "f.json:2"]


def test_a_broken_array_still_lists_the_faults_before_the_break():
    text = '[\n{"prompt": "x"},\n{"prompt": "y" "z"}]'
    assert [fault.where for fault in faults_of(text, "f.json")] == ["f.json:2", "f.json:3"]


# ------------------------------------------------------------------------------ round trip


def test_writing_and_reading_back_keeps_everything():
    text = write_edits([FULL_EDIT, Edit("Où ?", "“a\u2028b”", id="x")])
    assert text.count("\n") == 2
    assert "Où" in text
    edits, warnings = parse_edits(text, "f.jsonl")
    assert (edits[0], edits[1].target_new, warnings) == (FULL_EDIT, "“a\u2028b”", ())
    assert write_edits(edits) == text


def test_metadata_that_would_be_read_as_another_layout_is_refused():
    with pytest.raises(UsageError, match="read as something else; rename it: corsa, ground_truth"):
        write_edits([Edit("p", "t", metadata={"ground_truth": "x", "corsa": {}})])


ALLOWED = st.characters(exclude_categories=("Cc", "Cs"))
TEXT = st.text(ALLOWED, min_size=1, max_size=12).map(str.strip).filter(bool)
ANSWER = TEXT.filter(strip_answer)
TAKEN = {*FIELDS, RESERVED, *COUNTERFACT.marks, *EASYEDIT.marks}
NAME = TEXT.filter(lambda name: name not in TAKEN)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@st.composite
def edits(draw):
    new = draw(ANSWER)
    prompts = st.lists(TEXT, unique_by=normalise, min_size=5, max_size=5)
    prompt, measured, taught, kept, near = draw(prompts)
    return Edit(
        prompt=prompt,
        target_new=new,
        id=draw(TEXT),
        target_old=draw(st.none() | ANSWER.filter(lambda o: strip_answer(o) != strip_answer(new))),
        subject=draw(st.none() | TEXT),
        paraphrases=draw(st.sampled_from([(), (measured,)])),
        train_paraphrases=draw(st.sampled_from([(), (taught,)])),
        keep=draw(st.sampled_from([(), (kept,)])),
        locality=(Probe(near, tuple(draw(st.lists(ANSWER, max_size=2)))),),
        portability=(Probe(near, tuple(draw(st.lists(ANSWER, min_size=1, max_size=2)))),),
        metadata=draw(st.dictionaries(NAME, JSON, max_size=3)),
    )


@settings(max_examples=150, deadline=None)
@given(edits())
def test_any_edit_survives_the_round_trip(edit):
    assert parse_edits(write_edits([edit]), "f.jsonl").edits == (edit,)


@settings(max_examples=150, deadline=None)
@given(
    st.text(max_size=60) | st.binary(max_size=60),
    st.sampled_from(["f.json", "f.jsonl", "f.csv", "f"]),
)
def test_no_input_ends_in_another_error(content, name):
    with pytest.raises(BadEditsError) as caught:
        parse_edits(content, name)
    assert all(isinstance(fault, Fault) for fault in caught.value.faults)


def test_five_thousand_records_are_read_quickly():
    many = [easyedit(case_id=n, prompt=f"The head of firm {n} is") for n in range(5000)]
    text = json.dumps(many, indent=0)
    begin = time.perf_counter()
    assert len(parse_edits(text, "f.json").edits) == 5000
    assert time.perf_counter() - begin < 5
