"""The counter of changes."""

import pytest

from billing.models import Revision
from billing.revision import bump_revision, get_revision

pytestmark = pytest.mark.django_db


def test_bump_revision_makes_the_row_and_counts():
    numbers = [get_revision()]
    for _ in range(3):
        bump_revision()
        numbers.append(get_revision())

    assert numbers == [0, 1, 2, 3]
    assert Revision.objects.count() == 1


def test_bump_revision_is_one_query_once_the_row_is_there(django_assert_num_queries):
    bump_revision()

    with django_assert_num_queries(1):
        bump_revision()
