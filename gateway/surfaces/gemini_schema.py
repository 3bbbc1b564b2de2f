"""From a schema in the words of Google's OpenAPI subset to JSON Schema: https://ai.google.dev/api/caching#Schema."""

from collections.abc import Mapping
from typing import Any

# Google's own, which no JSON Schema has: the order of properties only asks, null becomes a type.
DROPPED = frozenset({"nullable", "propertyOrdering"})
# Numbers of 64 bits travel as strings in Google's JSON.
COUNTS = frozenset({"minItems", "maxItems", "minProperties", "maxProperties", "minLength", "maxLength"})
LISTS = frozenset({"anyOf", "allOf", "oneOf", "prefixItems"})
UNSPECIFIED = "TYPE_UNSPECIFIED"


def json_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The same as JSON Schema; what is JSON Schema already stays as it is."""
    converted = {}
    for given, value in schema.items():
        name = camel_case(given)
        if name not in DROPPED and value != UNSPECIFIED:
            converted[name] = _member(name, value)
    if schema.get("nullable") is True and isinstance(converted.get("type"), str):
        converted["type"] = [converted["type"], "null"]
    return converted


def camel_case(name: str) -> str:
    """`max_output_tokens` is `maxOutputTokens` to Google, which takes both."""
    first, *others = name.split("_")
    return first + "".join(part[:1].upper() + part[1:] for part in others) if first else name


def _member(name: str, value: Any) -> Any:
    if name == "type" and isinstance(value, str):
        return value.lower()
    if name in COUNTS and isinstance(value, str) and value.isdecimal():
        return int(value)
    if name == "properties" and isinstance(value, dict):
        return {inner: _schema(schema) for inner, schema in value.items()}
    if name in LISTS and isinstance(value, list):
        return [_schema(schema) for schema in value]
    return _schema(value) if name in {"items", "additionalProperties"} else value


def _schema(value: Any) -> Any:
    return json_schema(value) if isinstance(value, dict) else value
