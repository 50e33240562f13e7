"""What runs on behalf of a notebook, by name, so that none of it is left behind.

Running a cell again makes a new panel; the older one of the same name must not keep its guest.
What is registered here is ended when a newer one takes its name, and when the kernel ends. A
kernel that is killed takes its guests with it: see `buildvm_nb.vm.qemu`.
"""

import atexit
import threading
from collections.abc import Callable

__all__ = ["end_everything", "release", "take_over"]

End = Callable[[], None]

# a reload keeps a module's names: what runs must not be forgotten
_owners: dict[str, End] = globals().get("_owners", {})
_lock: threading.RLock = globals().get("_lock") or threading.RLock()


def take_over(name: str, end: End) -> None:
    """Register something that runs, and end what had its name before.

    `end`: ends it, in whatever state it is; waits until it has ended.
    """
    with _lock:
        older = _owners.pop(name, None)
        _owners[name] = end
    if older is not None:
        older()


def release(name: str, end: End) -> None:
    """Forget something that has ended.

    `end`: as registered; if another one has the name by now, that one stays.
    """
    with _lock:
        if _owners.get(name) == end:
            del _owners[name]


def end_everything() -> None:
    """End all that runs; registered to be called when the kernel ends."""
    with _lock:
        ends = [*_owners.values()]
        _owners.clear()
    for end in ends:
        end()


atexit.register(lambda: end_everything())  # noqa: PLW0108 - a reload replaces the function
