import pytest

from gateway.configuration.document import (
    NODE_COUNT_MAX,
    ConfigurationError,
    Entry,
    Listing,
    Place,
    Scalar,
    Section,
    read_document,
)


def read(text, **environment):
    return read_document(content=text.encode(), file_name="c.yaml", environment=environment)


def refused(content):
    with pytest.raises(ConfigurationError) as caught:
        read_document(content=content, file_name="c.yaml", environment={})
    return caught.value.lines


def scalar_text(document, key):
    return document.root.entries[key].value.text


def test_document_keeps_places_and_the_text_as_written():
    document = read("a: 010\nb:\n  - c: 0.10\n")

    assert document.root.entries["a"] == Entry(
        place=Place(line=1, column=1, path="a"),
        value=Scalar(
            place=Place(line=1, column=4, path="a"), written="010", text="010", is_null=False, missing=()
        ),
    )
    listing = document.root.entries["b"].value
    assert isinstance(listing, Listing)
    section = listing.items[0]
    assert isinstance(section, Section)
    assert section.entries["c"].value.text == "0.10"
    assert section.entries["c"].value.place == Place(line=3, column=8, path="b[0].c")


def test_document_expands_variables_and_names_missing_and_empty_ones():
    document = read("a: x${ONE}y${TWO}\nb: $${ONE}\nc: ${EMPTY}${NONE}\n", ONE="1", TWO="2", EMPTY="")

    assert scalar_text(document, "a") == "x1y2"
    assert scalar_text(document, "b") == "${ONE}"
    assert document.root.entries["c"].value.missing == ("EMPTY", "NONE")
    assert document.problems == ()


def test_document_hides_values_in_repr():
    document = read("a: ${KEY}\n", KEY="sk-canary")

    assert "sk-canary" not in repr(document)


def test_document_merges_anchors():
    document = read("a: &x {k: 1, l: 2}\nb: {<<: *x, k: 3}\n")

    section = document.root.entries["b"].value
    assert {key: entry.value.text for key, entry in section.entries.items()} == {"k": "3", "l": "2"}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: 1\nb: 2\na: 3\n", "c.yaml:3:1: a: stands on line 1 already; write each key once"),
        (
            "a: &x 1\nb: &x 2\n",
            "c.yaml:2:4: b: the anchor &x stands on line 1 already; rename one",
        ),
        (
            "a: !secret x\n",
            (
                "c.yaml:1:4: a: found a YAML tag (!…); write a plain value, and quotes around one that "
                "begins "
                "with !"
            ),
        ),
        ("a: ${1X}\n", "c.yaml:1:4: a: found ${…} without a name; write ${NAME}, or $${ for a plain ${"),
        ("a: ${X\n", "c.yaml:1:4: a: found ${…} without a name; write ${NAME}, or $${ for a plain ${"),
        ("? [k]\n: 1\n", "c.yaml:1:3: found a list or section as a key; write a name"),
        (
            "a: {<<: 1}\n",
            "c.yaml:1:9: a: found << without a section; write << : *name of an anchor",
        ),
    ],
)
def test_document_collects_problems(text, line):
    document = read(text)

    assert [problem.render(file_name="c.yaml") for problem in document.problems] == [line]


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (
            b"",
            ("c.yaml:1:1: found no sections; write server, router, clusters, externalProviders or routes",),
        ),
        (
            b"- a\n",
            ("c.yaml:1:1: found no sections; write server, router, clusters, externalProviders or routes",),
        ),
        (b"a: \xff\n", ("c.yaml:1:1: this is not UTF-8 text; save the file as UTF-8",)),
        (
            b"a: \x00\n",
            ("c.yaml:1:1: character 3 of the file is not allowed in YAML; remove it",),
        ),
        (
            b"a: 1\nsecret: *hunter2\n",
            (
                (
                    "c.yaml:2:9: this is not YAML: found undefined alias '…'; a value with special "
                    "characters "
                    "needs quotes"
                ),
            ),
        ),
        (
            b"a: b: c\n",
            (
                (
                    "c.yaml:1:5: this is not YAML: mapping values are not allowed here; a value with special "
                    "characters needs quotes"
                ),
            ),
        ),
        (b"a: " + b"x" * 1024 * 1024, ("c.yaml:1:1: the file is over 1048576 bytes; split it",)),
    ],
)
def test_document_refuses_what_is_no_tree(content, lines):
    assert refused(content) == lines


def test_document_refuses_deep_nesting():
    (line,) = refused(b"a: " + b"[" * 3000)

    assert line.startswith("c.yaml:1:")
    assert "sk" not in line


def test_document_refuses_aliases_that_unfold_without_end():
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 8)
    )

    (line,) = refused(bomb.encode())

    assert line.endswith(f"the file unfolds to over {NODE_COUNT_MAX} values; make it smaller")


def test_document_refuses_an_anchor_inside_itself():
    (line,) = refused(b"a: &x [*x]\n")

    assert line.endswith("levels deep; make it smaller")
