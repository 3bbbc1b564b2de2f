import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from django.core.management import call_command

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.django_db(databases="__all__", transaction=True)
def test_doctor_prints_a_line_for_each_finding_and_fails(capsys):
    with pytest.raises(SystemExit) as caught:
        call_command("doctor", "--no-probe", "--url", "http://127.0.0.1:9/")

    lines = capsys.readouterr().out.splitlines()
    assert caught.value.code == 1
    assert [line.split()[0] for line in lines[:2]] == ["ok", "ok"]
    assert "FAIL  Web process" in "\n".join(lines)
    assert lines[-1] == "3 fail, 1 to look at."


def test_doctor_of_an_empty_data_folder_says_to_migrate(tmp_path):
    ours = {
        name: value for name, value in os.environ.items() if not name.startswith(("GATEWAY_", "DATABASE_"))
    }

    done = subprocess.run(
        [sys.executable, "manage.py", "doctor", "--json"],
        cwd=ROOT,
        env={**ours, "GATEWAY_DATA_DIR": str(tmp_path), "DJANGO_SETTINGS_MODULE": "gateway.settings"},
        capture_output=True,
        text=True,
        check=False,
    )

    findings = json.loads(done.stdout)
    failing = [finding for finding in findings if finding["status"] == "fail"]
    assert (done.returncode, [finding["subject"] for finding in failing]) == (1, ["Database"])
    assert failing[0]["text"].endswith("run `manage.py migrate` before the start")
    assert findings[-1] == {
        "status": "info",
        "subject": "Rest",
        "text": "Not looked at: it is in the database.",
    }
