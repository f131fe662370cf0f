"""A person's JSON schema: what is refused, what a model is asked for, what its reply means."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from generate.schemas import (
    MAX_BYTES,
    MAX_DEPTH,
    MAX_FIELDS,
    Fields,
    Leaf,
    Tree,
    merge,
    model_schema,
    read_reply,
    read_schema,
    shortfalls,
)
from pageglass.errors import SchemaError
from pageglass.types import ExtractedValue, PageRef, Scalar

TEXT = {"type": "string"}


def fields(**properties: Any) -> Fields:
    return read_schema({"type": "object", "properties": properties})


def on_page(index: int, *, verified: bool = True) -> Any:
    def found(leaf: Leaf, value: Scalar, quote: str) -> ExtractedValue:
        return ExtractedValue("", value, PageRef("d", index), "1", quote, (), verified)

    return found


def read(schema: Fields, reply: object) -> tuple[Any, list[str]]:
    """The data in a reply, and what is wrong with it."""
    tree, objections = read_reply(schema, reply, on_page(0))
    return merge(schema, [tree])[0], objections


# What is refused


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = TEXT
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


def doubling(levels: int) -> dict[str, Any]:
    """Definitions of two fields each that are the next definition: 2 ** levels fields."""
    both = [
        {"properties": {name: {"$ref": f"#/$defs/d{level + 1}"} for name in "ab"}}
        for level in range(levels)
    ]
    definitions = {f"d{level}": schema for level, schema in enumerate(both)}
    return {**both[0], "$defs": {**definitions, f"d{levels}": TEXT}}


def with_field(field: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"total": field}}


LOOP = {"$defs": {"node": {"properties": {"next": {"$ref": "#/$defs/node"}}}}}
HOSTILE: list[tuple[dict[str, Any], str]] = [
    ({}, "must say its type"),
    (TEXT, 'must be of type "object"'),
    ({"type": "array", "items": TEXT}, 'must be of type "object"'),
    ({"type": "object"}, "must name its properties"),
    ({"type": "object", "properties": {}}, "must name its properties"),
    ({"type": "object", "properties": {"": TEXT}}, "1 to 100 characters"),
    ({"type": "object", "properties": {"x" * 101: TEXT}}, "1 to 100 characters"),
    (nested(MAX_DEPTH + 1), f"nested {MAX_DEPTH} deep"),
    (nested(900), "nested"),
    (doubling(MAX_DEPTH), f"more than {MAX_FIELDS} fields"),
    ({"properties": {f"f{i}": TEXT for i in range(MAX_FIELDS)}}, f"more than {MAX_FIELDS}"),
    (with_field({**TEXT, "description": "x" * MAX_BYTES}), "bytes and may have"),
    ({**LOOP, **LOOP["$defs"]["node"]}, "contains itself"),
    ({"$ref": "#"}, "the schema's own #/$defs/NAME"),
    ({"$ref": "http://evil.example/schema.json"}, "the schema's own #/$defs/NAME"),
    (with_field({"$ref": "file:///etc/passwd"}), "at /properties/total"),
    (with_field({"$ref": ["#/$defs/x"]}), "the schema's own"),
    (with_field({"$ref": "#/$defs/x"}), "there is no #/$defs/x"),
    (with_field({**TEXT, "pattern": "(a+)+$"}), "/properties/total/pattern: regular expressions"),
    ({"type": "object", "patternProperties": {"^(a+)+$": TEXT}}, "regular expressions"),
    (with_field({**TEXT, "contentSchema": {}}), "contentSchema: is not supported"),
    (with_field({"type": "number", "multipleOf": 1e-308}), "multipleOf: is not supported"),
    (with_field({"type": "number", "minimum": "0"}), "minimum is not as"),
    (with_field({"type": "number", "minimum": True}), "minimum is not as"),
    (with_field({"type": "number", "minimum": float("nan")}), "finite"),
    (with_field({**TEXT, "maxLength": -1}), "maxLength is not as"),
    (with_field({**TEXT, "format": 5}), "format is not as"),
    (with_field({**TEXT, "description": 5}), "description must be text"),
    (with_field({"type": "text"}), 'the type "text" is not supported'),
    (with_field({"type": "null"}), "is not supported"),
    (with_field({"type": ["string", "object"]}), "is not supported"),
    (with_field({"type": [["string"]]}), "must be the name of a type"),
    (with_field(True), "must be an object"),
    (with_field({"type": "array"}), "what its items are"),
    (with_field({"type": "array", "items": [TEXT]}), "must be an object"),
    (with_field({"type": "array", "items": TEXT, "minItems": 1.5}), "whole numbers"),
    (with_field({"type": "array", "items": TEXT, "contains": TEXT}), "contains: is not"),
    (with_field({"enum": []}), "a list of 1 to"),
    (with_field({"enum": list(range(1000))}), "a list of 1 to"),
    (with_field({"enum": [{"a": 1}]}), "may hold texts"),
    (with_field({"enum": [None]}), "something besides null"),
    (with_field({"anyOf": [TEXT, {"type": "number"}]}), "may only hold one schema"),
    (with_field({"oneOf": TEXT}), "may only hold one schema"),
    (with_field({"allOf": [TEXT], "anyOf": [TEXT]}), "together"),
    (with_field({"anyOf": [TEXT], "pattern": "a"}), "'pattern' together"),
    ({**with_field(TEXT), "required": ["sum"]}, "names of its properties"),
    ({**with_field(TEXT), "required": [["total"]]}, "names of its properties"),
    ({**with_field(TEXT), "additionalProperties": TEXT}, "true or false"),
    ({**with_field(TEXT), "if": {}, "then": {}}, "if: is not supported"),
    (with_field({**TEXT, "title": "\ud800"}), "no plain JSON"),
]


@pytest.mark.parametrize(("schema", "why"), HOSTILE, ids=range(len(HOSTILE)))
def test_what_cannot_be_followed_is_refused_in_one_line(schema: dict[str, Any], why: str) -> None:
    with pytest.raises(SchemaError) as refused:
        read_schema(schema)
    message = str(refused.value)
    assert why in message
    assert "\n" not in message
    assert len(message) < 500


def test_annotations_are_passed_over_however_deep() -> None:
    deep: Any = []
    for _ in range(500):
        deep = [deep]
    assert fields(total={**TEXT, "examples": deep}) == fields(total=TEXT)


def test_schemas_that_programs_write_are_understood() -> None:
    """As pydantic writes an optional field, a nested model and an enumeration."""
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$defs": {
            "Address": {"type": "object", "properties": {"city": TEXT}, "required": ["city"]},
            "Kind": {"enum": ["invoice", "receipt"], "title": "Kind", "type": "string"},
            "a/b~c": TEXT,
        },
        "type": "object",
        "title": "Invoice",
        "properties": {
            "from": {"anyOf": [{"$ref": "#/$defs/Address"}, {"type": "null"}], "default": None},
            "to": {"allOf": [{"$ref": "#/$defs/Address"}], "description": "Who pays."},
            "kind": {"$ref": "#/$defs/Kind"},
            "paid": {"type": ["boolean", "null"]},
            "odd": {"$ref": "#/$defs/a~1b~0c"},
            "rate": {"const": 0.2},
        },
        "required": ["from", "to"],
        "additionalProperties": False,
    }
    city, description = {"city": "Brno"}, model_schema(read_schema(schema))["properties"]["to"]
    assert description["description"] == "Who pays."
    said = {"from": city, "to": city, "kind": "receipt", "paid": False, "odd": "x", "rate": 0.2}
    assert read(read_schema(schema), said) == (said, [])


def test_bounds_are_told_in_words_and_checked_here() -> None:
    quantity = {"type": "integer", "minimum": 1, "exclusiveMaximum": 9, "description": "How many."}
    schema = fields(quantity=quantity)
    asked = model_schema(schema)["properties"]["quantity"]
    assert asked["description"] == "How many. (at least 1, less than 9)"
    assert "minimum" not in json.dumps(asked)
    assert list(asked["properties"]) == ["quote", "value"]
    assert read(schema, {"quantity": {"value": 8, "quote": "8"}}) == ({"quantity": 8}, [])
    data, (objection,) = read(schema, {"quantity": {"value": 9, "quote": "9"}})
    assert data == {"quantity": None}
    assert objection.startswith("/quantity/value: 9 is")


# What a reply means


@pytest.mark.parametrize(
    ("reply", "data"),
    [
        ({}, None),
        ({"total": None}, None),
        ({"total": {"value": None, "quote": "x"}}, None),
        ({"total": {"value": 5}}, 5),
        ({"total": 5}, 5),
        ({"total": {"value": 5, "quote": ["x"]}, "other": "ignored"}, 5),
    ],
)
def test_a_model_that_is_not_held_to_the_schema_is_understood(reply: Any, data: Any) -> None:
    assert read(fields(total={"type": "number"}), reply) == ({"total": data}, [])


@pytest.mark.parametrize(
    "said",
    ["5", True, [5], {"quote": "5"}, {"value": {"value": 5}}, float("inf"), float("nan")],
)
def test_what_is_no_such_value_is_left_out_and_objected_to(said: Any) -> None:
    data, (objection,) = read(fields(total={"type": "number"}), {"total": said})
    assert data == {"total": None}
    assert objection.startswith("/total")


def test_the_rest_of_a_reply_is_kept() -> None:
    schema = fields(a=TEXT, list={"type": "array", "items": {"type": "integer"}}, o=nested(1))
    said = {"a": "x", "list": [1, "two", None, 3], "o": "none"}
    data, objections = read(schema, said)
    assert data == {"a": "x", "list": [1, 3], "o": {"a": None}}
    assert [objection.partition(" ")[0] for objection in objections] == ["/list/1/value:", "/o"]
    assert read(schema, "no")[1] == ["the reply must be an object"]
    assert read(schema, {"list": 5})[1] == ["/list must be a list"]


def test_values_go_out_as_harmless_as_answers() -> None:
    schema = fields(a=TEXT, date={**TEXT, "format": "date"}, n={"type": "integer"})
    said = {"a": "[see](http://evil.example/x) <img src=x>\ud800", "n": 3.0}
    data, _ = read(schema, said)
    assert data == {"a": "see", "date": None, "n": 3}
    assert type(data["n"]) is int
    _, (objection,) = read(schema, {"date": "[x](http://evil.example)\x1b"})
    assert "://" not in objection and "\x1b" not in objection


SCALARS: dict[str, st.SearchStrategy[Any]] = {
    "string": st.text("abcé漢", min_size=1, max_size=5),
    "number": st.floats(-1e6, 1e6).filter(lambda x: not x.is_integer()) | st.integers(-9, 9),
    "integer": st.integers(),
    "boolean": st.booleans(),
}
NAMES = st.text("ab/~<> é", min_size=1, max_size=5)


@st.composite
def schemas(draw: st.DrawFn, depth: int = 2) -> tuple[dict[str, Any], st.SearchStrategy[Any]]:
    """A schema, and data that follow it."""
    kind = draw(st.sampled_from(["leaf", "leaf", "array", "object"] if depth else ["leaf"]))
    if kind == "leaf":
        type, values = draw(st.sampled_from(sorted(SCALARS.items(), key=lambda pair: pair[0])))
        return {"type": type}, values | st.none()
    if kind == "array":
        item, values = draw(schemas(depth - 1))
        filled = values.filter(_is_filled)
        return {"type": "array", "items": item}, st.lists(filled, max_size=3, unique_by=_canonical)
    inner = draw(st.dictionaries(NAMES, schemas(depth - 1), min_size=1, max_size=3))
    properties = {name: schema for name, (schema, _) in inner.items()}
    values = st.fixed_dictionaries({name: values for name, (_, values) in inner.items()})
    return {"type": "object", "properties": properties}, values


def _canonical(data: Any) -> str:
    return json.dumps(data, sort_keys=True)


def _is_filled(data: Any) -> bool:
    if isinstance(data, dict):
        return any(_is_filled(inner) for inner in data.values())
    return bool(data) if isinstance(data, list) else data is not None


def quoted(data: Any) -> Any:
    """The data as a model that is held to its schema would write them."""
    if isinstance(data, dict):
        return {name: quoted(inner) for name, inner in data.items()}
    if isinstance(data, list):
        return [quoted(inner) for inner in data]
    return {"quote": None if data is None else f"<{data}>", "value": data}


@st.composite
def documents(draw: st.DrawFn) -> tuple[dict[str, Any], list[Any]]:
    """A schema and what some pages say to it."""
    inner = draw(st.dictionaries(NAMES, schemas(), min_size=1, max_size=3))
    schema = {"type": "object", "properties": {name: schema for name, (schema, _) in inner.items()}}
    values = st.fixed_dictionaries({name: values for name, (_, values) in inner.items()})
    return schema, draw(st.lists(values, min_size=1, max_size=3))


WORDS = st.sampled_from(
    ["type", "object", "array", "string", "number", "null", "properties", "items", "enum", "const",
     "anyOf", "allOf", "$ref", "$defs", "#/$defs/a", "required", "minimum", "format", "date",
     "minItems", "maxItems", "additionalProperties", "description", "value", "quote", "a", ""]
)  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(WORDS, JSON, max_size=5) | JSON.map(lambda field: with_field(field)))
def test_no_schema_is_more_than_refused(schema: dict[str, Any]) -> None:
    try:
        node = read_schema(schema)
    except SchemaError:
        return
    jsonschema.Draft202012Validator.check_schema(model_schema(node))


@given(documents(), JSON, st.dictionaries(NAMES, JSON, max_size=3))
def test_whatever_a_model_says_has_the_schemas_shape(
    given: tuple[dict[str, Any], list[Any]], said: Any, fields: dict[str, Any]
) -> None:
    schema, _ = given
    node = read_schema(schema)
    nothing, _ = merge(node, [])
    some_fields = {name: fields.get(name, said) for name in schema["properties"]}
    for reply in (said, fields, some_fields):
        data, _ = read(node, reply)
        assert data.keys() == nothing.keys()
        # No infinite number, no half of a surrogate pair: it goes out as JSON, in UTF-8.
        json.dumps(data, allow_nan=False, ensure_ascii=False).encode()


@given(documents())
def test_what_a_model_may_say_comes_back_as_it_is(given: tuple[dict[str, Any], list[Any]]) -> None:
    schema, (data, *_) = given
    asked = model_schema(read_schema(schema))
    jsonschema.Draft202012Validator.check_schema(asked)
    said = json.loads(json.dumps(quoted(data)))
    jsonschema.validate(said, asked)
    merged, objections = read(read_schema(schema), said)
    assert not objections
    assert _canonical(merged) == _canonical(data)


@given(documents(), st.lists(st.booleans(), min_size=3, max_size=3))
def test_what_is_merged_is_in_the_schema_and_on_its_pages(
    given: tuple[dict[str, Any], list[Any]], verified: list[bool]
) -> None:
    schema, pages = given
    node = read_schema(schema)
    trees: list[Tree] = []
    for index, page in enumerate(pages):
        tree, _ = read_reply(node, quoted(page), on_page(index, verified=verified[index]))
        trees.append(tree)
    data, values = merge(node, trees)
    assert data.keys() == schema["properties"].keys()
    assert len({value.path for value in values}) == len(values)
    for value in values:
        assert at(data, value.path) == value.value
        # The best of what was found, and no page's word twice or made up.
        found = [value, *value.alternatives]
        assert value.verified or not any(other.verified for other in found)
        assert len({json.dumps(one.value) for one in found}) == len(found)
        for one in found:
            assert verified[one.ref.index] is one.verified
            assert f"<{one.value}>" == one.quote
    # Again the same pages: nothing new.
    again, values_again = merge(node, trees + trees)
    assert again == data
    assert values_again == values
    # A page that says nothing changes nothing.
    assert merge(node, [None, *trees])[1] == values


def at(data: Any, path: str) -> Any:
    """What a JSON pointer leads to."""
    for step in path.split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        data = data[int(name)] if isinstance(data, list) else data[name]
    return data


# Merging


def value(said: Scalar, index: int, *, verified: bool = True) -> ExtractedValue:
    return ExtractedValue("", said, PageRef("d", index), str(index), "x", (), verified)


def test_verified_values_go_first_and_the_others_are_kept() -> None:
    schema = fields(total={"type": "number"})
    pages: list[Tree] = [
        {"total": value(7, 0, verified=False)},
        {"total": value(5, 1)},
        None,
        {"total": value(5.0, 2)},
        {"total": value(6, 3)},
        {"total": value(7, 4, verified=False)},
    ]
    data, (found,) = merge(schema, pages)
    assert data == {"total": 5}
    assert (found.ref.index, found.path) == (1, "/total")
    assert [(other.value, other.ref.index) for other in found.alternatives] == [(6, 3), (7, 0)]
    assert {other.path for other in found.alternatives} == {"/total"}


def test_lists_are_put_together_and_what_says_the_same_stands_once() -> None:
    item = {"type": "object", "properties": {"article": TEXT, "count": {"type": "integer"}}}
    schema = fields(rows={"type": "array", "items": item, "minItems": 4, "maxItems": 9})
    row: dict[str, Tree] = {"article": value("Valve seat", 0), "count": value(4, 0)}
    again: dict[str, Tree] = {"article": value("Valve  seat", 1), "count": value(4, 1)}
    other: dict[str, Tree] = {"article": value("Valve seat", 1), "count": None}
    data, values = merge(schema, [{"rows": [row]}, {"rows": [again, other]}])
    assert [one["count"] for one in data["rows"]] == [4, None]
    assert [one.path for one in values] == ["/rows/0/article", "/rows/0/count", "/rows/1/article"]
    assert list(shortfalls(schema, data)) == ["/rows has 2 items and should have 4 at least"]


def test_what_a_document_lacks_is_said() -> None:
    inner = {"type": "object", "properties": {"a": TEXT, "b": TEXT}, "required": ["a"]}
    schema = read_schema(
        {"properties": {"o": inner, "list": {"type": "array", "items": TEXT}, "t": TEXT},
         "required": ["t", "o", "list"]}
    )  # fmt: skip
    empty, _ = merge(schema, [])
    assert empty == {"o": {"a": None, "b": None}, "list": [], "t": None}
    assert list(shortfalls(schema, empty)) == ["no page says /t, which the schema requires"]
    half, _ = merge(schema, [{"o": {"a": None, "b": value("x", 0)}, "t": value("y", 0)}])
    assert list(shortfalls(schema, half)) == ["no page says /o/a, which the schema requires"]


def test_a_value_keeps_the_page_it_is_from() -> None:
    found = replace(value("x", 4), page_label="iv")
    _, (merged,) = merge(fields(a=TEXT), [{"a": found}])
    assert merged == replace(found, path="/a")
