"""The tests' gateway, but no request finds room: all wait, and are turned away."""

from gateway import overload
from tests.e2e.gateway_settings import *  # noqa: F403 -- a settings module adds to another

overload.LIMIT_START = overload.LIMIT_MIN = overload.LIMIT_MAX = 0
overload.STANDING_S = 0.2
