"""Secrets with unmistakable values, and the search for them in whatever form they might be shown."""

import base64
import secrets
import ssl
from dataclasses import dataclass

from cryptography.hazmat.primitives.serialization import load_pem_private_key
from django.utils import timezone

from tests.clusters.rows import certificate_and_key

# What is cut short still shows this much of a secret.
PIECE_BYTES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Canary:
    """A secret's name and plain text, and the pieces of it that nothing may show."""

    name: str
    text: str
    needles: frozenset[bytes]


def text_canary(name, *, before="", after="", is_upper=False):
    """Random letters, of which neither half may be seen, between what a format asks for."""
    core = secrets.token_hex(PIECE_BYTES)
    core = core.upper() if is_upper else core
    return given_canary(name, text=before + core + after, core=core)


def given_canary(name, *, text, core):
    """A secret that others made; `core` is what of it is secret."""
    pieces = [core[start : start + PIECE_BYTES].encode() for start in range(0, len(core), PIECE_BYTES)]
    pieces = [piece for piece in pieces if len(piece) == PIECE_BYTES]
    assert pieces
    return Canary(name=name, text=text, needles=frozenset().union(*map(forms, pieces)))


def private_key_canary(name, *, pem):
    """An elliptic key: its secret number, and each line of its text."""
    number = load_pem_private_key(pem.encode(), password=None).private_numbers().private_value
    octets = number.to_bytes(32, "big")
    # The last line holds of the public key alone, which the certificate shows too.
    lines = [line.encode() for line in pem.splitlines() if not line.startswith("-----")][:-1]
    needles = forms(octets[:PIECE_BYTES]) | forms(octets[PIECE_BYTES:])
    return Canary(name=name, text=pem, needles=needles | {str(number).encode()}.union(*map(forms, lines)))


def forms(piece):
    """As it is, in hexadecimal, and within a longer text in base64.

    URL, JSON and HTML leave letters and digits as they are.
    """
    hexadecimal = piece.hex()
    found = {piece, hexadecimal.encode(), hexadecimal.upper().encode()}
    for shift in range(3):
        encoded = base64.b64encode(bytes(shift) + piece)
        # Without the characters that what stands before or after has a part in.
        inner = encoded[-(-8 * shift // 6) : 8 * (shift + len(piece)) // 6]
        found |= {inner, inner.replace(b"+", b"-").replace(b"/", b"_"), inner.replace(b"/", b"\\/")}
    return frozenset(found)


def shown(canaries, data):
    """The names of those that this shows."""
    return [canary.name for canary in canaries if any(needle in data for needle in canary.needles)]


class Canaries:
    """All kinds of secrets that a gateway is given, by name."""

    def __init__(self, folder):
        names = ("openai a", "openai b", "openai c", "claude", "gemini", "azure", "own token", "wake token")
        server_names = ("SECRET_KEY", "GATEWAY_ENCRYPTION_KEYS", "GATEWAY_MASTER_KEY")
        server_names += ("GATEWAY_WEBHOOK_SECRET", "mail password")
        texts = [text_canary(name, before="sk-") for name in (*names, "hmac k1", "hmac k2", "password")]
        texts += [text_canary(name, after="0123456789abcdefghijkl+") for name in server_names]
        aws_id = secrets.token_hex(8).upper()
        aws = (
            given_canary("aws id", text=f"AKIA{aws_id}", core=aws_id),
            text_canary("aws secret", before="abcd/+", after="ef"),
        )
        self.certificate, pem = certificate_and_key(now=timezone.now())  # noqa: TID251 -- TLS reads the clock
        self.by_name = {canary.name: canary for canary in (*texts, *aws)}
        self.by_name["mtls key"] = private_key_canary("mtls key", pem=pem)
        self.aws_text = f"{aws[0].text}:{aws[1].text}"
        self.server_certificate, server_key = certificate_and_key(now=timezone.now())  # noqa: TID251 -- as above
        (folder / "chain.pem").write_text(self.server_certificate + server_key)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(folder / "chain.pem")
        self.context.verify_mode = ssl.CERT_REQUIRED
        self.context.load_verify_locations(cadata=self.certificate)

    def __getitem__(self, name):
        return self.by_name[name].text

    @property
    def all(self):
        return list(self.by_name.values())

    def environment(self, *, mail_port):
        names = ("SECRET_KEY", "GATEWAY_ENCRYPTION_KEYS", "GATEWAY_MASTER_KEY", "GATEWAY_WEBHOOK_SECRET")
        mail = f"smtp://mailer:{self['mail password']}@127.0.0.1:{mail_port}"
        given = {"EMAIL_URL": mail, "GATEWAY_WEBHOOK_PRIVATE": "1", "LOG_LEVEL": "DEBUG"}
        # As it is shipped: the tests' own settings keep passwords in another way.
        given["DJANGO_SETTINGS_MODULE"] = "gateway.settings"
        return {**given, **{name: self[name] for name in names}}
