"""Invented updates in CodeUpdateArena's layouts, of modules that every Python has."""


def task(name, solution, tests, imports=("import math",)):
    return {
        "scenario": f"Somebody needs {name}.",
        "problem": f"Write {name}.",
        "solution_signature": f"def {name}(x):",
        "unit_tests": list(tests),
        "imports": list(imports),
        "ref_solution": solution,
        "prog_syn_id": name,
    }


def update(name, path, kind, signature, implementation, tasks, imports=()):
    module = path.split(".")[0]
    return {
        "update": {
            "description": f"{path} has changed.",
            "rationale": "Because.",
            "docstring": f"What {path} does now.",
            "signature": signature,
            "imports": [f"import {module}", *imports],
            "implementation": implementation,
            "update_type": kind,
            "function_path": path,
            "package": module,
            "update_id": name,
        },
        "prog_syn_examples": tasks,
    }


def unit(name, body):
    return f"def test_{name}():\n    {body}\n\n    # a blank line above does not end it\n    "


def roots(number):
    """A task for the renamed square root."""
    name = f"root_{number}"
    return task(
        name,
        f"import math\n\ndef {name}(x):\n    return math.root(x) + {number}\n",
        [
            unit("four", f"assert {name}(4) == {2 + number}"),
            unit("nine", f"assert {name}(9) == {3 + number}"),
        ],
    )


def floors(number):
    name = f"floor_{number}"
    return task(
        name,
        f"import math\n\ndef {name}(x):\n    return math.floor(x, step=2) + {number}\n",
        [
            unit("down", f"assert {name}(3.5) == {2 + number}"),
            unit("even", f"assert {name}(4) == {4 + number}"),
        ],
    )


RENAMED = update(
    "renamed",
    "math.sqrt",
    "modify-function-name",
    "def math.root(x, /)",
    "def root(x):\n    return old_sqrt(x)\n",
    [roots(0), roots(1), roots(2)],
    ["old_sqrt = math.sqrt", "setattr(math, 'old_sqrt', old_sqrt)"],
)
ARGUMENT = update(
    "argument",
    "math.floor",
    "add-argument",
    "math.floor(x, step=1)",
    "def floor(x, step=1):\n    return old_floor(x / step) * step\n",
    [floors(0), floors(1), floors(2)],
    ["old_floor = math.floor"],
)
ADDED = update(
    "added",
    "re.sub",
    "add-function",
    "re.sub_all(pairs, text)",
    "def _one(pair, text):\n    return re.sub(*pair, text)\n\ndef sub_all(pairs, text):\n"
    "    for pair in pairs:\n        text = _one(pair, text)\n    return text\n",
    [
        task(
            "swap",
            "import re\n\ndef swap(x):\n    return re.sub_all([('a', 'b'), ('c', 'd')], x)\n",
            [unit("swap", "assert swap('ac') == 'bd'")],
            ["import re"],
        )
    ],
)
REMOVED = update(
    "removed",
    "math.tau",
    "deprecate-function",
    "math.tau",
    "",
    [
        task(
            "turn",
            "import math\n\ndef turn(x):\n    return 2 * math.pi if not hasattr(math, 'tau') else 0\n",
            [unit("turn", "assert turn(0) > 6")],
        )
    ],
)
METHOD = update(
    "method",
    "fractions.Fraction.limit_denominator",
    "modify-output-semantics",
    "fractions.Fraction.limit_denominator(self, most)",
    "def limit_denominator(self, most):\n    return 'limited'\n",
    [
        task(
            "limit",
            "from fractions import Fraction\n\ndef limit(x):\n"
            "    return Fraction(x).limit_denominator(9)\n",
            [unit("limit", "assert limit(1) == 'limited'")],
            ["import fractions"],
        )
    ],
)
FAULTY = update(
    "faulty",
    "math.ceil",
    "add-argument",
    "math.ceil(x, step=1)",
    "def ceil(x, step=1):\n    return old_ceil(x / step) * step\n",
    [
        task(
            "never_fails",
            "import math\n\ndef never_fails(x):\n    return math.ceil(x)\n",
            [unit("up", "assert never_fails(1.5) == 2")],
        ),
        task(
            "never_passes",
            "import math\n\ndef never_passes(x):\n    return math.ceil(x, step=2)\n",
            [
                unit("up", "assert never_passes(1.5) == 2"),
                unit("wrong", "assert never_passes(1.5) == 3"),
            ],
        ),
    ],
    ["old_ceil = math.ceil"],
)
UPDATES = [RENAMED, ARGUMENT, ADDED, REMOVED, METHOD, FAULTY]


def one_a_line(rows):
    """The later layout: one task a line, lists joined."""
    return [
        {
            **example,
            "update": row["update"],
            "update_id": row["update"]["update_id"],
            "unit_tests": "\n\n".join(example["unit_tests"]),
            "imports": "\n".join(example["imports"]),
        }
        for row in rows
        for example in row["prog_syn_examples"]
    ]
