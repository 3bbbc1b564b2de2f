"""Signs requests to AWS by Signature Version 4, through botocore, which is loaded where such a cluster is."""

import importlib
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

SERVICE = "bedrock"
ACCESS_KEY = re.compile(r"([A-Z0-9]{16,128}):([A-Za-z0-9/+=]{16,128})(?::([A-Za-z0-9/+=]{16,4096}))?")
# bedrock-runtime.us-east-1.amazonaws.com, with -fips before and vpce or .cn around it.
_REGION = re.compile(r"(?:^|\.)bedrock(?:-runtime)?(?:-fips)?\.([a-z]{2}(?:-[a-z]+)+-\d)\.")
REGION_DEFAULT = "us-east-1"


def key_problem(text: str) -> str:
    """Why a text is no access key; empty where it is one."""
    if ACCESS_KEY.fullmatch(text):
        return ""
    return "write ACCESS_KEY_ID:SECRET_ACCESS_KEY, and :SESSION_TOKEN after it where there is one"


@dataclass(frozen=True, slots=True, kw_only=True)
class SigV4Signer:
    """Signs with one access key. The region is the endpoint's, else the cluster's.

    The source is https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv.html.
    """

    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(repr=False)
    region: str

    @classmethod
    def of_text(cls, text: str, *, region: str) -> "SigV4Signer":
        """`text` passed `key_problem`."""
        match = ACCESS_KEY.fullmatch(text)
        assert match is not None, "access keys are checked before they are stored"
        # Loaded where the inventory is read, in a thread: the first request shall not wait for it.
        importlib.import_module("botocore.auth")
        return cls(access_key_id=match[1], secret_access_key=match[2], session_token=match[3], region=region)

    def headers(
        self, *, method: str, authority: str, path: str, query: str, body: bytes, now_s: int, nonce: str
    ) -> list[tuple[str, str]]:
        """`path` is signed as it is sent, encoded once more, as every service but S3 wants it."""
        found = _REGION.search(authority)
        region = found[1] if found else self.region or REGION_DEFAULT
        request = self._signed(
            url=f"https://{authority}{path}{'?' + query if query else ''}",
            method=method,
            body=body,
            region=region,
            now_s=now_s,
        )
        wanted = ("Authorization", "X-Amz-Date", "X-Amz-Security-Token")
        return [(name.lower(), request.headers[name]) for name in wanted if name in request.headers]

    def _signed(self, *, url: str, method: str, body: bytes, region: str, now_s: int) -> Any:
        """By botocore's signer, step by step: its `add_auth` would read the clock itself."""
        from botocore.auth import SigV4Auth  # noqa: PLC0415 -- optional: of Bedrock clusters alone
        from botocore.awsrequest import AWSRequest  # noqa: PLC0415 -- as above
        from botocore.credentials import ReadOnlyCredentials  # noqa: PLC0415 -- as above

        credentials = ReadOnlyCredentials(self.access_key_id, self.secret_access_key, self.session_token)
        signer = SigV4Auth(credentials, SERVICE, region)
        request = AWSRequest(method=method, url=url, data=body)
        moment = datetime.fromtimestamp(now_s, tz=UTC).strftime("%Y%m%dT%H%M%SZ")
        request.context["timestamp"] = moment
        request.headers["X-Amz-Date"] = moment
        if self.session_token:
            request.headers["X-Amz-Security-Token"] = self.session_token
        signed_names = signer.signed_headers(signer.headers_to_sign(request))
        text = signer.string_to_sign(request, signer.canonical_request(request))
        request.headers["Authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={signer.scope(request)}, "
            f"SignedHeaders={signed_names}, Signature={signer.signature(text, request)}"
        )
        return request
