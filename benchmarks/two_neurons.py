"""A fact as two neurons: a mark at its subject, and its answer where the reply begins. An experiment.

    python benchmarks/two_neurons.py benchmarks/other_questions.jsonl

Any facts file that `corsa update` reads will do; of each subject the first fact is taken.

The default adds what a fact needs at its subject's last token, whatever is asked, so of an edited
subject little else is left (docs/log.md). There a model does not know yet what is asked; at the prompt's
last token it does, but hardly of whom. So a first neuron only marks the subject: with a vector half as
long as what the layer says there, found by gradients so that a middle layer can read it at the last
token of any question about the subject, while no reply moves (KL). A second neuron, in that layer, opens
where both the mark and the question are read, each found for itself: the mark whatever is asked, the
question whoever it is about. It says the answer. `corsa.solving` writes both.

Printed: how readable marks are (delta, in units of what else is read along the same direction; "10 %" is
a quantile), how far the second neuron opens, and replies, greedy, 16 tokens: right, and beginning with
the base model's four words. "Held out" are packaged questions of a third of the relations, by name, on
which nothing was fitted.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from corsa import company as companies, solving, values, variations
from corsa.answerers import ModelAnswerer
from corsa.beginning import Own, _Begun, _told
from corsa.chat import Exchange
from corsa.company import Company
from corsa.config import make_config
from corsa.errors import CorsaError
from corsa.matching import contains, exact
from corsa.models import load_model
from corsa.progress import Silent
from corsa.readers import read_edits
from corsa.step import Example

# Prompts of each subject by which a mark is found, of each kind; and how many of them in a step.
POOL, STEP = 24, 2
KEYS, MARKED, NEAR, UNSEEN = 90, 20, 60, 8
HELD_OUT = 3
# Of what is read, beside its second moments.
RIDGE = 1e-3


class Asked(NamedTuple):
    """A prompt about the subject of a value."""

    prompt: str
    value: int


def other_relation(topic, rng, *, held_out=False):
    """Something else that could be asked of a topic's subject, half of the times behind remarks."""
    relation = topic.relation
    chosen = [
        other
        for other in variations.library()
        if is_held_out(other.name) is held_out
        and (not relation or other.name != relation.name)
        and (not relation or set(relation.kinds) & set(other.kinds))
    ]
    if not chosen:
        return None
    wordings = chosen[int(rng.integers(len(chosen)))].wordings()
    before = variations._remarks(rng) if rng.random() < 0.5 else ""
    return variations.Shape(before, wordings[int(rng.integers(len(wordings)))]).about(topic.subject)


def is_held_out(name: str) -> bool:
    """Whether nothing is fitted on a relation."""
    return int(hashlib.sha256(name.encode()).hexdigest(), 16) % HELD_OUT == 0


class Experiment:
    """Edits, a model, and an adapter that acts where both neurons go."""

    def __init__(self, edits, options):
        self.edits, self.options = edits, options
        self.config = make_config({"layers": "0.1-0.7"})
        self.base = load_model("smollm2", self.config)
        self.adapter = self.base.new_adapter("two", self.config)
        self.company = Company(self.base, edits, [], edits, self.config, Silent())
        probe = self.base.chat.exchange(edits[0].prompt, edits[0].target_new)
        second = replace(self.config, solve_layers=options.layers)
        self.subject_site = next(solving.sites(self.adapter, self.config, probe))
        self.answer_site = next(solving.sites(self.adapter, second, probe))
        own = [
            Own(e.prompt, Example(self.base.chat.exchange(e.prompt, e.target_new))) for e in edits
        ]
        self.begun = _Begun(
            self.adapter,
            own,
            self.company,
            self.config,
            Silent(),
            [self.subject_site],
            lambda _, f: f(),
        )
        self.subjects = self.begun.subjects(range(len(own)))
        self.facts = [one.facts[0] for one in self.subjects]
        self.standing = self.company.standing()
        self.length = self.usual_length()

    def edit(self, value):
        """The edit of a value, with the subject that was found in it where none was given."""
        return self.company.own[self.facts[value]]

    def wordings(self, value, count, stream):
        """Fresh wordings of an edit."""
        return self.company.wordings(self.facts[value], count, stream=stream)

    def questions(self, value, count, stream, *, held_out=False):
        """Something else about its subject."""
        rng, topic = np.random.default_rng([stream, value]), self.company.topics[self.facts[value]]
        found = [other_relation(topic, rng, held_out=held_out) for _ in range(count)]
        return [prompt for prompt in found if prompt]

    def every(self, make) -> list[Asked]:
        """What is made of each value."""
        return [Asked(p, value) for value in range(len(self.facts)) for p in make(value)]

    # --- Marks ---

    def passed(self, asked: Sequence[Asked], marks: Tensor | None) -> tuple[Tensor, Tensor]:
        """What the answer's MLP reads at the last token, and log-probabilities of the reply's first."""
        chat, hf = self.base.chat, self.base.hf
        rows = [list(chat.prompt_ids(one.prompt)) for one in asked]
        longest = max(map(len, rows))
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
        each, last = torch.arange(len(rows)), torch.tensor([len(row) - 1 for row in rows])
        more = None
        if marks is not None:
            at = [chat.place_of(one.prompt, self.edit(one.value).subject or "") for one in asked]
            more = torch.zeros(*ids.shape, marks.shape[1])
            more = more.index_put((each, torch.tensor(at)), marks[[one.value for one in asked]])
        read = []
        mlp = hf.get_submodule(self.answer_site.down.rpartition(".")[0])
        hooks = [mlp.register_forward_pre_hook(lambda _, given: read.append(given[0]))]
        if more is not None:
            hooks.append(
                self.subject_site.layer.register_forward_hook(lambda *a: plus(a[-1], more))
            )
        try:
            said = hf.model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        finally:
            for hook in hooks:
                hook.remove()
        logits = hf.get_output_embeddings()(said[each, last])
        return read[0][each, last].float(), logits.float().log_softmax(-1)

    def find_marks(self) -> Tensor:
        """Marks of shape (E, D), in units of the usual length of what their layer says."""
        options, generator = self.options, torch.Generator().manual_seed(0)
        for param in self.base.hf.parameters():
            param.requires_grad_(requires_grad=False)
        pool = self.every(lambda v: self.wordings(v, POOL, 0))
        worded = len(pool)
        pool += self.every(lambda v: self.questions(v, POOL, 0))
        before = [self.passed([one], None) for one in pool]
        reads = torch.cat([read for read, _ in before])
        metric = self._metric(reads)
        marks = torch.randn(len(self.facts), reads.shape[1], generator=generator)
        marks = options.length * torch.nn.functional.normalize(marks, dim=1)
        marks.requires_grad_(True)
        optimizer = torch.optim.Adam([marks], lr=options.rate, betas=(0.9, 0.99))
        rng = np.random.default_rng(0)
        groups = [
            [i for i, one in enumerate(pool) if one.value == v and (i < worded) is kind]
            for v in range(len(self.facts))
            for kind in (True, False)
        ]
        moved = torch.zeros(len(self.facts), reads.shape[1], dtype=torch.double)
        for step in range(options.steps + 1):
            drawn = [int(i) for group in groups if group for i in rng.choice(group, STEP)]
            of = torch.tensor([pool[i].value for i in drawn])
            read, said = self.passed([pool[i] for i in drawn], self.length * marks)
            change = read - reads[drawn]
            found = [change.detach()[of == v].double().mean(0) for v in range(len(self.facts))]
            moved = torch.stack(found) if not step else 0.7 * moved + 0.3 * torch.stack(found)
            directions = self._directions(moved, metric)
            delta = (change * directions[of]).sum(1)
            was = torch.cat([before[i][1] for i in drawn])
            kl = (was.exp() * (was - said)).sum(1).mean()
            loss = (1 - delta / options.read).relu().square().mean() + options.weight * kl
            optimizer.zero_grad()
            if step < options.steps:
                loss.backward()
                optimizer.step()
            with torch.no_grad():
                marks *= (options.length / marks.norm(dim=1, keepdim=True)).clamp(max=1)
            if step % 5 == 0 or step == options.steps:
                with torch.no_grad():
                    print(
                        f"mark {step}: delta {delta.mean():.1f} (10 %: {delta.quantile(0.1):.1f}), "
                        f"KL {kl:.4f}, length {marks.norm(dim=1).mean():.2f}",
                        flush=True,
                    )
        marks = marks.detach()
        for name, asked in (
            ("unseen wordings", self.every(lambda v: self.wordings(v, UNSEEN, 1))),
            (
                "held-out questions",
                self.every(lambda v: self.questions(v, UNSEEN, 1, held_out=True)),
            ),
            ("paraphrases", self.every(lambda v: self.edit(v).paraphrases)),
        ):
            self._report_marks(name, asked, marks, directions)
        return marks

    @torch.no_grad()
    def _report_marks(self, name, asked, marks, directions) -> None:
        if not asked:
            return
        (read, was), (marked, said) = (
            self.passed(asked, None),
            self.passed(asked, self.length * marks),
        )
        delta = ((marked - read) * directions[[one.value for one in asked]]).sum(1)
        kl = (was.exp() * (was - said)).sum(1).mean()
        same = (was.argmax(1) == said.argmax(1)).float().mean()
        print(
            f"marked {name} ({len(asked)}): delta {delta.mean():.1f} (10 %: {delta.quantile(0.1):.1f}), "
            f"KL {kl:.4f}, first token as before {same:.0%}",
            flush=True,
        )

    def _metric(self, last: Tensor) -> Tensor:
        """Second moments of what is read: of all that stands, and at last tokens."""
        read = [*solving.read(self.adapter, self.answer_site, self.standing).inputs, last]
        return sum(solving._moment(part) for part in read) / len(read)

    def _directions(self, moved: Tensor, metric: Tensor) -> Tensor:
        """Where each mark is told best from all that is read and from other marks; mean square 1."""
        others = moved.T @ moved
        found = []
        for one in moved:
            direction = solving._solve(metric + others - one[:, None] * one, one)
            found.append(direction / (direction @ metric @ direction).sqrt())
        return torch.stack(found).float()

    def usual_length(self) -> float:
        """Of what the subjects' layer says at their last tokens."""
        told = [
            one
            for v, subject in enumerate(self.subjects)
            for one in self.begun._worded(v, subject, 3, 0)
        ]
        with self.base.using(None):
            return float(values._usual_length(self.base, self.subject_site.layer, told))

    def write_marks(self, marks: Tensor) -> None:
        """Write them where the default writes values."""
        begun, told, near = self.begun, [], []
        for v, subject in enumerate(self.subjects):
            told += [*begun._asked(v, subject), *begun._worded(v, subject, KEYS, 2)]
            for prompt in self.questions(v, MARKED, 2):
                ids = self.base.chat.prompt_ids(prompt)
                example = Example(Exchange(ids, (0,)), fresh=True)
                told.append(_told(self.base, prompt, example, self.edit(v), v))
            near += begun._near(v, subject)
        standing = solving.read(self.adapter, self.subject_site, self.standing)
        missing = solving.write(
            self.adapter,
            self.subject_site,
            told,
            self.length * marks,
            near,
            [],
            standing,
            self.config,
        )
        print(f"marks written, {missing:.1%} of them missing", flush=True)

    # --- Answers ---

    def at_last(self, prompt: str, value: int, *, fresh: bool = True) -> values.Told:
        """A prompt, and its last token as the place of a value."""
        exchange = self.base.chat.exchange(prompt, self.edit(value).target_new)
        return values.Told(Example(exchange, fresh=fresh), len(exchange.prompt) - 1, value)

    def write_answers(self) -> None:
        """Find and write what the last token must say where mark and question meet."""
        count = len(self.facts)
        own = [self.at_last(self.edit(v).prompt, v, fresh=False) for v in range(count)]

        def draw(step, left):
            worded = [
                self.at_last(p, v)
                for v in left
                for p in self.wordings(v, self.config.solve_wordings, 10 + step)
            ]
            return [*(own[v] for v in left), *worded], []

        found = values.find(
            self.base, "two", self.answer_site.layer, count, draw, self.config, lambda *_: None
        )
        print(
            f"answers: {found.steps} steps, {found.loss:.2f} nats, {found.fresh:.0%} right",
            flush=True,
        )
        told = [
            *own,
            *(self.at_last(*one) for one in self.every(lambda v: self.wordings(v, KEYS, 2))),
        ]
        standing = solving.read(self.adapter, self.answer_site, self.standing)
        shifts = self.options.gain * found.shifts
        missing = solving.write(
            *(self.adapter, self.answer_site, told, shifts, [], [], standing, self.config),
            detect=self.knowing_both,
        )
        print(f"answers written, {missing:.1%} of them missing", flush=True)

    def knowing_both(
        self, keys: Sequence[Tensor], near: Sequence[Tensor], elsewhere: Sequence[Tensor]
    ) -> solving.Detectors:
        """Half of a gate reads whose mark it is, whatever is asked; half what is asked, whoever of.

        Found together, as the gates of subjects are, what is asked is known in the wordings it was found
        in alone: of one subject there are too few.
        """
        asked = self.read_at_last(self.every(lambda v: self.questions(v, NEAR, 2)))
        strangers = self.read_at_last(self.every(lambda v: self.about_others(v, NEAR)))
        always, metric = solving.detectors(keys, near, elsewhere)[1:]
        found = []
        for v in range(len(keys)):
            others = [w for w in range(len(keys)) if w != v]
            marked = [torch.cat([keys[w], asked[w]]) for w in others]
            mark = readout([keys[v], asked[v]], [strangers[v], *elsewhere], marked)
            relation = readout(
                [keys[v], strangers[v]], [asked[v], *elsewhere], [asked[w] for w in others]
            )
            found.append((mark + relation) / 2)
        return solving.Detectors(torch.stack(found), always, metric)

    def about_others(self, value, count):
        """Its own wordings about other subjects."""
        rng, topic = np.random.default_rng(value), self.company.topics[self.facts[value]]
        shapes = [variations.positive(topic, rng) for _ in range(count)]
        return [p for shape in shapes for p in self.company._others(shape, topic, 1, rng)]

    def read_at_last(self, asked: Sequence[Asked]) -> list[Tensor]:
        """What the answer's MLP reads at the last tokens of prompts, by value."""
        told = solving._cut([self.at_last(*one) for one in asked])
        site, base = self.answer_site, self.base
        gate = base.hf.get_submodule(site.reading[0])
        with torch.no_grad(), base.using("two"):
            (read,) = solving._at_spots(base, [gate], site.layer, told).inputs
        of = torch.tensor([one.value for one in told])
        return [read[of == value] for value in range(len(self.facts))]

    # --- What comes of it ---

    def report(self) -> None:
        """Print openings and replies."""
        asked = {
            "own prompts": self.every(lambda v: [self.edit(v).prompt]),
            "unseen wordings": self.every(lambda v: self.wordings(v, UNSEEN, 1)),
            "paraphrases": self.every(lambda v: self.edit(v).paraphrases),
            "locality": self.every(lambda v: [p.prompt for p in self.edit(v).locality]),
            "held out": self.every(lambda v: self.questions(v, UNSEEN, 1, held_out=True)),
        }
        for name, part in asked.items():
            if not part:
                continue
            opened = torch.tensor([self.opening(one.prompt) for one in part])
            prompts = [one.prompt for one in part]
            before, after = (
                ModelAnswerer(self.base, who).answers(prompts, 16) for who in (None, "two")
            )
            right, inside, same = (
                sum(test) / len(part)
                for test in (
                    [
                        exact(a.text, self.edit(o.value).target_new)
                        for a, o in zip(after, part, strict=True)
                    ],
                    [
                        contains(a.text, self.edit(o.value).target_new)
                        for a, o in zip(after, part, strict=True)
                    ],
                    [
                        b.text.split()[:4] == a.text.split()[:4]
                        for b, a in zip(before, after, strict=True)
                    ],
                )
            )
            print(
                f"{name} ({len(part)}): open to {opened.mean():.2f} (10 %: {opened.quantile(0.1):.2f}, "
                f"90 %: {opened.quantile(0.9):.2f}); the new answer {right:.1%}, somewhere in the reply "
                f"{inside:.1%}, begins as before {same:.1%}",
                flush=True,
            )

    @torch.no_grad()
    def opening(self, prompt: str) -> float:
        """How far the most open of the second neurons opens at a prompt's last token."""
        site, said = self.answer_site, []
        whole = float(site.act(torch.tensor(solving._OPEN)))
        module = self.base.hf.get_submodule(site.down)
        hook = module.register_forward_pre_hook(lambda _, given: said.append(given[0]))
        try:
            with self.base.using("two"):
                self.base.hf(torch.tensor([self.base.chat.prompt_ids(prompt)]))
        finally:
            hook.remove()
        return float(said[0][0, -1][self.adapter.moved(site.reading[0])].abs().max()) / whole


def readout(one: Sequence[Tensor], none: Sequence[Tensor], others: Sequence[Tensor]) -> Tensor:
    """The linear function that is 1 on some groups, and least on others; `others` count as one."""
    apart = [solving._moment(part) for part in none]
    if others:
        apart.append(sum(map(solving._moment, others)) / len(others))
    own = sum(map(solving._moment, one)) / len(one)
    mean = torch.stack([part.double().mean(0) for part in one]).mean(0)
    metric = own + sum(apart) / len(apart)
    metric += RIDGE * metric.diagonal().mean() * torch.eye(len(metric)).double()
    found = torch.linalg.solve(metric, mean)
    return found / (mean @ found)


def plus(said, more):
    """What a layer says, and more."""
    return (said[0] + more, *said[1:]) if isinstance(said, tuple) else said + more


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("facts", type=Path)
    parser.add_argument("--layers", default="0.5-0.56", help="of the second neurons")
    parser.add_argument("--steps", type=int, default=25, help="that look for marks; 0: random ones")
    parser.add_argument("--length", type=float, default=0.5, help="of a mark, at most")
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--read", type=float, default=6.0, help="delta that is enough")
    parser.add_argument("--gain", type=float, default=1.0, help="of what the second neurons say")
    parser.add_argument("--weight", type=float, default=5.0, help="of KL beside it")
    options = parser.parse_args()
    # What else is asked of a subject must not be what is held out.
    companies.other_relation = other_relation
    try:
        edits = read_edits(options.facts).edits
    except CorsaError as error:
        parser.error(str(error))
    experiment = Experiment(edits, options)
    experiment.write_marks(experiment.find_marks())
    experiment.write_answers()
    experiment.report()


if __name__ == "__main__":
    main()
