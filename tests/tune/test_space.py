"""Search spaces: from the types of a dataclass, and as a user states them."""

import dataclasses
from typing import Annotated, Literal

import pytest

import jaxcnn as jc
from jaxcnn.cli import flags, spaces, tune
from jaxcnn.core.ranges import Choice, Range
from jaxcnn.tune.space import derived, stated

distributions = pytest.importorskip("optuna").distributions


@dataclasses.dataclass(frozen=True)
class Settings:
    rate: Annotated[float, Range(1e-4, 1e-2)] = 1e-3
    share: Annotated[float, Range(0.0, 0.5)] = 0.0
    narrow: Annotated[float, Range(1.0, 99.0)] = 1.0
    rows: Annotated[int | None, Range(1, 1000)] = None
    width: Annotated[int, Range(8, 64, 8)] = 8
    optional: Annotated[int, Range(1, 5)] | None = None
    kind: Literal["a", "b"] = "a"
    size: Annotated[int, Choice((3, 5))] = 3
    flip: bool = False
    seed: int = 0
    name: str = ""


def test_types_become_distributions():
    number, whole, choice = (getattr(distributions, f"{n}Distribution") for n in ("Float", "Int", "Categorical"))
    assert derived(Settings) == {
        "rate": number(1e-4, 1e-2, log=True),
        "share": number(0.0, 0.5),
        "narrow": number(1.0, 99.0),
        "rows": whole(1, 1000, log=True),
        "width": whole(8, 64, step=8),
        "optional": whole(1, 5),
        "kind": choice(("a", "b")),
        "size": choice((3, 5)),
        "flip": choice((False, True)),
    }


def test_users_state_values():
    assert stated(Settings, "rate", "1e-5:1e-1") == distributions.FloatDistribution(1e-5, 1e-1, log=True)
    assert stated(Settings, "seed", "1:9") == distributions.IntDistribution(1, 9)
    assert stated(Settings, "rows", "32,64") == distributions.CategoricalDistribution((32, 64))
    assert stated(Settings, "flip", "true,false") == distributions.CategoricalDistribution((True, False))
    assert stated(Settings, "kind", "a,c") == distributions.CategoricalDistribution(("a", "c"))


@pytest.mark.parametrize(
    "name, values",
    [("rate", "1:1"), ("rate", "3:1"), ("rate", "a:b"), ("rate", "1"), ("rate", ""), ("rows", "1.5,2"),
     ("rows", "4,4"), ("flip", "yes,no"), ("kind", "a"), ("kind", "1:2"), ("rate", "nan:1"), ("rate", "0:inf")],
)  # fmt: skip
def test_other_values_are_one_line(name, values):
    with pytest.raises(jc.InputError, match=rf"^{name}={values}: must be ") as caught:
        stated(Settings, name, values)
    assert "\n" not in str(caught.value)


def test_settings_of_the_command_can_be_searched():
    known = spaces.searchable()
    wanted = {
        "learning_rate", "momentum", "weight_decay", "label_smoothing", "dropout", "ema", "augment", "batch_size",
        "class_weights", "precision", "cifar_stem", "depth", "width", "kernel_size",
    }  # fmt: skip
    assert set(known) == wanted
    config = tune.Tune(search=("momentum", "weight-decay=0.001:0.1", "kernel_size", "depth=1,2"), model="plain")
    assert spaces.names(config) == ["momentum", "weight_decay", "kernel_size", "depth"]
    assert spaces.space_of(config) == {
        "momentum": distributions.FloatDistribution(0.8, 0.98),
        "weight_decay": distributions.FloatDistribution(0.001, 0.1, log=True),
        "kernel_size": distributions.CategoricalDistribution((3, 5, 7)),
        "depth": distributions.CategoricalDistribution((1, 2)),
    }
    augmented = tune.Tune(search=("augment",))
    assert spaces.space_of(augmented)["augment"].choices == flags.AUGMENT[1:]
    assert spaces.space_of(augmented, "sounds")["augment"].choices == ("auto", "none")


@pytest.mark.parametrize(
    "given, line",
    [
        ({"search": ("epochs",)}, "--search epochs: has no values to search; choose from augment"),
        ({"search": ("strategy",)}, "--search strategy: has no values"),
        ({"search": ("moment",)}, "--search 'moment': unknown; did you mean 'momentum'"),
        ({"search": ("dropout", "dropout=0:0.1")}, "--search dropout: is there twice"),
        ({"search": ("dropout=0.1:2",)}, "dropout=2.0: must be"),
        ({"search": ("ema=0.5,1",)}, "--ema 1.0: must be"),
        ({"search": ("momentum=0:1",)}, "--momentum 1.0: must be"),
        ({"search": ("batch_size=0,8",)}, "--batch-size 0: must be at least 1"),
        ({"search": ("dropout=0.1,0.10",)}, "--search dropout=0.1,0.10: must be numbers for dropout"),
        ({"search": ("dropout=x",)}, "--search dropout=x: must be numbers for dropout; give two or more"),
        ({"search": ("depth",)}, "--search depth: --model (none) does not have it; give --model plain"),
        ({"search": ("depth",), "models": ("plain", "cnn")}, "--search depth: --models cnn does not have it"),
        ({"search": ("cifar_stem",), "model": "cnn"}, "--search cifar_stem: --model cnn does not have it"),
        ({"search": ("cell", "dropout")}, "cell is searched alone"),
        ({"search": ("momentum",), "momentum": 0.8}, "--momentum 0.8 fixes it"),
        ({"search": ("weight_decay",), "weight_decay": 0.0}, "--weight-decay 0.0 fixes it"),
        ({"search": ("learning_rate=0,0.001",)}, "--search learning_rate: 0 stands for the default"),
        ({"search": ("depth=0:3",), "model": "plain"}, "--search depth: 0 stands for the default"),
        ({"weights": "x", "models": ("cnn", "plain")}, "--weights x: fixes the network of every trial"),
        ({"weights": "x", "search": ("depth",), "model": "plain"}, "leave out it, or --search depth"),
    ],
)
def test_bad_spaces_are_one_line(given, line):
    with pytest.raises(jc.InputError) as caught:
        spaces.space_of(tune.Tune(**given))
    assert line in str(caught.value) and "\n" not in str(caught.value)


def test_what_smoke_sets_does_not_fix_a_setting():
    assert spaces.space_of(tune.Tune(smoke=True, batch_size=16, search=("batch_size",))).keys() == {"batch_size"}
