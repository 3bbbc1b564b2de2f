"""Django's settings under test: the product's, with a data folder of the run's own."""

import atexit
import os
import shutil
import tempfile

if "GATEWAY_DATA_DIR" not in os.environ:
    # Set before the product's settings are read; worker processes of the run inherit it.
    os.environ["GATEWAY_DATA_DIR"] = tempfile.mkdtemp(prefix="tollgate-test-")
    atexit.register(shutil.rmtree, os.environ["GATEWAY_DATA_DIR"], ignore_errors=True)
os.environ.setdefault("LOG_LEVEL", "WARNING")

from gateway.settings import *  # noqa: F403 -- the data folder first

PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
