"""All settings in one place: read from the environment, with defaults that run on SQLite.

Each variable is described in README.md, Configuration. A secret named NAME may come from NAME_FILE instead.
"""

import os
import secrets
import sys
import warnings
from pathlib import Path
from typing import Any

import environ
from django.core.exceptions import ImproperlyConfigured

from gateway.logging import logging_config

ROOT = Path(__file__).resolve().parent.parent
_environment = environ.Env()


def _text(name: str, default: str = "") -> str:
    return str(_environment.str(name, default=default))


def _number(name: str, default: int) -> int:
    return int(_environment.int(name, default=default))


def _flag(name: str, *, default: bool) -> bool:
    return bool(_environment.bool(name, default=default))


def _secret(name: str, *, kept_in: Path | None) -> str:
    """The secret from NAME, else from the file NAME_FILE, else from a file made on the first start.

    One that is kept nowhere is empty where neither is set.
    """
    if value := _text(name):
        return value
    named_file = _text(f"{name}_FILE")
    if kept_in is None and not named_file:
        return ""
    path = Path(named_file) if named_file or kept_in is None else kept_in
    try:
        if not path.exists() and not named_file:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(secrets.token_urlsafe(48))
        return path.read_text().strip()
    except FileExistsError:
        return path.read_text().strip()
    except OSError as error:
        message = (
            f"cannot read or make {path} ({error.strerror}): set {name} or {name}_FILE, "
            f"or point GATEWAY_DATA_DIR at a folder that this user may write"
        )
        raise ImproperlyConfigured(message) from error


DATA_DIR = Path(_text("GATEWAY_DATA_DIR", str(ROOT / "var"))).absolute()
HOST = _text("GATEWAY_HOST", "127.0.0.1")
PORT = _number("GATEWAY_PORT", 0)  # 0: the configuration file's server.port, else PORT_DEFAULT
PORT_DEFAULT = 8000
# Web processes that serve one port together, each a whole gateway (gateway.exchange).
WORKERS = _number("GATEWAY_WORKERS", 1)
WORKERS_MAX = 64
if not 1 <= WORKERS <= WORKERS_MAX:
    raise ImproperlyConfigured(f"GATEWAY_WORKERS is {WORKERS}: set a number from 1 to {WORKERS_MAX}")
DEMO = _flag("GATEWAY_DEMO", default=False)
# Imported by `up` and `serve` at their start, where it exists; their option --config goes first.
CONFIG_FILE = _text("GATEWAY_CONFIG_FILE")
# The first administrator's password; empty: `up` makes one and shows it once.
ADMIN_PASSWORD = _text("GATEWAY_ADMIN_PASSWORD")
# Addresses of proxies whose X-Forwarded-For and -Proto are believed.
TRUSTED_PROXIES = [address for address in _text("GATEWAY_TRUSTED_PROXIES").split(",") if address]

SECRET_KEY = _secret("SECRET_KEY", kept_in=DATA_DIR / "secret_key")
# Keys that encrypt secrets at rest, newest first, comma-separated; each is hashed to 32 bytes.
ENCRYPTION_KEYS = _secret("GATEWAY_ENCRYPTION_KEYS", kept_in=DATA_DIR / "encryption_keys").split(",")
# Turns LiteLLM's key management on (gateway.litellm_api); empty: it is off.
MASTER_KEY = _secret("GATEWAY_MASTER_KEY", kept_in=None)
# A start with a shorter one is refused.
MASTER_KEY_CHARACTERS_MIN = _number("GATEWAY_MASTER_KEY_CHARACTERS_MIN", 16)
# Of each process, in its memory.
CACHES = {
    "default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
    "wrong_keys": {
        "BACKEND": "django.core.cache.backends.locmem.LocMemCache",
        "LOCATION": "wrong_keys",
        "OPTIONS": {"MAX_ENTRIES": 10_000},
    },
}

# Signs the webhooks that warn of budgets; receivers are given it.
WEBHOOK_SECRET = _secret("GATEWAY_WEBHOOK_SECRET", kept_in=DATA_DIR / "webhook_secret")
# Whether warnings may be posted to private networks and this machine.
WEBHOOK_PRIVATE = _flag("GATEWAY_WEBHOOK_PRIVATE", default=False)
# The mail server, such as smtp+tls://user:password@mail.example.com:587; empty: no mail is sent.
EMAIL_CONFIG = _environment.email_url("EMAIL_URL", default="smtp://") if _text("EMAIL_URL") else {}
EMAIL_HOST = str(EMAIL_CONFIG.get("EMAIL_HOST") or "")
EMAIL_PORT = int(EMAIL_CONFIG.get("EMAIL_PORT") or 25)
EMAIL_HOST_USER = str(EMAIL_CONFIG.get("EMAIL_HOST_USER") or "")
EMAIL_HOST_PASSWORD = str(EMAIL_CONFIG.get("EMAIL_HOST_PASSWORD") or "")
EMAIL_USE_TLS = bool(EMAIL_CONFIG.get("EMAIL_USE_TLS"))
EMAIL_USE_SSL = bool(EMAIL_CONFIG.get("EMAIL_USE_SSL"))
EMAIL_TIMEOUT = 10
DEFAULT_FROM_EMAIL = _text("GATEWAY_EMAIL_FROM", "tollgate@localhost")

DEBUG = _flag("DEBUG", default=False)
ALLOWED_HOSTS = _text("ALLOWED_HOSTS", "*").split(",")
CSRF_TRUSTED_ORIGINS = [origin for origin in _text("CSRF_TRUSTED_ORIGINS").split(",") if origin]
# True where TLS ends at us or at a proxy that sets X-Forwarded-Proto.
HTTPS = _flag("GATEWAY_HTTPS", default=False)
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = SECURE_SSL_REDIRECT = HTTPS
SECURE_HSTS_SECONDS = 31_536_000 if HTTPS else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_HSTS_PRELOAD = HTTPS
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if HTTPS else None
SECURE_REDIRECT_EXEMPT = [r"^health", r"^metrics"]
SESSION_COOKIE_SAMESITE = CSRF_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_HTTPONLY = True
X_FRAME_OPTIONS = "DENY"

INSTALLED_APPS = [
    # The development server's alone: it brings Twisted into every process that loads it.
    *(["daphne"] if "runserver" in sys.argv else []),
    "gateway.apps.GatewayConfig",
    "clusters.apps.ClustersConfig",
    "billing.apps.BillingConfig",
    "gateway.apps.TollgateAdminConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django_prometheus",
    "channels",
]

# /v1 never passes through these: gateway.asgi serves it on a path of its own.
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "csp.middleware.CSPMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": ["'self'"],
        "img-src": ["'self'", "data:"],
        "object-src": ["'none'"],
        "base-uri": ["'self'"],
        "form-action": ["'self'"],
        "frame-ancestors": ["'none'"],
    }
}

ROOT_URLCONF = "gateway.urls"
ASGI_APPLICATION = "gateway.asgi.application"
TEMPLATES: list[dict[str, Any]] = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [ROOT / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    }
]
LOGIN_URL = "admin:login"
LOGIN_REDIRECT_URL = "/"

# --- Databases. SQLite keeps the ledger in a file of its own, so that admin, worker and
# sessions never wait for the ledger's writer, nor it for them; PostgreSQL keeps all in one.
_SQLITE_OPTIONS = {
    "transaction_mode": "IMMEDIATE",
    "timeout": 20,
    "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous={}; PRAGMA cache_size=-8000;",
}
LEDGER_SYNCHRONOUS = _text("GATEWAY_SQLITE_SYNCHRONOUS", "NORMAL").upper()
if LEDGER_SYNCHRONOUS not in {"NORMAL", "FULL"}:
    raise ImproperlyConfigured("GATEWAY_SQLITE_SYNCHRONOUS is NORMAL or FULL")


def _sqlite(path: Path, *, synchronous: str) -> dict[str, Any]:
    command = str(_SQLITE_OPTIONS["init_command"]).format(synchronous)
    options = {**_SQLITE_OPTIONS, "init_command": command}
    # Tests use files too: threads have connections of their own, as in production.
    test = {"NAME": path.with_name(f"test-{path.name}")}
    return {"ENGINE": "django.db.backends.sqlite3", "NAME": path, "OPTIONS": options, "TEST": test}


def _databases() -> dict[str, dict[str, Any]]:
    url = _text("DATABASE_URL")
    if url and not url.startswith("sqlite"):
        database: dict[str, Any] = dict(_environment.db_url_config(url))
        database["OPTIONS"] = {**database.get("OPTIONS", {}), "pool": {"min_size": 1, "max_size": 8}}
        return {"default": database}
    path = Path(url.removeprefix("sqlite:///")) if url else DATA_DIR / "tollgate.sqlite3"
    ledger = path.with_name(f"{path.stem}-ledger{path.suffix}")
    return {
        "default": _sqlite(path, synchronous="NORMAL"),
        "ledger": _sqlite(ledger, synchronous=LEDGER_SYNCHRONOUS),
    }


DATABASES = _databases()
DATABASE_ROUTERS = ["billing.databases.LedgerRouter"]
LEDGER_DATABASE = "ledger" if "ledger" in DATABASES else "default"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]

LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_TZ = True
USE_I18N = False
FORMAT_MODULE_PATH = "gateway.formats"

STATIC_URL = "/static/"
STATICFILES_DIRS = [ROOT / "static"]
STATIC_ROOT = Path(_text("GATEWAY_STATIC_ROOT", str(ROOT / "staticfiles")))
# Without a collected folder the finders serve the source's own; its absence is no mistake.
WHITENOISE_USE_FINDERS = True
warnings.filterwarnings("ignore", message="No directory at", category=UserWarning)
WHITENOISE_AUTOREFRESH = False

# --- Broker, channel layer. Empty REDIS_URL: `manage.py up` starts the embedded Valkey and sets it.
REDIS_URL = _text("REDIS_URL")
CHANNEL_LAYERS: dict[str, dict[str, Any]] = {
    "default": {
        "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
        "CONFIG": {"hosts": [REDIS_URL]},
    }
    if REDIS_URL
    else {"BACKEND": "channels.layers.InMemoryChannelLayer"}
}
CELERY_BROKER_URL = REDIS_URL.replace("unix://", "redis+socket://", 1) or "memory://"
CELERY_TASK_IGNORE_RESULT = True
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_TASK_TIME_LIMIT = 300
CELERY_TIMEZONE = "UTC"
# How often beat looks for clusters whose probe is due; the interval itself is a router setting. One that
# comes back after a restart is seen within that.
PROBE_TICK_S = 1
# How often beat looks whether an autoscaled cluster is to be woken: a request may wait for it.
WAKE_TICK_S = 2
# Twice a minute, so that beat's drift leaves no minute out; only the first sample of a minute counts.
CAPACITY_TICK_S = 30
CELERY_BEAT_SCHEDULE = {
    "probe-clusters": {"task": "clusters.tasks.probe_due_clusters", "schedule": PROBE_TICK_S},
    "wake-clusters": {"task": "clusters.tasks.wake_due_clusters", "schedule": WAKE_TICK_S},
    "fold-rollups": {"task": "billing.tasks.fold_rollups", "schedule": 60},
    "sample-capacity": {"task": "gateway.tasks.sample_capacity", "schedule": CAPACITY_TICK_S},
    "warn-budgets": {"task": "gateway.tasks.warn_of_budgets", "schedule": 10},
    "guard-experiments": {"task": "gateway.tasks.guard_experiments", "schedule": 60},
    "recover-attempts": {"task": "billing.tasks.mark_attempts_in_doubt", "schedule": 30},
    "prune-ledger": {"task": "billing.tasks.prune_ledger", "schedule": 3600},
    "prune-warnings": {"task": "billing.tasks.prune_warnings", "schedule": 3600},
    "prune-kept-answers": {"task": "billing.tasks.prune_kept_answers", "schedule": 600},
    "prune-health-checks": {"task": "clusters.tasks.prune_health_checks", "schedule": 3600},
}

# --- Limits of the data plane (ARCHITECTURE.md, Limits, says what each protects).
SNAPSHOT_POLL_S = 0.5
SNAPSHOT_STALE_S = 10
BODY_BYTES_MAX = _number("GATEWAY_BODY_BYTES_MAX", 10 * 1024 * 1024)
RESPONSE_BYTES_MAX = 10 * 1024 * 1024
STREAM_LINE_BYTES_MAX = 1024 * 1024
STREAM_BUFFER_BYTES_MAX = 256 * 1024
JSON_DEPTH_MAX = 64
IN_FLIGHT_MAX = _number("GATEWAY_IN_FLIGHT_MAX", 2000)
# Whether requests are refused beyond what a process's event loop can do.
SHEDS_LOAD = _flag("GATEWAY_SHEDS_LOAD", default=True)
LEDGER_QUEUE_MAX = 20_000
CONNECT_TIMEOUT_S = 2
FIRST_BYTE_TIMEOUT_S = _number("GATEWAY_FIRST_BYTE_TIMEOUT_S", 30)
IDLE_TIMEOUT_S = _number("GATEWAY_IDLE_TIMEOUT_S", 15)
PLAIN_TIMEOUT_S = _number("GATEWAY_PLAIN_TIMEOUT_S", 300)
TOTAL_TIMEOUT_S = _number("GATEWAY_TOTAL_TIMEOUT_S", 600)
DETACHED_DRAIN_S = 10
DETACHED_PUMPS_MAX = 200
BODY_TIMEOUT_S = 30
WRITE_TIMEOUT_S = 120
DRAIN_TIMEOUT_S = _number("GATEWAY_DRAIN_TIMEOUT_S", 30)
REROUTES_MAX = 2
HEALTH_CHECKS_KEPT_DAYS = 7
# Attempts go by whole months, hourly rollups by whole days; daily ones stay. 0: kept for ever.
USAGE_KEPT_DAYS = _number("GATEWAY_USAGE_KEPT_DAYS", 400)
ROLLUP_HOURS_KEPT_DAYS = _number("GATEWAY_ROLLUP_HOURS_KEPT_DAYS", 400)
# How long an answer to a request with an Idempotency-Key is kept, sealed; 0: the header is ignored.
IDEMPOTENCY_HOURS = _number("GATEWAY_IDEMPOTENCY_HOURS", 24)
IDEMPOTENT_ANSWER_BYTES_MAX = 1024 * 1024

LOG_LEVEL = _text("LOG_LEVEL", "INFO").upper()
LOGGING_CONFIG = None
logging_config(level=LOG_LEVEL)
