"""Fingerprints of code, so that a rule reruns when the code it runs has changed and not otherwise."""

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parent
LENGTH = 16


def code_fingerprint(*modules: str, package: Path = PACKAGE) -> str:
    """Sixteen hex digits that change when code of the modules, or of any module they import, changes.

    modules: names within the package, as `train`. Imports are followed through the whole package, also
    those inside functions, but not those under `if TYPE_CHECKING:`, which never run. Comments, docstrings and
    layout do not count, nor does the package's `__init__`, which holds only the version. The syntax tree
    is written out without what is empty or a position, so Python 3.11 to 3.13 agree, except on code whose
    very tree differs between them, such as nested f-strings. Files are read once per process. Not seen:
    imports by name at run time (`importlib`), files that are not Python, other packages. Raises ValueError
    for a module that is not there.
    """
    digest = hashlib.sha256()
    for name in import_closure(*modules, package=package):
        digest.update(f"{name} {_read(package, name)[0]}\n".encode())
    return digest.hexdigest()[:LENGTH]


def whole_package() -> str:
    """The fingerprint of all code of this package."""
    return code_fingerprint(*sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__"))


def import_closure(*modules: str, package: Path = PACKAGE) -> list[str]:
    """The modules and all of the package that they import, directly or not, sorted."""
    for name in modules:
        if _file(package, name) is None:
            raise ValueError(f"package {package.name} has no module {name!r}")
    closure, waiting = set(), list(modules)
    while waiting:
        name = waiting.pop()
        if name not in closure:
            closure.add(name)
            waiting.extend(_read(package, name)[1])
    return sorted(closure)


@cache
def _read(package: Path, name: str) -> tuple[str, tuple[str, ...]]:
    """Digest of a module's code, and the modules of the package it imports."""
    path = _file(package, name)
    assert path is not None
    tree = ast.parse(path.read_bytes(), filename=str(path))
    digest = hashlib.sha256()
    for token in _tokens(tree):
        digest.update(token.encode("utf-8", "surrogatepass"))
        digest.update(b"\0")
    return digest.hexdigest(), tuple(sorted(set(_imports(tree, package, name))))


def _tokens(value: object) -> Iterator[str]:
    """The tree in order: node types, names of fields that are not empty, and constants."""
    if isinstance(value, ast.AST):
        yield f"({type(value).__name__}"
        for field in value._fields:
            child = getattr(value, field, None)
            if field == "body" and isinstance(child, list):
                child = [statement for statement in child if not _is_text(statement)]
            if child is None and not isinstance(value, ast.Constant):
                continue
            if child != []:
                yield field
                yield from _tokens(child)
        yield ")"
    elif isinstance(value, list):
        for child in value:
            yield from _tokens(child)
    else:
        yield f"{type(value).__name__} {value!r}"


def _is_text(statement: ast.AST) -> bool:
    """Whether a statement is a bare string: a docstring, or a string used as a comment."""
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def _imports(tree: ast.AST, package: Path, module: str) -> Iterator[str]:
    for node in _running(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _within(package, alias.name)
        elif isinstance(node, ast.ImportFrom):
            base = _base(node, package, module)
            for alias in node.names:
                yield from _within(package, f"{base}.{alias.name}")


def _running(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those under `if TYPE_CHECKING:`."""
    yield node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            for other in child.orelse:
                yield from _running(other)
        else:
            yield from _running(child)


def _base(node: ast.ImportFrom, package: Path, module: str) -> str:
    """The dotted module of `from ... import`, with leading dots resolved."""
    if not node.level:
        return node.module or ""
    path = _file(package, module)
    own = [package.name, *module.split(".")]
    parents = own if path is not None and path.name == "__init__.py" else own[:-1]
    parents = parents[: len(parents) - node.level + 1]
    return ".".join([*parents, node.module] if node.module else parents)


def _within(package: Path, dotted: str) -> Iterator[str]:
    """The modules of the package along a dotted name: of `lowmag.x.name`, `x`; of other packages, none."""
    first, *parts = dotted.split(".")
    if first == package.name:
        names = (".".join(parts[:end]) for end in range(1, len(parts) + 1))
        yield from (name for name in names if _file(package, name) is not None)


@cache
def _file(package: Path, name: str) -> Path | None:
    stem = package.joinpath(*name.split("."))
    for path in (stem.with_suffix(".py"), stem / "__init__.py"):
        if path.is_file():
            return path
    return None
