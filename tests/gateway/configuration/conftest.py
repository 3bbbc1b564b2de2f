from datetime import UTC, datetime

import pytest

from billing.revision import get_revision
from clusters.catalogue import load_catalogue
from clusters.models import Revision
from gateway.configuration.document import ConfigurationError
from gateway.configuration.importing import import_file

NOW = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.fixture
def import_text(tmp_path):
    def run(text, environment=None, *, now=NOW, is_dry_run=False):
        path = tmp_path / "c.yaml"
        path.write_text(text)
        return import_file(
            path=path, environment={} if environment is None else environment, now=now, is_dry_run=is_dry_run
        )

    return run


@pytest.fixture
def refusals(import_text, tmp_path):
    """What is wrong with a text, without the file's name; checks that nothing was imported."""

    def run(text, environment=None):
        before = (load_catalogue(), revisions())
        with pytest.raises(ConfigurationError) as caught:
            import_text(text, environment)
        assert (load_catalogue(), revisions()) == before
        return [line.removeprefix(f"{tmp_path}/c.yaml:") for line in caught.value.lines]

    return run


def revisions():
    return Revision.objects.values_list("number", flat=True).first(), get_revision()
