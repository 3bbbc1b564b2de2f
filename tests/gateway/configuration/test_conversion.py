from decimal import Decimal

import pytest

from gateway.configuration import conversion
from gateway.configuration.conversion import BadValueError
from gateway.configuration.document import Listing, Place, Scalar, read_document

PLACE = Place(line=1, column=1, path="x")


def scalar(text, *, written=None):
    return Scalar(place=PLACE, written=written or text, text=text, is_null=False, missing=())


def refusal(kind, item):
    with pytest.raises(BadValueError) as caught:
        kind.read(item)
    return str(caught.value)


WEIGHTS = conversion.numbers(
    key=conversion.name(length_max=9), number=conversion.whole_number(least=0, most=9)
)


def weights_item(text):
    document = read_document(content=f"w: {text}".encode(), file_name="c.yaml", environment={})
    return document.root.entries["w"].value


def test_numbers_by_name_are_read_and_written():
    assert WEIGHTS.read(weights_item("{aws: 3, gcp-1: 0}")) == {"aws": 3, "gcp-1": 0}
    assert WEIGHTS.write({"aws": 3, "gcp-1": 0}) == "{aws: 3, gcp-1: 0}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[aws, 3]", "found a list; write names with numbers such as {a: 3, b: 1}"),
        ("3", 'found "3"; write names with numbers such as {a: 3, b: 1}'),
        ("{aws: -1}", 'found "-1"; write a whole number from 0 to 9'),
        ("{aws: 10}", 'found "10"; write a whole number from 0 to 9'),
        ("{a b: 1}", 'found "a b"; write 1 to 9 letters, digits, hyphens and underscores'),
    ],
)
def test_numbers_by_name_that_are_wrong_are_refused(text, message):
    assert refusal(WEIGHTS, weights_item(text)) == message


@pytest.mark.parametrize(
    ("text", "duration_s"),
    [("30s", 30), ("5m", 300), ("1h", 3600), ("1m30s", 90), ("2000ms", 2), ("0.5h", 1800), ("500ms500ms", 1)],
)
def test_duration_is_read_in_whole_seconds(text, duration_s):
    assert conversion.seconds(least=0).read(scalar(text)) == duration_s


@pytest.mark.parametrize("text", ["30", "500ms", "1.5s", "-1s", "s", "1 s", "1d", "", "1s "])
def test_duration_that_is_none_or_not_whole_is_refused(text):
    assert refusal(conversion.seconds(least=0), scalar(text)) == (
        f'found "{text}"; write a duration in whole seconds, such as 30s, 5m or 1h'
    )


def test_duration_out_of_its_limits_is_refused():
    assert refusal(conversion.seconds(least=1), scalar("0s")) == (
        'found "0s"; write a duration from 1s to 2147483647s'
    )


@pytest.mark.parametrize(
    ("text", "nanousd"),
    [
        ("0.0928", 92_800_000),
        ("0.000000001", 1),
        ("0.10", 100_000_000),
        ("1e-3", 1_000_000),
        ("12", 12_000_000_000),
        ("0", 0),
    ],
)
def test_usd_is_exact(text, nanousd):
    assert conversion.usd(digits=9).read(scalar(text)) == nanousd


@pytest.mark.parametrize(
    "text",
    [
        "0.0000000001",
        "-1",
        "1000001",
        "nan",
        "inf",
        "1_0",
        "0,5",
        "$1",
        "",
        "1.00000000000000000000000000000001",
        "1e99",
    ],
)
def test_usd_that_is_not_exact_or_no_amount_is_refused(text):
    assert refusal(conversion.usd(digits=9), scalar(text)) == (
        f'found "{text}"; write an amount in USD from 0 to 1000000 with at most 9 digits after the point'
    )


@pytest.mark.parametrize(
    ("value", "text"), [(92_800_000, "0.0928"), (10**10, "10"), (0, "0"), (1, "0.000000001")]
)
def test_usd_is_written_as_short_as_it_is_exact(value, text):
    kind = conversion.usd(digits=9)

    assert kind.write(value) == text
    assert kind.read(scalar(text)) == value


def test_factor_below_its_least_is_refused():
    kind = conversion.scaled_number(digits=3, least=Decimal("0.001"), most=1000, unit="a factor")

    assert kind.read(scalar("1.1")) == 1100
    assert refusal(kind, scalar("0")) == (
        'found "0"; write a factor from 0.001 to 1000 with at most 3 digits after the point'
    )


@pytest.mark.parametrize("text", ["1.5", "0", "11", "abc"])
def test_whole_number_outside_is_refused(text):
    kind = conversion.whole_number(least=1, most=10)

    assert refusal(kind, scalar(text)) == f'found "{text}"; write a whole number from 1 to 10'


def test_choice_suggests_the_nearest():
    kind = conversion.choice("hmac", "mtls", "bearer", "none")

    assert refusal(kind, scalar("hmca")) == (
        'found "hmca"; write hmac, mtls, bearer or none (did you mean hmac?)'
    )


def test_what_came_from_the_environment_is_not_shown():
    kind = conversion.choice("hmac", "none")

    assert refusal(kind, scalar("hmacsecret", written="${AUTH}")) == (
        'found the value of "${AUTH}"; write hmac or none'
    )


@pytest.mark.parametrize("text", ["yes", "1", "on", ""])
def test_flag_takes_true_and_false_only(text):
    assert refusal(conversion.flag(), scalar(text)) == f'found "{text}"; write true or false'


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("https://aws.llm.example.com/", "https://aws.llm.example.com"),
        ("https://api.openai.com/v1", "https://api.openai.com"),
        ("http://10.0.0.1:8000", "http://10.0.0.1:8000"),
    ],
)
def test_endpoint_is_kept_without_v1(text, endpoint):
    assert conversion.endpoint().read(scalar(text)) == endpoint


def test_endpoint_with_credentials_is_refused_and_not_shown():
    words = refusal(conversion.endpoint(), scalar("https://user:hunter2@example.com"))

    assert words == (
        "found an endpoint with an @; the endpoint must not contain credentials: "
        "store them as the cluster's secret"
    )


def test_endpoint_of_a_metadata_service_is_refused():
    words = refusal(conversion.endpoint(), scalar("http://169.254.169.254"))

    assert words.startswith('found "http://169.254.169.254"; 169.254.169.254 is a metadata')


def test_names_refuse_one_that_stands_twice():
    kind = conversion.names(kind=conversion.text(length_max=10))
    item = Listing(place=PLACE, items=(scalar("a"), scalar("b"), scalar("a")))

    assert refusal(kind, item) == 'found "a" more than once; write each name once'


@pytest.mark.parametrize(
    "text",
    [
        "plain",
        "a.b/c-d_e",
        "meta-llama/L:8b",
        "yes",
        "null",
        "8080",
        "1.5",
        "a: b",
        "a #b",
        "${X}",
        "$${X",
        "é",
        '"q"',
        "back\\slash",
        "- x",
        "{a}",
        "[a",
        "*a",
        "&a",
        "!a",
        "~",
        "@",
        "%",
        "|",
        "a,b",
        "'",
    ],
)
def test_quoted_text_is_read_back_as_it_was(text):
    line = f"a: {{k: {conversion.quoted(text)}, l: 1}}\nb: {conversion.quoted(text)}\n"

    document = read_document(content=line.encode(), file_name="c", environment={})

    read = [document.root.entries["a"].value.entries["k"].value, document.root.entries["b"].value]
    assert [(item.text, item.is_null, item.missing) for item in read] == [(text, False, ())] * 2
    assert document.problems == ()
