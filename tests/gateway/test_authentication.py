"""From headers to a principal, and the words of each refusal."""

import hashlib
from datetime import UTC, datetime, timedelta

import pytest

from billing.principals import Principal
from gateway.authentication import authenticate, bearer_token
from gateway.errors import InvalidApiKeyError

NOW = datetime(2030, 1, 2, 12, tzinfo=UTC)
TOKEN = b"tg_abcdefgh_secret"
WHERE = "Keys are issued in Admin > Keys, or by `manage.py create_api_key`."


def principal_of(**values):
    return Principal(
        **{
            "key_id": "k",
            "key_name": "ci",
            "prefix": "tg_abcdefgh",
            "team": "red",
            "organisation": "acme",
            "allowed_models": None,
            "expires_at": None,
            "revoked_at": None,
            "limits": (),
            "model_limits": {},
            "budgets": (),
            **values,
        }
    )


def enter(*headers, **values):
    principals = {hashlib.sha256(TOKEN).digest(): principal_of(**values)}
    return authenticate(headers=headers, principals=principals, now=NOW)


def refusal_of(*headers, **values):
    with pytest.raises(InvalidApiKeyError) as caught:
        enter(*headers, **values)
    return caught.value.message


@pytest.mark.parametrize(
    "headers",
    [
        [(b"authorization", b"Bearer " + TOKEN)],
        [(b"authorization", b"bearer  " + TOKEN + b" ")],
        [(b"x-api-key", TOKEN)],
        [(b"authorization", b"Basic dTpw"), (b"x-api-key", TOKEN)],
        [(b"x-api-key", b"other"), (b"authorization", b"Bearer " + TOKEN)],
        [(b"x-stainless-lang", b"python"), (b"x-api-key", b" " + TOKEN)],
    ],
)
def test_key_is_taken_from_either_header(headers):
    assert enter(*headers) == principal_of()


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"authorization", b"")],
        [(b"authorization", b"Bearer")],
        [(b"authorization", b"Bearer  ")],
        [(b"authorization", TOKEN)],
        [(b"authorization", b"Basic " + TOKEN)],
        [(b"x-api-key", b"")],
    ],
)
def test_request_without_a_key_is_refused(headers):
    assert refusal_of(*headers) == f"You sent no API key: use `Authorization: Bearer tg_…`. {WHERE}"


@pytest.mark.parametrize("token", [b"tg_wrong", TOKEN + b"x", TOKEN[:-1], TOKEN.upper(), b"\xff\x00"])
def test_unknown_key_is_refused_without_showing_it(token):
    assert refusal_of((b"authorization", b"Bearer " + token)) == f"Incorrect API key. {WHERE}"


@pytest.mark.parametrize("age_s", [0, 1, 86_400])
def test_revoked_key_is_refused(age_s):
    message = refusal_of((b"x-api-key", TOKEN), revoked_at=NOW - timedelta(seconds=age_s))

    assert message == f"API key tg_abcdefgh… was revoked. {WHERE}"


@pytest.mark.parametrize("age_s", [0, 1])
def test_expired_key_is_refused(age_s):
    expires_at = NOW - timedelta(seconds=age_s)

    message = refusal_of((b"x-api-key", TOKEN), expires_at=expires_at)

    assert message == f"API key tg_abcdefgh… expired at {expires_at.isoformat()}. {WHERE}"


def test_key_that_ends_later_still_opens():
    soon = NOW + timedelta(microseconds=1)

    principal = enter((b"x-api-key", TOKEN), expires_at=soon, revoked_at=soon)

    assert principal == principal_of(expires_at=soon, revoked_at=soon)


def test_authorization_wins_over_x_api_key():
    assert bearer_token([(b"x-api-key", b"a"), (b"authorization", b"Bearer b")]) == b"b"
