import csv
import io

from corsa.bench.runs import flat
from corsa.bench.tables import markdown, metrics_csv, report, retention_csv, table

PROTOCOL = {"rule": "exact", "max_new_tokens": 32}


def run(method, seed, leak, reliability=(1.0, 0.0), **changes):
    return {
        "method": method,
        "seed": seed,
        "final": {
            "reliability": sum(reliability) / 2,
            "leak": leak,
            "kl": 0.25,
            "portability": None,
        },
        "rounds": [
            {"round": 1, "reliability": 1.0, "forgetting": None, "converged": True, "seconds": {}},
            {"round": 2, "reliability": 0.5, "forgetting": 0.5, "converged": False, "seconds": {}},
        ],
        "matrix": {"reliability": [[1.0], [0.5, None]], "generality": [[0.0], [0.0, 0.0]]},
        "edits": [
            {
                "id": f"e{n}",
                "reliability": right,
                "generality": 0.0,
                "leak": leak,
                "portability": None,
            }
            for n, right in enumerate(reliability)
        ],
        "protocol": PROTOCOL,
        "extra": [],
        "draw": {"drawn": 9, "kept": 4, "warnings": ["a | b"]},
    } | changes


RECORD = {
    "dataset": {
        "name": "counterfact",
        "about": "CounterFact",
        "file": "cf.json",
        "sha256": "ab",
        "from": 5,
        "to": None,
        "records": 20,
        "usable": 19,
    },
    "model": {"name": "tiny"},
    "rounds": 2,
    "edits": 1,
    "seeds": [3, 4],
    "known_only": True,
    "neighbours": 2,
    "extras": {},
    "extra_protocols": {"wikitext": "32 windows of 256 tokens"},
    "left_out": [{"record": f"record {n}", "why": "repeats | it"} for n in range(14)],
    "methods": [{"label": "corsa", "config": {"rank": 2}}, {"label": "lora", "config": {}}],
}
RUNS = [run("corsa", 3, 0.2), run("corsa", 4, 0.4), run("lora", 3, 0.6, (0.0, 0.0))]
DOCUMENT = report(RECORD, RUNS)


def test_edits_too_long_for_the_model_are_named_once_with_the_other_left_out():
    long = {"record": "edit e7", "why": "the prompt is too long"}
    draw = {"drawn": 3, "kept": 2, "warnings": [], "left_out": [long]}
    runs = [run("corsa", seed, 0.2, draw=draw) for seed in (3, 4)]
    document = report(RECORD | {"left_out": RECORD["left_out"][:2]}, runs)
    assert document["left_out"] == [*RECORD["left_out"][:2], long]
    assert "left out: edit e7: the prompt is too long" in markdown(document)


def test_numbers_are_aggregated_over_the_seeds_of_each_method():
    methods = DOCUMENT["methods"]
    leak = methods["corsa"]["leak"]
    assert (leak["low"], leak["high"], leak["per_seed"]) == (0.2, 0.4, [0.2, 0.4])
    assert abs(leak["mean"] - 0.3) < 1e-6
    assert methods["lora"]["leak"] == {
        "mean": 0.6,
        "low": None,
        "high": None,
        "per_seed": [0.6, None],
    }
    assert "portability" not in methods["corsa"]  # nobody has any


def test_small_numbers_are_told_apart_in_the_table():
    runs = [run("corsa", 3, 0.2, final={"kl": 0.00123, "wikitext_ppl_ratio": 1.0021})]
    rows = {name: cells for name, *cells in table(report(RECORD, runs))[1]}
    assert rows["KL(base ‖ edited), nats"] == ["0.0012"]
    assert rows["… edited / base"] == ["100.2 %"]


def test_what_is_kept_is_tested_edit_by_edit_where_both_runs_have_it():
    def made(method, agreement):
        edits = [{**edit, "agreement": agreement} for edit in RUNS[0]["edits"]]
        return run(method, 3, 0.2, edits=edits)

    found = report(RECORD, [made("corsa", 1.0), made("lora", 0.5)])["compared"]
    assert {row["metric"]: row["mean"] for row in found}["agreement"] == -0.5
    without = report(RECORD, [made("corsa", 1.0), run("lora", 3, 0.2)])["compared"]
    assert "agreement" not in {row["metric"] for row in without}


def test_sharpness_is_told_round_by_round():
    assert "Round by round" not in markdown(DOCUMENT)  # nobody has it
    runs = [run("corsa", seed, 0.2) for seed in (3, 4)] + [run("lora", 3, 0.6)]
    for one, found in zip(runs, ((0.25, 0.5), (0.75, None), (None, None)), strict=True):
        for row, sharpness in zip(one["rounds"], found, strict=True):
            row["sharpness_sft"] = sharpness
    document = report(RECORD, runs)
    assert document["each_round"] == {"sharpness_sft": {"corsa": [0.5, 0.5]}, "sharpness": {}}
    page = markdown(document)
    assert "after round 1 | after round 2 |" in page
    assert "| corsa | sharpness of L_SFT at ρ, nats | 0.5000 | 0.5000 |" in page


def test_one_seed_has_intervals_over_its_edits():
    document = report(RECORD, [run("corsa", 3, 0.2), run("lora", 3, 0.6, (0.0, 0.0))])
    assert document["interval"].startswith("percentile bootstrap over edits")
    right = document["methods"]["corsa"]["reliability"]
    assert (right["low"], right["mean"], right["high"]) == (0.0, 0.5, 1.0)
    assert document["methods"]["corsa"]["kl"]["low"] is None
    assert DOCUMENT["interval"].startswith("percentile bootstrap over seeds")


def test_a_test_says_of_which_seeds_it_is():
    """Not of all, where runs of before do not have a number edit by edit."""
    edits = [{**edit, "bwt": 0.0} for edit in RUNS[0]["edits"]]
    runs = [run("corsa", 3, 0.2, edits=edits), run("corsa", 4, 0.2, edits=edits)]
    runs += [run("lora", 3, 0.6, edits=edits), run("lora", 4, 0.6)]
    document = report(RECORD, runs)
    assert {row["metric"]: row["seeds"] for row in document["compared"]} == {
        "reliability": [3, 4],
        "bwt": [3],
        "generality": [3, 4],
        "leak": [3, 4],
    }
    assert "| lora | corsa | bwt | +0.0 [+0.0, +0.0] | 1.0000 | 2 | 3 |" in markdown(document)


def test_a_test_takes_only_the_edits_both_were_given():
    tests = {row["metric"]: row for row in DOCUMENT["compared"]}
    assert tests.keys() == {"reliability", "generality", "leak"}
    found = tests["reliability"]
    assert (found["method"], found["against"], found["n"], found["mean"]) == (
        "lora",
        "corsa",
        2,
        -0.5,
    )


def test_nothing_stands_in_for_a_first_method_without_a_run():
    record = RECORD | {"methods": [{"label": "paper", "config": {}}, *RECORD["methods"]]}
    assert report(record, RUNS)["compared"] == []
    assert DOCUMENT["compared"]


def test_protocols_that_differ_are_all_named():
    other = run("lora", 4, 0.1, protocol={"rule": "exact", "max_new_tokens": 48})
    document = report(RECORD, [*RUNS, other])
    assert document["protocol"]["rule"] == "exact"
    assert document["protocol"]["max_new_tokens"] == [32, 48]


def test_the_table_has_shares_in_per_cent_and_nothing_that_nobody_has():
    heads, rows = table(DOCUMENT)
    assert heads == ["", "corsa", "lora (seed 3 only)"]
    assert ["leak", "30.0 % [20.0, 40.0]", "60.0 %"] in rows
    assert ["KL(base ‖ edited), nats", "0.25 [0.25, 0.25]", "0.25"] in rows
    assert "portability" not in {row[0] for row in rows}


def test_extra_measures_have_rows_of_their_own():
    extra = [run("corsa", 3, 0.2, extra=["wikitext_kl", "arc/acc"])]
    extra[0]["final"] |= {"arc/acc": 3.456, "wikitext_kl": 0.25}
    rows = table(report(RECORD, extra))[1]
    assert ["arc/acc", "3.46"] in rows
    assert [row for row in rows if row[0].endswith("nats")][-1] == [
        "… KL(base ‖ edited), nats",
        "0.25",
    ]


def test_a_number_of_fewer_seeds_than_the_method_has_says_so():
    runs = [run("corsa", 3, 0.2, extra=["mmlu"]), run("corsa", 4, 0.4)]
    runs[0]["final"]["mmlu"] = 0.5
    rows = table(report(RECORD, runs))[1]
    assert ["MMLU right", "50.0 % (1 of 2 seeds)"] in rows
    assert ["leak", "30.0 % [20.0, 40.0]"] in rows


def test_the_page_says_how_and_on_what_it_was_measured():
    page = markdown(DOCUMENT)
    assert page.startswith("# counterfact: 2 rounds of 1 edits on tiny\n")
    assert "seeds 3, 4" in page
    assert "| max_new_tokens | 32 |" in page
    assert "| wikitext | 32 windows of 256 tokens |" in page
    assert "cf.json, SHA-256 ab" in page
    assert "records from 5 to the end: 20, of which 19 usable" in page
    assert "4 of 9 drawn under seed 3" in page
    assert "**not finished**: lora under seed 4\n" in page
    assert "2 locality probes of each edit" in page
    assert "left out: record 11: repeats | it" in page
    assert "record 12" not in page
    assert "left out: 2 more, all by name in report.json" in page
    assert "| lora | corsa | reliability | -50.0 [-100.0, +0.0] | 1.0000 | 2 |" in page


def test_seeds_without_a_finished_run_are_not_claimed():
    document = report(RECORD | {"seeds": [3, 4, 5]}, RUNS[:1])
    assert document["seeds"] == [3]
    assert document["methods"]["corsa"]["leak"]["per_seed"] == [0.2]
    assert [tuple(run.values()) for run in document["unfinished"]] == [
        ("corsa", 4),
        ("corsa", 5),
        *(("lora", seed) for seed in (3, 4, 5)),
    ]


def test_a_bar_in_a_name_does_not_break_the_table():
    runs = [run("a|b", 3, 0.2)]
    record = RECORD | {"methods": [{"label": "a|b", "config": {}}]}
    assert "|  | a\\|b |" in markdown(report(record, runs))


def test_csv_has_one_number_a_line():
    rows = list(csv.DictReader(io.StringIO(metrics_csv(RUNS))))
    assert {
        "method": "corsa",
        "seed": "4",
        "after_round": "2",
        "over": "all",
        "metric": "leak",
        "value": "0.4",
    } in rows
    of_rounds = [r for r in rows if r["over"] == "round" and r["metric"] == "converged"]
    assert [r["value"] for r in of_rounds[:2]] == ["1", "0"]
    assert all(float(row["value"]) is not None for row in rows)
    cells = list(csv.DictReader(io.StringIO(retention_csv(RUNS[:1]))))
    assert [c["value"] for c in cells if c["metric"] == "reliability"] == ["1.0", "0.5", ""]


def test_nested_numbers_get_dotted_names_and_texts_and_lists_none():
    numbers = {
        "leak": 0.5,
        "drift": {"kl": 1, "probes": "drift", "deep": {"n": 2}},
        "locality": None,
        "matrix": [[1.0]],
        "edits": {"n": 3},
        "protocol": {"max_new_tokens": 32},
    }
    assert flat(numbers) == {"leak": 0.5, "drift.kl": 1, "drift.deep.n": 2, "locality": None}
