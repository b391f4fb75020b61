"""Invented rows in the layouts of the benchmarks' own files."""


def counterfact(number, subject="", relation="P1", target="", prompt="{} speaks"):
    return {
        "case_id": number,
        "pararel_idx": 1,
        "requested_rewrite": {
            "prompt": prompt,
            "relation_id": relation,
            "subject": subject or f"Ann{number}",
            "target_new": {"str": target or f"Norse{number}", "id": "Q1"},
            "target_true": {"str": "Old", "id": "Q2"},
        },
        "paraphrase_prompts": [f"The tongue of Ann{number}:"],
        "neighborhood_prompts": [f"Bob{number} speaks", f"Cy{number} speaks"],
        "attribute_prompts": [],
        "generation_prompts": [],
    }


def zsre(number, **changes):
    return {
        "subject": f"Work {number}",
        "src": f"Who made Work {number}?",
        "pred": "Nobody",
        "rephrase": f"By whom is Work {number}?",
        "alt": "Ann",
        "answers": ["Bob", "Bobby"],
        "loc": f"nq question: how high is hill {number}",
        "loc_ans": "9 feet",
        "cond": "",
        "portability": {
            "Recalled Relation": "(Ann, born in, Oslo)",
            "New Question": f"Where was the maker of Work {number} born?",
            "New Answer": "Oslo",
        },
    } | changes


def mquake(number, subject="Ann", rewrites=1, case=7):
    rewrite = {
        "prompt": "{} lives in",
        "relation_id": "P5",
        "target_new": {"str": "Norway", "id": "Q1"},
        "target_true": {"str": "Peru", "id": "Q2"},
        "subject": f"{subject}{number}",
        "question": f"Where does {subject}{number} live?",
    }
    return {
        "case_id": case,
        "requested_rewrite": [rewrite] * rewrites,
        "questions": [f"{ask} the capital of {subject}{number}'s land?" for ask in ("A", "B", "C")],
        "answer": "Lima",
        "answer_alias": [],
        "new_answer": "Oslo",
        "new_answer_alias": ["Kristiania"],
        "single_hops": [],
        "new_single_hops": [],
        "orig": {},
    }


def knowedit(number, **changes):
    return {
        "subject": f"Ann{number}",
        "prompt": f"The trade of Ann{number} is",
        "target_new": "smith",
        "ground_truth": "clerk",
        "portability": {
            "Reasoning": [{"prompt": f"Ann{number}'s tool is", "ground_truth": "a hammer"}],
            "Subject_Aliasing": [
                {"prompt": f"The trade of A{number} is", "ground_truth": [["smith", "smithy"], []]}
            ],
        },
        "locality": {
            "Relation_Specificity": [
                {"prompt": f"Ann{number}'s home is", "ground_truth": [["Oslo"], ["Bergen"]]}
            ],
            "Forgetfulness": [{"prompt": f"Ann{number}'s other trade is", "ground_truth": [[]]}],
        },
    } | changes
