"""The table of tiers names only existing tests."""

import ast
import pathlib

import pytest

from tests.tiers import QUICK, SLOW, WHOLE, tier

TESTS = pathlib.Path(__file__).resolve().parent


@pytest.mark.parametrize("module", sorted({name.partition("::")[0] for name in SLOW} | set(WHOLE) | QUICK))
def test_every_name_is_a_test(module):
    (path,) = TESTS.rglob(f"{module}.py")
    tree = ast.parse(path.read_text())
    found = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    some = {name.partition("::")[2] for name in SLOW if name.startswith(f"{module}::")}
    assert some | set(WHOLE.get(module, ())) <= found and not some & set(WHOLE.get(module, ()))


def test_cases_are_told_apart_by_how_their_ids_begin():
    assert tier("test_loop", "test_a_retrace_is_an_error[streamed]") is None
    assert tier("test_loop", "test_a_retrace_is_an_error[<lambda>]") == "slow"
    assert tier("test_runtime", "test_a_profile_of_a_run") == "slow" and tier("test_files", "test_x") == "quick"
