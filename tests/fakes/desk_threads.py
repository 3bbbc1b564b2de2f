"""Database threads for tests: the work is done where it is asked for."""

from billing.entries import LedgerUnavailableError


class DeskThreads:
    """Work is done at once; while `is_down` the database cannot be reached."""

    def __init__(self):
        self.is_down = False

    async def run(self, work):
        if self.is_down:
            raise LedgerUnavailableError("down")
        return work()
