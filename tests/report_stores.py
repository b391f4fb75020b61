"""Stores as rounds would have left them, without a model: what reports are tested on."""

from corsa.config import make_config
from corsa.edits import Edit, Probe
from corsa.examination import round_metrics
from corsa.files import seal, write_atomically
from corsa.ledger import Ledger
from corsa.metrics import Score, forgotten, retention_report, summary
from corsa.planning import PlannedEdit, holding

MODEL = {"name": "tiny", "revision": None, "sha256": "0" * 64}
PROTOCOL = {
    "rule": "exact (NFKC, case-folded, white space, final full stop and quotes)",
    "decoding": "greedy",
    "max_new_tokens": 32,
    "template_sha256": "1" * 64,
    "system": "the template's own",
    "dtype": "float32",
    "device": "cpu",
    "attention": "sdpa",
    "agreement_tokens": 5,
    "kl_tokens": 16,
    "versions": {"corsa-edit": "0.1.0", "torch": "2.13.0"},
}
HISTORY = [
    {"sft": 4.0 / 2**step, "dpo": 0.6 / 2**step, "margin": 3.0 * step, "right": min(2, step)}
    for step in range(6)
]
TRAINING = {"steps": 6, "converged": True, "capped": False, "examples": 2, "history": HISTORY}

# What facts may be made of.
HOSTILE = (
    "<script>document.title = 'taken over'</script>",
    "</script><script>document.title = 'taken over'</script>",
    "<img src=x onerror=\"document.title = 'taken over'\">",
    "\"><svg onload=\"document.title='taken over'\"> ' onmouseover='document.title=1",
    "</details></table></main><style>body{display:none}</style><!--",
    "<link rel=stylesheet href=https://example.org/x.css><iframe src=https://example.org></iframe>",
    "{{ 7 * 7 }} {% raw %} ${7*7} $x^2$",
    "turned \u202etxet\u202c and \u2066isolated\u2069, bell \x07, escape \x1b[31m, nothing \x00.",
    "שלום مرحبا",
    "x" * 5000,
    "word " * 1000,
)


def fact(name, *, round=1, old="old", new="new", supersedes=(), repeats=None, **fields):
    edit = Edit(fields.pop("prompt", f"Who is {name}?"), new, id=name, target_old=old, **fields)
    return PlannedEdit(
        round,
        edit,
        "given",
        already_said=False,
        supersedes=supersedes,
        repeats=repeats,
        reply_before="before",
    )


def answered(planned, reply="new", *, base="old", margin=4.0):
    """The score of an edit's own prompt."""
    right = reply == planned.edit.target_new
    return Score(
        planned.round,
        planned.edit.id,
        "edit",
        planned.edit.prompt,
        reply,
        base,
        planned.edit.target_new,
        planned.target_old,
        (planned.edit.target_new,),
        exact=right,
        contains=right,
        squad=right,
        base_contains=False,
        old=reply == planned.target_old,
        base_old=base == planned.target_old,
        margin=margin,
        margin_per_token=margin / 2,
        base_margin=-2.0,
    )


def probed(planned, kind, prompt, reply, *, base="Rome", answers=("Rome",), leak=None):
    """The score of a probe; of a packaged question where `planned` is `None`."""
    right = reply in answers
    elsewhere = kind in ("locality", "drift")
    return Score(
        planned.round if planned else 0,
        planned.edit.id if planned else prompt,
        kind,
        prompt,
        reply,
        base,
        planned.edit.target_new if planned else None,
        planned.target_old if planned else None,
        answers,
        exact=right,
        contains=right,
        squad=right,
        base_contains=base in answers,
        leak=bool(leak) if elsewhere else None,
        agrees=reply == base if elsewhere else None,
        kl=0.1 if elsewhere else None,
        first_tokens=(1, 2) if elsewhere else (),
    )


def store(path):
    return Ledger.create(path, MODEL)


def commit(
    ledger, plan, scores, *, training=TRAINING, missed=(), noted=True, protocol=PROTOCOL, **settings
):
    """Add a round as a session does, the journal and the head included."""
    parent = ledger.head
    line = ledger.lineage(parent)
    id = ledger.next_id()
    history = [p for made in line for p in made.edits()] + list(plan)
    standing = {p.key for p in holding(history)}
    rows = [(made.id, _scores(made)) for made in line]
    own = [s for s in scores if s.round in (id, 0)]
    numbers = {
        **summary(own, {"locality": 0.9, "drift": 0.9}),
        "forgotten": forgotten(rows[-1][1] if rows else [], scores),
        "retention": retention_report([*rows, (id, scores)], standing),
        "protocol": protocol,
    }
    config = make_config(settings)
    kind = "facts" if config.method == "in-context" else "lora"
    record = {
        "artefact": {"kind": kind},
        "method": config.method,
        "config": config.to_dict(),
        "seed": config.seed,
        "model": MODEL,
        "versions": PROTOCOL["versions"],
    }
    made = ledger.commit(
        id,
        parent,
        record,
        plan,
        round_metrics(numbers, scores, plan, training),
        [score.to_record() for score in scores],
        lambda folder: (folder / "weights").write_text("w"),
    )
    if noted:
        ledger.note(
            {
                "event": "round",
                "round": id,
                "round_sha256": made.record["sha256"],
                "created": f"2026-11-{id:02d}T10:00:00+00:00",
                "seconds": {"plan": 5.0, "train": 100.5, "measure": 60.0},
                "peak_bytes": 3_000_000_000,
                "missed": list(missed),
            }
        )
    if not missed:
        ledger.move_head(id)
    return made


def _scores(made):
    from corsa.metrics import score_from_record

    return [score_from_record(record) for record in made.generations()]


def two_rounds(path, texts=("first", "second", "third", "fourth"), **settings):
    """Two rounds: one fact kept, one forgotten, one replaced, one not learned, leaks, drift."""
    ledger = store(path)
    a, b, c = (
        fact(f"f{n}", prompt=f"Prompt {n}: {text}", new=f"new {n}", old=f"old {n}")
        for n, text in enumerate(texts[:3])
    )
    near = Probe("Who is queen?", ("Rome",))
    first = [
        *(answered(planned, planned.edit.target_new) for planned in (a, b, c)),
        probed(a, "paraphrase", f"Otherwise: {texts[0]}", "new 0", answers=("new 0",)),
        probed(a, "locality", near.prompt, "new 0", leak=True),
        probed(b, "locality", "Where is Paris?", "Rome"),
        probed(a, "portability", "Where does it live?", "Rome"),
        probed(None, "drift", "What is 2 + 2?", "4", base="4", answers=("4",)),
        probed(None, "drift", "Capital of Italy?", texts[-1], base="Rome"),
    ]
    commit(ledger, [a, b, c], first, **settings)
    d = fact(
        "f3", round=2, prompt=b.edit.prompt, new="newer 1", old="new 1", supersedes=((1, "f1"),)
    )
    e = fact("f4", round=2, prompt=f"Prompt 4: {texts[3]}", new="new 4", old="old 4")
    second = [
        answered(d, "newer 1"),
        answered(e, texts[-1], margin=-1.5),
        answered(a, "new 0"),
        answered(c, "old 2", margin=-0.5),
        probed(a, "paraphrase", f"Otherwise: {texts[0]}", "wrong", answers=("new 0",)),
        probed(d, "locality", "Who is prince?", "newer 1", leak=True),
        probed(None, "drift", "What is 2 + 2?", "4", base="4", answers=("4",)),
        probed(None, "drift", "Capital of Italy?", "Paris", base="Rome"),
    ]
    commit(ledger, [d, e], second, **settings)
    return ledger


# --- Benchmarks -----------------------------------------------------------------------------------


def bench(path, labels=("corsa", "lora", "in-context"), seeds=(0, 1, 2), rounds=3, lacking=()):
    """A benchmark's folder with finished runs."""
    (path / "runs").mkdir(parents=True)
    methods = [
        {"label": label, "file_name": f"m{n}", "config": _config(n)}
        for n, label in enumerate(labels)
    ]
    record = {
        "dataset": {
            "name": "facts",
            "file": "facts.json",
            "from": 0,
            "to": None,
            "sha256": "2" * 64,
            "records": 9,
            "usable": 8,
            "about": "a facts file of your own",
        },
        "rounds": rounds,
        "edits": 2,
        "known_only": False,
        "neighbours": None,
        "extras": {},
        "extra_protocols": {},
        "model": MODEL,
        "seeds": list(seeds),
        "methods": methods,
        "left_out": [{"record": "record 8", "why": "another <b>target</b>"}],
    }
    write_atomically(path / "bench.json", seal(record))
    for place, method in enumerate(methods):
        for seed in seeds:
            if (method["label"], seed) not in lacking:
                run = _run(method, seed, rounds, place)
                file = path / "runs" / f"{method['file_name']}-seed{seed}.json"
                write_atomically(file, seal(run))
    return path


def _config(place):
    method = ("corsa", "lora", "in-context")[place % 3]
    config = make_config({"method": method, "drift": False, "rank": 8 + place}).to_dict()
    return {name: value for name, value in config.items() if name != "seed"}


def _run(method, seed, rounds, place):
    low = 0.1 * place + 0.02 * seed
    matrix = [[1.0 - low * (r - k) for k in range(r + 1)] for r in range(rounds)]
    final = {
        "reliability": 1.0 - low,
        "reliability_rules.contains": 1.0,
        "generality": 0.7 - 2 * low,
        "forgetting": low if rounds > 1 else None,
        "leak": 0.4 - low,
        "kept_knowledge": 0.5 + low,
        "kl": 0.4,
        "steps": 21.0,
    }
    return {
        "method": method["label"],
        "seed": seed,
        "config": {**method["config"], "seed": seed},
        "draw": {"drawn": 6, "kept": 6, "warnings": []},
        "final": final,
        "extra": [],
        "rounds": [{"round": r + 1, "forgetting": low * r if r else None} for r in range(rounds)],
        "matrix": {"reliability": matrix, "generality": matrix},
        "edits": [
            {
                "round": 1,
                "id": f"e{n}",
                "reliability": float(n != place),
                "generality": 0.5,
                "leak": 0.1 * place,
                "portability": None,
                "margin": 5.0 - place + n,
                "base_margin": -2.0 - n,
                "base_gives_old": True,
            }
            for n in range(4)
        ],
        "protocol": PROTOCOL,
    }
