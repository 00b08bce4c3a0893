"""The schema, its examples, the error numbers and the page made from them agree."""

import importlib
import pkgutil
import re
from pathlib import Path

import jsonschema
import msgspec
import pytest

import node
from node.errors import NodeError
from node.rpc import codes, reference
from node.rpc.method import schema_of
from node.rpc.methods import METHODS

PAGE = Path(__file__).parents[3] / "docs" / "rpc.md"


@pytest.mark.parametrize("name", METHODS)
def test_the_example_is_what_the_method_takes_and_answers(name):
    method = METHODS[name]
    msgspec.convert(method.example["params"], method.params)
    msgspec.convert(method.example["result"], method.result)
    # A second judge, which knows nothing of msgspec.
    jsonschema.validate(method.example["params"], schema_of(method.params))
    jsonschema.validate(method.example["result"], schema_of(method.result))


@pytest.mark.parametrize("name", METHODS)
def test_an_example_with_a_field_too_many_or_too_few_is_refused(name):
    method = METHODS[name]
    result = dict(method.example["result"])
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({**result, "surplus": 1}, method.result)
    result.pop(next(iter(result)))
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(result, method.result)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({**method.example["params"], "surplus": 1}, method.params)


def test_methods_are_named_noun_verb_and_described():
    for name, method in METHODS.items():
        assert re.fullmatch(r"[a-z]+\.[a-z]+", name)
        assert method.about.endswith(".")
        for field in method.params.__struct_fields__:
            assert method.described(field), f"{name}: {field} has no description"


@pytest.mark.parametrize(
    ("name", "params", "field"),
    [
        ("runs.show", {"run": "ab"}, "run"),
        ("runs.show", {"run": "G" * 64}, "run"),
        ("runs.show", {"run": "a" * 64 + "\n"}, "run"),
        ("datasets.fetch", {"dataset": -1, "path": "/x"}, "dataset"),
        ("datasets.fetch", {"dataset": 0, "path": "x"}, "path"),
        ("datasets.fetch", {"dataset": 0, "path": "/x\0y"}, "path"),
        ("datasets.fetch", {"dataset": 0, "path": "/x", "units": []}, "units"),
        ("datasets.fetch", {"dataset": 0, "path": "/x", "units": [64]}, "units"),
        ("grants.give", {"dataset": 0, "grantee": "A", "days": 0}, "days"),
        ("grants.give", {"dataset": 0, "grantee": "A", "days": True}, "days"),
        ("events.list", {"limit": 1001}, "limit"),
        ("events.list", {"wait_s": 61}, "wait_s"),
    ],
)
def test_bounds_hold(name, params, field):
    with pytest.raises(msgspec.ValidationError, match=rf"\$\.{field}"):
        msgspec.convert(params, METHODS[name].params)


def test_a_run_of_two_members_is_refused():
    params = {**METHODS["runs.propose"].example["params"], "members": ["MN", "KY"]}
    with pytest.raises(msgspec.ValidationError, match="length >= 3"):
        msgspec.convert(params, METHODS["runs.propose"].params)


def test_every_error_of_the_daemon_has_a_number_with_a_meaning():
    for module in pkgutil.iter_modules(node.__path__):
        if module.name in {"market", "errors"}:
            importlib.import_module(f"node.{module.name}")
    importlib.import_module("node.adapters.chain_errors")
    pending, seen = [NodeError], set()
    while pending:
        kind = pending.pop()
        pending += kind.__subclasses__()
        # What programs beside the daemon raise among themselves never crosses the socket.
        if not kind.__module__.startswith(("node.devchain", "node.demo")):
            seen.add(kind.code)
    assert seen <= set(codes.MEANING), seen - set(codes.MEANING)
    assert {100, 220, 501, 502} <= seen  # the walk finds what is far from the root


def test_the_reference_page_is_current():
    assert PAGE.read_text() == reference.page(), (
        "run `python -m node.rpc.reference > docs/rpc.md`"
    )


def test_the_reference_page_names_every_method_parameter_and_code():
    page = reference.page()
    for name, method in METHODS.items():
        assert f"### {name}\n" in page
        section = page.split(f"### {name}\n")[1].split("\n### ")[0]
        for field in method.params.__struct_fields__ + method.result.__struct_fields__:
            assert f"`{field}`" in section
    for code in codes.MEANING:
        assert f"| {code} |" in page


def test_the_json_schema_of_everything_is_json_schema():
    for one in reference.json_schema().values():
        jsonschema.Draft202012Validator.check_schema(one["params"])
        jsonschema.Draft202012Validator.check_schema(one["result"])
