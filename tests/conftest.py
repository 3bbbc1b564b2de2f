"""What every test needs: a data folder of its own, set before Django reads its settings."""

import atexit
import os
import shutil
import tempfile

if "GATEWAY_DATA_DIR" not in os.environ:
    os.environ["GATEWAY_DATA_DIR"] = tempfile.mkdtemp(prefix="tollgate-test-")
    # Ours and fresh, so that nothing else is lost with it.
    atexit.register(shutil.rmtree, os.environ["GATEWAY_DATA_DIR"], ignore_errors=True)
os.environ.setdefault("LOG_LEVEL", "WARNING")
