"""Answers whether a library's own source defines a name, a keyword of a call or a member of a class.

The source is read and never run: Python files and the stubs (.pyi) that a wheel ships for what is compiled.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from functools import cache
from typing import NamedTuple

# Where a module takes names from that its own text does not spell: its compiled half, by a loop over it.
ALSO = {
    "torch": ("torch._C", "torch._C._VariableFunctions"),
    "torch.distributed": ("torch._C._distributed_c10d",),
}
DEPTH = 40


class Found(NamedTuple):
    """A definition, and the module that it stands in: a module, function, class or value."""

    kind: str
    module: str
    nodes: tuple[ast.AST, ...] = ()


class Library:
    """The source of one version. `read` gives the text of a file by its path in the wheel, None where there is none."""

    def __init__(self, read: Callable[[str], str | None]) -> None:
        self._read = read
        self.table = cache(self._table)
        self.find = cache(self._find)

    # Modules

    def _path(self, module: str) -> str | None:
        base = module.replace(".", "/")
        for path in (f"{base}/__init__.py", f"{base}.py", f"{base}/__init__.pyi", f"{base}.pyi"):
            if self._read(path) is not None:
                return path
        return None

    def _table(self, module: str) -> dict[str, list[ast.AST]]:
        """What a module's text binds at its top, under conditions too. `*` holds its star imports."""
        path = self._path(module)
        table: dict[str, list[ast.AST]] = {}
        if path is None:
            return table
        for node in _statements(ast.parse(self._read(path) or "").body):
            for name in _bound(node):
                table.setdefault(name, []).append(node)
        return table

    def _package(self, module: str, level: int) -> str:
        """What a relative import of this module starts from."""
        parts = module.split(".")
        if not (self._path(module) or "").rpartition("/")[2].startswith("__init__"):
            parts = parts[:-1]
        return ".".join(parts[: len(parts) - level + 1])

    # Names

    def _find(self, dotted: str, depth: int = 0) -> Found | None:
        """The definition of a dotted name from the library's top, through what is imported anew."""
        if depth > DEPTH:
            return None
        if "." not in dotted:
            return Found("module", dotted) if self._path(dotted) else None
        owner, _, name = dotted.rpartition(".")
        where = self._find(owner, depth + 1)
        if where is None:
            return None
        if where.kind == "module":
            return self.in_module(where.module, name, depth + 1)
        return self.in_object(where, name, depth + 1)

    def in_module(self, module: str, name: str, depth: int = 0) -> Found | None:
        if depth > DEPTH:
            return None
        table = self.table(module)
        if name in table:
            return self._definition(module, name, table[name], depth)
        for star in table.get("*", ()):
            assert isinstance(star, ast.ImportFrom)
            source = self._imported(module, star)
            found = self.in_module(source, name, depth + 1) if source != module else None
            if found:
                return found
        if self._path(f"{module}.{name}"):
            return Found("module", f"{module}.{name}")
        for other in ALSO.get(module, ()):
            found = self.in_module(other, name, depth + 1)
            if found:
                return found
        return self._in_module_object(module, name)

    def _in_module_object(self, module: str, name: str) -> Found | None:
        """A module that puts an object in its own place (`sys.modules[__name__] = CudnnModule(...)`)."""
        for nodes in list(self.table(module).values()):
            for node in nodes:
                if isinstance(node, ast.ClassDef) and any("PropModule" in ast.unparse(base) for base in node.bases):
                    found = self.in_object(Found("class", module, (node,)), name)
                    if found:
                        return found
        return None

    def _imported(self, module: str, node: ast.ImportFrom) -> str:
        base = self._package(module, node.level) if node.level else ""
        return ".".join(part for part in (base, node.module or "") if part)

    def _definition(self, module: str, name: str, nodes: list[ast.AST], depth: int) -> Found | None:
        for node in nodes:
            if isinstance(node, ast.ImportFrom):
                source = self._imported(module, node)
                there = next(alias.name for alias in node.names if (alias.asname or alias.name) == name)
                own = source == module and self._path(f"{source}.{there}")
                found = Found("module", f"{source}.{there}") if own else None
                if not found and source != module:  # a module is imported even where a function of its package hides it
                    is_module = self._path(source) is not None
                    found = (
                        self.in_module(source, there, depth + 1)
                        if is_module
                        else self.find(f"{source}.{there}", depth + 1)
                    )
                if found:
                    return found
            elif isinstance(node, ast.Import):
                alias = next(it for it in node.names if (it.asname or it.name.partition(".")[0]) == name)
                return self.find(alias.name if alias.asname else name, depth + 1)
        kept = tuple(node for node in nodes if not isinstance(node, ast.Import | ast.ImportFrom))
        classes = tuple(node for node in kept if isinstance(node, ast.ClassDef))
        if classes:
            return Found("class", module, classes)
        functions = tuple(node for node in kept if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
        if functions:
            return Found("function", module, functions)
        return Found("value", module, kept) if kept else None

    # Members

    def in_object(self, owner: Found, name: str, depth: int = 0) -> Found | None:
        """A member of a class, or of a value by the class that its text names."""
        if depth > DEPTH:
            return None
        if owner.kind == "value":
            return next(
                (hit for kind in self._types(owner, depth) if (hit := self.in_object(kind, name, depth + 1))), None
            )
        for kind in self._ancestors(owner, depth):
            for node in kind.nodes:
                assert isinstance(node, ast.ClassDef)
                own = [item for item in _statements(node.body) if name in _bound(item)]
                if own:
                    methods = tuple(it for it in own if isinstance(it, ast.FunctionDef))
                    return Found("function" if methods else "value", kind.module, methods or tuple(own))
                for item in ast.walk(node):  # self.name = …, or a name that __getattr__ compares with
                    if isinstance(item, ast.Attribute) and isinstance(item.ctx, ast.Store) and item.attr == name:
                        return Found("value", kind.module, (item,))
                    if isinstance(item, ast.FunctionDef) and item.name == "__getattr__" and _compares(item, name):
                        return Found("value", kind.module, (item,))
        return None

    def members(self, owner: str) -> set[str]:
        """The names of all members of a class, and of values that its methods put on an object."""
        found = self.find(owner)
        names: set[str] = set()
        for kind in self._ancestors(found, 0) if found else ():
            for node in kind.nodes:
                assert isinstance(node, ast.ClassDef)
                names.update(name for item in _statements(node.body) for name in _bound(item))
                stored = (
                    it for it in ast.walk(node) if isinstance(it, ast.Attribute) and isinstance(it.ctx, ast.Store)
                )
                names.update(it.attr for it in stored if ast.unparse(it.value) == "self")
        return names

    def _ancestors(self, owner: Found, depth: int) -> Iterator[Found]:
        yield owner
        for node in owner.nodes:
            for base in getattr(node, "bases", ()):
                found = self.expression(owner.module, base, depth + 1)
                if found and found.kind == "class" and found != owner:
                    yield from self._ancestors(found, depth + 1)

    def _types(self, value: Found, depth: int) -> Iterator[Found]:
        for node in value.nodes:
            told = node.annotation if isinstance(node, ast.AnnAssign) else getattr(node, "value", None)
            told = told.func if isinstance(told, ast.Call) else told
            found = self.expression(value.module, told, depth + 1) if isinstance(told, ast.expr) else None
            if found and found.kind == "class":
                yield found

    def expression(self, module: str, node: ast.expr, depth: int = 0) -> Found | None:
        """What a dotted expression of a module's text names; a subscript is its base."""
        while isinstance(node, ast.Subscript):
            node = node.value
        words = ast.unparse(node).split(".")
        if not all(word.isidentifier() for word in words):
            return None
        found = self.in_module(module, words[0], depth + 1) or self.find(words[0], depth + 1)
        for word in words[1:]:
            if found is None:
                return None
            inner = found.kind == "module"
            found = self.in_module(found.module, word, depth + 1) if inner else self.in_object(found, word, depth + 1)
        return found

    # Calls

    def keywords(self, found: Found, depth: int = 0) -> set[str]:
        """The names that a call takes by keyword."""
        if found.kind == "function":
            return set().union(*(_parameters(node) for node in found.nodes if isinstance(node, ast.FunctionDef)))
        if found.kind == "value":  # made of another function: _add_docstr(torch._C._nn.gelu, …), partial(f, …), g = f
            names: set[str] = set()
            for node in found.nodes:
                value = getattr(node, "value", None)
                calls = (value, *value.args[:1]) if isinstance(value, ast.Call) else (value,)
                for call in calls:
                    inner = self.expression(found.module, call, depth) if isinstance(call, ast.expr) else None
                    if inner and inner != found and depth < DEPTH:
                        names |= self.keywords(inner, depth + 1)
            return names
        names = set()
        for kind in self._ancestors(found, depth):
            for node in kind.nodes:
                assert isinstance(node, ast.ClassDef)
                makers = [
                    it for it in node.body if isinstance(it, ast.FunctionDef) and it.name in ("__init__", "__new__")
                ]
                names |= set().union(*map(_parameters, makers)) if makers else set()
                if any("dataclass" in ast.unparse(it) for it in node.decorator_list):
                    names |= {name for it in node.body if isinstance(it, ast.AnnAssign) for name in _bound(it)}
            if names:
                return names
        return names

    def has(self, use: str) -> bool:
        """Whether a use (`torch.empty`, `torch.empty(device)`) is in this version."""
        name, _, keyword = use.removesuffix(")").partition("(")
        found = self.find(name)
        if found is None or not keyword:
            return found is not None
        return keyword in self.keywords(found)


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements of a body and of its conditions, both ways."""
    for node in body:
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            for part in ("body", "orelse", "finalbody"):
                yield from _statements(getattr(node, part, None) or [])
            for handler in getattr(node, "handlers", ()):
                yield from _statements(handler.body)


def _bound(node: ast.AST) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.ImportFrom):
        return ["*" if alias.name == "*" else alias.asname or alias.name for alias in node.names]
    if isinstance(node, ast.Import):
        return [alias.asname or alias.name.partition(".")[0] for alias in node.names]
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return [it.id for target in targets if target for it in ast.walk(target) if isinstance(it, ast.Name)]


def _parameters(node: ast.FunctionDef) -> set[str]:
    """Those that may be said by keyword; of `**kwargs` those that the body takes out by name."""
    names = {argument.arg for argument in (*node.args.args, *node.args.kwonlyargs)}
    for call in ast.walk(node) if node.args.kwarg else ():
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr in ("pop", "get"):
            first = call.args[0] if ast.unparse(call.func.value) == node.args.kwarg.arg and call.args else None
            if isinstance(first, ast.Constant):
                names.add(str(first.value))
    return names


def _compares(function: ast.FunctionDef, name: str) -> bool:
    return any(isinstance(node, ast.Constant) and node.value == name for node in ast.walk(function))
