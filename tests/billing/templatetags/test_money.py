"""The template filters of money and tokens."""

from django.template import Context, Template


def test_filters_write_amounts_and_counts():
    template = Template(
        "{% load money %}{{ cost|usd }} {{ cost|usd_rounded }} {{ rate|usd_per_mtok }} {{ count|tokens }}"
    )

    text = template.render(Context({"cost": 1_234_567_891_000, "rate": 150_000, "count": 12_345}))

    assert text == "$1,234.567891 $1,234.57 $0.15 12,345"


def test_counts_in_headlines_are_whole_up_to_a_thousand_million():
    template = Template("{% load money %}{{ few|count_rounded }} {{ many|count_rounded }}")

    text = template.render(Context({"few": 999_999_999, "many": 2_894_416_044}))

    assert text == "999,999,999 2.89 B"
