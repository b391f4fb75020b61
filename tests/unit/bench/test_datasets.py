"""Each data set's layout, by invented rows; what is left out is named with its reason."""

import json

import pytest

from corsa.bench.datasets import DATASETS, load
from corsa.edits import Probe
from corsa.errors import ModelError, UsageError
from upstream import counterfact, knowedit, mquake, zsre


def write(path, rows):
    path.write_text(json.dumps(rows), "utf-8")
    return path


def left_out(loaded):
    return {entry.record: entry.why for entry in loaded.left_out}


# --- Layouts --------------------------------------------------------------------------------------


def test_counterfact_is_read_with_its_neighbours(tmp_path):
    rows = [counterfact(n) for n in range(10)]
    loaded = load("counterfact", write(tmp_path / "cf.json", rows))
    assert not loaded.left_out
    edit = loaded.edits[3]
    assert (edit.id, edit.prompt) == ("cf-3", "Ann3 speaks")
    assert (edit.target_new, edit.target_old) == ("Norse3", "Old")
    assert edit.paraphrases == ("The tongue of Ann3:",)
    assert edit.locality == (Probe("Bob3 speaks", ("Old",)), Probe("Cy3 speaks", ("Old",)))
    assert loaded.source["records"] == loaded.source["usable"] == 10


def test_of_two_targets_for_one_fact_the_later_record_is_left_out(tmp_path):
    rows = [counterfact(n) for n in range(8)]
    rows += [counterfact(20, "Ann3", target="Danish"), counterfact(21, "Ann5", prompt="{} says")]
    loaded = load("counterfact", write(tmp_path / "cf.json", rows))
    assert [edit.id for edit in loaded.edits] == [f"cf-{n}" for n in range(8)]
    why = left_out(loaded)
    assert why.keys() == {"record 8 (cf-20)", "record 9 (cf-21)"}
    assert "two targets for one prompt" in why["record 8 (cf-20)"]
    assert "'cf-3'" in why["record 8 (cf-20)"]
    assert "two targets for one subject and relation" in why["record 9 (cf-21)"]


def test_a_probe_is_not_lost_to_a_record_that_may_never_be_drawn(tmp_path):
    rows = [counterfact(1), counterfact(2, "Bob1")]
    loaded = load("counterfact", write(tmp_path / "cf.json", rows))
    assert loaded.edits[0].locality[0].prompt == loaded.edits[1].prompt == "Bob1 speaks"


def test_easyedits_flat_form_goes_by_the_same_name(tmp_path):
    row = {
        "case_id": 4,
        "prompt": "Ann speaks",
        "target_new": "Norse",
        "subject": "Ann",
        "ground_truth": "Old",
        "rephrase_prompt": "Ann's home is",
        "locality_prompt": "Bob speaks",
        "locality_ground_truth": "Old",
    }
    again = row | {"case_id": 5}
    loaded = load("counterfact", write(tmp_path / "flat.json", [row, again]))
    assert [edit.id for edit in loaded.edits] == ["case-4"]
    assert "repeats" in left_out(loaded)["record 1 (case-5)"]
    assert loaded.edits[0].locality == (Probe("Bob speaks", ("Old",)),)
    assert loaded.edits[0].paraphrases == ()  # mostly prompts with another right continuation


def test_zsre_takes_the_target_from_alt_and_the_old_answer_from_answers(tmp_path):
    rows = [zsre(n) for n in range(10)]
    edit = load("zsre", write(tmp_path / "zsre.json", rows)).edits[2]
    assert (edit.id, edit.prompt) == ("zsre-2", "Who made Work 2?")
    assert (edit.target_new, edit.target_old, edit.subject) == ("Ann", "Bob", "Work 2")
    assert edit.paraphrases == ("By whom is Work 2?",)
    assert edit.locality == (Probe("how high is hill 2", ("9 feet",)),)
    assert edit.portability == (Probe("Where was the maker of Work 2 born?", ("Oslo",)),)


def test_zsre_without_portability_is_mends_own_file(tmp_path):
    row = {name: value for name, value in zsre(1).items() if name != "portability"}
    assert load("zsre", write(tmp_path / "zsre.json", [row])).edits[0].portability == ()


def test_zsre_leaves_out_a_target_that_is_true_already(tmp_path):
    rows = [zsre(0), zsre(1, alt="Bobby")]
    loaded = load("zsre", write(tmp_path / "zsre.json", rows))
    assert [edit.id for edit in loaded.edits] == ["zsre-0"]
    assert left_out(loaded) == {
        "record 1 (zsre-1)": "the target 'Bobby' is one of the true answers"
    }


def test_mquake_keeps_cases_of_one_rewrite_and_every_alias(tmp_path):
    rows = [mquake(n) for n in range(8)] + [mquake(8, rewrites=2), mquake(3)]
    loaded = load("mquake", write(tmp_path / "mquake.json", rows))
    edit = loaded.edits[1]
    assert (edit.prompt, edit.target_new, edit.target_old) == ("Ann1 lives in", "Norway", "Peru")
    assert edit.paraphrases == ("Where does Ann1 live?",)
    assert [probe.answers for probe in edit.portability] == [("Oslo", "Kristiania")] * 3
    assert (
        len({edit.id for edit in loaded.edits}) == len(loaded.edits) == 8
    )  # case_id is not unique
    why = left_out(loaded)
    assert why["record 8 (mquake-8)"] == "has 2 rewrites; a round edits one fact each"
    assert why["record 9 (mquake-9)"].startswith("repeats record 3")


def test_knowedit_takes_answers_as_text_or_as_lists_of_aliases(tmp_path):
    loaded = load(
        "knowedit-counterfact", write(tmp_path / "k.json", [knowedit(n) for n in range(3)])
    )
    edit = loaded.edits[1]
    assert (edit.prompt, edit.target_old) == ("The trade of Ann1 is", "clerk")
    assert edit.portability == (
        Probe("Ann1's tool is", ("a hammer",)),
        Probe("The trade of A1 is", ("smith", "smithy")),
    )
    assert edit.locality == (Probe("Ann1's home is", ("Oslo", "Bergen")),)
    assert loaded.types["knowedit-1", "ann1's tool is"] == "Reasoning"
    assert loaded.types["knowedit-1", "the trade of a1 is"] == "Subject_Aliasing"
    assert len(loaded.types) == 6
    assert left_out(loaded)["record 1 (knowedit-1)"] == (
        'the locality probe "Ann1\'s other trade is" has no answer'
    )


def test_knowedit_recent_has_no_old_answers(tmp_path):
    row = {name: value for name, value in knowedit(1).items() if name != "ground_truth"}
    row["portability"] = {}
    edit = load("knowedit-recent", write(tmp_path / "k.json", [row])).edits[0]
    assert edit.target_old is None
    assert edit.portability == ()


def test_a_probe_that_is_the_edits_own_prompt_goes_and_the_edit_stays(tmp_path):
    own = {"Subject_Aliasing": [{"prompt": "The trade of  Ann1 is", "ground_truth": "smith"}]}
    loaded = load(
        "knowedit-counterfact", write(tmp_path / "k.json", [knowedit(1, portability=own)])
    )
    assert loaded.edits[0].portability == ()
    assert any("the edit's own prompt" in entry.why for entry in loaded.left_out)


def test_an_edit_that_changes_nothing_is_left_out(tmp_path):
    rows = [knowedit(0), knowedit(1, target_new="Clerk.")]
    loaded = load("knowedit-counterfact", write(tmp_path / "k.json", rows))
    assert [edit.id for edit in loaded.edits] == ["knowedit-0"]
    assert any("nothing to edit" in entry.why for entry in loaded.left_out)


# --- Files ----------------------------------------------------------------------------------------


def test_a_slice_of_the_file_is_a_split(tmp_path):
    path = write(tmp_path / "cf.json", [counterfact(n) for n in range(10)])
    early, late = load("counterfact", path, 0, 4), load("counterfact", path, 4)
    assert [edit.id for edit in early.edits] == [f"cf-{n}" for n in range(4)]
    assert [edit.id for edit in late.edits] == [f"cf-{n}" for n in range(4, 10)]
    assert early.source["sha256"] == late.source["sha256"]


def test_a_row_of_another_layout_is_said_to_be_one(tmp_path):
    path = write(tmp_path / "cf.json", [counterfact(1)])
    with pytest.raises(
        UsageError, match=r"no usable record .*: record 0: is not in the layout of zsre"
    ):
        load("zsre", path)


def test_a_file_of_another_data_set_says_which_it_reads_as(tmp_path):
    path = write(tmp_path / "cf.json", [counterfact(1)])
    with pytest.raises(UsageError, match=r"; it reads as counterfact or facts$"):
        load("zsre", path)
    path = write(tmp_path / "zsre.json", [zsre(1)])
    with pytest.raises(UsageError, match=r"; it reads as zsre$"):
        load("counterfact", path)
    path = write(tmp_path / "nothing.json", [{"x": 1}])
    with pytest.raises(UsageError) as said:
        load("counterfact", path)
    assert "reads as" not in str(said.value)


@pytest.mark.parametrize("text", ["", "[", '{"a": 1}', "[1]"])
def test_a_file_that_is_no_list_of_records_is_refused(tmp_path, text):
    path = tmp_path / "broken.json"
    path.write_text(text, "utf-8")
    with pytest.raises(UsageError, match="broken"):
        load("counterfact", path)


def test_an_unknown_data_set_is_refused_with_those_there_are():
    with pytest.raises(UsageError, match="counterfact, zsre, mquake"):
        load("counterfacts")


def test_facts_of_ones_own_need_a_file():
    with pytest.raises(UsageError, match="--data"):
        load("facts")


def test_without_the_hub_it_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match=r"azhx/counterfact.*--data"):
        load("counterfact")


@pytest.mark.hub
@pytest.mark.parametrize("name", [name for name in DATASETS if DATASETS[name].repository])
def test_what_the_hub_has_is_in_the_layout_that_is_read(name):
    assert len(load(name).edits) > 100
