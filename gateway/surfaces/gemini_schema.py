"""From a schema in the words of Google's OpenAPI subset to JSON Schema: https://ai.google.dev/api/caching#Schema."""

from collections.abc import Callable, Mapping
from typing import Any

# Google's own, which no JSON Schema has: the order of properties only asks, null becomes a type.
DROPPED = frozenset({"nullable", "propertyOrdering"})
# Numbers of 64 bits travel as strings in Google's JSON.
COUNTS = frozenset({"minItems", "maxItems", "minProperties", "maxProperties", "minLength", "maxLength"})
LISTS = frozenset({"anyOf", "allOf", "oneOf", "prefixItems"})
UNSPECIFIED = "TYPE_UNSPECIFIED"
# What a schema that is kept strictly may have: https://platform.openai.com/docs/guides/structured-outputs.
STRICT_MEMBERS = frozenset(
    {
        "type",
        "title",
        "description",
        "enum",
        "anyOf",
        "items",
        "properties",
        "required",
        "additionalProperties",
        "$defs",
        "$ref",
    }
)

Change = Callable[[Mapping[str, Any]], dict[str, Any]]


def json_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The same as JSON Schema; what is JSON Schema already stays as it is."""
    converted = {}
    for given, value in schema.items():
        name = camel_case(given)
        if name not in DROPPED and value != UNSPECIFIED:
            converted[name] = _member(name, value)
    return _nullable(converted) if schema.get("nullable") is True else converted


def closed(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The same with objects that have no members but their own, as answers in Google's form have none."""
    inner = {name: _each(name, value, closed) for name, value in schema.items()}
    return {"additionalProperties": False, **inner} if "properties" in inner else inner


def is_strict(schema: object) -> bool:
    """Whether OpenAI takes it where a form is to be kept strictly; it refuses the request otherwise."""
    if not isinstance(schema, Mapping) or not schema.keys() <= STRICT_MEMBERS:
        return False
    properties, definitions = schema.get("properties", {}), schema.get("$defs", {})
    required, choices = schema.get("required", []), schema.get("anyOf", [])
    if not (isinstance(properties, Mapping) and isinstance(definitions, Mapping)):
        return False
    if not (isinstance(required, list) and isinstance(choices, list)):
        return False
    if properties or schema.get("type") in ("object", ["object", "null"]):
        is_closed = schema.get("additionalProperties") is False
        if not is_closed or any(name not in required for name in properties):
            return False
    items = [schema["items"]] if "items" in schema else []
    return all(is_strict(inner) for inner in (*properties.values(), *definitions.values(), *choices, *items))


def camel_case(name: str) -> str:
    """`max_output_tokens` is `maxOutputTokens` to Google, which takes both."""
    first, *others = name.split("_")
    return first + "".join(part[:1].upper() + part[1:] for part in others) if first else name


def _member(name: str, value: Any) -> Any:
    if name == "type" and isinstance(value, str):
        return value.lower()
    if name in COUNTS and isinstance(value, str) and value.isdecimal():
        return int(value)
    return _each(name, value, json_schema)


def _each(name: str, value: Any, change: Change) -> Any:
    """A member with the schemas in it changed."""
    if name == "properties" and isinstance(value, dict):
        return {inner: _schema(schema, change) for inner, schema in value.items()}
    if name in LISTS and isinstance(value, list):
        return [_schema(schema, change) for schema in value]
    return _schema(value, change) if name in {"items", "additionalProperties"} else value


def _schema(value: Any, change: Change) -> Any:
    return change(value) if isinstance(value, dict) else value


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    if isinstance(schema.get("anyOf"), list):
        schema["anyOf"] = [*schema["anyOf"], {"type": "null"}]
    if isinstance(schema.get("type"), str):
        schema["type"] = [schema["type"], "null"]
    if isinstance(schema.get("enum"), list):
        schema["enum"] = [*schema["enum"], None]
    return schema
