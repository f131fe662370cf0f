"""A person's JSON schema: what it may say, what a model is asked for, and what its reply means.

The schema comes from whoever asks, so only what is known here is taken, within limits; nothing is
fetched, and no regular expression of theirs is run. Pure functions.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, TypeGuard

import jsonschema

from generate.containment import plain_text
from pageglass.errors import SchemaError
from pageglass.types import ExtractedValue, Scalar

MAX_BYTES = 64 * 1024
"""Longest schema, as UTF-8."""
MAX_DEPTH = 8
"""Objects and arrays within each other: more than people nest, and servers hold models to ten."""
MAX_FIELDS = 200
"""Most values, objects and arrays in a schema, each use of a definition counted."""
MAX_OPTIONS = 200
"""Most values an ``enum`` may name."""
MAX_NAME = 100

_SCALARS = frozenset({"string", "number", "integer", "boolean"})
_ANNOTATIONS = frozenset(
    "type title description default examples deprecated readOnly writeOnly nullable $schema $id"
    " $comment $defs definitions".split()
)
_OBJECT = frozenset({"properties", "required", "additionalProperties"})
_ARRAY = frozenset({"items", "minItems", "maxItems", "uniqueItems"})
_BOUNDS = MappingProxyType(
    {
        "format": "format",
        "minimum": "at least",
        "maximum": "at most",
        "exclusiveMinimum": "more than",
        "exclusiveMaximum": "less than",
        "minLength": "characters at least",
        "maxLength": "characters at most",
    }
)
"""What a value may be held to beside its type, and how a model is told: servers differ in what they
can hold one to, so that the reply is checked here."""
_CHOICES = ("anyOf", "oneOf", "allOf")
# The other formats are hints to the model.
_FORMATS = jsonschema.FormatChecker(formats=("date",))


@dataclass(frozen=True, slots=True)
class Leaf:
    """A value. ``schema`` is what it must be where it is not null, in plain keywords."""

    schema: Mapping[str, Any]
    description: str

    @property
    def verbatim(self) -> bool:
        """Whether the value is a number or words that its quote must say; the choice between names
        that the schema gives, or between yes and no, is the model's own."""
        return "enum" not in self.schema


@dataclass(frozen=True, slots=True)
class Items:
    """A list. How long it may be holds for a document, not for a page."""

    item: Node
    description: str
    least: int
    most: int | None


@dataclass(frozen=True, slots=True)
class Fields:
    """An object, by the names of its fields."""

    fields: Mapping[str, Node]
    description: str
    required: tuple[str, ...]


Node = Leaf | Items | Fields

Tree = ExtractedValue | list["Tree"] | dict[str, "Tree"] | None
"""What a page says, in the shape of its schema; None where it says nothing."""

Found = Callable[[Leaf, Scalar, str], ExtractedValue]
"""Makes a value of what a model says: the leaf, the value, and the words it rests on,
empty where it names none."""


def read_schema(schema: Mapping[str, Any]) -> Fields:
    """The fields a schema names; SchemaError says where it is not as it must be."""
    try:
        size = len(json.dumps(schema, ensure_ascii=False).encode())
    except (UnicodeEncodeError, RecursionError, ValueError, TypeError):
        raise SchemaError("the schema is no plain JSON, or nested too deep") from None
    if size > MAX_BYTES:
        raise SchemaError(f"the schema has {size:,} bytes and may have {MAX_BYTES:,}")
    root = _Reader(schema).node(schema, "", (), 0)
    if not isinstance(root, Fields):
        raise _wrong("", 'must be of type "object": put what you look for into its properties')
    return root


class _Reader:
    """Reads one schema, following references within it."""

    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._count = 0

    def node(self, schema: object, place: str, active: tuple[str, ...], depth: int) -> Node:
        self._count += 1
        if self._count > MAX_FIELDS:
            raise SchemaError(f"the schema has more than {MAX_FIELDS} fields")
        if depth > MAX_DEPTH:
            raise _wrong(place, f"objects and arrays may be nested {MAX_DEPTH} deep")
        schema, active = self._resolved(schema, place, active)
        types = _types(schema, place)
        description = schema.get("description", schema.get("title", ""))
        if not isinstance(description, str):
            raise _wrong(place, "its description must be text")
        if types == ["object"]:
            return self._object(schema, description, place, active, depth)
        if types == ["array"]:
            return self._array(schema, description, place, active, depth)
        return _leaf(schema, types, description, place)

    def _resolved(
        self, schema: object, place: str, active: tuple[str, ...]
    ) -> tuple[Mapping[str, Any], tuple[str, ...]]:
        """The schema itself, where it stands for another: a ``$ref``, or "this or null"."""
        while True:
            if not isinstance(schema, dict):
                raise _wrong(place, "must be an object")
            meant = [key for key in ("$ref", *_CHOICES) if key in schema]
            if not meant:
                return schema, active
            if len(meant) > 1:
                raise _wrong(place, f"{meant[0]} and {meant[1]} together are not supported")
            [key] = meant
            if key == "$ref":
                inner = self._definition(schema[key], place, active)
                active = (*active, schema[key])
            else:
                inner = _only_choice(schema[key], f"{place}/{key}")
            around = {name: value for name, value in schema.items() if name != key}
            if extra := around.keys() - _ANNOTATIONS:
                raise _wrong(place, f"{key} and {min(extra)!r} together are not supported")
            schema = {**inner, **around}

    def _definition(self, ref: object, place: str, active: tuple[str, ...]) -> dict[str, Any]:
        if not isinstance(ref, str) or not ref.startswith(("#/$defs/", "#/definitions/")):
            raise _wrong(place, "$ref may only lead to the schema's own #/$defs/NAME")
        if ref in active:
            raise _wrong(place, f"{ref[:80]} contains itself: what is looked for must be finite")
        _, group, name = ref.split("/", 2)
        definitions = self._root.get(group)
        found = definitions.get(_unescaped(name)) if isinstance(definitions, dict) else None
        if not isinstance(found, dict):
            raise _wrong(place, f"there is no {ref[:80]}")
        return found

    def _object(
        self,
        schema: Mapping[str, Any],
        description: str,
        place: str,
        active: tuple[str, ...],
        depth: int,
    ) -> Fields:
        _only(schema, _OBJECT, place)
        properties = schema.get("properties")
        if not isinstance(properties, dict) or not properties:
            raise _wrong(place, "an object must name its properties")
        if not isinstance(schema.get("additionalProperties", False), bool):
            raise _wrong(place, "additionalProperties must be true or false: name the properties")
        required = schema.get("required", [])
        if not isinstance(required, list) or any(
            not isinstance(name, str) or name not in properties for name in required
        ):
            raise _wrong(place, "required must be a list of names of its properties")
        for name in properties:
            if not 0 < len(name) <= MAX_NAME:
                raise _wrong(place, f"names of properties must have 1 to {MAX_NAME} characters")
        fields = {
            name: self.node(inner, f"{place}/properties/{escaped(name)}", active, depth + 1)
            for name, inner in properties.items()
        }
        return Fields(fields, description, tuple(required))

    def _array(
        self,
        schema: Mapping[str, Any],
        description: str,
        place: str,
        active: tuple[str, ...],
        depth: int,
    ) -> Items:
        _only(schema, _ARRAY, place)
        if "items" not in schema:
            raise _wrong(place, "an array must say what its items are")
        least, most = schema.get("minItems", 0), schema.get("maxItems")
        for bound in (least, most):
            if bound is not None and (type(bound) is not int or bound < 0):
                raise _wrong(place, "minItems and maxItems must be whole numbers")
        item = self.node(schema["items"], f"{place}/items", active, depth + 1)
        return Items(item, description, least, most)


def _types(schema: Mapping[str, Any], place: str) -> list[str]:
    """The types besides null, told by other keywords where the schema does not name them."""
    named = schema.get("type")
    if named is None:
        options = _options(schema, place)
        if "properties" in schema:
            named = "object"
        elif "items" in schema:
            named = "array"
        elif options is not None:
            named = sorted({_type_of(option) for option in options})
        else:
            raise _wrong(place, "must say its type")
    types = named if isinstance(named, list) else [named]
    if not all(isinstance(one, str) for one in types):
        raise _wrong(place, "its type must be the name of a type, or a list of such names")
    types = [one for one in dict.fromkeys(types) if one != "null"]
    if types in (["object"], ["array"]) or (types and set(types) <= _SCALARS):
        return types
    named = json.dumps(named, ensure_ascii=False)[:80]
    raise _wrong(place, f"the type {named} is not supported")


def _leaf(schema: Mapping[str, Any], types: list[str], description: str, place: str) -> Leaf:
    _only(schema, {*_BOUNDS, "enum", "const"}, place)
    form: dict[str, Any] = {"type": types}
    options = _options(schema, place)
    if options is not None:
        form["enum"] = [option for option in options if option is not None]
    elif types == ["boolean"]:
        form["enum"] = [True, False]
    for key in _BOUNDS.keys() & schema.keys():
        bound = schema[key]
        if isinstance(bound, float) and not math.isfinite(bound):
            raise _wrong(place, f"{key} must be a finite number")
        form[key] = bound
    try:
        jsonschema.Draft202012Validator.check_schema(form)
    except jsonschema.SchemaError as error:
        key = error.absolute_path[0] if error.absolute_path else "it"
        raise _wrong(place, f"{key} is not as JSON Schema has it") from None
    return Leaf(MappingProxyType(form), description)


def _options(schema: Mapping[str, Any], place: str) -> list[Any] | None:
    """The values it may have, of ``enum`` or ``const``; None where it may have any."""
    if "const" in schema:
        options = [schema["const"]]
    elif "enum" in schema:
        options = schema["enum"]
    else:
        return None
    if not isinstance(options, list) or not 0 < len(options) <= MAX_OPTIONS:
        raise _wrong(place, f"enum must be a list of 1 to {MAX_OPTIONS} values")
    if not all(option is None or _is_scalar(option) for option in options):
        raise _wrong(place, "enum and const may hold texts, numbers, true, false and null")
    if all(option is None for option in options):
        raise _wrong(place, "enum and const must allow something besides null")
    return options


def _only_choice(choices: object, place: str) -> dict[str, Any]:
    """The one of ``choices`` that is not null."""
    options = choices if isinstance(choices, list) else []
    given = [option for option in options if option != {"type": "null"}]
    if len(given) != 1 or not isinstance(given[0], dict):
        raise _wrong(place, "may only hold one schema, and null beside it")
    return given[0]


def _only(schema: Mapping[str, Any], keywords: set[str] | frozenset[str], place: str) -> None:
    """SchemaError where the schema says what would not be heeded."""
    for key in sorted(schema.keys() - _ANNOTATIONS - keywords):
        if key in ("pattern", "patternProperties"):
            why = "regular expressions are not run: say in the description what it looks like"
        else:
            why = "is not supported here"
        raise _wrong(f"{place}/{key[:80]}", why)


def _wrong(place: str, what: str) -> SchemaError:
    return SchemaError(f"the schema{f' at {place[-200:]}' if place else ''}: {what}")


def _is_scalar(value: object) -> TypeGuard[Scalar]:
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, (str, int))


def _type_of(option: object) -> str:
    if option is None:
        return "null"
    if isinstance(option, bool):
        return "boolean"
    return "string" if isinstance(option, str) else "number"


def escaped(name: str) -> str:
    """A name as a step of a JSON pointer (RFC 6901)."""
    return name.replace("~", "~0").replace("/", "~1")


def _unescaped(step: str) -> str:
    return step.replace("~1", "/").replace("~0", "~")


# What a model is asked for


def model_schema(node: Node) -> dict[str, Any]:
    """The schema a model is held to: as the person's, each value with the words it rests on.

    The words come before the value, so that they bind it. It says no more than any server can hold
    a model to; bounds are put into the descriptions.
    """
    match node:
        case Leaf():
            types: dict[str, Any] = {"type": [*node.schema["type"], "null"]}
            if "enum" in node.schema:
                types["enum"] = [*node.schema["enum"], None]
            return _object_of(
                {"quote": {"type": ["string", "null"]}, "value": types}, _told_bounds(node)
            )
        case Items():
            array = {"type": "array", "items": model_schema(node.item)}
            return array | _described(node.description)
        case Fields():
            fields = {name: model_schema(inner) for name, inner in node.fields.items()}
            return _object_of(fields, node.description)


def _object_of(fields: Mapping[str, Any], description: str) -> dict[str, Any]:
    return {
        "type": "object",
        **_described(description),
        "properties": dict(fields),
        "required": list(fields),
        "additionalProperties": False,
    }


def _described(description: str) -> dict[str, str]:
    return {"description": description} if description else {}


def _told_bounds(leaf: Leaf) -> str:
    told = [f"{how} {leaf.schema[key]}" for key, how in _BOUNDS.items() if key in leaf.schema]
    return " ".join([leaf.description, f"({', '.join(told)})"] if told else [leaf.description])


# What a reply means


def read_reply(fields: Fields, reply: object, found: Found) -> tuple[Tree, list[str]]:
    """What a model's reply says, and, for the model to read, what of it is not as it must be.

    What is left out is absent, and so is an empty text. A value that is not as it must be is left
    out; a bare value has no words that it rests on.
    """
    objections: list[str] = []
    tree = _read(fields, reply, "", found, objections)
    return tree, objections


def _read(node: Node, said: object, place: str, found: Found, objections: list[str]) -> Tree:
    if said is None:
        return None
    match node:
        case Leaf():
            return _read_leaf(node, said, place, found, objections)
        case Items():
            if not isinstance(said, list):
                objections.append(f"{place} must be a list")
                return None
            items = [
                _read(node.item, item, f"{place}/{number}", found, objections)
                for number, item in enumerate(said)
            ]
            return [item for item in items if _says_something(item)]
        case Fields():
            if not isinstance(said, dict):
                objections.append(f"{place or 'the reply'} must be an object")
                return None
            return {
                name: _read(inner, said.get(name), f"{place}/{escaped(name)}", found, objections)
                for name, inner in node.fields.items()
            }


def _read_leaf(
    leaf: Leaf, said: object, place: str, found: Found, objections: list[str]
) -> ExtractedValue | None:
    value, quote = said, None
    if isinstance(said, dict):
        if "value" not in said:
            objections.append(f'{place} must have "quote" and "value"')
            return None
        value, quote = said["value"], said.get("quote")
    if isinstance(value, str) and leaf.verbatim:
        value = plain_text(value)
    if value is None or value == "":
        return None
    if not _is_scalar(value):
        objections.append(f"{place}/value must be a text, a number, true, false or null")
        return None
    validator = jsonschema.Draft202012Validator(leaf.schema, format_checker=_FORMATS)
    if error := next(validator.iter_errors(value), None):
        objections.append(plain_text(f"{place}/value: {error.message[:200]}"))
        return None
    if isinstance(value, float) and value.is_integer() and "number" not in leaf.schema["type"]:
        value = int(value)
    return found(leaf, value, quote.strip() if isinstance(quote, str) else "")


def _says_something(tree: Tree) -> bool:
    if isinstance(tree, dict):
        return any(_says_something(inner) for inner in tree.values())
    return bool(tree) if isinstance(tree, list) else tree is not None


# What the pages of a document say together


def merge(
    node: Node, trees: Sequence[Tree], path: str = ""
) -> tuple[Any, tuple[ExtractedValue, ...]]:
    """The document's data, and where each of its values stands, of its pages' in their order.

    Of several values verified ones go before others, then the earliest; those that differ become
    the value's alternatives. Lists are put together, and what says the same stands in them once.
    Objects are merged field by field. What no page says is null, or an empty list.
    """
    match node:
        case Leaf():
            return _merge_values([t for t in trees if isinstance(t, ExtractedValue)], path)
        case Items():
            items: dict[str, Tree] = {}
            for item in [item for tree in trees if isinstance(tree, list) for item in tree]:
                items.setdefault(_key(_data(item)), item)
            parts = [
                merge(node.item, [item], f"{path}/{number}")
                for number, item in enumerate(items.values())
            ]
            return [data for data, _ in parts], tuple(v for _, values in parts for v in values)
        case Fields():
            fields = {
                name: merge(
                    inner,
                    [tree.get(name) for tree in trees if isinstance(tree, dict)],
                    f"{path}/{escaped(name)}",
                )
                for name, inner in node.fields.items()
            }
            data = {name: part for name, (part, _) in fields.items()}
            return data, tuple(v for _, values in fields.values() for v in values)


def _merge_values(
    values: Sequence[ExtractedValue], path: str
) -> tuple[Scalar | None, tuple[ExtractedValue, ...]]:
    different: dict[str, ExtractedValue] = {}
    for value in sorted(values, key=lambda value: not value.verified):
        different.setdefault(_key(value.value), replace(value, path=path))
    if not different:
        return None, ()
    best, *others = different.values()
    return best.value, (replace(best, alternatives=tuple(others)),)


def _data(tree: Tree) -> Any:
    if isinstance(tree, ExtractedValue):
        return tree.value
    if isinstance(tree, dict):
        return {name: _data(inner) for name, inner in tree.items()}
    return [_data(inner) for inner in tree] if isinstance(tree, list) else None


def _key(data: object) -> str:
    """The same for what says the same: 3 and 3.0, and texts however they are spaced."""

    def plain(data: Any) -> Any:
        if isinstance(data, dict):
            return {name: plain(inner) for name, inner in data.items()}
        if isinstance(data, list):
            return [plain(inner) for inner in data]
        if isinstance(data, float) and data.is_integer():
            return int(data)
        return " ".join(data.split()) if isinstance(data, str) else data

    return json.dumps(plain(data))


def shortfalls(node: Node, data: Any, path: str = "") -> Iterator[str]:
    """What the schema asks for, of a whole document, that its merged ``data`` does not have."""
    if isinstance(node, Items):
        if len(data) < node.least:
            yield f"{path} has {len(data)} items and should have {node.least} at least"
        if node.most is not None and len(data) > node.most:
            yield f"{path} has {len(data)} items and should have {node.most} at most"
        for number, item in enumerate(data):
            yield from shortfalls(node.item, item, f"{path}/{number}")
    elif isinstance(node, Fields) and not (path and _is_empty(data)):
        for name, inner in node.fields.items():
            place = f"{path}/{escaped(name)}"
            if data[name] is None and name in node.required:
                yield f"no page says {place}, which the schema requires"
            yield from shortfalls(inner, data[name], place)


def _is_empty(data: Any) -> bool:
    if isinstance(data, dict):
        return all(_is_empty(inner) for inner in data.values())
    return data is None or data == []
