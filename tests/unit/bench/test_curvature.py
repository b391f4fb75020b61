import pytest
import torch

import reference_step
from builders import (
    Scripted,
    as_pairs,
    base_model,
    examples,
    finished,
    planned,
    random_adapter,
    settings,
    with_reference,
)
from corsa.answerers import ContextAnswerer, ModelAnswerer
from corsa.bench import curvature as module
from corsa.bench.curvature import curvature, round_sharpness, sharpness, top_eigenvalue
from fakes import CHATML


@pytest.fixture
def edited():
    """A model that computes in float64 throughout, with an adapter that changes something."""
    base = base_model("gpt2", dtype=torch.float64)
    adapter = random_adapter(base)
    for param in adapter.params.values():
        param.data = param.data.double()
    with base.using(adapter.name):
        yield base, adapter.params


def gradient(base, params, batch):
    loss = reference_step.sft_loss(base.hf, as_pairs(batch))
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(params.values()))])


def explicit_hessian(base, params, batch, step=1e-5):
    """Central differences of the gradient, one entry of one matrix after the other."""
    rows = []
    for param in params.values():
        flat = param.data.view(-1)
        for entry in range(len(flat)):
            before = float(flat[entry])
            sides = []
            for side in (before + step, before - step):
                flat[entry] = side
                sides.append(gradient(base, params, batch))
            flat[entry] = before
            rows.append((sides[0] - sides[1]) / (2 * step))
    return torch.stack(rows)


def test_the_top_eigenvalue_is_that_of_the_explicit_hessian(edited, monkeypatch):
    base, params = edited
    some = {name: param for name, param in params.items() if "h.0.attn.c_proj" in name}
    batch = examples(2)
    hessian = explicit_hessian(base, some, batch)
    assert torch.allclose(hessian, hessian.T, atol=1e-7)
    exact = torch.linalg.eigvalsh(hessian)
    assert exact[-1] > 0
    assert top_eigenvalue(base.forward, some, batch) == pytest.approx(float(exact[-1]), rel=1e-2)
    monkeypatch.setattr(module, "_TOLERANCE", 1e-10)
    assert top_eigenvalue(base.forward, some, batch) == pytest.approx(float(exact[-1]), rel=1e-6)


@pytest.mark.parametrize(("dpo", "projection"), [(False, "none"), (True, "none"), (True, "pcgrad")])
def test_sharpness_is_the_rise_of_the_losses_a_step_uphill(edited, dpo, projection):
    base, params = edited
    config = settings(dpo=dpo, projection=projection, rho=0.1)
    batch = with_reference(base, examples())
    pairs, reference = as_pairs(batch), [example.reference for example in batch]
    uphill = reference_step.corsa_gradient(
        base.hf,
        params,
        pairs,
        sft=True,
        dpo=dpo,
        projection=projection,
        rho=None,
        beta=config.beta,
        reference=reference,
    )

    def loss():
        with torch.no_grad():
            total = reference_step.sft_loss(base.hf, pairs)
            if dpo:
                total += reference_step.dpo_loss(base.hf, pairs, reference, config.beta)
            return float(total)

    found = sharpness(base.forward, params, batch, config)
    here = loss()
    norm = torch.cat([g.flatten() for g in uphill.values()]).norm()
    for name, param in params.items():
        param.data += config.rho * uphill[name] / norm
    assert found == pytest.approx(loss() - here, rel=1e-6)
    assert found > 0


def test_a_finished_run_is_measured_on_its_last_round(monkeypatch):
    base = base_model(template=CHATML)
    adapter = random_adapter(base)
    before = {name: param.clone() for name, param in adapter.params.items()}
    seen = []
    inner = module.examples

    def listening(base, answerer, edits):
        seen.extend(edit.edit.prompt for edit in edits)
        return inner(base, answerer, edits)

    monkeypatch.setattr(module, "examples", listening)
    monkeypatch.setattr(module, "EDITS", 2)
    old = [planned("earlier", round=0)]
    run = finished(
        [*old, *(planned(f"p{i}", f"new {i}", "old" if i else None) for i in range(3))],
        base=base,
        before=ModelAnswerer(base),
        after=ModelAnswerer(base, adapter.name),
    )
    numbers = curvature(run)
    assert seen == ["p0", "p1"]
    assert all(value > 0 for value in numbers.values())
    assert numbers["sharpness"] != numbers["sharpness_sft"]
    each = round_sharpness(run)
    assert each == {name: numbers[name] for name in ("sharpness_sft", "sharpness")}
    assert all(torch.equal(before[name], param) for name, param in adapter.params.items())


def test_contrast_in_dpo_is_a_loss_of_what_was_trained_and_not_of_sft():
    base = base_model(template=CHATML)
    adapter = random_adapter(base)
    run = finished(
        [planned("p", "new", "old")],
        base=base,
        before=ModelAnswerer(base),
        after=ModelAnswerer(base, adapter.name),
        config=settings(contrast_dpo=True),
    )
    assert all(value > 0 for value in curvature(run).values())


def test_without_an_adapter_there_is_no_number():
    base = base_model()
    alone = ModelAnswerer(base)
    for after in (alone, ContextAnswerer(base, []), Scripted()):
        run = finished([planned()], base=base, before=alone, after=after)
        assert set(curvature(run).values()) == set(round_sharpness(run).values()) == {None}
