"""Shows what a convolution does: `python -m experiments.image_processing IMAGE`.

The figure has one row per kernel: the grey image, the convolution, ReLU and max pooling.
"""

import dataclasses
import io
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import jaxcnn as jc
from experiments import command, settings
from jaxcnn.core import files
from jaxcnn.core.text import visible
from jaxcnn.data.folder import read_image
from jaxcnn.data.image import head
from jaxcnn.runs.plots import new_figure

KERNELS = {
    "sharpen": [[0, -1, 0], [-1, 5, -1], [0, -1, 0]],
    "blur": [[1 / 16, 2 / 16, 1 / 16], [2 / 16, 4 / 16, 2 / 16], [1 / 16, 2 / 16, 1 / 16]],
    "laplacian": [[0, 1, 0], [1, -4, 1], [0, 1, 0]],
    "sobel_x": [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]],
    "sobel_y": [[-1, -2, -1], [0, 0, 0], [1, 2, 1]],
}
MAGNITUDE = "sobel"  # length of the gradient, whose components are sobel_x and sobel_y
LONGEST = 2000  # pixels per side; a panel has about 200
FORMATS = (".png", ".jpg", ".pdf", ".svg")


@dataclasses.dataclass(frozen=True)
class Config:
    """Show an image after fixed kernels, ReLU and max pooling."""

    image: tyro.conf.Positional[str] = ""
    """An image file, in colour or grey."""
    kernels: tuple[str, ...] = (*KERNELS, MAGNITUDE)
    """Any of sharpen, blur, laplacian, sobel_x, sobel_y and sobel (the length of the gradient)."""
    pool: int = 2
    """Side of the pooling window."""
    output: str = "image_processing.png"
    """File for the figure."""


def filtered(grey: jax.Array, kernel: str) -> jax.Array:
    """Cross-correlate grey images `[B, H, W, 1]`, 0..1, with a kernel; the border is padded with its own pixels."""
    if kernel == MAGNITUDE:
        return jnp.hypot(filtered(grey, "sobel_x"), filtered(grey, "sobel_y"))
    padded = jnp.pad(grey, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    return jc.ops.conv(padded, jnp.asarray(KERNELS[kernel], grey.dtype)[:, :, None, None], padding="VALID")


def stages(grey: jax.Array, kernel: str, pool: int = 2) -> dict[str, jax.Array]:
    """Return a dict from stage to image `[B, H, W, 1]`; the last stage is `[B, H / pool, W / pool, 1]`."""
    y = filtered(grey, kernel)
    rectified = jax.nn.relu(y)
    return {"grey": grey, "convolution": y, "ReLU": rectified, "max pooling": jc.ops.max_pool(rectified, pool)}


def main(config: Config) -> dict[str, dict[str, np.ndarray]]:
    """Write the figure, and return its images `[H, W]` as a dict from kernel to stage to image."""
    if not config.image:
        raise jc.InputError("IMAGE: give a picture, as in python -m experiments.image_processing IMAGE")
    if not config.kernels or config.pool < 1:
        raise jc.InputError(
            f"--kernels {' '.join(config.kernels)} --pool {config.pool}: needs a kernel, and windows of at least 1"
        )
    for name in config.kernels:
        settings.one_of("--kernels", name, (*KERNELS, MAGNITUDE))
    output = pathlib.Path(config.output)
    if output.suffix not in FORMATS:
        raise jc.InputError(f"--output {visible(config.output)}: must end in one of {', '.join(FORMATS)}")
    grey = jnp.asarray(_read(config.image)[None], jnp.float32) / 255
    found = {}
    for kernel in config.kernels:
        found[kernel] = {name: np.asarray(x)[0, :, :, 0] for name, x in stages(grey, kernel, config.pool).items()}
    figure = new_figure(10, 2.6 * len(found))
    panels = figure.subplots(len(found), 4, squeeze=False)
    for row, (kernel, shown) in zip(panels, found.items(), strict=True):
        for panel, (stage, x) in zip(row, shown.items(), strict=True):
            panel.imshow(x, cmap="gray", vmin=min(float(x.min()), 0.0), vmax=max(float(x.max()), 1e-6))
            panel.set(title=f"{kernel}: {stage}" if stage == "convolution" else stage, xticks=[], yticks=[])
            panel.set_xlabel(f"{x.shape[0]}x{x.shape[1]}, {x.min():.2f} to {x.max():.2f}")
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=100, format=output.suffix[1:])
    files.write_bytes(output, drawn.getvalue())
    print(f"{visible(config.output)}: {', '.join(found)}", flush=True)
    return found


def _read(image: str) -> np.ndarray:
    """Read an image as grey, and reduce a large one."""
    size = head(pathlib.Path(image)).size
    smaller = min(LONGEST / max(size), 1)
    if smaller < 1:
        size = max(round(size[0] * smaller), 1), max(round(size[1] * smaller), 1)
        print(f"{visible(image)}: brought to {size[0]} x {size[1]} pixels (height, width)", flush=True)
    return read_image(image, 1, size if smaller < 1 else None)


if __name__ == "__main__":
    command.run(main, Config, "image_processing")
