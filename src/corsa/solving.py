"""An adapter in closed form: neurons that know a subject, and say what its last token must carry.

An MLP writes Σ_j act(g_j · x) (u_j · x) d_j into the residual stream, or the same without u. For every
value one of its neurons, of those that are missed least (`corsa.sparing`), is given away:

    g = β (w − θ b) / (1 − θ),    u = ((2 − θ) b − w) / (1 − θ),    d = the value / act(β),

where w · x is 1 at the subject's last token, in every wording, and least elsewhere; b · x is 1 wherever
the MLP reads, for it need not have a bias of its own. Under u a neuron says the same where w · x is not
quite 1: the product of both is flat there.

    w ∝ argmin mean_k (w · k − 1)² + λ E (w · x)²,    b = argmin E (b · x − 1)²

over keys k (what the MLP reads at the subject's last token) and x whatever it reads else. Between the
two the gate's threshold θ lies many standard deviations from either, so the neuron adds its value at its
subject and, other than a linear map that is solved for (MEMIT: Meng et al. 2023, arXiv 2210.07229),
nothing anywhere else, however many there are. Some names differ from the subject by so little that the
gate opens for them, too (the World Cup of another year): no linear function tells the subject from them
and from all text. Two do: u learns to be 0 there, whatever it is on text, where the gate is closed
(`tell_apart`). T-Patcher (Huang et al. 2023, arXiv 2301.09785) trains
such neurons beside those of a last layer; here they are solved for and are part of a plain LoRA adapter:
each takes one of its rank. In the rank that no neuron has the others make up for those given away.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import permutations
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from corsa.chat import Exchange
from corsa.config import Config
from corsa.errors import TrainingError
from corsa.models import Adapter, BaseModel, adaptable_modules
from corsa.sparing import make_up, spare
from corsa.step import Example
from corsa.values import Told, passes

# λ above, and of it what names that are nearly the subject weigh; what an open gate lets through before
# it is passed through `act`.
_ELSEWHERE, _NEAR, _OPEN = 0.1, 0.03, 10.5
# θ: this far below w · k of all but a few of the keys, by their share, and between two bounds. Other
# names are below it; wordings that were not solved for are a little below those that were.
_FEW, _BELOW, _LOWEST, _HIGHEST = 0.05, 0.1, 0.7, 0.8
# What names at which a gate opens weigh where u is told apart from them, and what u otherwise was.
_APART, _FLAT = 1.0, 0.03
# Of a value that little may be said at another's name.
_CLOSED = 0.05
# Neurons, of those that say least, that are given away and make up for each other: all of a small MLP.
_AMONG = 4096
# Tokens whose neurons are looked at in one go.
_BLOCK = 1024
# A layer adds what its projection writes to the residual stream if that moves what it says by as much,
# and an MLP is gated as above if its output projection reads that, to as much.
_AS_IT_IS = 0.05


class Site(NamedTuple):
    """A layer whose MLP can be given neurons.

    Attributes:
        layer: what it says is added to.
        reading: full names of the projections that read: the one whose result is passed through `act`,
            and the one it is multiplied with, if there is one.
        down: of the one that writes.
        act: the activation.
    """

    layer: nn.Module
    reading: tuple[str, ...]
    down: str
    act: Callable[[Tensor], Tensor]


def sites(adapter: Adapter, config: Config, probe: Exchange) -> Iterator[Site]:
    """Where an adapter can be solved for.

    Args:
        adapter: it must act on all projections of the MLP.
        config: `solve_layers`.
        probe: any exchange, to see by numbers what the projections do.

    Yields:
        Sites, from the lowest layer of `solve_layers` on; none where the model has no gated MLPs that
        write into the residual stream as they are.
    """
    outputs = adapter.base.outputs()
    first, last = (share * len(outputs) for share in config.solve_between())
    # The last layer has none above it that could read what it says.
    layers = range(len(outputs) - 1)
    # Of a small model the share may be less than one layer.
    nearest = sorted(layers, key=lambda i: (abs(i - (first + last) / 2), i))[:1]
    for number in [i for i in layers if first <= i <= last] or nearest:
        site = _site(adapter, *outputs[number], probe)
        if site is not None:
            yield site


@torch.no_grad()
def _site(adapter: Adapter, layer: nn.Module, down: str, probe: Exchange) -> Site | None:
    base = adapter.base
    within = down.rpartition(".")[0]
    inside = [name for name in adaptable_modules(base.hf) if name.startswith(f"{within}.")]
    reading = [name for name in inside if name != down]
    if not 1 <= len(reading) <= 2 or not all(map(adapter.acts_on, inside)):
        return None
    if not _adds(base, layer, down, probe):
        return None
    said = dict[str, Tensor]()

    def note(name: str) -> Any:
        module = base.hf.get_submodule(name)
        return module.register_forward_hook(
            lambda _, __, out: said.update({name: out.flatten(0, -2)})
        )

    hooks = [note(name) for name in reading]
    try:
        passed = next(iter(base.forward.passing([probe], [base.hf.get_submodule(down)], layer)))
    finally:
        for hook in hooks:
            hook.remove()
    mlp, truth = base.hf.get_submodule(within), passed.inputs[0]
    if len(truth) != len(passed.output):  # an expert: it reads the tokens that are sent to it
        return None
    for act in (child for child in mlp.children() if not list(child.parameters())):
        for order in permutations(reading):
            found = act(said[order[0]])
            if len(order) == 2:
                found = found * said[order[1]]
            # One projection may be both at once (Phi-3): what is passed through is then wider.
            alike = found.shape == truth.shape
            if alike and (found - truth).norm() <= _AS_IT_IS * truth.norm():
                return Site(layer, order, down, act)
    return None


@torch.no_grad()
def _adds(base: BaseModel, layer: nn.Module, name: str, probe: Exchange) -> bool:
    """Whether a layer says v more at a token where its projection writes v more."""
    module = base.hf.get_submodule(name)

    def said() -> Tensor:
        return next(iter(base.forward.passing([probe], [], layer))).output[-1].float()

    before = said()
    more = before.norm() * torch.nn.functional.normalize(torch.ones_like(before), dim=0)
    hook = module.register_forward_hook(lambda _, __, out: out + more.to(out.dtype))
    try:
        moved = said() - before
    finally:
        hook.remove()
    return bool((moved - more).norm() <= _AS_IT_IS * more.norm())


class Read(NamedTuple):
    """What a site's MLP reads where nothing may change.

    Attributes:
        site: full name of its output projection.
        inputs: by group, each (n, m).
    """

    site: str
    inputs: list[Tensor]


@torch.no_grad()
def read(adapter: Adapter, site: Site, groups: Sequence[Sequence[Exchange]]) -> Read:
    """See what a site's MLP reads.

    Args:
        adapter: it acts meanwhile.
        site: where.
        groups: what is read, in groups that count alike.

    Returns:
        It does not depend on neurons of that site.
    """
    with adapter.base.using(adapter.name):
        return _read(adapter.base, site, groups, {})


@torch.no_grad()
def write(
    adapter: Adapter,
    site: Site,
    told: Sequence[Told],
    shifts: Tensor,
    near: Sequence[Told],
    earlier: Sequence[Told],
    standing: Read,
    config: Config,
    detect: Detect | None = None,
) -> float:
    """Write values into an adapter, a neuron for each.

    Args:
        adapter: what is written into; it must have as much room at the site.
        site: where.
        told: wordings in which each value must be carried, all values of `shifts`; what stands beside
            the subject in those that are not `fresh` must not change either.
        shifts: what is to be added to what the layer says, by value, shape (E, D).
        near: wordings about names that are nearly the subject of a value, which is not added there.
        earlier: wordings of earlier edits, at whose spots nothing may change.
        standing: what else must not change, as it was `read` at this site.
        config: for the seed.
        detect: finds the linear functions; `detectors` unless it is given.

    Returns:
        Which part of the values, by length, is not there afterwards in wordings that are not `fresh`.

    Raises:
        TrainingError: if what the site reads or says is not finite.
    """
    base = adapter.base
    reading = [base.hf.get_submodule(name) for name in site.reading]
    gate, down = reading[0], base.hf.get_submodule(site.down)
    with base.using(adapter.name):
        whole = [one for one in told if not one.example.fresh]
        spots = dict[tuple[int, ...], set[int]]()
        for one in whole:
            spots.setdefault(one.example.chosen.prompt, set()).add(one.place)
        beside = _read(base, site, [[one.example.chosen for one in whole]], spots)
        told, near, earlier = _cut(told), _cut(near), _cut(earlier)
        begun, missed, held = (
            _at_spots(base, [gate], site.layer, part) for part in (told, near, earlier)
        )
        weights = [_weights(module) for module in reading]
    elsewhere = [*standing.inputs, *beside.inputs, *(keys for keys in held.inputs if len(keys))]
    _check(base, site, [*elsewhere, *begun.inputs])
    of_value, near_to = (torch.tensor([one.value for one in part]) for part in (told, near))
    keys = [begun.inputs[0][of_value == value] for value in range(len(shifts))]
    names = [missed.inputs[0][near_to == value] for value in range(len(shifts))]
    knows, always, metric = (detect or detectors)(keys, names, elsewhere)
    # Given away before.
    taken = adapter.moved(site.reading[0]).to(knows.device)
    with base.using(None):
        directions = _weights(down).matrix
        groups = [*standing.inputs, *beside.inputs]
        squares = _mean(site, reading, groups, lambda said: said.square().sum(0))
        costs = (squares * directions.square().sum(0)).masked_fill(taken, -1.0)
        among = costs.argsort()[:_AMONG]
        moment = _mean(site, reading, groups, lambda said: said[:, among].T @ said[:, among])
    _check(base, site, [moment])
    chosen = among[spare(directions[:, among], moment, taken[among], len(shifts))]
    opened = float(site.act(torch.tensor(_OPEN)))
    closed = thresholds(knows, keys)[:, None]
    gates = _OPEN * (knows - closed * always) / (1 - closed)
    flat = ((2 - closed) * always - knows) / (1 - closed)
    rows = [gates]
    if len(reading) == 2:

        def opening(value: int, inputs: Tensor) -> Tensor:
            return site.act(inputs.double() @ gates[value]) / opened

        rows.append(tell_apart(flat, opening, keys, names, metric))
    picked = torch.zeros(len(taken), len(chosen)).to(knows)
    picked[chosen, torch.arange(len(chosen))] = 1.0
    generator = torch.Generator().manual_seed(config.seed)
    for name, row, (weight, bias) in zip(site.reading, rows, weights, strict=True):
        change = row - bias[chosen, None] * always - weight[chosen]
        adapter.add(name, picked, change, generator)
    carried = torch.zeros_like(directions)
    # As it stands: what the model says of it is rounded, each time it would be read anew.
    carried[:, taken] = adapter.columns(site.down, taken)
    carried[:, chosen] = shifts.double().to(knows).T / opened - directions[:, chosen]
    gone = taken.clone()
    gone[chosen] = True
    room = adapter.rank(site.down) - int(gone.sum())
    columns, known = make_up(directions[:, among], moment, gone[among], room)
    does = torch.zeros(int(gone.sum()) + len(known), len(gone)).to(known)
    does[torch.arange(int(gone.sum())), gone.nonzero().flatten()] = 1.0
    does[len(does) - len(known) :, among] = known
    adapter.put(site.down, torch.cat([carried[:, gone], columns], dim=1), does, generator)
    looked = [number for number, one in enumerate(told) if not one.example.fresh]
    again = [told[number] for number in looked]
    asked = shifts.float()[of_value[looked]]
    with base.using(adapter.name):
        left = begun.output[looked] + asked - _at_spots(base, [], site.layer, again).output
    return float(left.norm() / asked.norm().clamp_min(1e-12))


def _check(base: BaseModel, site: Site, found: Sequence[Tensor]) -> None:
    if not all(bool(part.isfinite().all()) for part in found):
        raise TrainingError(
            f"what {site.reading[0]} reads or its neurons say is not finite in {base.dtype}: say "
            "dtype=float32, or solve=false"
        )


class Detectors(NamedTuple):
    """Linear functions of what an MLP reads, float64.

    Attributes:
        knows: w of each value, shape (E, m).
        always: b, shape (m,).
        metric: second moments of all that was read, each group alike, shape (m, m).
    """

    knows: Tensor
    always: Tensor
    metric: Tensor


# Given keys and near names of each value, and what else is read.
Detect = Callable[[Sequence[Tensor], Sequence[Tensor], Sequence[Tensor]], Detectors]


def detectors(
    keys: Sequence[Tensor], near: Sequence[Tensor], elsewhere: Sequence[Tensor]
) -> Detectors:
    """The linear functions that tell each value's keys from all else.

    Args:
        keys: of each value, shape (n, m).
        near: of names that are nearly its subject, shape (n, m). They weigh little: to tell them apart,
            too, takes directions in which all else varies less, and a gate would open anywhere.
        elsewhere: what else is read, in groups that count alike, each (n, m).

    Returns:
        w and b; see above.
    """
    # Sums: a matrix for each value would not fit where there are many and the model is wide.
    of_keys, of_groups = _moments(keys), _moments(elsewhere)
    count = len(keys) + len(elsewhere)
    mean = torch.stack([part.double().mean(0) for part in [*keys, *elsewhere]]).mean(0)
    found = []
    for value, part in enumerate(keys):
        own, rest, groups = _moment(part), of_groups, len(elsewhere)
        if len(keys) > 1:
            # Other values' keys are a group of their own.
            rest, groups = rest + (of_keys - own) / (len(keys) - 1), groups + 1
        rest = rest / max(groups, 1)
        if len(near[value]):
            rest = rest + _NEAR * _moment(near[value])
        mean_key = keys[value].double().mean(0)
        solution = _solve(own + _ELSEWHERE * rest, mean_key)
        found.append(solution / (mean_key @ solution))
    metric = (of_keys + of_groups) / count
    return Detectors(torch.stack(found), _solve(metric, mean), metric)


def thresholds(knows: Tensor, keys: Sequence[Tensor]) -> Tensor:
    """Where gates close.

    Args:
        knows: w of each value, shape (E, m), float64.
        keys: of each value, shape (n, m).

    Returns:
        θ of each value, shape (E,).
    """
    few = [(part.double() @ w).quantile(_FEW) for w, part in zip(knows, keys, strict=True)]
    return (torch.stack(few) - _BELOW).clamp(_LOWEST, _HIGHEST)


def tell_apart(
    flat: Tensor,
    opening: Callable[[int, Tensor], Tensor],
    keys: Sequence[Tensor],
    near: Sequence[Tensor],
    metric: Tensor,
) -> Tensor:
    """What a gate is multiplied with, so that nothing is left where it opens for another's name.

    For each value, with s what its gate lets through, by least squares,

        argmin_u  mean_k (s u · k − 1)² + μ mean_n (s u · n)² + ν E ((u − flat) · x)²,

    over keys k, names n at which it opens, and x whatever is read.

    Args:
        flat: what it is multiplied with if only keys open it, shape (E, m).
        opening: given a value and inputs (n, m), what its gate lets through, shape (n,); 1 at its keys.
        keys: of each value, shape (n, m).
        near: of names that are nearly its subject, shape (n, m).
        metric: of all that is read, from `detectors`.

    Returns:
        u of each value, shape (E, m), float64.
    """
    found = flat.clone()
    for value, (own, names) in enumerate(zip(keys, near, strict=True)):
        let_in = opening(value, names) if len(names) else torch.zeros(0)
        at = let_in.abs() > _CLOSED
        if not at.any():
            continue
        own = own.double() * opening(value, own)[:, None]
        names = (names.double() * let_in[:, None])[at]
        missing = own.T @ (1 - own @ flat[value]) / len(own)
        missing -= _APART * names.T @ (names @ flat[value]) / len(names)
        found[value] += _solve(_moment(own) + _APART * _moment(names) + _FLAT * metric, missing)
    return found


def _moments(parts: Sequence[Tensor]) -> Tensor:
    """Their sum; 0 of none."""
    total = torch.zeros(())
    for part in parts:
        total = total + _moment(part)
    return total


def _moment(inputs: Tensor) -> Tensor:
    wide = inputs.double()
    return wide.T @ wide / len(wide)


def _solve(metric: Tensor, right: Tensor) -> Tensor:
    # It need not be of full rank where little was seen.
    least = 1e-6 * metric.diagonal().mean().clamp_min(1e-12)
    found: Tensor = torch.linalg.solve(metric + least * torch.eye(len(metric)).to(metric), right)
    return found


class _Weights(NamedTuple):
    """What a projection does, adapter and all: shapes (out, in) and (out,), float64."""

    matrix: Tensor
    bias: Tensor


def _weights(module: nn.Module) -> _Weights:
    """It is asked rather than read: weights may be quantised, or transposed."""
    own: Any = getattr(module, "base_layer", module)
    width = getattr(own, "in_features", own.weight.shape[0])
    asked = torch.eye(width + 1, width, device=own.weight.device, dtype=_dtype(module))
    said = module(asked).double()
    return _Weights((said[:-1] - said[-1]).T, said[-1])


def _dtype(module: nn.Module) -> torch.dtype:
    weight: Any = getattr(module, "base_layer", module).weight
    # One with weights of eight bits and fewer, floating point or not, casts what it is given.
    wide = weight.is_floating_point() and weight.element_size() > 1
    return weight.dtype if wide else torch.get_default_dtype()


def _cut(told: Sequence[Told]) -> list[Told]:
    """Up to their spots, each once, as the first is: nothing behind them can be seen there."""
    found = dict[tuple[tuple[int, ...], int], Told]()
    for one in told:
        prompt = one.example.chosen.prompt[: one.place + 1]
        example = Example(Exchange(prompt, (0,)), fresh=one.example.fresh)
        found.setdefault((prompt, one.value), one._replace(example=example))
    return list(found.values())


class _AtSpots(NamedTuple):
    """What passes at the spots: inputs by module, each (n, m), and what the layer says, (n, D)."""

    inputs: list[Tensor]
    output: Tensor


def _at_spots(
    base: BaseModel, modules: Sequence[nn.Module], layer: nn.Module, told: Sequence[Told]
) -> _AtSpots:
    parts: list[list[Tensor]] = [[] for _ in modules]
    said: list[Tensor] = []
    for passed, found in passes(base, modules, layer, told):
        rows = [path[one.place] for path, one in found]
        for part, inputs in zip(parts, passed.inputs, strict=True):
            part.append(inputs[rows].float())
        said.append(passed.output[rows].float())
    empty = torch.zeros(0)
    return _AtSpots(
        [torch.cat(part) if part else empty for part in parts],
        torch.cat(said) if said else empty,
    )


def _read(
    base: BaseModel,
    site: Site,
    groups: Sequence[Sequence[Exchange]],
    spots: Mapping[tuple[int, ...], Collection[int]],
) -> Read:
    """What a site's MLP reads, but at the spots: by prompt the places that do not count."""
    module = base.hf.get_submodule(site.reading[0])
    read: list[Tensor] = []
    for group in groups:
        rest, parts = iter(group), list[Tensor]()
        for passed in base.forward.passing(group, [module], site.layer):
            counts = passed.often() > 0
            for path in passed.paths:
                for place in spots.get(next(rest).prompt, ()):
                    counts[path[place]] = False
            (inputs,) = passed.inputs
            parts.append(inputs[counts.to(inputs.device)].float())
        read.append(torch.cat(parts))
    return Read(site.down, read)


def _mean(
    site: Site,
    reading: Sequence[nn.Module],
    groups: Sequence[Tensor],
    summed: Callable[[Tensor], Tensor],
) -> Tensor:
    # In blocks: what all of a wide MLP's neurons say of everything that is read need not fit.
    total: Tensor | float = 0.0
    counted = [inputs for inputs in groups if len(inputs)]
    for inputs in counted:
        for block in torch.split(inputs, _BLOCK):
            said = _neurons(site, reading, block).double()
            total = total + summed(said) / (len(inputs) * len(counted))
    return torch.as_tensor(total)


def _neurons(site: Site, reading: Sequence[nn.Module], inputs: Tensor) -> Tensor:
    """What comes out of a site's neurons, shape (n, m')."""
    said: list[Tensor] = [module(inputs.to(_dtype(module))).float() for module in reading]
    found = site.act(said[0])
    return found * said[1] if len(said) == 2 else found
