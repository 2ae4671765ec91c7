"""The table of layers equals published numbers and counts by hand; the list of the zoo is complete."""

import json
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import InputError
from jaxcnn.explain import summary
from jaxcnn.layers import Conv, ConvNorm, Dense, Dropout
from jaxcnn.models import MODELS, __main__

# Parameters and 10^9 multiply-adds as torchvision publishes them (`weights.meta["num_params"]` and `["_ops"]`), at
# 224x224 unless a size is given. All are without auxiliary heads; only inception_v3 is published with them
# (27,161,264). torchvision rounds to three decimals and counts convolutions and matrix products, as we do, but no
# biases, norms or activations.
TORCHVISION = {
    "alexnet": (61_100_840, 0.714), "convnext_tiny": (28_589_128, 4.456), "densenet121": (7_978_856, 2.834),
    "efficientnet_b0": (5_288_548, 0.386), "efficientnet_b1": (7_794_184, 0.687, 240),
    "efficientnet_b2": (9_109_994, 1.088, 288),
    "efficientnet_b3": (12_233_232, 1.827, 300), "googlenet": (6_624_904, 1.498),
    "inception_v3": (23_834_568, 5.713, 299),
    "mobilenet_v2": (3_504_872, 0.301), "mobilenet_v3_large": (5_483_032, 0.217),
    "mobilenet_v3_small": (2_542_856, 0.057),
    "resnet101": (44_549_160, 7.801), "resnet152": (60_192_808, 11.514), "resnet18": (11_689_512, 1.814),
    "resnet34": (21_797_672, 3.664), "resnet50": (25_557_032, 4.089), "resnext50_32x4d": (25_028_904, 4.23),
    "squeezenet1_0": (1_248_424, 0.819), "squeezenet1_1": (1_235_496, 0.349), "vgg11": (132_863_336, 7.609),
    "vgg11_bn": (132_868_840, 7.609), "vgg13": (133_047_848, 11.308), "vgg13_bn": (133_053_736, 11.308),
    "vgg16": (138_357_544, 15.47), "vgg16_bn": (138_365_992, 15.47), "vgg19": (143_667_240, 19.632),
    "vgg19_bn": (143_678_248, 19.632), "wide_resnet50_2": (68_883_240, 11.398),
}  # fmt: skip
# As torch's own counter (`torch.utils.flop_counter`, halved) finds them in timm's networks; timm publishes 0.57, 1.26
# and 4.61, because it counts norms and poolings as well.
TIMM = {
    "mobilenet_v1": (4_231_976, 0.569), "vit_tiny_patch16_224": (5_717_416, 1.254),
    "vit_small_patch16_224": (22_050_664, 4.599),
}  # fmt: skip
PUBLISHED = TORCHVISION | TIMM
# the other networks take longer and are slow tests
QUICK = {
    "resnet18",
    "mobilenet_v1",
    "squeezenet1_1",
    "vgg11",
    "vit_tiny_patch16_224",
    "alexnet",
}


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in sorted(PUBLISHED)]
)
def test_published_numbers(name):
    parameters, gflop, *size = PUBLISHED[name]
    model = MODELS[name](num_classes=1000)
    found = summary(model, (*(size or [224]) * 2, 3))
    assert (found.parameters, round(found.flop / 1e9, 3)) == (parameters, gflop)
    assert getattr(model, "default_image", (224, 224, 3))[0] == (size or [224])[0]


class Attention(nn.Module):
    """A module that multiplies matrices itself, between its inner layers."""

    @nn.compact
    def __call__(self, x):
        q, k, v = (Dense(8, name=name)(x) for name in "qkv")
        return Dense(x.shape[-1], name="out")(nn.softmax(jnp.einsum("bic,bjc->bij", q, k)) @ v)


class Small(nn.Module):
    """A layer called twice, parameters outside of layers, dropout, and wrapped networks."""

    @nn.compact
    def __call__(self, x, *, train, row_mask=None):
        x = ConvNorm(4, (3, 3), 2, name="stem")(x, train=train)
        scale = self.param("scale", nn.initializers.ones, (4,))
        again = Conv(4, (3, 3), name="again")
        x = Dropout(0.5)(again(again(x)) * scale.reshape(1, 1, 1, 4), train=train)
        x = x.reshape(len(x), -1, 4)
        x = Attention(name="one")(nn.remat(Attention)(name="two")(x))  # of one shape: JAX traces their products once
        x, _ = nn.scan(Repeated, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)(name="loop")(
            x, None
        )
        return nn.jit(nn.Dense)(5, name="head")(x.mean(1))


class Repeated(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return Dense(4, name="dense")(x), None


def test_rows_by_hand():
    found = summary(Small(), (2, 8, 6, 3))
    tokens, weight = 2 * 12, 4  # a batch of two, float32

    def attention(name):
        yield name, "Attention", (2, 12, 4), 0, 2 * 2 * 12 * 12 * 8, 0, (8, 6)
        for layer in "qkv":
            yield f"{name}/{layer}", "Dense", (2, 12, 8), 4 * 8 + 8, tokens * 32, tokens * 8 * weight, (8, 6)
        yield f"{name}/out", "Dense", (2, 12, 4), 8 * 4 + 4, tokens * 32, tokens * 4 * weight, (8, 6)

    expected = [
        (".", "Small", (2, 5), 4, 0, 0, (8, 6)),
        ("stem/conv", "Conv", (2, 4, 3, 4), 9 * 3 * 4, tokens * 9 * 3 * 4, tokens * 4 * weight, (3, 3)),
        ("stem/norm", "BatchNorm", (2, 4, 3, 4), 8, 0, tokens * 4 * weight, (3, 3)),
        ("again", "Conv", (2, 4, 3, 4), 9 * 16 + 4, tokens * 9 * 16, tokens * 4 * weight, (7, 7)),
        ("again", "Conv", (2, 4, 3, 4), 0, tokens * 9 * 16, tokens * 4 * weight, (11, 11)),
        *attention("two"),
        *attention("one"),
        ("loop/dense", "Dense", (2, 12, 4), 3 * (4 * 4 + 4), 3 * tokens * 16, tokens * 4 * weight, (8, 6)),
        ("head", "Dense", (2, 5), 25, 2 * 20, 2 * 5 * weight, (8, 6)),
    ]
    assert [tuple(row) for row in found.rows] == expected
    assert found[1:] == ((2, 8, 6, 3), *(sum(row[i] for row in expected) for i in (3, 4, 5)))


def test_receptive_fields_of_residual_networks():
    # 483 in networks that stride in the first layer of a bottleneck
    for name, size in (
        ("resnet18", 435),
        ("resnet50", 427),
    ):
        rows = summary(name, (224, 224, 3)).rows
        assert rows[0].field == (7, 7) and rows[-2].field == (size, size) and rows[-1].field == (224, 224)


def test_nothing_is_computed():
    found = summary("resnet18", (10**6, 224, 224, 3))  # 600 GB of images
    assert found.flop == 10**6 * summary("resnet18", np.array([224, 224, 3])).flop and found.input == (
        10**6,
        224,
        224,
        3,
    )


def test_the_table():
    lines = str(summary("lenet5", (28, 28, 1))).splitlines()
    assert lines[0].split() == ["layer", "kind", "output", "parameters", "FLOP", "bytes", "field"]
    assert lines[3].split() == ["conv2", "Conv", "1x5x5x16", "2,416", "240", "k", "1.6", "k", "16x16"]
    assert lines[-1].split() == ["total", "1x28x28x1", "61,706", "417", "k", "7.16", "k"]
    assert (
        len(
            {line.index("x5x5x16") for line in lines if "x5x5x16" in line}
            | {line.index("x84") for line in lines if "x84" in line}
        )
        == 1
    )
    assert len({len(line) for line in lines[:2]}) == 1


@pytest.mark.parametrize(
    "model, image, words",
    [
        ("resnet5", (224, 224, 3), "model='resnet5': not one of jaxcnn.models.MODELS; did you mean resnet5"),
        ("resnet18", (224, 224), r"input=\(224, 224\): must be \(height, width, channels\)"),
        ("resnet18", (0, 224, 3), r"input=\(0, 224, 3\)"),
        ("resnet18", (22.4, 22.4, 3), "input="),
        ("resnet18", 224, "input=224"),
        ("resnet18", "224", "input='224'"),
        ("resnet18", (8, 8, 3), "must be at least 17x17 pixels"),
    ],
)
def test_bad_input_is_one_line(model, image, words):
    with pytest.raises(InputError, match=words) as caught:
        summary(model, image)
    assert "\n" not in str(caught.value)


def test_the_list(monkeypatch, capsys):
    monkeypatch.setattr(__main__, "MODELS", {name: MODELS[name] for name in ("tutorial", "resnet18")})
    monkeypatch.setattr(jax.config, "update", lambda *_: None)  # the other tests have their devices already
    monkeypatch.setattr(sys, "argv", ["jaxcnn.models", "--json"])
    __main__.main()
    resnet, tutorial = json.loads(capsys.readouterr().out)
    assert resnet | {"weights": []} == {"name": "resnet18", "parameters": 11_689_512, "gflop": 1.814073, "weights": []}
    assert set(resnet["weights"]) <= {"torchvision", "timm"}
    assert (tutorial["name"], tutorial["weights"]) == ("tutorial", [])
    assert tutorial["parameters"] == 693_962 + 990 * 129  # at its own 28x28 and with 1000 classes
    monkeypatch.setattr(sys, "argv", ["jaxcnn.models"])
    __main__.main()
    assert capsys.readouterr().out.splitlines()[1].split()[:3] == ["resnet18", "11,689,512", "1.814"]


def test_a_wrong_flag_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["jaxcnn.models", "--jsn"])
    with pytest.raises(SystemExit) as caught:
        __main__.main()
    out, err = capsys.readouterr()
    assert (caught.value.code, out, err) == (2, "", "jaxcnn.models: error: unrecognized arguments: --jsn\n")


@pytest.mark.slow
def test_the_whole_list():
    out = subprocess.run([sys.executable, "-m", "jaxcnn.models", "--json"], capture_output=True, text=True, check=True)
    entries = json.loads(out.stdout)
    assert [entry["name"] for entry in entries] == sorted(MODELS) and out.stderr == ""
    assert all(
        entry["parameters"] > 0 and entry["gflop"] > 0 and set(entry["weights"]) <= {"torchvision", "timm"}
        for entry in entries
    )
