"""The description of the server in the format OpenAPI 3.1."""

from typing import Any

from jaxcnn.deploy.serving.limits import Limits
from jaxcnn.version import __version__

ERRORS = {
    "401": "the token is missing or wrong",
    "408": "the body did not arrive in time",
    "413": "the body, an image, a sound or a text is too large, or there are too many rows",
    "415": "the content type is not taken",
    "422": "the body cannot be used; the line says why",
    "429": "this client has too many rows in the server",
    "503": "not ready, busy, or out of time; the header Retry-After says when to try again",
}


def document(limits: Limits, token: bool) -> dict[str, Any]:
    """Return the description.

    Args:
        limits: the limits, which the texts name.
        token: whether requests need a token.

    """
    rows = f"At most {limits.rows} rows and {limits.bytes:,} bytes."
    found: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "jaxcnn", "version": __version__, "description": "Predictions of a trained network."},
        "paths": {
            "/predict": {"post": _post("Predict images, sounds or texts", rows, False) | {
                "parameters": [{
                    "name": "least_score", "in": "query", "schema": {"type": "number", "minimum": 0, "maximum": 1},
                    "description": "Lowest score of a box, in detection.",
                }],
            }},
            "/explain": {"post": _post("What speaks for the class of one image or text", "One row.", True) | {
                "parameters": [{
                    "name": "target", "in": "query", "schema": {"type": "string"},
                    "description": "The class to explain; by default the likeliest.",
                }],
            }},
            "/about": {"get": _get("The run, its classes, and what it takes", True)},
            "/metrics": {"get": _get("Metrics in the text format of Prometheus", True)},
            "/health": {"get": _get("200 once the programs are compiled, 503 before", False)},
        },
        "components": {"schemas": _schemas()},
    }  # fmt: skip
    if token:
        found["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        found["security"] = [{"token": []}]
        found["paths"]["/health"]["get"]["security"] = []
    return found


def _post(summary: str, about: str, target: bool) -> dict[str, Any]:
    more = {"target": {"type": "string", "description": "The class to explain."}} if target else {}
    file = {"type": "array", "items": {"type": "string", "format": "binary"}}
    texts = {"oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
    json = {
        "image": texts | {"description": "Image files in base64."}, "text": texts | {"description": "Texts."},
        "audio": texts | {"description": "WAV or FLAC files in base64."}, **more,
    }  # fmt: skip
    content = {
        "multipart/form-data": {"schema": {"type": "object", "properties": {"file": file, "text": texts, **more}}},
        "application/json": {"schema": {"type": "object", "properties": json, "additionalProperties": False}},
        **{f"{kind}/*": {"schema": {"type": "string", "format": "binary"}} for kind in ("image", "audio")},
        "text/plain": {"schema": {"type": "string"}},
    }
    answer = "Explanation" if target else "Predictions"
    reference = {"$ref": f"#/components/schemas/{answer}"}
    done = {"200": {"description": "The answer", "content": {"application/json": {"schema": reference}}}}
    return {
        "summary": summary, "description": about, "requestBody": {"required": True, "content": content},
        "responses": done | {code: {"description": line} for code, line in ERRORS.items()},
    }  # fmt: skip


def _get(summary: str, token: bool) -> dict[str, Any]:
    codes = {"200": {"description": summary}}
    return {"summary": summary, "responses": codes | ({"401": {"description": ERRORS["401"]}} if token else {})}


def _schemas() -> dict[str, Any]:
    share = {"type": "object", "additionalProperties": {"type": "number"}}
    box = {
        "type": "array",
        "items": {"type": "number"},
        "description": "Left, top, right, bottom in pixels of the file.",
    }
    thing = {"type": "object", "properties": {"class": {"type": "string"}, "score": {"type": "number"}, "box": box}}
    one = {
        "file": {"type": "string"}, "class": {"type": "string"}, "probability": {"type": "number"},
        "probabilities": share, "labels": {"type": "array", "items": {"type": "string"}}, "value": {"type": "number"},
        "values": {"type": "array", "items": {"type": "number"}}, "shares": share,
        "symbols": {"type": "array", "description": "The names of the symbols of a sequence, or their numbers."},
        "mask": {"type": "string", "description": "A PNG in base64; the value of a pixel is its class, 255 for none."},
        "size": {"type": "array", "items": {"type": "integer"}, "description": "Height and width of the file."},
        "objects": {"type": "array", "items": thing},
        "windows": {"type": "array", "description": "Start, end, class and probability of each part of a long sound."},
    }  # fmt: skip
    prediction = {
        "type": "object",
        "properties": one,
        "description": "The keys depend on the task, as in jaxcnn predict.",
    }
    words = {"type": "array", "description": "Words, each with the change of the log-odds when it is left out."}
    picture = {"type": "string", "description": "A PNG in base64; red supports the class, blue opposes it."}
    method = {"type": "string"}
    explained = {"explained": method, "method": method, "picture": picture, "words": words}
    listed = {"type": "array", "items": {"$ref": "#/components/schemas/Prediction"}}
    answer = {"run": {"type": "string"}, "step": {"type": "integer"}, "predictions": listed}
    return {
        "Prediction": prediction,
        "Predictions": {"type": "object", "properties": answer},
        "Explanation": {"type": "object", "properties": one | explained},
    }
