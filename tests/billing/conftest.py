"""What the tests of accounting share."""

import pytest
from django.contrib.auth.models import User
from django.test import Client


@pytest.fixture
def admin_client(db):
    """As pytest-django's, but without a password: hashing one takes longer than any of these tests."""
    client = Client()
    client.force_login(User.objects.create(username="admin", is_staff=True, is_superuser=True))
    return client
