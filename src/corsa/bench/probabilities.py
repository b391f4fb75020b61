"""What the model-editing literature measures without decoding: is the new answer the likelier one?

Definitions as in ROME and MEMIT (Meng et al. 2022, 2023; `eval_utils_counterfact.py` and
`eval_utils_zsre.py` of github.com/kmeng01/memit). One thing differs, as everywhere in corsa: the prompt
is the user's turn of the chat template and the answer the assistant's, where they write `prompt answer`
as running text. End-of-turn is no part of the answer here.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from statistics import harmonic_mean
from typing import NamedTuple

from torch import Tensor

from corsa.bench.finished import Finished, Numbers
from corsa.forward import AnswerLogps
from corsa.metrics import Number, mean
from corsa.planning import PlannedEdit

PROTOCOL = "teacher-forced; chat template, bare answer without end-of-turn; NLL is a mean per token"

# How ROME abbreviates what is asked: efficacy, paraphrase, neighbourhood.
_KINDS = ("e", "p", "n")


class _Contest(NamedTuple):
    """Two answers to one prompt, of which one should be the likelier."""

    case: int
    kind: str
    prompt: str
    right: str
    wrong: str


def counterfact(finished: Finished) -> Numbers:
    """CounterFact's success scores, magnitudes and their summary.

    With NLL(t|p) = −(1/n) Σ_j log p(t_j | p, t_<j) over the n tokens of an answer t:

    - ES: share of edits' prompts with NLL(y⁺) < NLL(y⁻); PS: of their paraphrases.
    - NS: share of locality probes with NLL(answer) < NLL(y⁺); in CounterFact the answer is y⁻.
    - EM, PM, NM: the mean of exp(−NLL(right)) − exp(−NLL(wrong)) over the same prompts.
    - S: the harmonic mean of ES, PS and NS.

    Means are taken within an edit first. Edits without y⁻ and probes without an answer are left out.

    Args:
        finished: the run.

    Returns:
        es, ps, ns, em, pm, nm and s; `None` where there is nothing to measure.
    """
    contests = [c for case, edit in enumerate(finished.edits) for c in _contests(case, edit)]
    # Both answers to a prompt stand side by side, so that a packed batch reads it once.
    prompts = [contest.prompt for contest in contests for _ in range(2)]
    targets = [answer for contest in contests for answer in (contest.right, contest.wrong)]
    nll = list(map(answer_nll, finished.after.logps(prompts, targets)))
    outcomes = list(zip(contests, nll[::2], nll[1::2], strict=True))
    numbers: Numbers = {}
    for kind in _KINDS:
        asked = [outcome for outcome in outcomes if outcome[0].kind == kind]
        numbers[f"{kind}s"] = _by_case((c.case, right < wrong) for c, right, wrong in asked)
        numbers[f"{kind}m"] = _by_case(
            (c.case, math.exp(-right) - math.exp(-wrong)) for c, right, wrong in asked
        )
    numbers["s"] = _score([numbers[f"{kind}s"] for kind in _KINDS])
    return numbers


def token_accuracy(finished: Finished) -> Numbers:
    """Teacher-forced accuracy, as on zsRE: the share of answer tokens that are the arg-max.

    As MEND and MEMIT take it: tokens of one edit are pooled, then edits are averaged; locality is
    measured against the data set's answer, not the base model's. Part of an answer earns part of the
    credit, and the right tokens before a place are given: read it beside `reliability`.

    Args:
        finished: the run.

    Returns:
        token_accuracy, and the same over paraphrases and locality probes.
    """
    asked = [
        (case, kind, prompt, answer)
        for case, planned in enumerate(finished.edits)
        for kind, prompt, answer in _answers(planned)
    ]
    found = finished.after.logps([row[2] for row in asked], [row[3] for row in asked])
    numbers: Numbers = {}
    for kind, name in zip(_KINDS, ("", "_paraphrases", "_locality"), strict=True):
        tokens = (
            (row[0], float(right))
            for row, logps in zip(asked, found, strict=True)
            if row[1] == kind
            for right in _answer_only(logps.greedy)
        )
        numbers[f"token_accuracy{name}"] = _by_case(tokens)
    return numbers


def answer_nll(logps: AnswerLogps) -> float:
    """NLL of an answer, a mean over its tokens, end-of-turn left out.

    Args:
        logps: of the answer, end-of-turn last.

    Returns:
        Nats per token.
    """
    return -float(_answer_only(logps.tokens).double().mean())


def _answer_only(tokens: Tensor) -> Tensor:
    return tokens[:-1]


def _contests(case: int, planned: PlannedEdit) -> Iterable[_Contest]:
    edit, old = planned.edit, planned.target_old
    if old is None:
        return
    yield _Contest(case, "e", edit.prompt, edit.target_new, old)
    for prompt in edit.paraphrases:
        yield _Contest(case, "p", prompt, edit.target_new, old)
    for probe in edit.locality:
        if probe.answers:
            yield _Contest(case, "n", probe.prompt, probe.answers[0], edit.target_new)


def _answers(planned: PlannedEdit) -> Iterable[tuple[str, str, str]]:
    edit = planned.edit
    yield "e", edit.prompt, edit.target_new
    yield from (("p", prompt, edit.target_new) for prompt in edit.paraphrases)
    yield from (("n", probe.prompt, probe.answers[0]) for probe in edit.locality if probe.answers)


def _by_case(values: Iterable[tuple[int, float]]) -> Number:
    """The mean over cases of the mean within each."""
    cases: dict[int, list[float]] = defaultdict(list)
    for case, value in values:
        cases[case].append(value)
    return mean(sum(own) / len(own) for own in cases.values())


def _score(shares: Sequence[Number]) -> Number:
    there = [share for share in shares if share is not None]
    return round(harmonic_mean(there), 6) if len(there) == len(shares) else None
