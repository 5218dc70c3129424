"""Finds what rigbench uses of torch and bitsandbytes: names through imports and aliases, keywords, members of objects.

A use is a dotted name, or one with a keyword of its call: `torch.empty`, `torch.empty(device)`. What is called on an
object whose class the code does not say is a member: `copy_`, `copy_(non_blocking)`.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

LIBRARIES = ("torch", "bitsandbytes")
PROBING = ("getattr", "hasattr", "setattr")


@dataclass
class Uses:
    """Each with the places that it was found at, as `folder/file.py:line`."""

    names: dict[str, list[str]] = field(default_factory=dict)
    gated: dict[str, list[str]] = field(default_factory=dict)  # asked for by hasattr, or by getattr with a default
    members: dict[str, list[str]] = field(default_factory=dict)
    unresolved: dict[str, list[str]] = field(default_factory=dict)  # a keyword or a name that is computed


def find(package: Path) -> Uses:
    uses = Uses()
    for path in sorted(package.rglob("*.py")):
        tree = ast.parse(path.read_text())
        if any(_imported(node) for node in ast.walk(tree)):
            _File(uses, path.relative_to(package).as_posix(), tree).visit(tree)
    return uses


def _imported(node: ast.AST) -> dict[str, str]:
    """What an import of one of the libraries binds: the name here, the name there."""
    if isinstance(node, ast.Import):
        found = {
            alias.asname or alias.name.partition(".")[0]: alias.name if alias.asname else alias.name.partition(".")[0]
            for alias in node.names
        }
    elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
        found = {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    else:
        return {}
    return {here: there for here, there in found.items() if there.partition(".")[0] in LIBRARIES}


class _File(ast.NodeVisitor):
    """One file. A scope maps a name to the dotted names it may stand for; an empty set: to nothing of the libraries."""

    def __init__(self, uses: Uses, name: str, tree: ast.Module) -> None:
        self.uses, self.name = uses, name
        self.attributes: dict[str, set[str]] = {}  # of self, such as self._torch
        self.strings: dict[str, set[str]] = _text_columns(tree)
        self.scopes: list[dict[str, set[str]]] = [{}]
        self.dicts: list[dict[str, ast.Dict]] = [{}]
        self._bind(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute):
                target = node.targets[0]
                if isinstance(target.value, ast.Name) and target.value.id == "self":
                    self.attributes.setdefault(target.attr, set()).update(self._local(node.value, tree))

    def _local(self, value: ast.expr, tree: ast.Module) -> set[str]:
        """Of an assignment anywhere in the file, by the imports of the whole file."""
        imports: dict[str, set[str]] = {}
        for node in ast.walk(tree):
            for here, there in _imported(node).items():
                imports.setdefault(here, set()).add(there)
        self.scopes.append(imports)
        try:
            return self.meaning(value)
        finally:
            self.scopes.pop()

    # Scopes

    def _bind(self, scope: ast.AST) -> None:
        """Names of a module or function: its imports, its aliases, and what hides an outer name."""
        names, dicts = self.scopes[-1], self.dicts[-1]
        if isinstance(scope, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            every = (*scope.args.posonlyargs, *scope.args.args, *scope.args.kwonlyargs)
            for argument in (*every, scope.args.vararg, scope.args.kwarg):
                if argument:
                    names[argument.arg] = set()
        inside = list(_inside(scope))
        for node in inside:
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names.setdefault(node.id, set())
        for node in inside:
            for here, there in _imported(node).items():
                names[here] = {there}
                self._note(self.uses.names, there, node)
        for node in inside:
            target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
            value = node.value if isinstance(node, ast.Assign | ast.AnnAssign | ast.NamedExpr) else None
            if isinstance(target, ast.Name) and value is not None:
                names[target.id] = names.get(target.id, set()) | self.meaning(value)
                if isinstance(value, ast.Dict):
                    dicts[target.id] = value

    def _enter(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> None:
        self.scopes.append({})
        self.dicts.append({})
        self._bind(node)
        self.generic_visit(node)
        self.scopes.pop()
        self.dicts.pop()

    visit_FunctionDef = visit_AsyncFunctionDef = visit_Lambda = _enter  # noqa: N815

    # Meanings

    def meaning(self, node: ast.expr) -> set[str]:
        """The dotted names that an expression may stand for."""
        if isinstance(node, ast.Name):
            return next((scope[node.id] for scope in reversed(self.scopes) if node.id in scope), set())
        if isinstance(node, ast.Attribute):
            if isinstance(node.value, ast.Name) and node.value.id == "self" and node.attr in self.attributes:
                return self.attributes[node.attr]
            return {f"{name}.{node.attr}" for name in self.meaning(node.value)}
        if isinstance(node, ast.BoolOp):
            return set().union(*map(self.meaning, node.values))
        if isinstance(node, ast.IfExp):
            return self.meaning(node.body) | self.meaning(node.orelse)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "getattr":
            return {f"{name}.{word}" for name in self.meaning(node.args[0]) for word in self._words(node.args[1])}
        return set()

    def _words(self, node: ast.expr) -> set[str]:
        """The texts that an expression may be: a literal, or a column of a table of literals in this file."""
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return {node.value}
        return self.strings.get(node.attr, set()) if isinstance(node, ast.Attribute) else set()

    # Uses

    def visit_Attribute(self, node: ast.Attribute) -> None:
        names = self.meaning(node)
        for name in names:
            self._note(self.uses.names, name, node)
        if not names:
            self._note(self.uses.members, node.attr, node)
        self.visit(node.value) if not names else None

    def visit_Name(self, node: ast.Name) -> None:
        for name in self.meaning(node):
            self._note(self.uses.names, name, node)

    def visit_Call(self, node: ast.Call) -> None:
        function, arguments = node.func, node.args
        if isinstance(function, ast.Name) and function.id in PROBING:
            self._probe(function.id, node)
            return
        partial = isinstance(function, ast.Name | ast.Attribute) and ast.unparse(function).endswith("partial")
        called = self.meaning(arguments[0]) if partial and arguments else self.meaning(function)
        member = function.attr if isinstance(function, ast.Attribute) and not called else ""
        for keyword in self._keywords(node, called):
            for name in called:
                self._note(self.uses.names, f"{name}({keyword})", node)
            if member:
                self._note(self.uses.members, f"{member}({keyword})", node)
        self.generic_visit(node)

    def _keywords(self, node: ast.Call, called: set[str]) -> Iterator[str]:
        for keyword in node.keywords:
            if keyword.arg is not None:
                yield keyword.arg
                continue
            name = keyword.value.id if isinstance(keyword.value, ast.Name) else ""
            literal = next((scope[name] for scope in reversed(self.dicts) if name in scope), None)
            if isinstance(keyword.value, ast.Dict):
                literal = keyword.value
            if literal is not None and all(isinstance(key, ast.Constant) for key in literal.keys):
                yield from (str(key.value) for key in literal.keys if isinstance(key, ast.Constant))
            elif called:
                for name in called:
                    self._note(self.uses.unresolved, f"{name}(**{ast.unparse(keyword.value)})", node)

    def _probe(self, function: str, node: ast.Call) -> None:
        of, words = self.meaning(node.args[0]), self._words(node.args[1])
        asks = function == "hasattr" or (function == "getattr" and len(node.args) == 3)
        into = self.uses.gated if asks else self.uses.names
        for name in of:
            for word in words:
                self._note(into, f"{name}.{word}", node)
            if not words:
                self._note(self.uses.unresolved, f"{function}({name}, {ast.unparse(node.args[1])})", node)
        if not of and asks:
            for word in words:
                self._note(self.uses.gated, f"?.{word}", node)
        for argument in node.args:
            self.visit(argument)

    def _note(self, where: dict[str, list[str]], name: str, node: ast.AST) -> None:
        place = f"{self.name}:{getattr(node, 'lineno', 0)}"
        places = where.setdefault(name, [])
        if place not in places:
            places.append(place)


def _inside(scope: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a scope without those of the functions in it."""
    for node in ast.iter_child_nodes(scope):
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from _inside(node)


def _text_columns(tree: ast.Module) -> dict[str, set[str]]:
    """Of every NamedTuple of the file, each text column: the literals that the file puts there."""
    columns: dict[str, set[str]] = {}
    for owner in (node for node in tree.body if isinstance(node, ast.ClassDef)):
        fields = [
            item.target.id
            for item in owner.body
            if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
        ]
        for call in ast.walk(tree):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == owner.name:
                for name, value in zip(fields, call.args, strict=False):
                    if isinstance(value, ast.Constant) and isinstance(value.value, str):
                        columns.setdefault(name, set()).add(value.value)
    return columns
