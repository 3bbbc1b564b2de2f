"""What `serve` refuses before it starts anything."""

import subprocess
import sys
from pathlib import Path

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError

ROOT = Path(__file__).resolve().parent.parent.parent.parent


@pytest.mark.parametrize("count", ["0", "-1", "65", "many", "1.5"])
def test_number_of_workers_must_make_sense(count):
    with pytest.raises(CommandError, match=rf"'{count}' is no number from 1 to 64"):
        call_command("serve", f"--workers={count}")


@pytest.mark.parametrize("count", ["0", "65"])
def test_number_of_workers_in_the_environment_must_make_sense(tmp_path, count):
    ended = subprocess.run(
        [sys.executable, "manage.py", "help"],
        cwd=ROOT,
        env={"PATH": "/bin", "GATEWAY_DATA_DIR": str(tmp_path), "GATEWAY_WORKERS": count},
        capture_output=True,
        text=True,
        check=False,
    )

    assert f"GATEWAY_WORKERS is {count}: set a number from 1 to 64" in ended.stdout + ended.stderr
