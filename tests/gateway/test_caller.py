"""The head of a response; the connection itself is tried in tests/e2e/test_caller.py."""

import pytest

from gateway.caller import header_lines


def test_headers_become_lines():
    assert header_lines((("content-type", "application/json"), ("x-gateway-cluster", "größe"))) == (
        b"content-type: application/json\r\nx-gateway-cluster: gr\xf6\xdfe\r\n"
    )
    assert header_lines(()) == b""


@pytest.mark.parametrize("value", ["a\r\nset-cookie: b", "a\nb", "a\rb", "\r\n"])
def test_header_that_would_be_two_lines_is_refused(value):
    with pytest.raises(ValueError, match="a header holds a line break"):
        header_lines((("x-gateway-cluster", value),))
