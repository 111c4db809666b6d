"""XML read as a stream and not trusted: no document type, hence no entities, and no endless nesting."""

from collections.abc import Callable
from xml.parsers import expat

MOST_DEPTH = 100

OnElement = Callable[[str, dict[str, str]], None]


def read_elements(content: bytes, on_element: OnElement) -> None:
    """Call `on_element(name, attributes)` for every element in document order.

    Raises ValueError for XML that is not well-formed, declares a document type (the only place where entities
    could be declared), or nests deeper than MOST_DEPTH.
    """
    depth = 0

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > MOST_DEPTH:
            raise ValueError(f"elements are nested more than {MOST_DEPTH} deep")
        on_element(name, attributes)

    def end(_name: str) -> None:
        nonlocal depth
        depth -= 1

    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.StartDoctypeDeclHandler = _refuse_document_type
    try:
        parser.Parse(content, True)
    except (expat.ExpatError, LookupError) as error:
        raise ValueError(str(error)) from error


def _refuse_document_type(*_: object) -> None:
    raise ValueError("it declares a document type, where entities are declared")
