"""Modules that say `LOOPS = "asyncio", "uvloop"` run each of their tests on both."""

import asyncio

import uvloop

FACTORIES = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


def pytest_asyncio_loop_factories(config, item):
    return {name: FACTORIES[name] for name in getattr(item.module, "LOOPS", ("asyncio",))}
