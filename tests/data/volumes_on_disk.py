"""Small pairs of NIfTI files: an image that is bright where its label is not 0."""

import nibabel
import numpy as np

SHAPES = [(5, 6, 7), (6, 6, 6), (4, 8, 7), (5, 6, 7)]  # x, y, z


def write(path, voxels, affine=None, kind=nibabel.Nifti1Image, **header):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = kind(voxels, np.eye(4) if affine is None else affine)
    for key, value in header.items():
        image.header[key] = value
    nibabel.save(image, path)


def pair(root, name, shape, seed, images="imagesTr", labels="labelsTr", affine=None):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 3, shape).astype(np.uint8)
    image = (label * 100 * 10.0**seed + rng.random(shape)).astype(np.float32)
    write(root / images / f"{name}.nii.gz", image, affine)
    write(root / labels / f"{name}.nii.gz", label, affine)


def make_volumes(root, shapes=SHAPES, **folders):
    for i, shape in enumerate(shapes):
        pair(root, f"v{i}", shape, i, **folders)
    return root
