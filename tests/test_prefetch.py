"""Work one step ahead: in order, one ahead and no more, errors where the result would have come."""

import threading
from functools import partial

import pytest
from lowmag.prefetch import one_ahead


def test_results_come_in_order_and_from_the_background() -> None:
    here = threading.get_ident()
    found = list(one_ahead([partial(lambda n: (n, threading.get_ident() != here), n) for n in range(5)]))
    assert found == [(n, True) for n in range(5)]
    assert list(one_ahead([])) == []


def test_one_job_is_begun_ahead_and_no_more() -> None:
    begun = [threading.Event() for _ in range(4)]
    results = one_ahead([event.set for event in begun])
    next(results)
    assert begun[1].wait(60), "the second is on its way while the first is used"
    assert not begun[2].wait(0.05)
    next(results)
    assert begun[2].wait(60)


def test_an_error_comes_in_its_place() -> None:
    results = one_ahead([lambda: 1, lambda: 1 // 0, lambda: 3])
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)
