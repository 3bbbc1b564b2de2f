"""JSON logs by structlog: one line an event, with the request's id, never a prompt, key or secret."""

import logging.config
import sys
from contextvars import ContextVar
from typing import Any, BinaryIO

import orjson
import structlog
from structlog.typing import EventDict, Processor

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
# The request that this task serves, for each line that is written on its behalf.
request_id_var: ContextVar[str] = ContextVar("request_id", default="")


class LineLogger(structlog.BytesLogger):
    """Writes each line at once; it has the name that the standard library's loggers have."""

    def __init__(self, name: str, file: BinaryIO) -> None:
        super().__init__(file)
        self.name = name


class LineLoggerFactory:
    """Makes a logger for each name; all write into the same file."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def __call__(self, *args: Any) -> LineLogger:
        return LineLogger(str(args[0]) if args else "", self._file)


def _add_request_id(_logger: object, _method: str, event: EventDict) -> EventDict:
    request_id = request_id_var.get()
    if request_id:
        event.setdefault("request_id", request_id)
    return event


def _json_line(event: object, **_options: object) -> bytes:
    return orjson.dumps(event, default=repr, option=orjson.OPT_NON_STR_KEYS)


def logging_config(*, level: str) -> None:
    """Send structlog's and the standard library's records to stderr as JSON lines.

    An unknown level is taken as INFO and said so in the first line.
    """
    shared: list[Processor] = [
        _add_request_id,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {
                "json": {
                    "()": structlog.stdlib.ProcessorFormatter,
                    "foreign_pre_chain": [*shared, structlog.stdlib.ExtraAdder()],
                    "processors": [
                        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                        structlog.processors.format_exc_info,
                        structlog.processors.JSONRenderer(),
                    ],
                }
            },
            "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json"}},
            "root": {"handlers": ["stderr"], "level": level if level in LEVELS else "INFO"},
            "loggers": {
                "uvicorn.access": {"level": "WARNING"},
                "httpx": {"level": "WARNING"},
                # At DEBUG they write the headers of others, in which a secret may be repeated.
                "httpcore": {"level": "WARNING"},
                "botocore": {"level": "WARNING"},
                "websockets": {"level": "WARNING"},
                "celery.redirected": {"level": "WARNING"},
            },
        }
    )
    # Not through the standard library, whose records and handlers cost more than the line.
    structlog.configure(
        processors=[
            *shared,
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(serializer=_json_line),
        ],
        logger_factory=LineLoggerFactory(sys.stderr.buffer),
        wrapper_class=structlog.make_filtering_bound_logger(level if level in LEVELS else "INFO"),
        cache_logger_on_first_use=True,
    )
    if level not in LEVELS:
        structlog.get_logger(__name__).warning("log_level_unknown", given=level, used="INFO")
