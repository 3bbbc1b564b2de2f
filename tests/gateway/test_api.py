"""The OpenAPI document is a snapshot: a change to it is a change that was meant."""

import json
from pathlib import Path

from gateway.api import api

SNAPSHOT = Path(__file__).with_name("openapi.json")


def test_openapi_document_is_the_snapshot():
    document = json.loads(json.dumps(api.get_openapi_schema()))

    assert document == json.loads(SNAPSHOT.read_text())
