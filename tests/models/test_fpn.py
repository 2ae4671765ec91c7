"""Feature pyramids: the sizes of their levels over several networks, the top-down path by hand, what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcnn as jc
from jaxcnn.layers import GroupNorm, Network
from jaxcnn.models.fpn import FPN, upsampled


class Pyramid(Network):
    """A network with a pyramid on it."""

    backbone: object = None
    pyramid: FPN = None

    def __call__(self, x):
        return self.pyramid(jc.layers.feature_levels(self.backbone, x, self.backbone.features(x)))


def sizes(backbone, sides, **options):
    model = Pyramid(backbone, FPN(8, **options))
    shapes, _ = jax.eval_shape(lambda key: model.init_with_output(key, jnp.zeros((2, *sides, 3))), jax.random.key(0))
    assert all(x.shape[0] == 2 and x.shape[3] == 8 for x in shapes.values())
    return {name: x.shape[1:3] for name, x in shapes.items()}


def test_levels_of_several_networks():
    found = sizes(jc.models.resnet18(), (97, 161))
    assert found == {"p3": (13, 21), "p4": (7, 11), "p5": (4, 6), "p6": (2, 3), "p7": (1, 2)}
    assert sizes(jc.models.resnet18(), (97, 161), pool=True) == found
    assert sizes(jc.models.mobilenet_v2(), (96, 160), levels=(2, 3, 4, 5), extra=1, pool=True, norm=GroupNorm) == {
        "p2": (24, 40), "p3": (12, 20), "p4": (6, 10), "p5": (3, 5), "p6": (2, 3),
    }  # fmt: skip
    assert sizes(jc.models.resnet20(), (33, 32), levels=(1, 2), extra=0) == {"p1": (17, 16), "p2": (9, 8)}
    assert list(sizes(jc.models.vgg11(), (64, 64), levels=(3, 4), extra=0)) == ["p3", "p4"]


def test_sums_go_from_coarse_to_fine(rng):
    fine, coarse = (rng.normal(size=(2, n, n, 3)).astype(np.float32) for n in (5, 3))
    model = FPN(4, (3, 4), extra=2, pool=True)
    out, variables = model.init_with_output(jax.random.key(0), {3: fine, 4: coarse})
    params = variables["params"]
    inner = [x @ params[f"lateral_{i}"]["kernel"][0, 0] for i, x in enumerate((fine, coarse))]
    places = np.arange(5) // 2
    both = inner[0] + inner[1][:, places][:, :, places]
    centre = both[:, 1:4, 1:4]  # the neighbours of the place in the middle
    expected = np.einsum("bhwc,hwcd->bd", centre, params["output_0"]["kernel"])
    np.testing.assert_allclose(out["p3"][:, 2, 2], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(out["p5"], out["p4"][:, ::2, ::2])
    np.testing.assert_array_equal(out["p6"], out["p4"][:, :1, :1])


@pytest.mark.parametrize(
    "options, message",
    [
        ({"levels": (3, 5)}, r"levels=\(3, 5\): must be neighbours in rising order"),
        ({"levels": ()}, "must be neighbours"),
        ({"levels": (4, 5, 6)}, r"levels=\(4, 5, 6\): the backbone has no level 6, only 1, 2, 3, 4, 5"),
        ({"extra": -1}, "extra=-1: must be at least 0"),
    ],
)
def test_what_does_not_fit_is_one_line(options, message):
    with pytest.raises(jc.InputError, match=message):
        sizes(jc.models.resnet18(), (64, 64), **options)


def test_features_without_places_and_levels_that_are_no_halves():
    with pytest.raises(jc.InputError, match="ViT: its .* must have features with the axes of the image"):
        sizes(jc.models.vit_tiny_patch16_224(), (224, 224))
    with pytest.raises(jc.InputError, match=r"features of \(3, 3\) pixels do not fit those of \(7, 6\)"):
        upsampled(jnp.zeros((1, 3, 3, 2)), (7, 6))
