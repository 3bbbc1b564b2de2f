"""AWS Signature Version 4: what botocore itself would send, and what a name must not give away."""

import subprocess
import sys
from datetime import UTC, datetime

import botocore.auth
import pytest
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from clusters.signing import SigningError, build_signer
from clusters.sigv4 import SigV4Signer, key_problem

ACCESS_KEY_ID, SECRET = "AKIDEXAMPLE000000000", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
NOW_S = 1_893_456_000
PATH = "/model/anthropic.claude-3-5-sonnet-20240620-v1%3A0/converse"


def signer_of(*, session="", region=""):
    text = f"{ACCESS_KEY_ID}:{SECRET}{':' + session if session else ''}"
    assert key_problem(text) == ""
    return SigV4Signer.of_text(text, region=region)


def headers_of(signer, *, authority, path=PATH, query="", body=b"{}"):
    return dict(
        signer.headers(
            method="POST", authority=authority, path=path, query=query, body=body, now_s=NOW_S, nonce="n"
        )
    )


@pytest.mark.parametrize("session", ["", "FQoGZXIvYXdzEBYaD+/=" * 3])
@pytest.mark.parametrize("query", ["", "b=2&a=1"])
def test_signature_is_botocores_own(monkeypatch, session, query):
    authority = "bedrock-runtime.eu-west-1.amazonaws.com"
    moment = datetime.fromtimestamp(NOW_S, tz=UTC)
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda *_args, **_kwargs: moment)
    url = f"https://{authority}{PATH}{'?' + query if query else ''}"
    request = AWSRequest(method="POST", url=url, data=b"{}")
    credentials = Credentials(ACCESS_KEY_ID, SECRET, session or None)
    botocore.auth.SigV4Auth(credentials, "bedrock", "eu-west-1").add_auth(request)

    found = headers_of(signer_of(session=session), authority=authority, query=query)

    assert found == {name.lower(): value for name, value in request.headers.items()}


@pytest.mark.parametrize(
    ("authority", "region", "signed_for"),
    [
        ("bedrock-runtime.eu-west-1.amazonaws.com", "us-west-2", "eu-west-1"),
        ("bedrock-runtime-fips.us-gov-west-1.amazonaws.com", "", "us-gov-west-1"),
        ("bedrock-runtime.cn-north-1.amazonaws.com.cn", "", "cn-north-1"),
        ("vpce-1.bedrock-runtime.ap-south-1.vpce.amazonaws.com", "", "ap-south-1"),
        ("proxy.example", "us-west-2", "us-west-2"),
        ("127.0.0.1:8000", "", "us-east-1"),
    ],
)
def test_region_is_the_endpoints_else_the_clusters(authority, region, signed_for):
    authorization = headers_of(signer_of(region=region), authority=authority)["authorization"]

    assert f"/20300101/{signed_for}/bedrock/aws4_request" in authorization.replace(ACCESS_KEY_ID, "")


@pytest.mark.parametrize("text", ["", "a", f"{ACCESS_KEY_ID}", f"{ACCESS_KEY_ID}:{SECRET} ", f"x:{SECRET}"])
def test_text_that_is_no_access_key_is_told(text):
    assert key_problem(text) != ""


def test_signer_does_not_show_its_secret():
    assert SECRET not in repr(signer_of(session="s" * 20))


def test_cluster_without_an_access_key_has_no_signer():
    with pytest.raises(SigningError):
        build_signer(auth_type="sigv4", secrets=[("bearer", "a", "b")])


def test_botocore_is_not_loaded_before_something_is_signed():
    code = "import sys, clusters.signing, gateway.providers; print('botocore' in sys.modules)"

    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert found.stdout == "False\n"
