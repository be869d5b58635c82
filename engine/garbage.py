"""The garbage collector's settings for a process that is an engine."""

import gc

YOUNG_MOST = 100_000
"""Objects made and not freed before a young collection: a few thousand transfers under way are not garbage yet."""

_MIDDLE_EVERY = 10
_OLD_EVERY = 50


def tune_garbage_collection() -> None:
    """Collect rarely, and never walk through what was there at the start; call it once, when all is imported.

    With Python's defaults the collector took a third of the engine's time under load: thousands of transfers under
    way look like garbage to be searched, and what the engine itself makes is freed by reference counts. It changes
    the whole process, so it is for a program to call, not for a library; the server and the benchmarks do.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_MOST, _MIDDLE_EVERY, _OLD_EVERY)
