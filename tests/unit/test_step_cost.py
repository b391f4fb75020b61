"""The step that is compared with TRL's is the same step, whatever corsa's defaults become."""

import pytest

from calling import script


@pytest.fixture(scope="module")
def step_cost():
    return script("benchmarks/step_cost.py")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_layer_is_adapted_and_the_dtype_is_the_one_named(step_cost, dtype):
    config = step_cost.config_of(step_cost.Case(dtype, examples=[None] * 8), {"method": "corsa"})
    assert (config.dtype, config.train_dtype, config.layers, config.parts) == (
        dtype, dtype, "all", "all",
    )  # fmt: skip
    assert (config.sft, config.dpo, config.sam, config.ascent) == (True, True, True, "exact")
    assert config.projection == "pcgrad"
    beyond = ("positives", "contrast", "keep_pool", "keep_plain", "replay")
    assert not any(getattr(config, name) for name in beyond)
    assert (config.batch_size, config.micro_batch, config.recompute) == (8, 0, False)


def test_only_the_row_that_says_so_ascends_by_the_gradient_before(step_cost):
    case = step_cost.Case("float32", examples=[None] * 8)
    assert step_cost.config_of(case, {"method": "corsa", "ascent": "lagged"}).ascent == "lagged"
    assert step_cost.config_of(case, {"method": "sft+dpo"}).projection == "none"
