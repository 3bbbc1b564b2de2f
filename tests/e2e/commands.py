"""Runs commands of manage.py one after another in a process of its own, and says how each ended.

`python -m tests.e2e.commands` reads a JSON list of argument lists; it prints what the commands print, and
into the file that it is given the list of their exit codes.
"""

import os
import sys
import traceback
from pathlib import Path

import django
import orjson

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "gateway.settings")
django.setup()

from django.core.management import execute_from_command_line  # noqa: E402 -- apps first


def run(arguments):
    sys.stdout.write(f"\n$ manage.py {' '.join(arguments)}\n")
    try:
        execute_from_command_line(["manage.py", *arguments])
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1
    except Exception:  # noqa: BLE001 -- the edge: what a command raises is shown as Python shows it
        traceback.print_exc()
        return -1
    return 0


if __name__ == "__main__":
    codes = [run(arguments) for arguments in orjson.loads(sys.stdin.buffer.read())]
    Path(sys.argv[1]).write_bytes(orjson.dumps(codes))
