"""The index: searches against NumPy, ties, files that are not trusted, names, and vectors of a run's images."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save

import jaxcnn as jc
from jaxcnn import deploy
from jaxcnn.deploy import searching
from jaxcnn.runs.load import TrainedRun


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of a few vectors, so that tiny indexes have several."""
    monkeypatch.setattr(searching, "BLOCK", 64)
    monkeypatch.setattr(searching, "QUERIES", 4)


def numbered(vectors, **options):
    return deploy.enrol(None, vectors, [str(i) for i in range(len(vectors))], **options)


@pytest.mark.parametrize("measure", ["cosine", "euclidean"])
@pytest.mark.parametrize("count, k", [(37, 5), (7, 7), (1, 1)])
def test_search_is_exact(rng, small_blocks, measure, count, k):
    x, queries = rng.standard_normal((count, 6)), rng.standard_normal((9, 6))
    scores, places = searching.nearest(numbered(x, measure=measure), queries, k)
    if measure == "cosine":
        want = unit(queries) @ unit(x).T
    else:
        want = -np.linalg.norm(queries[:, None] - x[None], axis=-1)
    order = np.argsort(-want, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(places, order)
    np.testing.assert_allclose(scores, np.take_along_axis(want, order, 1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("measure", ["cosine", "euclidean"])
def test_ties_are_in_order(rng, small_blocks, measure):
    x = rng.standard_normal((41, 8)).astype(np.float32)
    x[[0, 9, 17, 33, 40]] = x[20]
    _, places = searching.nearest(numbered(x, measure=measure), x[[20, 3]], 4)
    assert places[0].tolist() == [0, 9, 17, 20] and places[1, 0] == 3


def test_euclidean_distances_of_near_duplicates_keep_their_digits():
    x = np.full((3, 64), 1000.0, np.float32)
    x[1, 0] += 0.25
    x[2, 0] += 0.5
    found = deploy.search(numbered(x, measure="euclidean"), x[:1], 3)[0]
    assert [one.score for one in found] == [0, -0.25, -0.5]


def people():
    vectors = [[1.0, 0, 0], [0.9, 0.1, 0], [0, 1.0, 0], [0, 0, 1.0]]
    return deploy.enrol(None, np.array(vectors), ["ann", "ann", "bob", "eve"], files=["a", "b", "c", "d"], run="r1")


def test_people_are_verified_and_identified():
    index = people()
    yes, no = deploy.verify(index, [0.8, 0.2, 0], "ann", 0.9), deploy.verify(index, [0.8, 0.2, 0], "bob", 0.9)
    assert yes.accepted and yes.score > 0.98 and not no.accepted and no.score == pytest.approx(0.2425, abs=1e-3)
    found = deploy.identify(index, np.array([[0, 0.9, 0.1], [1, 1, 1]]), 0.8)
    assert found[0].name == "bob" and found[0].file == "c" and found[1] is None
    assert deploy.identify(index, np.array([[0, 0.1, 1.1]]))[0].name == "eve"
    more = deploy.enrol(index, np.array([[0, 5.0, 5.0]]), ["zoe"], run="r1")
    assert len(index.names) == 4 and more.names[-1] == "zoe" and more.run == "r1"
    assert deploy.identify(more, np.array([[0, 1, 1]]))[0].name == "zoe"


def test_near_duplicates_are_all_pairs(rng, small_blocks):
    x = rng.standard_normal((40, 6))
    x[31], x[7] = x[2] + 1e-3, x[39]
    found = deploy.near_duplicates(numbered(x), 0.6)
    cosines = unit(x) @ unit(x).T
    want = {(i, j) for i in range(40) for j in range(i + 1, 40) if cosines[i, j] >= 0.6}
    assert {(int(a.name), int(b.name)) for a, b in found} == want and (7, 39) in want and (2, 31) in want
    scores = [a.score for a, _ in found]
    assert scores == sorted(scores, reverse=True) and found[0][0].name == "7"


def test_a_file_keeps_the_index(tmp_path):
    index = people()
    deploy.save_index(index, tmp_path / "a.safetensors")
    found = deploy.load_index(tmp_path / "a.safetensors")
    np.testing.assert_array_equal(found.vectors, index.vectors)
    assert found[1:] == index[1:]


def written(path, vectors=None, drop=(), **changes):
    vectors = np.eye(2, dtype=np.float32) if vectors is None else vectors
    described = {"format": 1, "measure": "cosine", "run": "", "names": ["a", "b"], "files": ["", ""]} | changes
    described = {k: v for k, v in described.items() if k not in drop}
    path.write_bytes(save({"vectors": vectors}, {"jaxcnn_index": json.dumps(described)}))


@pytest.mark.parametrize(
    "how, message",
    [
        (lambda p: p.write_bytes(b"\xff" * 40), "no sound safetensors file"),
        (lambda p: written(p) or p.write_bytes(p.read_bytes()[:-3]), "no sound safetensors file"),
        (lambda p: p.write_bytes(save({"vectors": np.eye(2, dtype=np.float32)})), "holds no index"),
        (lambda p: p.write_bytes(save({"x": np.eye(2)}, {"jaxcnn_index": "{}"})), "holds no index"),
        (lambda p: p.write_bytes(save({"vectors": np.eye(2)}, {"jaxcnn_index": "["})), "not JSON"),
        (lambda p: written(p, names=["a"]), "2 vectors for 1 names"),
        (lambda p: written(p, names=["a", 1]), "names.1: input should be a valid string"),
        (lambda p: written(p, format=2), "format 2 of an index, not 1"),
        (lambda p: written(p, measure="dot"), "measure: input should be 'cosine' or 'euclidean'"),
        (lambda p: written(p, drop=("run",)), "run: field required"),
        (lambda p: written(p, np.eye(2)), "damaged index: vectors of shape"),
        (lambda p: written(p, np.full((2, 2), np.nan, np.float32)), "not finite or not of length 1"),
        (lambda p: written(p, 2 * np.eye(2, dtype=np.float32)), "not finite or not of length 1"),
        (lambda p: None, "no such index; make it with jaxcnn search RUN --add FOLDER"),
        (lambda p: p.mkdir(), "not a regular file|no sound"),
    ],
)
def test_damaged_files_are_one_line(tmp_path, how, message):
    path = tmp_path / "i.safetensors"
    how(path)
    with pytest.raises(jc.InputError, match=message) as error:
        deploy.load_index(path)
    assert "\n" not in str(error.value) and "i.safetensors" in str(error.value)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: deploy.search(people(), np.eye(3), 5), "k=5: must be from 1 to the 4 vectors of the index"),
        (lambda: deploy.search(people(), np.eye(2), 1), "vectors of 2 numbers: those of the index have 3; use its run"),
        (lambda: deploy.search(people(), np.zeros((1, 3)), 1), "one is 0, which has no direction"),
        (lambda: deploy.search(people(), [[np.nan, 0, 0]], 1), "1 of 1 are not finite"),
        (lambda: deploy.enrol(people(), np.eye(3), list("abc"), run="r2"), "the index is of another run"),
        (lambda: deploy.enrol(None, np.eye(3), ["a"]), "3 vectors, 1 names, 3 files: must be as many"),
        (lambda: deploy.enrol(None, np.eye(3), list("abc"), measure="dot"), "measure='dot'"),
        (lambda: deploy.enrol(None, np.eye(4), "anna"), "names='anna': must be a list"),
        (lambda: deploy.enrol(None, np.eye(3), np.arange(3)), "names: .* is not a string"),
        (lambda: deploy.verify(people(), [1, 0, 0], people().names[0], 98), "threshold=98: must be a cosine"),
        (lambda: deploy.identify(people(), np.eye(3), float("nan")), "threshold=nan"),
        (lambda: deploy.near_duplicates(people(), 98), "threshold=98"),
        (lambda: deploy.near_duplicates(deploy.enrol(None, np.eye(3), list("abc"), measure="euclidean"), 0.5), "minus"),
        (lambda: deploy.verify(people(), [1, 0, 0], "joe", 0.5), "name='joe': not in the index"),
        (lambda: deploy.near_duplicates("here", 0.9), "give use=embedder"),
        (lambda: deploy.images_in("/nowhere"), "no such folder"),
        (lambda: deploy.save_index(people(), "a.npz"), "an index is a .safetensors file"),
    ],
)
def test_bad_input_is_one_line(call, message):
    with pytest.raises(jc.InputError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


def described(name, options, model="cnn"):
    build = {
        "model": {"name": model, "options": {"num_classes": 4, "widths": [3, 4]}},
        "task": {"name": name, "options": options}, "image": {"shape": [24, 24, 3], "dtype": "uint8"},
    }  # fmt: skip
    built, task = jc.runs.build(build)
    variables = task.init(jax.random.key(0), {"image": jnp.zeros((1, 24, 24, 3))})
    return TrainedRun({"build": build, "source": None}, built, task, variables, 0)


def test_vectors_of_a_classifier_are_its_pooled_features(rng):
    loaded = described("classification", {"mean": 0.4, "std": 0.2})
    image = rng.integers(0, 256, (2, 24, 24, 3)).astype(np.uint8)
    use = deploy.embedder(loaded)
    x = (image.astype(np.float32) / 255 - 0.4) / 0.2
    last = loaded.model.apply(loaded.variables, jnp.asarray(x), train=False, method="features")["stage1"]
    np.testing.assert_allclose(use.embed(image), unit(np.asarray(last).mean((1, 2))), rtol=1e-4, atol=1e-6)
    other = described("embedding", {"classes": 3, "mean": 0.4, "std": 0.2})
    want = other.task.predict(other.variables, {"image": image})
    np.testing.assert_allclose(deploy.embedder(other).embed(image), want, rtol=1e-4, atol=1e-6)
    assert deploy.embedder(other).run != use.run and len(use.run) == 64
    with pytest.raises(jc.InputError, match=r"images of shape \(1, 9, 9, 3\): must be \[B, 24, 24, 3\]"):
        use.embed(np.zeros((1, 9, 9, 3), np.uint8))
    own = loaded._replace(config={"build": None})
    with pytest.raises(jc.InputError, match="your own"):
        deploy.embedder(own)


def test_files_become_vectors_and_duplicates_are_found(rng, tmp_path):
    use = deploy.embedder(described("classification", {}))
    pixels = rng.integers(0, 256, (4, 30, 40, 3)).astype(np.uint8)
    for i, x in enumerate(pixels):
        Image.fromarray(x).save(tmp_path / f"{i}.png")
    (tmp_path / "sub").mkdir()
    Image.fromarray(pixels[2]).resize((80, 60), Image.Resampling.BILINEAR).save(tmp_path / "sub" / "copy.png")
    (tmp_path / "broken.jpg").write_bytes(b"no")
    left = []
    vectors, names = deploy.embed_files(use, deploy.images_in(tmp_path), batch_size=3, unreadable=left.append)
    assert [pathlib.Path(n).name for n in names] == ["0.png", "1.png", "2.png", "3.png", "copy.png"] and len(left) == 1
    np.testing.assert_allclose(vectors[1], use.embed(use.read(tmp_path / "1.png")[None])[0], rtol=1e-4, atol=1e-6)
    ((a, b), *_) = deploy.near_duplicates(tmp_path, 0.9, use, left.append)
    assert {a.name, b.name} == {"2.png", "copy.png"}
    with pytest.raises(jc.InputError, match="broken.jpg"):
        deploy.embed_files(use, [tmp_path / "broken.jpg"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(jc.InputError, match="no images in this folder"):
        deploy.near_duplicates(tmp_path / "empty", 0.9, use)


def test_a_run_that_compares_by_distance_gives_no_cosines(tmp_path):
    build = {
        "model": {"name": "cnn", "options": {"num_classes": 3, "widths": [3, 4]}},
        "task": {"name": "embedding", "options": {"classes": 3, "loss": "prototypical", "unit": False}},
        "image": {"shape": [24, 24, 3], "dtype": "uint8"},
    }  # fmt: skip
    made = jc.runs.build(build)[1]
    rows = {"image": np.zeros((2, 24, 24, 3), np.uint8), "label": np.zeros(2, np.int32)}
    data = jc.data.Resident(rows, ("a", "b", "c"))
    jc.save_run(tmp_path / "run", made, made.init(jax.random.key(0), rows), data, batch_size=2, build=build)
    with pytest.raises(jc.InputError, match="Euclidean distance .unit=False., not by their cosine"):
        deploy.embedder(jc.load_run(tmp_path / "run"))
