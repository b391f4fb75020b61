"""`corsa bench` on a tiny model: what it writes, what it refuses, and how it goes on."""

import csv
import io
import json
import re
import shutil
import sys

import pytest

from calling import call
from corsa import Store, floors
from corsa.answerers import ModelAnswerer, Reply
from corsa.bench import extras
from corsa.bench.published import publish
from corsa.errors import TrainingError, UsageError
from corsa.files import seal, sha256_file, unseal
from corsa.matching import contains, normalise
from fakes import save_tiny
from upstream import counterfact, knowedit, mquake, zsre

FAST = ("rank=8", "alpha=16", "learning_rate=1.5e-2", "warmup_steps=0", "decay_steps=2")
SET = [word for pair in (*FAST, "drift=false") for word in ("--set", pair)]
SMALL = ["--rounds", 2, "--edits", 2, "--seeds", "0,1", "--neighbours", 1, *SET]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return str(save_tiny(tmp_path_factory.mktemp("models") / "tiny"))


def facts(count):
    return [
        {
            "id": f"f{n}",
            "prompt": f"Who leads {chr(65 + n)}?",
            "target_new": f"N{n}",
            "target_old": f"Old{n}",
            "subject": chr(65 + n),
            "paraphrases": [f"Head of {chr(65 + n)}:"],
            "locality": [
                {"prompt": f"Where is {chr(65 + n)}{k}?", "answer": "Oslo"} for k in (1, 2)
            ],
            "portability": [{"prompt": f"Home of {chr(65 + n)}'s head?", "answer": ["Rome"]}],
        }
        for n in range(count)
    ]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "facts.json"
    rival = {"prompt": "Who leads A?", "target_new": "Somebody else"}
    path.write_text(json.dumps([*facts(8), rival]), "utf-8")
    return path


@pytest.fixture(scope="module")
def bench(tiny, data):
    def run(out, *words, methods="lora,in-context"):
        words = ("--methods", methods, "--model", tiny, "--out", out, *SMALL, *words)
        return call("bench", "facts", "--data", data, *words)

    return run


@pytest.fixture(scope="module")
def finished(bench, tmp_path_factory):
    """One benchmark, its stores kept: the folder and the document."""
    out = tmp_path_factory.mktemp("bench") / "out"
    code, text, err = bench(out, "--json", "--keep-stores")
    assert code == 0, err
    return out, json.loads(text)


def lines(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def timeless(run):
    """A run without what a clock says, and without how often it was interrupted."""
    final = {name: v for name, v in run["final"].items() if not name.startswith("seconds")}
    rounds = [{k: v for k, v in row.items() if k != "seconds"} for row in run["rounds"]]
    rest = {k: v for k, v in run.items() if k not in ("final", "rounds", "sha256")}
    origin = run["origin"] | {"rounds_before": 0}
    return {**rest, "origin": origin, "final": final, "rounds": rounds}


# --- What it gives --------------------------------------------------------------------------------


def test_the_document_has_every_metric_of_every_method_with_its_interval(finished):
    out, document = finished
    assert document == json.loads((out / "report.json").read_text("utf-8"))
    assert document["dataset"]["name"] == "facts"
    assert document["protocol"]["decoding"] == "greedy"
    assert list(document["methods"]) == ["lora", "in-context"]
    lora = document["methods"]["lora"]
    for name in ("reliability", "generality", "leak", "agreement", "forgetting", "bwt", "steps"):
        found = lora[name]
        assert found.keys() == {"mean", "low", "high", "per_seed"}
        assert found["mean"] == pytest.approx(sum(found["per_seed"]) / 2)
        assert found["low"] <= found["mean"] <= found["high"]
    assert {"newest.reliability", "earlier.lowest", "margins.mean", "portability"} <= lora.keys()
    assert lora["library.paraphrases"]["per_seed"] == [0, 0]  # "Head of A:" is no packaged wording
    assert lora["unseen.generality"] == lora["generality"]
    assert lora["unseen.leak"] == lora["leak"]
    assert "steps" not in document["methods"]["in-context"]  # it trains nothing
    assert lora["newest.reliability"]["mean"] == 1.0


def test_what_is_left_out_is_named(finished):
    out, document = finished
    (entry,) = document["left_out"]
    assert entry["record"] == "record 8 (record-8)"
    assert "two targets for one prompt" in entry["why"]
    assert "record 8 (record-8)" in (out / "table.md").read_text("utf-8")


def test_the_end_is_measured_over_all_edits_as_check_does(finished, tiny):
    out, document = finished
    for place, seed in enumerate((0, 1)):
        store = Store.open(out / "stores" / f"lora-seed{seed}", tiny)
        checked = store.check(drift=False)
        for name in ("reliability", "generality", "leak", "agreement", "kl", "forgetting"):
            assert document["methods"]["lora"][name]["per_seed"][place] == checked[name]
        assert checked["locality"]["n"] == 4  # one neighbour of each of four edits


def test_a_run_notes_its_hardware_and_code_and_can_be_published(finished, tmp_path):
    out, _ = finished
    origin = unseal(out / "runs" / "lora-seed0.json")["origin"]
    names = {"commit", "cpu", "cores", "threads", "gpu", "train_dtype", "rounds_before"}
    assert origin.keys() == names
    assert origin["rounds_before"] == 0
    assert origin["train_dtype"] in ("float32", "bfloat16")
    new, _ = publish(out, tmp_path)
    assert len(new) == 4
    text = new[0].read_text("utf-8")
    assert "Who leads" not in text
    assert "--methods lora --rounds 2 --edits 2 --seeds 0 --neighbours 1" in text
    assert "--model tiny" in text  # a folder's name, not where it is


@pytest.mark.parametrize(
    ("name", "row", "measured"),
    [
        ("counterfact", counterfact, {"leak"}),
        ("zsre", zsre, {"leak", "portability"}),
        ("mquake", lambda n: mquake(n, case=n), {"portability", "multi_hop"}),
        ("knowedit-recent", knowedit, {"leak", "portability"}),
        ("knowedit-counterfact", knowedit, {"leak", "portability"}),
    ],
)
def test_a_sample_of_ten_rows_of_every_data_set_is_edited_and_measured(
    tiny, tmp_path, name, row, measured
):
    data = tmp_path / "sample.json"
    data.write_text(json.dumps([row(n) for n in range(10)]), "utf-8")
    words = ["--methods", "in-context", "--model", tiny, "--seeds", 0, "--set", "drift=false"]
    words += ["--rounds", 2, "--edits", 5, "--out", tmp_path / "out", "--json"]
    code, text, err = call("bench", name, "--data", data, *words)
    assert code == 0, err
    document = json.loads(text)
    assert (document["dataset"]["records"], document["dataset"]["usable"]) == (10, 10)
    numbers = document["methods"]["in-context"]
    assert measured <= {metric for metric, found in numbers.items() if found["mean"] is not None}
    asked = {line["edit_id"] for line in lines(tmp_path / "out" / "generations.jsonl")}
    assert len(asked) == 10


def test_a_rounds_row_is_of_its_own_edits(finished):
    out, _ = finished
    for row in unseal(out / "runs" / "lora-seed0.json")["rounds"]:
        assert row["reliability_rules.n"] == 2
        assert row["locality.n"] == 2


def test_every_method_is_given_the_same_edits_and_every_seed_others(finished):
    out, _ = finished
    asked = {}
    for line in lines(out / "generations.jsonl"):
        if line["kind"] == "edit":
            run = asked.setdefault((line["method"], line["seed"]), {})
            run[line["edit_id"]] = (line["edit_round"], line["target_new"])
    assert asked["lora", 0] == asked["in-context", 0]
    assert asked["lora", 1] == asked["in-context", 1]
    assert asked["lora", 0] != asked["lora", 1]
    assert all(len(edits) == 4 for edits in asked.values())


def test_every_reply_is_there_to_be_scored_again(finished):
    out, document = finished
    replies = lines(out / "generations.jsonl")
    for line in replies:
        assert line.keys() == {
            *("seed", "method", "after_round", "edit_round", "edit_id", "kind", "prompt", "reply"),
            *("base_reply", "target_new", "target_old", "answers"),
        }
    assert {line["kind"] for line in replies} == {"edit", "paraphrase", "locality", "portability"}
    for seed, share in zip(
        (0, 1), document["methods"]["lora"]["reliability"]["per_seed"], strict=True
    ):
        last = [
            r["reply"] == r["target_new"]
            for r in replies
            if (r["method"], r["seed"], r["after_round"], r["kind"]) == ("lora", seed, 2, "edit")
        ]
        assert sum(last) / len(last) == share


def test_tables_and_figures_are_written(finished):
    out, document = finished
    rows = list(csv.DictReader(io.StringIO((out / "metrics.csv").read_text("utf-8"))))
    found = [
        float(row["value"])
        for row in rows
        if (row["method"], row["over"], row["metric"]) == ("lora", "all", "leak")
    ]
    assert found == document["methods"]["lora"]["leak"]["per_seed"]
    retained = list(csv.DictReader(io.StringIO((out / "retention.csv").read_text("utf-8"))))
    assert (
        len(retained) == 2 * 2 * 2 * 3
    )  # methods, seeds, metrics, cells of a matrix of two rounds
    table = (out / "table.md").read_text("utf-8")
    assert "| all edits right |" in table
    assert "seeds 0, 1" in table
    assert "greedy" in table
    for name in ("retention", "forgetting", "margins", "front"):
        assert (out / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_methods_are_tested_against_the_first_over_the_same_edits(finished):
    compared = {row["metric"]: row for row in finished[1]["compared"]}
    assert compared["reliability"]["n"] == 8
    assert compared["agreement"]["n"] == 8
    assert (compared["reliability"]["method"], compared["reliability"]["against"]) == (
        "in-context",
        "lora",
    )
    assert compared["reliability"]["mean"] < 0
    assert 0 < compared["reliability"]["p"] <= 1


def test_what_is_tested_of_forgetting_is_what_is_told_of_it(finished):
    for path in (finished[0] / "runs").glob("*.json"):
        run = unseal(path)
        since = [edit["bwt"] for edit in run["edits"] if edit["round"] == 1]
        assert sum(since) / len(since) == run["final"]["bwt"]
        assert {edit["bwt"] for edit in run["edits"] if edit["round"] == 2} == {None}


def test_no_model_is_asked_the_same_question_twice(bench, tmp_path, monkeypatch):
    asked = []
    decode = ModelAnswerer._decode

    def spy(self, prompts, max_new_tokens, *rest):
        asked.extend((self.adapter, prompt, max_new_tokens) for prompt in prompts)
        return decode(self, prompts, max_new_tokens, *rest)

    monkeypatch.setattr(ModelAnswerer, "_decode", spy)
    code, _, err = bench(tmp_path / "out", "--rounds", 1, methods="lora,more:lora[replay=1]")
    assert code == 0, err
    of_base = [question for question in asked if question[0] is None and question[2] > 16]
    assert len(of_base) == len(set(of_base))  # two methods, one base model
    edited = [question for question in asked if question[0] == "round"]
    assert len(edited) == 2 * len(set(edited)) == 2 * 2 * 2 * 4  # methods, seeds, edits, probes


def test_the_model_is_loaded_in_another_precision_once(bench, tmp_path, monkeypatch):
    monkeypatch.setenv("CORSA_CACHE", str(tmp_path / "cache"))
    asked, load, answers = [], floors.load_source, ModelAnswerer.answers
    loaded = []

    def counted(*args, **keywords):
        loaded.append(load(*args, **keywords))
        return loaded[-1]

    def spy(self, prompts, *rest, **keywords):
        asked.extend(prompts if self.base in loaded else [])
        return answers(self, prompts, *rest, **keywords)

    monkeypatch.setattr(floors, "load_source", counted)
    monkeypatch.setattr(ModelAnswerer, "answers", spy)
    code, text, err = bench(tmp_path / "out", "--set", "drift=true", "--json")
    assert code == 0, err
    assert len(loaded) == 1  # for two methods, two seeds and two rounds
    assert len(asked) == len(set(asked))
    assert len(asked) > 90  # the packaged questions and the neighbours
    found = json.loads(text)["methods"]
    for name in ("locality.agreement_floor", "drift.agreement_floor"):
        assert found["lora"][name] == found["in-context"][name]
        assert all(0 <= share <= 1 for share in found["lora"][name]["per_seed"])


def test_the_table_is_shown_without_json(bench, finished):
    code, text, err = bench(finished[0], "--resume")
    assert code == 0, err
    assert "all edits right" in text
    assert "in-context" in text
    assert "1 record or probe was left out" in text
    assert str(finished[0] / "figures") in text.replace("\n", "")


# --- Going on -------------------------------------------------------------------------------------


def test_a_folder_with_a_benchmark_is_not_added_to_by_accident(bench, finished):
    code, out, err = bench(finished[0], "--json")
    assert (code, json.loads(out)["error"]["type"]) == (2, "UsageError")
    assert "--resume" in err
    assert "another --out" in err


def test_what_a_killed_write_left_behind_is_no_benchmark(bench, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / ".bench.json.x.writing").write_text("{", "utf-8")
    code, _, err = bench(out, "--seeds", "0", methods="in-context")
    assert code == 0, err


def test_a_benchmark_is_begun_by_its_record(bench, tmp_path, monkeypatch):
    """Draws without it could never be gone on with."""

    def full(path, text):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("corsa.bench.runner.write_atomically", full)
        code, _, err = bench(tmp_path / "out", "--seeds", "0", methods="in-context")
    assert (code, "cannot write a file: No space left on device" in err) == (1, True)
    code, _, err = bench(tmp_path / "out", "--seeds", "0", methods="in-context")
    assert code == 0, err


def test_a_folder_with_something_else_is_left_alone(bench, tmp_path):
    (tmp_path / "mine.txt").write_text("mine", "utf-8")
    code, _, err = bench(tmp_path)
    assert code == 1
    assert "holds something else" in err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--rounds", 3], "rounds was 2 and is now 3"),
        (["--edits", 1], "edits was 2 and is now 1"),
        (["--neighbours", 2], "neighbours was 1 and is now 2"),
        (["--known-only"], "known_only was False and is now True"),
        (["--to", 8], "dataset to was None and is now 8"),
        (["--set", "rank=4"], "lora rank was 8 and is now 4"),
        (["--set", "ft_layer=1"], "--set was"),
        (["--extras", "fluency"], "extras was"),
    ],
)
def test_resuming_with_other_settings_is_refused_by_name(bench, finished, words, says):
    before = (finished[0] / "bench.json").read_bytes()
    code, _, err = bench(finished[0], "--resume", *words)
    assert code == 2
    assert says in err
    assert (finished[0] / "bench.json").read_bytes() == before


def test_methods_that_came_at_another_time_do_not_share_a_file_name(bench, straight, tmp_path):
    out = shutil.copytree(straight, tmp_path / "out")
    begun = unseal(out / "bench.json")
    begun["methods"][0] |= {"label": "lora@4", "file_name": "lora_4"}
    (out / "bench.json").write_text(seal(begun), "utf-8")
    code, _, err = bench(out, "--resume", "--seeds", "0", methods="lora_4:in-context")
    assert code == 2
    assert "2 methods are called 'lora_4'" in err


def test_the_file_of_an_extra_may_lie_elsewhere_but_not_be_another(bench, straight, tmp_path):
    out, begun = shutil.copytree(straight, tmp_path / "out"), unseal(straight / "bench.json")
    text, moved = tmp_path / "text.txt", tmp_path / "moved" / "text.txt"
    moved.parent.mkdir()
    for file in (text, moved):
        file.write_text("One sentence of a text. " * 400, "utf-8")
    begun["extras"] = {"wikitext": str(text)}
    begun["extra_files"] = {"wikitext": {"file": "text.txt", "sha256": sha256_file(text)}}
    (out / "bench.json").write_text(seal(begun), "utf-8")
    words = [out, "--resume", "--seeds", "0"]
    code, _, err = bench(*words, "--extras", f"wikitext={moved}", methods="lora")
    assert code == 0, err
    moved.write_text("Another text. " * 400, "utf-8")
    code, _, err = bench(*words, "--extras", f"wikitext={moved}", methods="lora")
    assert (code, "the files of --extras was" in err) == (2, True)


def test_resuming_another_data_set_or_model_is_refused(bench, finished, tmp_path, data, tiny):
    changed = tmp_path / "facts.json"
    changed.write_text(data.read_text("utf-8").replace("N3", "N4x"), "utf-8")
    _, _, err = bench(finished[0], "--resume", "--data", changed)
    assert "dataset sha256 was" in err
    other = save_tiny(tmp_path / "other", seed=1)
    _, _, err = bench(finished[0], "--resume", "--model", other)
    assert "model name was" in err


def test_when_all_is_done_resuming_only_sums_up_again(bench, finished, monkeypatch):
    out, document = finished
    (out / "table.md").unlink()

    def refuse(*_args, **_keywords):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("corsa.models.load_source", refuse)
    code, text, err = bench(out, "--resume", "--json")
    assert code == 0, err
    assert text == json.dumps(document, ensure_ascii=False, indent=2) + "\n"  # the order, too
    assert (out / "table.md").exists()


def test_a_setting_that_came_after_a_benchmark_was_begun_is_no_other_method(
    bench, finished, tmp_path
):
    """`decay_steps` is not off today, `keep_pool` is for lora: what is not noted counts as off."""
    out = shutil.copytree(finished[0], tmp_path / "out")
    begun = unseal(out / "bench.json")
    for name, refused in (("keep_pool", False), ("decay_steps", True)):
        for method in begun["methods"]:
            del method["config"][name]
        (out / "bench.json").write_text(seal(begun), "utf-8")
        code, _, err = bench(out, "--resume")
        assert (code, "lora decay_steps was 0 and is now 2" in err) == (2 * refused, refused), err


@pytest.fixture(scope="module")
def straight(bench, tmp_path_factory):
    out = tmp_path_factory.mktemp("straight") / "out"
    code, _, err = bench(out, "--seeds", "0", methods="lora")
    assert code == 0, err
    return out


def test_an_interrupted_benchmark_goes_on_at_its_next_round(bench, tmp_path, monkeypatch, straight):
    update, made = Store.update, []

    def interrupted(self, *args, **keywords):
        if len(made) == 1:
            raise KeyboardInterrupt
        made.append(self.path)
        return update(self, *args, **keywords)

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(Store, "update", interrupted)
        code, _, err = bench(out, "--seeds", "0", methods="lora")
    assert code == 1
    assert "--resume goes on" in err
    assert not (out / "runs").exists()
    calls = []

    def counted(self, *args, **keywords):
        calls.append(self.head)
        return update(self, *args, **keywords)

    monkeypatch.setattr(Store, "update", counted)
    code, _, err = bench(out, "--seeds", "0", "--resume", methods="lora")
    assert code == 0, err
    assert calls == [1]
    runs = [unseal(folder / "runs" / "lora-seed0.json") for folder in (out, straight)]
    assert timeless(runs[0]) == timeless(runs[1])
    assert [run["origin"]["rounds_before"] for run in runs] == [1, 0]
    assert not (out / "stores" / "lora-seed0").exists()  # a finished run's store goes


def test_an_interrupted_benchmark_sums_up_its_finished_runs(bench, tmp_path, monkeypatch):
    update = Store.update

    def interrupted(self, *args, **keywords):
        if keywords["method"] == "lora":
            raise KeyboardInterrupt
        return update(self, *args, **keywords)

    out, words = tmp_path / "out", ("--seeds", "0", "--rounds", 1)
    with monkeypatch.context() as patch:
        patch.setattr(Store, "update", interrupted)
        code, _, err = bench(out, *words, methods="in-context,lora")
    assert code == 1
    assert "interrupted: what is finished is in" in err
    document = json.loads((out / "report.json").read_text("utf-8"))
    assert list(document["methods"]) == ["in-context"]
    assert document["unfinished"] == [{"method": "lora", "seed": 0}]
    assert "**not finished**: lora under seed 0" in (out / "table.md").read_text("utf-8")
    assert (out / "generations.jsonl").exists()
    assert list((out / "figures").iterdir())
    code, text, err = bench(out, *words, "--resume", "--json", methods="in-context,lora")
    assert code == 0, err
    assert list(json.loads(text)["methods"]) == ["in-context", "lora"]


def test_a_label_with_brackets_is_shown_as_it_is(bench, tmp_path):
    code, text, err = bench(tmp_path, "--rounds", 1, "--seeds", 0, methods="in-context[rank=4]")
    assert code == 0, err
    assert "in-context[rank=4]" in text


def test_methods_and_seeds_may_come_later(bench, tmp_path, straight):
    out = shutil.copytree(straight, tmp_path / "out")
    first = (out / "runs" / "lora-seed0.json").read_bytes()
    code, text, err = bench(out, "--resume", "--seeds", "1,0", "--json", methods="in-context")
    assert code == 0, err
    document = json.loads(text)
    assert document["seeds"] == [0, 1]
    assert list(document["methods"]) == ["lora", "in-context"]
    assert document["methods"]["lora"]["reliability"]["per_seed"][1] is None
    assert (out / "runs" / "lora-seed0.json").read_bytes() == first


def test_a_run_that_fails_costs_the_others_nothing_and_is_tried_again(bench, tmp_path, monkeypatch):
    update = Store.update

    def failing(self, *args, **keywords):
        if keywords["method"] == "lora":
            raise TrainingError("no more memory")
        return update(self, *args, **keywords)

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(Store, "update", failing)
        code, _, err = bench(out, "--seeds", "0")
    assert code == 1
    assert "1 of 2 runs failed" in err
    assert "lora, seed 0: no more memory" in err
    assert list(json.loads((out / "report.json").read_text("utf-8"))["methods"]) == ["in-context"]
    code, _, err = bench(out, "--seeds", "0", "--resume")
    assert code == 0, err
    methods = json.loads((out / "report.json").read_text("utf-8"))["methods"]
    assert list(methods) == ["lora", "in-context"]


def test_an_error_nobody_foresaw_costs_one_run_too(bench, tmp_path, monkeypatch):
    update = Store.update

    def failing(self, *args, **keywords):
        if keywords["method"] == "lora":
            raise RuntimeError("the sky fell\nand more")
        return update(self, *args, **keywords)

    monkeypatch.setattr(Store, "update", failing)
    code, _, err = bench(tmp_path / "out", "--seeds", "0")
    assert code == 1
    assert "1 of 2 runs failed" in err
    assert "lora, seed 0: RuntimeError: the sky fell" in err
    assert "in failing" in err  # where, for whoever mends it


def test_an_extra_measure_that_always_fails_may_be_left_out(bench, tmp_path, monkeypatch):
    def measure(finished):
        raise UsageError("it never worked")

    monkeypatch.setitem(extras.EXTRAS, "probe", measure)
    words = (tmp_path / "out", "--seeds", "0", "--extras")
    code, _, err = bench(*words, "probe,counterfact", methods="lora")
    assert code == 1
    assert "--extras probe: it never worked" in err
    assert "not probe if you leave that out" in err
    monkeypatch.setattr(Store, "update", None)  # its rounds are there
    code, _, err = bench(*words, "counterfact", "--resume", methods="lora")
    assert code == 0, err
    (final,) = json.loads((tmp_path / "out" / "report.json").read_text("utf-8"))["methods"].values()
    assert "es" in final
    (path,), _ = publish(tmp_path / "out", tmp_path / "results")
    assert "--extras counterfact --set" in unseal(path)["command"]
    assert unseal(path)["asked"]["extra_protocols"].keys() == {"counterfact"}
    code, _, err = bench(*words, "counterfact,fluency", "--resume", methods="lora")
    assert code == 2
    assert "extras was" in err


def test_the_order_of_extras_does_not_matter(bench, tmp_path):
    words = ("--seeds", "0", "--extras", "token-accuracy,counterfact")
    assert bench(tmp_path / "out", *words, methods="in-context")[0] == 0
    code, _, err = bench(tmp_path / "out", *words, "--resume", methods="in-context")
    assert code == 0, err


def test_an_extra_measure_that_fails_costs_one_run_and_its_file_may_be_mended(
    bench, tmp_path, monkeypatch
):
    text, out = tmp_path / "text.txt", tmp_path / "out"

    def measure(finished):
        words = finished.data.read_text("utf-8").split()
        return {"probe.first": float(words[0])}

    monkeypatch.setitem(extras.EXTRAS, "probe", measure)
    monkeypatch.setitem(extras.READERS, "probe", lambda data: data.read_text("utf-8"))
    words = (out, "--seeds", "0", "--extras", f"probe={text}")
    code, _, err = bench(*words, methods="in-context")
    assert (code, f"--extras probe: there is no file {text}" in err) == (2, True)
    text.write_text("one", "utf-8")
    code, _, err = bench(*words)
    assert code == 1
    for method in ("lora", "in-context"):
        assert f"{method}, seed 0: --extras probe: ValueError: could not convert" in err
    text.write_text("1", "utf-8")
    code, _, err = bench(*words, "--resume")
    assert code == 0, err
    text.write_text("2", "utf-8")  # runs have been measured with it
    assert bench(*words, "--resume")[0] == 2


def test_without_a_given_old_answer_all_methods_are_measured_against_what_the_base_says(
    tiny, tmp_path
):
    rows = [{k: v for k, v in row.items() if k != "target_old"} for row in facts(4)]
    path, out = tmp_path / "facts.json", tmp_path / "out"
    path.write_text(json.dumps(rows), "utf-8")
    words = ["--methods", "lora,in-context", "--model", tiny, "--out", out, *SMALL]
    code, _, err = call("bench", "facts", "--data", path, *words, "--seeds", "0")
    assert code == 0, err
    old = {}
    for reply in lines(out / "generations.jsonl"):
        if reply["kind"] == "edit":
            old.setdefault(reply["edit_id"], set()).add(reply["target_old"])
    assert len(old) == 4
    assert all(len(said) == 1 for said in old.values())
    drawn = unseal(out / "draws" / "seed0.json")["rounds"]
    assert {r["id"]: {r.get("target_old")} for edits in drawn for r in edits} == old


# --- What it refuses ------------------------------------------------------------------------------


def test_without_the_extra_it_says_how_to_install_it(bench, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    code, _, err = bench(tmp_path / "out")
    assert code == 2
    assert "scipy.stats is not installed: pip install 'corsa-edit[bench]'" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--seeds", "0,0"], "different whole numbers"),
        (["--seeds", "x"], "different whole numbers"),
        (["--seeds", str(2**63)], "different whole numbers"),
        (["--rounds", 5], "take 10, and there are 8"),
        (["--set", "seed=3"], "--seeds"),
        (["--extras", "es"], "no extra measure 'es'"),
        (["--set", "rank=no"], "rank='no' is not a whole number"),
    ],
)
def test_bad_usage_is_refused_before_a_model_is_loaded(bench, tmp_path, monkeypatch, words, says):
    monkeypatch.setattr("corsa.models.load_source", None)
    code, _, err = bench(tmp_path / "out", *words)
    assert code == 2
    assert says in err
    assert "Traceback" not in err
    assert not list((tmp_path / "out").glob("[!.]*"))  # the command may be mended and given again


def test_known_only_needs_old_answers(tmp_path, monkeypatch):
    monkeypatch.setattr("corsa.models.load_source", None)
    data = tmp_path / "facts.json"
    data.write_text(json.dumps([{"prompt": "Who leads A?", "target_new": "B"}]), "utf-8")
    words = ("--known-only", "--rounds", 1, "--edits", 1, "--out", tmp_path / "out")
    code, _, err = call("bench", "facts", "--data", data, *words)
    assert code == 2
    assert "--known-only is about old answers, and facts gives none" in err


def test_known_only_draws_what_the_base_model_says(tiny, tmp_path):
    out = tmp_path / "out"
    rows = facts(8)
    store = Store.open(tmp_path / "store", tiny)
    asked = store.ask([row["prompt"] for row in rows], round=0, max_new_tokens=32)
    words = [re.findall(r"[a-z0-9]+", normalise(answer.base)) for answer in asked]
    known = [n for n in range(8) if contains(asked[n].base, (words[n] or ["no"])[0])][:5]
    assert len(known) == 5
    for n in known:
        rows[n]["target_old"] = words[n][0]
    path = tmp_path / "facts.json"
    path.write_text(json.dumps(rows), "utf-8")
    words = ["--methods", "in-context", "--model", tiny, "--out", out, "--known-only", *SMALL]
    code, text, err = call("bench", "facts", "--data", path, "--json", *words)
    assert code == 0, err
    document = json.loads(text)
    assert document["methods"]["in-context"]["base_gives_old"]["mean"] == 1.0
    for seed in ("0", "1"):
        assert document["draws"][seed]["kept"] == 4
        assert 4 <= document["draws"][seed]["drawn"] <= 8
    drawn = unseal(out / "draws" / "seed0.json")["rounds"]
    assert {r["id"] for edits in drawn for r in edits} <= {f"f{n}" for n in known}
    assert "drawn under seed 0" in (out / "table.md").read_text("utf-8")


@pytest.mark.parametrize("known", [(), ("--known-only",)], ids=["all", "known"])
@pytest.mark.parametrize("field", ["prompt", "paraphrases", "locality", "portability"])
def test_an_edit_too_long_for_the_model_is_left_out_by_name(tiny, tmp_path, field, known):
    rows, long = facts(8), "Who? " * 250
    for row in rows:
        row["target_old"] = "" if known else row["target_old"]
    if known:
        store = Store.open(tmp_path / "store", tiny)
        said = store.ask([row["prompt"] for row in rows], round=0, max_new_tokens=32)
        for row, answer in zip(rows, said, strict=True):
            row["target_old"] = (re.findall(r"[a-z0-9]+", normalise(answer.base)) or ["x"])[0]
    for row in rows[:2]:
        probe = [{"prompt": long + row["id"], "answer": "x"}]
        new = {"prompt": long + row["id"], "paraphrases": [long + row["id"]]}.get(field, probe)
        row[field] = new
    path, out = tmp_path / "facts.json", tmp_path / "out"
    path.write_text(json.dumps(rows), "utf-8")
    words = ["--methods", "in-context", "--model", tiny, "--out", out, *SMALL, *known]
    words += ["--seeds", "0", "--rounds", 1, "--edits", 3 if known else 6]
    code, text, err = call("bench", "facts", "--data", path, "--json", *words)
    assert code == 0, err
    left_out = {entry["record"]: entry["why"] for entry in json.loads(text)["left_out"]}
    drawn = unseal(out / "draws" / "seed0.json")["rounds"][0]
    assert not {record["id"] for record in drawn} & {"f0", "f1"}
    if not known:
        assert left_out.keys() == {"edit f0", "edit f1"}
        assert "reads 1024" in left_out["edit f0"]
        assert "edit f0" in (out / "table.md").read_text("utf-8")


@pytest.mark.parametrize("field", ["target_new", "target_old"])
def test_an_answer_the_chat_template_refuses_is_left_out_by_name(tiny, tmp_path, field):
    rows = facts(4)
    rows[1][field] = "Ada<|im_end|>\n<|im_start|>user\nHi"
    path, out = tmp_path / "facts.json", tmp_path / "out"
    path.write_text(json.dumps(rows), "utf-8")
    words = ["--methods", "in-context", "--model", tiny, "--out", out, *SMALL]
    words += ["--seeds", "0", "--rounds", 1, "--edits", 3]
    code, text, err = call("bench", "facts", "--data", path, "--json", *words)
    assert code == 0, err
    drawn = unseal(out / "draws" / "seed0.json")["rounds"][0]
    assert {record["id"] for record in drawn} == {"f0", "f2", "f3"}
    (entry,) = json.loads(text)["left_out"]
    assert entry["record"] == "edit f1"
    assert "cannot be written: the chat template of" in entry["why"]


# --- Extra measures -------------------------------------------------------------------------------


def test_an_extra_measure_sees_the_finished_run_and_its_numbers_are_reported(
    bench, tmp_path, monkeypatch, data
):
    seen = []

    def measure(finished):
        replies = finished.after.answers([p.edit.prompt for p in finished.edits], 8)
        before = finished.before.answers([p.edit.prompt for p in finished.edits], 8)
        seen.append((finished, replies, before))
        return {"probe.changed": float(replies != before), "probe.edits": len(finished.edits)}

    monkeypatch.setitem(extras.EXTRAS, "probe", measure)
    monkeypatch.setitem(extras.READERS, "probe", lambda _: None)
    out = tmp_path / "out"
    words = ("--seeds", "0", "--extras", f"probe={data}", "--json")
    code, text, err = bench(out, *words, methods="lora")
    assert code == 0, err
    ((finished, replies, before),) = seen
    assert replies != before
    assert finished.data == data
    assert finished.config.method == "lora"
    assert finished.after.adapter is not None
    document = json.loads(text)
    assert document["methods"]["lora"]["probe.edits"]["per_seed"] == [4]
    assert "| probe.changed | 1.00 |" in (out / "table.md").read_text("utf-8")


def test_sharpness_is_measured_after_every_round_on_that_rounds_model(bench, tmp_path):
    out = tmp_path / "out"
    code, _, err = bench(out, "--seeds", "0", "--extras", "curvature", methods="lora")
    assert code == 0, err
    run = unseal(out / "runs" / "lora-seed0.json")
    first, last = run["rounds"]
    assert first["sharpness"] > 0
    assert first["sharpness"] != last["sharpness"]
    for name in ("sharpness", "sharpness_sft"):
        assert last[name] == run["final"][name]
    assert "lora,0,1,round,sharpness," in (out / "metrics.csv").read_text("utf-8")


def test_an_extra_measure_may_not_overwrite_one_of_the_stores(bench, tmp_path, monkeypatch):
    monkeypatch.setitem(extras.EXTRAS, "liar", lambda finished: {"leak": 0.0})
    code, _, err = bench(tmp_path / "out", "--seeds", "0", "--extras", "liar", methods="in-context")
    assert code == 1
    assert "named like the store's own: leak" in err


# --- What it stands on ----------------------------------------------------------------------------


def test_multi_hop_is_right_if_any_question_of_the_case_is_answered():
    from corsa.bench.runs import _any_contains
    from corsa.metrics import Score

    def probe(right):
        return Score(1, "e", "portability", "?", "", "", contains=right)

    assert _any_contains([probe(right=False), probe(right=True), probe(right=False)]) == 1
    assert _any_contains([probe(right=False)] * 3) == 0


def test_what_an_edit_keeps_is_of_what_the_base_knows_of_its_neighbours():
    from corsa.bench.runs import _edit_rows
    from corsa.metrics import Score

    def probe(known, kept, agrees):
        found = {"base_contains": known, "contains": kept, "agrees": agrees}
        return Score(1, "e", "locality", "?", "", "", **found)

    edit = Score(1, "e", "edit", "?", "", "", exact=True)
    probes = [probe(True, True, True), probe(True, False, False), probe(False, True, False)]
    (row,) = _edit_rows([edit, *probes, probe(False, False, False)], {})
    assert (row["kept_knowledge"], row["agreement"]) == (0.5, 0.25)
    assert _edit_rows([edit, probe(False, False, True)], {})[0]["kept_knowledge"] is None


def test_what_is_forgotten_is_tested_edit_by_edit():
    from corsa.bench.runs import _edit_rows
    from corsa.bench.tables import report
    from corsa.metrics import Score

    def run(method, first):
        now = [Score(1, "a", "edit", "?", "", "", exact=True)]
        now += [Score(1, "b", "edit", "?", "", "", exact=False)]
        now += [Score(2, "c", "edit", "?", "", "", exact=True)]
        rows = _edit_rows(now, {(1, "a"): first, (1, "b"): True})
        shared = {"protocol": {}, "final": {}, "rounds": [], "draw": {}, "extra": []}
        return {"method": method, "seed": 0, "edits": rows, **shared}

    runs = [run("one", True), run("other", False)]
    assert [row["bwt"] for row in runs[0]["edits"]] == [0, -1, None]
    record = dict.fromkeys(("dataset", "model", "rounds", "edits", "known_only", "neighbours"))
    methods = [{"label": run["method"], "config": {}} for run in runs]
    record |= {
        "seeds": [0],
        "methods": methods,
        "extras": {},
        "extra_protocols": {},
        "left_out": [],
    }
    (found,) = (c for c in report(record, runs)["compared"] if c["metric"] == "bwt")
    assert (found["mean"], found["n"]) == (0.5, 2)


def test_portability_is_told_apart_by_what_knowedit_asks(tiny, tmp_path, monkeypatch):
    def row(number):
        name = f"Ann{number}"
        return {
            "subject": name,
            "prompt": f"The trade of {name} is",
            "target_new": "smith",
            "ground_truth": "clerk",
            "portability": {
                "Reasoning": [{"prompt": f"{name}'s tool is", "ground_truth": "hammer"}],
                "Subject_Aliasing": [{"prompt": f"A{number}'s trade is", "ground_truth": "smith"}],
            },
            "locality": {},
        }

    def answers(self, prompts, *rest, **keywords):
        return [Reply("a hammer" if "tool" in prompt else "no idea", (1,)) for prompt in prompts]

    monkeypatch.setattr(ModelAnswerer, "answers", answers)
    path, out = tmp_path / "k.json", tmp_path / "out"
    path.write_text(json.dumps([row(n) for n in range(2)]), "utf-8")
    words = ["--methods", "in-context", "--model", tiny, "--out", out, *SMALL]
    words += ["--seeds", "0", "--rounds", 1]
    code, text, err = call("bench", "knowedit-counterfact", "--data", path, "--json", *words)
    assert code == 0, err
    found = json.loads(text)["methods"]["in-context"]
    assert found["portability"]["mean"] == 0.5
    assert found["portability.Reasoning"]["mean"] == 1.0
    assert found["portability.Subject_Aliasing"]["mean"] == 0.0
    assert "| … reasoning | 100.0 % |" in (out / "table.md").read_text("utf-8")


def test_what_is_refused_leaves_no_folder(bench, tmp_path):
    for words, says in (
        (["--from", 5, "--to", 5], "--to 5 must lie behind --from 5"),
        (["--data", tmp_path], "is a folder: give the file in it"),
        (["--data", tmp_path / "none.json"], "none.json does not exist"),
        (["--known-only", "--data", _without_old(tmp_path)], "leave it out"),
    ):
        code, _, err = bench(tmp_path / "out", *words)
        assert code in (1, 2)
        assert says in " ".join(err.split())
        assert not (tmp_path / "out").exists()


def _without_old(folder):
    path = folder / "no-old.json"
    rows = [{k: v for k, v in row.items() if k != "target_old"} for row in facts(4)]
    path.write_text(json.dumps(rows), "utf-8")
    return path


def test_a_resume_that_finds_nothing_says_so(bench, tmp_path):
    code, _, err = bench(tmp_path / "out", "--seeds", "0", "--resume", methods="in-context")
    assert code == 0
    assert "holds no benchmark to go on with: --resume begins one" in " ".join(err.split())
    code, _, err = bench(tmp_path / "out", "--seeds", "0", "--resume", methods="in-context")
    assert "begins one" not in err


def test_a_locked_folder_is_somebody_elses(bench, tmp_path):
    from filelock import FileLock

    (tmp_path / "out").mkdir()
    with FileLock(tmp_path / "out" / ".lock"):
        code, _, err = bench(tmp_path / "out")
    assert code == 1
    assert "somebody else is at work" in err
