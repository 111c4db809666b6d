"""Work done one step ahead, in the background."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")


def one_ahead(jobs: Iterable[Callable[[], Result]]) -> Iterator[Result]:
    """The results of jobs in their order; each is begun when the one before it is asked for.

    At most two results exist at a time. An error is raised where its result would have come.
    """
    with ThreadPoolExecutor(1) as background:
        waiting: Future[Result] | None = None
        for job in jobs:
            following = background.submit(job)
            if waiting is not None:
                yield waiting.result()
            waiting = following
        if waiting is not None:
            yield waiting.result()
