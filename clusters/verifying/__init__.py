"""The cluster's side of signed requests: it runs without the gateway and needs nothing but Python.

Copy `clusters/__init__.py` and this folder, as they are, to where an engine runs. Before an ASGI
application: `AsgiVerifier`, for vLLM `--middleware clusters.verifying.AsgiVerifier`; before a WSGI
application: `WsgiVerifier`; both read TOLLGATE_SECRETS_FILE where no verifier is given. For nginx and
Envoy: `python3 -m clusters.verifying --front nginx --secrets FILE`. The file of secrets has one secret a
line; during a rotation it has two, and a change is seen at the next request.
"""

from clusters.verifying.asgi import AsgiVerifier
from clusters.verifying.nonces import NonceFile, NonceMemory
from clusters.verifying.signatures import FileVerifier, Verifier, VerifierError
from clusters.verifying.wsgi import WsgiVerifier

__all__ = [
    "AsgiVerifier",
    "FileVerifier",
    "NonceFile",
    "NonceMemory",
    "Verifier",
    "VerifierError",
    "WsgiVerifier",
]
