"""ahead: the next items of an iterator are made by a second thread while one is worked on."""

import threading
from collections.abc import Iterator
from queue import SimpleQueue
from typing import TypeVar

Item = TypeVar("Item")
DEPTH = 2


def ahead(items: Iterator[Item]) -> Iterator[Item]:
    """Yield *items*, up to DEPTH of which a second thread has made before they are asked for.

    An exception in the second thread is raised here; it ends when this iterator is closed.
    """
    made: SimpleQueue[tuple[bool, Item | BaseException | None]] = SimpleQueue()
    room = threading.Semaphore(DEPTH)
    closed = threading.Event()

    def work() -> None:
        try:
            for item in items:
                made.put((True, item))
                room.acquire()
                if closed.is_set():
                    return
            made.put((False, None))
        except BaseException as error:  # noqa: BLE001  (raised again where the items are used)
            made.put((False, error))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while True:
            more, item = made.get()
            if not more:
                if isinstance(item, BaseException):
                    raise item
                return
            yield item  # type: ignore[misc]
            room.release()
    finally:
        closed.set()
        room.release()
        thread.join()
