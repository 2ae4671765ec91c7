"""The page without a server: the exported network runs in a browser with onnxruntime-web, offline.

The page is that of `jaxcnn serve`. What answers there over HTTP is here a script, which reads an image as the library
does and runs the ONNX file. onnxruntime-web (MIT licence) comes from npm and is no part of this library.
"""

import base64
import hashlib
import html
import importlib.resources
import json
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxcnn.core import files
from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError, reason
from jaxcnn.deploy.exporters import Written, to_onnx
from jaxcnn.deploy.program import Program

PACKAGE = "onnxruntime-web"
GET = f"run npm install {PACKAGE}, and give --runtime node_modules/{PACKAGE}"
SCRIPT, LOADER, WASM = "ort.wasm.min.js", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"
MOST_BYTES = 2**26  # of a file of the package
SCRIPTS = ("drawing.js", "page.js", "pixels.js", "alone.js")
TASKS = ("classification", "regression")
SMALL = 64  # largest side of images that a person can draw
POLICY = "default-src 'none'; base-uri 'none'; form-action 'none'; img-src 'self' blob: data:; "
SERVED = POLICY + "script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; connect-src 'self'"
HEAD = re.compile(r'<link rel="stylesheet".*?(?=</head>)', re.DOTALL)  # of index.html: style and scripts


class Runtime(NamedTuple):
    """The files of onnxruntime-web that a page needs, by name, and its version."""

    version: str
    files: dict[str, bytes]


def read_runtime(folder: str | os.PathLike | None) -> Runtime:
    """Read onnxruntime-web from the folder of its package, or from one that npm has installed it into.

    Raises:
        InputError: there is no such package.

    """
    if folder is None:
        raise InputError(f"runtime=None: a page needs {PACKAGE}; {GET}")
    given = pathlib.Path(folder)
    places = [given, given / "package", given / PACKAGE, given / "node_modules" / PACKAGE]
    place = next((one for one in places if (one / "dist" / SCRIPT).is_file()), None)
    if place is None:
        raise InputError(f"{visible(given)}: holds no {PACKAGE} (dist/{SCRIPT}); {GET}")
    try:
        about = files.read_json(place / "package.json")
        found = {name: files.read_bytes(place / "dist" / name, MOST_BYTES) for name in (SCRIPT, LOADER, WASM)}
    except (OSError, InputError) as error:
        raise InputError(f"{visible(place)}: no whole {PACKAGE} ({visible(reason(error))}); {GET}") from error
    if not isinstance(about, dict) or about.get("name") != PACKAGE or not isinstance(about.get("version"), str):
        raise InputError(f"{visible(place)}: its package.json is not that of {PACKAGE}; {GET}")
    return Runtime(about["version"], found)


def to_page(
    program: Program, folder: pathlib.Path, stem: str, batch: int | None, runtime: str | os.PathLike | None = None
) -> Written:
    """Write a folder that any web server can give to browsers: the page, the ONNX file and onnxruntime-web."""
    found, about, place = read_runtime(runtime), _described(program, batch), folder / stem
    place.mkdir()
    made = to_onnx(program, place, "network", batch)
    names = {name: _file(name) for name in ("page.css", *SCRIPTS)}
    for name, content in {**found.files, **names}.items():
        files.write_bytes(place / name, content)
    tags = "".join(f'<script src="{name}" defer></script>\n' for name in (SCRIPT, *SCRIPTS))
    head = f'{_policy(SERVED)}<link rel="stylesheet" href="page.css">\n{tags}'
    files.write_bytes(place / "index.html", _page(head, _data(about | {"network": made.files[0]})).encode())
    return Written((stem,), made.run, made.about | {"onnxruntime_web": found.version})


def to_html(
    program: Program, folder: pathlib.Path, stem: str, batch: int | None, runtime: str | os.PathLike | None = None
) -> Written:
    """Write one file that a browser opens from disk: the page with the ONNX file and onnxruntime-web in it."""
    found, about, name = read_runtime(runtime), _described(program, batch), f"{stem}.html"
    made = to_onnx(program, folder, stem, batch)
    style = _file("page.css").decode()
    scripts = [_safe(SCRIPT, found.files[SCRIPT]), *(_file(one).decode() for one in SCRIPTS)]
    held = {"loader": found.files[LOADER], "runtime": found.files[WASM]}
    held["network"] = files.read_bytes(folder / made.files[0])
    policy = POLICY + (
        f"script-src {' '.join(map(_hash, scripts))} blob: 'wasm-unsafe-eval'; style-src {_hash(style)}; "
        "connect-src 'none'"
    )
    blocks = "".join(
        f'<script type="text/plain" id="{key}">{base64.b64encode(x).decode()}</script>\n' for key, x in held.items()
    )
    blocks += _data(about) + "".join(f"<script>{text}</script>\n" for text in scripts)
    files.write_bytes(folder / name, _page(f"{_policy(policy)}<style>{style}</style>\n", blocks).encode())
    (folder / made.files[0]).unlink()
    return Written((name,), made.run, made.about | {"onnxruntime_web": found.version})


def _described(program: Program, batch: int | None) -> dict[str, Any]:
    """Return what the scripts of the page must know, or refuse a program that they cannot run."""
    about, image = program.about, program.inputs.get("image")
    if batch not in (None, 1):
        raise InputError(f"batch={batch}: the page predicts one image at a time; leave it out")
    if about.get("task") not in TASKS or image is None or len(image.shape) != 3 or len(program.inputs) > 1:
        shown = f"{' and '.join(TASKS)} of images, not {visible(about.get('task', 'model'))}"
        raise InputError(f"a page without a server is for {shown}; use jaxcnn serve")
    if about["preprocessing"] != "inside":
        raise InputError("preprocessing='outside': the page gives the network images as they are stored; use 'inside'")
    shape, dtype, reading = list(image.shape), str(np.dtype(image.dtype)), about.get("reading", {})
    if shape[2] not in (1, 3) or dtype not in ("uint8", "float32"):
        raise InputError(f"images {shape} of {dtype}: the page makes uint8 or float32 images of 1 or 3 channels")
    return {
        "run": about.get("run", "model"), "step": about["step"], "task": about["task"], "takes": "image",
        "head": about.get("head"), "classes": about["classes"] or [], "explains": False, "shape": shape, "dtype": dtype,
        "draw": shape[0] == shape[1] <= SMALL and shape[2] == 1, "resize": reading.get("resize", "squash"),
        "crop_ratio": reading.get("crop_ratio", 1.0),
    }  # fmt: skip


def _file(name: str) -> bytes:
    """Return a file of the page that `jaxcnn serve` gives, which is the same one here."""
    place = importlib.resources.files("jaxcnn.deploy") / "serving" / "page" / name
    return place.read_bytes().replace(b"\r\n", b"\n")


def _page(head: str, end: str) -> str:
    """Return index.html with other style and scripts, and more at its end."""
    text, count = HEAD.subn(lambda _: head, _file("index.html").decode())
    if count != 1 or "</body>" not in text:
        raise AssertionError("index.html: its head must end with the style and the scripts")
    return text.replace("</body>", f"{end}</body>")


def _policy(policy: str) -> str:
    return f'<meta http-equiv="content-security-policy" content="{html.escape(policy)}">\n'


def _data(about: Mapping[str, Any]) -> str:
    """Return values as a block that no browser runs."""
    text = json.dumps(about, allow_nan=False).replace("<", "\\u003c")
    return f'<script type="application/json" id="described">{text}</script>\n'


def _safe(name: str, script: bytes) -> str:
    """Return a script that may stand inside of a page."""
    try:
        text = script.decode().replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{name}: not UTF-8; get {PACKAGE} again") from error
    if re.search(r"</script|<!--", text, re.IGNORECASE):
        raise InputError(f"{name}: cannot stand inside of a page; export the run to page instead of html")
    return text


def _hash(text: str) -> str:
    """Return the source expression that allows one inline script or style."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
