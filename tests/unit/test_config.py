import dataclasses

import pytest

from corsa.config import METHODS, PRESETS, PROJECTIONS, Config, describe, make_config
from corsa.errors import ConfigError

SWITCHES = ("sft", "dpo", "projection", "sam")


def test_defaults_are_the_method_corsa():
    assert make_config({}) == Config()
    assert {name: getattr(Config(), name) for name in SWITCHES} == METHODS["corsa"]


@pytest.mark.parametrize("method", [name for name in METHODS if METHODS[name]])
def test_a_method_is_a_name_for_four_switches(method):
    config = make_config({"method": method})
    assert METHODS[method].keys() >= set(SWITCHES)
    assert {name: getattr(config, name) for name in METHODS[method]} == METHODS[method]
    assert config.trains
    others = dict.fromkeys((*METHODS[method], "method"))
    assert config.to_dict() | others == Config().to_dict() | others


@pytest.mark.parametrize("method", ["lora", "sam", "sft+dpo", "ft-l"])
def test_a_baseline_has_nothing_beyond_the_paper(method):
    config = make_config({"method": method})
    beyond = ("replay", "keep_pool", "keep_plain", "positives", "contrast", "other_relations")
    assert not any(getattr(config, name) for name in beyond)
    assert config.ascent == "exact"
    assert make_config({"method": method, "replay": 3}).replay == 3  # whoever asks for it gets it


def test_an_ablation_of_one_switch_keeps_all_else():
    config, whole = make_config({"sam": "false"}), make_config({})
    assert config == dataclasses.replace(whole, sam=False)


@pytest.mark.parametrize("method", ["lora", "sam", "sft+dpo", "ft-l"])
def test_a_name_without_its_settings_is_refused(method):
    with pytest.raises(ConfigError, match="make_config") as caught:
        Config(method=method, rank=4)
    assert f"method={method}" in str(caught.value)


def test_facts_get_neurons_unless_all_is_trained():
    """An adapter of 128 acts as strongly as one of 32: alpha / rank is the same."""
    whole, trained = make_config({}), make_config({"preset": "trained"})
    assert (whole.solve, whole.rank, whole.alpha) == (True, 128, 256.0)
    assert trained == dataclasses.replace(
        whole, preset="trained", solve=False, rank=32, alpha=64.0, layers="0.1-0.5"
    )
    for other in ({"method": "lora"}, {"method": "sft+dpo"}, {"preset": "paper"}):
        config = make_config(other)
        assert (config.solve, config.rank, config.alpha) == (False, 32, 64.0)


@pytest.mark.parametrize("layers", ["all", "0.5-1", "half"])
def test_a_layer_above_must_read_what_is_solved_for(layers):
    with pytest.raises(ConfigError, match="solve_layers"):
        Config(solve_layers=layers)


@pytest.mark.parametrize("method", ["in-context", "retrieval"])
def test_facts_in_the_prompt_train_nothing(method):
    assert not make_config({"method": method}).trains


def test_single_settings_win_over_preset_and_method():
    config = make_config({"preset": "paper", "rank": 4, "method": "lora", "sam": True})
    assert (config.rank, config.sam, config.dpo) == (4, True, False)
    assert config.epochs == PRESETS["paper"]["epochs"]


def test_the_paper_preset_is_the_authors_settings():
    config = make_config({"preset": "paper"})
    assert (config.rank, config.alpha, config.beta, config.rho) == (32, 64.0, 0.1, 0.05)
    assert (config.learning_rate, config.epochs, config.warmup_steps) == (2e-4, 10, 5)
    assert (config.batch_size, config.micro_batch, config.clip) == (32, 8, 1.0)
    assert (config.stop, config.replay, config.projection) == ("epochs", 0, "pcgrad")


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ({"rank": "16"}, 16),
        ({"learning_rate": "1e-3"}, 1e-3),
        ({"learning_rate": 1}, 1.0),
        ({"drift": "false"}, False),
        ({"drift": "off"}, False),
        ({"drift": "True"}, True),
        ({"stop": "epochs"}, "epochs"),
        ({"device": "cuda:1"}, "cuda:1"),
        ({"clip": "0"}, 0.0),
    ],
)
def test_values_may_be_typed_on_a_command_line(typed, read):
    (name,) = typed
    value = getattr(make_config(typed), name)
    assert value == read
    assert type(value) is type(read)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"rnak": 4}, "unknown setting 'rnak'; did you mean rank"),
        ({"zzzzzz": 4}, "unknown setting 'zzzzzz'; there are: method, preset"),
        ({"method": "corza"}, "method='corza' is unknown; did you mean 'corsa'"),
        ({"method": "xyz"}, "choose from corsa, lora"),
        ({"preset": "papre"}, "did you mean 'paper'"),
        ({"projection": "pc-grad"}, "did you mean 'pcgrad'"),
        ({"stop": "never"}, "stop='never' is unknown"),
        ({"rank": "four"}, "rank='four' is not a whole number"),
        ({"rank": "4.5"}, "rank='4.5' is not a whole number"),
        ({"rank": 4.0}, "rank=4.0 is of type float: give int"),
        ({"rank": True}, "rank=True is of type bool: give int"),
        ({"rank": 0}, "rank=0 is out of range: give a number of at least 1"),
        ({"seed": -1}, "seed=-1 is out of range"),
        ({"learning_rate": "fast"}, "learning_rate='fast' is not a number"),
        ({"learning_rate": "nan"}, "learning_rate=nan is out of range"),
        ({"learning_rate": "inf"}, "learning_rate=inf is out of range"),
        ({"rho": -0.1}, "rho=-0.1 is out of range"),
        ({"near_miss": 1.5}, "near_miss=1.5 is out of range: give a number of at most 1"),
        ({"drift": "perhaps"}, "drift='perhaps' is not true or false"),
        ({"drift": 1}, "drift=1 is of type int: give bool"),
        ({"device": None}, "device=None is of type NoneType: give str"),
        ({"dropout": 1.0}, "dropout=1.0 drops everything"),
        ({"sft": False, "dpo": False}, "leave nothing to train"),
        ({"sft_weight": 0.0}, "sft_weight=0 trains nothing"),
        ({"dpo": False}, "projection=pcgrad needs two losses and only sft is on"),
        (
            {"dpo": False, "projection": "none", "contrast_dpo": True},
            "contrast_dpo=true needs dpo=true",
        ),
        ({"sft": False, "projection": "one-sided"}, "needs two losses and only dpo is on"),
        ({"null_space": 2.0}, "null_space=2.0 is out of range: give a number of at most 1"),
        ({"method": "ft-l", "null_space": 0.9}, "null_space is of adapters"),
    ],
)
def test_a_wrong_setting_is_named_with_what_to_do(settings, told):
    with pytest.raises(ConfigError) as caught:
        make_config(settings)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_one_loss_needs_no_projection():
    assert make_config({"dpo": False, "projection": "none"}).sft


def test_a_config_comes_back_from_its_dict():
    config = make_config({"method": "lora", "rank": 3})
    assert Config(**config.to_dict()) == config


def test_settings_are_described_in_order():
    described = describe()
    assert [name for name, _, _ in described] == [f.name for f in dataclasses.fields(Config)]
    assert all(default and meaning for _, default, meaning in described)
    assert ("drift", "true") in [(name, default) for name, default, _ in described]


def test_every_described_default_can_be_typed_back():
    typed = {name: default for name, default, _ in describe()}
    assert make_config(typed) == Config()


def test_every_preset_and_method_is_valid_alone():
    for method in METHODS:
        for preset in PRESETS:
            make_config({"method": method, "preset": preset})


def test_projections_are_those_that_exist():
    from corsa.projection import WEIGHTS

    assert set(PROJECTIONS) == set(WEIGHTS) | {"none"}


@pytest.mark.parametrize("layers", ["3-14", "0.5-0.1", "0.5", "first", "", "0.1-0.1", "-1-1"])
def test_layers_that_cannot_be_read_are_refused(layers):
    with pytest.raises(ConfigError, match="shares of the depth"):
        make_config({"layers": layers})


def test_layers_are_shares_of_the_depth():
    assert make_config({"layers": "0.25-.5"}).layers_between() == (0.25, 0.5)
    assert make_config({"layers": "all"}).layers_between() == (0.0, 1.0)
