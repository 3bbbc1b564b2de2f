import pytest

from clusters.endpoint import (
    EndpointError,
    check_address,
    check_endpoint,
    expanded_addresses,
    normal_endpoint,
)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("https://a.example", "https://a.example"),
        ("https://a.example/", "https://a.example"),
        (" https://a.example/v1/ ", "https://a.example"),
        ("https://a.example/v1", "https://a.example"),
        ("https://a.example/team/v1", "https://a.example/team"),
        ("https://a.example/v10", "https://a.example/v10"),
    ],
)
def test_endpoint_is_kept_without_slash_and_v1(given, kept):
    assert normal_endpoint(given) == kept


@pytest.mark.parametrize(
    "url",
    [
        "https://aws.llm.example.com",
        "http://vllm:8000",
        "http://vllm.models.svc.cluster.local:8000/base",
        "https://8.8.8.8",
        "https://[2606:4700::1111]:8443",
    ],
)
def test_endpoint_of_a_public_or_named_host_is_allowed(url):
    check_endpoint(url=url, allow_private=False)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8001",
        "http://localhost:8001",
        "http://10.0.0.5",
        "http://[::1]:1",
        "http://[fd12::1]",
    ],
)
def test_private_endpoint_needs_the_setting(url):
    check_endpoint(url=url, allow_private=True)
    with pytest.raises(EndpointError, match="allow private network"):
        check_endpoint(url=url, allow_private=False)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "a.example",
        "ftp://a.example",
        "file:///etc/passwd",
        "https://",
        "https://user:pw@a.example",
        "https://user@a.example",
        "https://a.example?x=1",
        "https://a.example?",
        "https://a.example#f",
        "https://a.example:0",
        "https://a.example:99999",
        "https://a.example:x",
        "https://a b.example",
        "https://a.example\n.evil",
        "https://a.example\\@evil",
        "https://[::1",
        "https://-a.example",
        "https://a..example",
        "http://2130706433",
        "http://0x7f000001",
        "http://127.1",
        "http://0177.0.0.1",
        "http://169.254.169.254",
        "http://169.254.169.254/latest/meta-data",
        "http://[fe80::1]",
        "http://[::ffff:169.254.169.254]",
        "http://[fd00:ec2::254]",
        "http://metadata.google.internal",
        "http://METADATA.google.internal.",
        "http://metadata",
        "http://100.100.100.200",
        "http://0.0.0.0:8000",
        "http://[::]:8000",
    ],
)
def test_endpoint_is_refused_whatever_the_setting(url):
    for allow_private in (False, True):
        with pytest.raises(EndpointError):
            check_endpoint(url=url, allow_private=allow_private)


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "2002:0808:0808::1", "64:ff9b::808:808"])
def test_global_address_is_allowed(address):
    check_address(address=address, allow_private=False)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "::1",
        "fd12::1",
        "::ffff:10.0.0.1",
        "2002:0a00:0001::1",
        "64:ff9b::a00:1",
    ],
)
def test_private_address_needs_the_setting(address):
    check_address(address=address, allow_private=True)
    with pytest.raises(EndpointError, match="private or loopback"):
        check_address(address=address, allow_private=False)


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254",
        "169.254.170.2",
        "fe80::1",
        "fe80::1%eth0",
        "fd00:ec2::254",
        "fd20:ce::254",
        "100.100.100.200",
        "168.63.129.16",
        "192.0.0.192",
        "0.0.0.0",
        "::",
        "224.0.0.1",
        "ff02::1",
        "::ffff:169.254.169.254",
        "2002:a9fe:a9fe::1",
        "64:ff9b::a9fe:a9fe",
    ],
)
def test_metadata_address_is_refused_whatever_the_setting(address):
    for allow_private in (False, True):
        with pytest.raises(EndpointError, match="never connected to"):
            check_address(address=address, allow_private=allow_private)


def test_what_is_no_address_is_refused():
    with pytest.raises(EndpointError, match="is no IP address"):
        check_address(address="a.example", allow_private=True)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (["10.0.0.2", "10.0.0.1", "10.0.0.2"], ("10.0.0.1", "10.0.0.2")),
        (["fd00::2", "10.0.0.1", "fd00::1"], ("10.0.0.1",)),
        (["fd00::2", "fd00::1"], ("fd00::1", "fd00::2")),
        (
            [f"10.0.0.{number}" for number in range(199, 99, -1)],
            tuple(f"10.0.0.{n}" for n in range(100, 164)),
        ),
    ],
)
def test_addresses_of_a_name_are_expanded_once_each(found, expected):
    assert expanded_addresses(found) == expected
