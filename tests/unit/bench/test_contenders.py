import pytest

from corsa.bench.contenders import parse_methods
from corsa.config import METHODS
from corsa.errors import ConfigError, UsageError


def read(text):
    return {contender.label: dict(contender.settings) for contender in parse_methods(text)}


@pytest.mark.parametrize("name", METHODS)
def test_every_method_can_be_named(name):
    assert read(name) == {name: {"method": name}}


def test_a_comma_inside_brackets_belongs_to_its_method():
    assert read("corsa[sam=false,rho=0.1], lora") == {
        "corsa[sam=false,rho=0.1]": {"method": "corsa", "sam": "false", "rho": "0.1"},
        "lora": {"method": "lora"},
    }


def test_a_setting_alone_is_a_method_and_labels_name_it():
    assert read("preset=paper") == {"preset=paper": {"preset": "paper"}}
    assert read("paper:preset=paper,no sam:corsa[sam=false],base:lora") == {
        "paper": {"preset": "paper"},
        "no sam": {"method": "corsa", "sam": "false"},
        "base": {"method": "lora"},
    }


def test_settings_of_all_come_below_those_of_the_method():
    (paper,) = parse_methods("paper:corsa[preset=paper,rank=4]")
    config = paper.config({"rank": "2", "beta": "0.3"}, seed=7)
    assert (config.rank, config.beta, config.seed) == (4, 0.3, 7)
    assert (config.learning_rate, config.method) == (2e-4, "corsa")


def test_labels_make_file_names():
    (contender,) = parse_methods("corsa[sam=false,rho=0.1]")
    assert contender.file_name == "corsa_sam=false,rho=0.1_"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "cannot be read"),
        ("corsa,,lora", "cannot be read"),
        ("corsa[sam=false", "cannot be read"),
        ("corsa]", "cannot be read"),
        ("corsa[sam]", "not of the form key=value"),
        ("in-context[method=lora]", "the method stands before the bracket"),
        ("corsa[=1]", "not of the form key=value"),
        ("lora,lora", "2 methods are called 'lora'"),
        ("a/b:lora,a?b:sam", "2 methods are called 'a_b'"),
        ("corsa[seed=1]", "--seeds"),
        ("corsa[dtype=float64]", "dtype .* must be that of all: use --set"),
    ],
)
def test_what_cannot_be_meant_is_refused(text, says):
    with pytest.raises(UsageError, match=says):
        parse_methods(text)


@pytest.mark.parametrize("text", ["corse", "corsa[smm=false]", "corsa[rank=x]", "preset=papers"])
def test_wrong_names_and_values_are_refused_before_anything_is_loaded(text):
    with pytest.raises(ConfigError):
        parse_methods(text)


def test_what_is_taught_is_no_setting():
    (one, other) = parse_methods("lora[teach=docs],old:corsa[rejected=old,rank=4]")
    assert (one.settings, one.lessons) == ({"method": "lora"}, {"teach": "docs"})
    assert other.settings == {"method": "corsa", "rank": "4"}
    assert other.lessons == {"rejected": "old"}
    with pytest.raises(UsageError, match="rejected is one of today, old"):
        parse_methods("corsa[rejected=never]")


@pytest.mark.parametrize(
    ("text", "idle"),
    [
        ("corsa[sam=false,rank=200]", ["sam"]),
        ("corsa[projection=none,dpo=false]", ["dpo", "projection"]),
        ("corsa", []),
        ("corsa[preset=trained,sam=false]", []),
        ("corsa[solve=false,sam=false]", []),
        ("preset=paper", []),
        ("lora[learning_rate=1e-3]", []),
    ],
)
def test_a_switch_of_steps_on_a_method_that_takes_none_is_noticed(text, idle):
    (contender,) = parse_methods(text)
    assert contender.idle({}) == idle


def test_what_all_methods_share_decides_whether_one_takes_steps():
    (contender,) = parse_methods("corsa[sam=false]")
    assert contender.idle({"solve": False}) == []
