"""One `replace` for both kinds of values: dataclasses, and the Structs that are made for each request."""

import dataclasses

import msgspec


def replace(value, **changes):
    if isinstance(value, msgspec.Struct):
        return msgspec.structs.replace(value, **changes)
    return dataclasses.replace(value, **changes)
