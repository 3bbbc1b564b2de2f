"""The gateway's own settings, with waits short enough for tests; a test that needs the real ones says so."""

from gateway import overload
from gateway.settings import *  # noqa: F403 -- a settings module adds to another

SNAPSHOT_POLL_S = 0.02
FIRST_BYTE_TIMEOUT_S = 2
PLAIN_TIMEOUT_S = 2
IDLE_TIMEOUT_S = 2
BODY_TIMEOUT_S = 1
WRITE_TIMEOUT_S = 1
DETACHED_DRAIN_S = 1
# A machine that runs tests is overloaded now and then; who is turned away is tested in test_overload.
overload.STANDING_S = 60.0
