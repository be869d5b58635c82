"""What may go wrong with an entry of a group commit, and how one fault is told to many."""


class GroupCommitFull(Exception):
    """As much waits as may wait: the entry was not taken. Try again later."""


class FlushCrashed(Exception):
    """The flush of this very entry crashed too often. Whether it was applied is unknown; the cause is chained."""


class FlushMiscounted(Exception):
    """A flush returned another number of results than it was given entries: a crash."""


def fresh(fault: Exception) -> Exception:
    """Return a copy of ``fault``, chained to it: one exception object raised in many tasks mixes up their tracebacks.

    It is made without ``__init__``, whose signature may be anything. A class that can't be made even so is raised as it
    is: whoever waits must be answered.
    """
    try:
        copy = type(fault).__new__(type(fault), *fault.args)
    except Exception:  # noqa: BLE001  a constructor of its own may raise anything
        return fault
    copy.__dict__.update(fault.__dict__)
    copy.__cause__ = fault
    return copy
