"""What every test needs: a data folder of its own, set before Django reads its settings."""

import os
import tempfile

os.environ.setdefault("GATEWAY_DATA_DIR", tempfile.mkdtemp(prefix="tollgate-test-"))
os.environ.setdefault("LOG_LEVEL", "WARNING")
