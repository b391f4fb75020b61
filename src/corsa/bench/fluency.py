"""Whether an edited model still writes: how varied the words of its longer replies are."""

from __future__ import annotations

import re
from collections import Counter

from corsa.bench.finished import Finished, Numbers
from corsa.metrics import mean
from corsa.optional import optional

LENGTH = 100
SUBJECTS = 32
PROMPT = "Write a paragraph about {}."
PROTOCOL = (
    f"{PROMPT!r} for {SUBJECTS} subjects, evenly spaced over all rounds; chat template, greedy, at "
    rf"most {LENGTH} tokens; words by \w+|[^\w\s]"
)

# ROME's weights, w₂ = 2/3 and w₃ = 4/3, and its mean over both.
_WEIGHTS = {2: 1 / 3, 3: 2 / 3}


def fluency(finished: Finished) -> Numbers:
    """N-gram entropy of what the model writes about the edits' subjects (Meng et al. 2022, "GE").

    A model that repeats itself has a low one. So has a model that answers a request for a paragraph in
    three words: `fluency_words`, the mean length of the texts, tells the two apart.

    Args:
        finished: the run.

    Returns:
        fluency in bits (the literature prints it × 100) and fluency_words, each with the base model's
        beside it.
    """
    subjects = list(dict.fromkeys(p.edit.subject for p in finished.edits if p.edit.subject))
    count = min(SUBJECTS, len(subjects))
    chosen = (subjects[len(subjects) * number // count] for number in range(count))
    prompts = [PROMPT.format(subject) for subject in chosen]
    numbers: Numbers = {}
    for answerer, suffix in ((finished.after, ""), (finished.before, "_base")):
        texts = [reply.text for reply in answerer.answers(prompts, LENGTH)]
        numbers[f"fluency{suffix}"] = mean(map(ngram_entropy, texts))
        numbers[f"fluency_words{suffix}"] = mean(len(words(text)) for text in texts)
    return numbers


def ngram_entropy(text: str) -> float:
    """The weighted entropy of a text's bigrams and trigrams: ⅓ H₂ + ⅔ H₃.

    H_n = −Σ_g f(g) log₂ f(g) over the frequencies f of its word n-grams g, as in ROME
    (`eval_utils_counterfact.py`, after Zhang et al. 2018). There words are nltk's, whose sentence
    splitter needs data that has to be downloaded; here they are runs of letters and digits, and each
    other sign for itself.

    Args:
        text: any.

    Returns:
        Bits; 0 for a text of fewer than two different bigrams.
    """
    entropy = optional("scipy.stats", "bench").entropy
    found = words(text)
    total = 0.0
    for size, weight in _WEIGHTS.items():
        counts = Counter(zip(*(found[start:] for start in range(size)), strict=False))
        if len(counts) > 1:  # scipy makes 0/0 of nothing
            total += weight * float(entropy(list(counts.values()), base=2))
    return total


def words(text: str) -> list[str]:
    """Words and signs of a text.

    Args:
        text: any.

    Returns:
        Runs of letters and digits, and each other sign for itself; case is kept, as nltk keeps it.
    """
    return re.findall(r"\w+|[^\w\s]", text)
