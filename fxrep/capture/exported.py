"""Graphs made by ``torch.export`` and by dynamo, as pieces, and back into the same kind.

Such a graph is flat: no module keeps a forward of its own, operators say themselves whether they train, and weights are
attributes or inputs. A piece of it reads every weight as an attribute; on the way back those that came in as inputs are
inputs again, dead ones are dropped, and merged ones are added: to an ``ExportedProgram`` as lifted parameters, to a
``GraphModule`` as attributes. Node names, shapes, guards and ranges stay as they are.
"""

from __future__ import annotations

import copy
import operator
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, TypeGuard

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.export import ExportedProgram
from torch.export.graph_signature import ExportGraphSignature, InputKind, InputSpec, OutputKind, TensorArgument

from .clone import copied_state
from .kinds import is_builtin, why_opaque
from .observe import Observation
from .piece import Call, Piece
from .walk import find_tensor, tensors

GUARDS = "torch.export._unlift"  # the file of the module that checks a program's inputs
LIFTED = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)


@dataclass(eq=False)
class ExportedPiece(Piece):
    """A flat graph."""

    flat: ClassVar[bool] = True

    def where(self, node: fx.Node) -> str:
        """The path of the module whose code a node comes from, where the graph tells."""
        stack = node.meta.get("nn_module_stack")
        return _plain_path(next(reversed(stack.values()))[0]) if stack else ""


class Shapes(Observation):
    """The numbers of axes that the graph's own fake values have."""

    def values(self, piece: Piece) -> dict[fx.Node, Tensor]:
        values = ((node, fake_value(node)) for node in piece.graph.nodes)
        return {node: value for node, value in values if value is not None}

    def ranks(self, piece: Piece) -> dict[fx.Node, int]:
        values = ((node, fake_value(node)) for node in piece.graph.nodes)
        return {node: value.dim() - 2 for node, value in values if value is not None and value.dim() >= 2}


def fake_value(node: fx.Node) -> Tensor | None:
    """The fake tensor that the graph's maker left at a node; the first one of a tuple."""
    value = node.meta.get("val", node.meta.get("example_value"))
    if isinstance(value, tuple | list) and value:
        value = value[0]
    return value if isinstance(value, Tensor) else None


def is_exported(model: object) -> TypeGuard[ExportedProgram | fx.GraphModule]:
    """Whether ``model`` is an ``ExportedProgram``, or a graph of ATen operators or from dynamo."""
    if isinstance(model, ExportedProgram):
        return True
    if not isinstance(model, fx.GraphModule):
        return False
    nodes = list(model.graph.nodes)
    called = {type(model.get_submodule(str(n.target))).__module__ for n in nodes if n.op == "call_module"}
    overloads = any(isinstance(n.target, torch._ops.OpOverload) for n in nodes) and called <= {GUARDS}
    return overloads or any(n.op == "placeholder" and "example_value" in n.meta for n in nodes)


class Exported:
    """A program to be rewritten: ``piece`` holds a copy of its graph, whose weights are all attributes.

    ``inputs`` are the inputs that stand for weights, by the name of the attribute; ``marks``, nodes that say what the
    program does besides its graph: write to a buffer at the end, one of ``written``.
    """

    def __init__(self, model: ExportedProgram | fx.GraphModule) -> None:
        self.model = model
        self.graph = _same_names(copy.deepcopy(model.graph), model.graph)
        self.inputs: dict[str, fx.Node] = {}
        self.marks: list[fx.Node] = []
        self.written: set[str] = set()
        self.holder = nn.Module().eval()
        self.added: dict[str, tuple[fx.Node, nn.Parameter]] = {}
        self.dead: set[str] = set()
        self.last: fx.Node | None = next(reversed([n for n in self.graph.nodes if n.op == "placeholder"]), None)
        self.mode = self._fake_mode()
        _drop_unread(self.graph)
        if isinstance(model, ExportedProgram):
            self._lift_program(model)
        else:
            self._lift_graph()
        self._hold(model.graph_module if isinstance(model, ExportedProgram) else model)
        self.used = {str(n.target) for n in self.graph.nodes if n.op in ("get_attr", "call_module") and n.users}
        self.idle = {str(n.target) for n in self.graph.nodes if n.op == "get_attr"} - self.used
        self.piece = self._piece()

    # ------------------------------------------------------------------------------------------------------- way there
    def _lift_program(self, program: ExportedProgram) -> None:
        signature = program.graph_signature
        if signature.backward_signature is not None:
            raise ValueError("this program computes gradients; export the model in eval mode, without a loss")
        state = {**program.constants, **program.state_dict}
        names = {n.name: n for n in self.graph.nodes}
        for spec in signature.input_specs:
            value = state.get(spec.target) if spec.kind in LIFTED and spec.target is not None else None
            if isinstance(value, Tensor) and spec.target is not None:
                self._lift(names[spec.arg.name], spec.target, value)
        attributes = {str(n.target): n for n in self.graph.nodes if n.op == "get_attr"}
        *_, output = self.graph.nodes
        mutations = (OutputKind.BUFFER_MUTATION, getattr(OutputKind, "PARAMETER_MUTATION", None))
        for spec, value in zip(signature.output_specs, output.args[0], strict=True):
            if spec.kind in mutations and isinstance(value, fx.Node) and spec.target in attributes:
                with self.graph.inserting_before(output):
                    write = self.graph.call_function(torch.ops.aten.copy_.default, (attributes[spec.target], value))
                self.marks.append(write)
                self.written.add(str(spec.target))

    def _lift_graph(self) -> None:
        for node in self.graph.find_nodes(op="placeholder"):
            found = lifted_weight(node)
            if found is not None:
                self._lift(node, *found)

    def _hold(self, owner: fx.GraphModule) -> None:
        """Give the piece what the graph refers to by name: tensors, modules, graphs of higher-order operators."""
        for node in self.graph.nodes:
            path = str(node.target)
            if node.op in ("call_module", "get_attr") and path not in self.inputs:
                value: Any = owner
                for name in path.split("."):
                    value = getattr(value, name, None)
                if isinstance(value, Tensor | nn.Module):
                    _assign(self.holder, path, value)

    def _lift(self, placeholder: fx.Node, path: str, value: Tensor) -> None:
        """Let what reads ``placeholder`` read the attribute ``path`` instead."""
        while path in self.inputs:
            path += "_"
        attribute = self._attribute(path)
        attribute.meta = dict(placeholder.meta)
        placeholder.replace_all_uses_with(attribute)
        self.inputs[path] = placeholder
        _assign(self.holder, path, value)

    def _piece(self) -> ExportedPiece:
        root = Call(self.holder, "", None)
        opaque: dict[nn.Module, str] = {}
        for node in self.graph.find_nodes(op="call_module"):
            module = self.holder.get_submodule(str(node.target))
            reason = why_opaque(module) or (None if is_builtin(module) else f"a {type(module).__name__} is called")
            if reason:
                opaque[module] = reason
        for node in self.graph.find_nodes(op="get_attr"):
            value = self.holder._modules.get(str(node.target))
            if value is not None:
                opaque[value] = f"a graph that {' and '.join(_called(user) for user in node.users)} runs"
        piece = ExportedPiece("", self.holder, self.graph, [root], dict.fromkeys(self.graph.nodes, root), opaque)
        piece.taken = self._taken()
        named = _named_by_signatures(self.model) if isinstance(self.model, ExportedProgram) else set()
        piece.kept = {n for n in self.graph.nodes if n.name in named}
        return piece

    def _taken(self) -> set[str]:
        """Every path of an attribute and of the modules around it."""
        if isinstance(self.model, ExportedProgram):
            paths: Iterable[str] = [*self.model.state_dict, *self.model.constants]
        else:
            paths = [name for name, _ in (*self.model.named_modules(), *self.model.named_parameters())]
            paths = [*paths, *(name for name, _ in self.model.named_buffers()), *vars(self.model)]
        return {".".join(steps[: i + 1]) for steps in (p.split(".") for p in paths) for i in range(len(steps))}

    @property
    def opaque(self) -> dict[nn.Module, str]:
        """Modules that the graph calls and that nobody looks into, for the report."""
        return {m: reason for m, reason in self.piece.opaque.items() if type(m).__module__ != GUARDS}

    def parameters(self, model: ExportedProgram | fx.GraphModule) -> list[nn.Parameter]:
        """The parameters of ``model``, which is the program before or after, each once."""
        lifted = (find_tensor(self.holder, path) for path in self.inputs.keys() - self.dead)
        inputs = [t for t in lifted if isinstance(t, nn.Parameter)] if isinstance(model, fx.GraphModule) else []
        return list({id(p): p for p in (*model.parameters(), *inputs)}.values())

    # -------------------------------------------------------------------------------------------------------- the edit
    def add(self, path: str, value: nn.Parameter) -> fx.Node:
        """A new weight, as a node to read it from; the one that is there if it has been added before."""
        if path in self.added:
            return self.added[path][0]
        node = self._attribute(path, _identifier(path))
        self.added[path] = node, value
        if self.mode is not None:
            node.meta["val"] = self.mode.from_tensor(value, static_shapes=True)
        return node

    def _attribute(self, path: str, name: str | None = None) -> fx.Node:
        """A node that reads an attribute, behind the inputs and the attributes that were made before."""
        first = next(iter(self.graph.nodes))
        with self.graph.inserting_after(self.last) if self.last is not None else self.graph.inserting_before(first):
            self.last = self.graph.create_node("get_attr", path, name=name)
        return self.last

    def _fake_mode(self) -> FakeTensorMode | None:
        """What the fake values of the graph were made with, if they were made together."""
        values = (fake_value(node) for node in self.graph.nodes)
        modes = {id(v.fake_mode): v.fake_mode for v in values if isinstance(v, FakeTensor)}
        return next(iter(modes.values())) if len(modes) == 1 else None

    # -------------------------------------------------------------------------------------------------------- way back
    def finish(self, share: bool) -> ExportedProgram | fx.GraphModule:
        """The program that the edited graph computes; it owns its tensors, unless they are to be shared."""
        for mark in self.marks:
            mark.replace_all_uses_with(mark.args[0])  # type: ignore[arg-type]
            self.graph.erase_node(mark)
        self.dead = dead = self._dead()
        added = [node for node, _ in self.added.values()]
        for node in self.graph.find_nodes(op="get_attr"):
            path = str(node.target)
            if node in added:
                continue
            if path in self.inputs:
                node.replace_all_uses_with(self.inputs[path])
            if not node.users and (path in self.inputs or path in dead):
                self.graph.erase_node(node)
        if isinstance(self.model, ExportedProgram):
            return self._program(self.model, dead, share)
        return self._module(self.model, dead, share)

    def _dead(self) -> set[str]:
        """What the graph read and does not any more, with what such a module holds besides that nobody ever read."""
        added = [node for node, _ in self.added.values()]
        reads = [n for n in self.graph.nodes if n.op == "call_module" or (n.op == "get_attr" and n.users)]
        read = {str(n.target) for n in reads if n not in added}
        dead = self.used - read - self.written
        gone = {id(find_tensor(self.holder, path)) for path in dead}
        dead |= {path for path in self.idle if id(find_tensor(self.holder, path)) in gone}  # another name for it
        emptied = {path.rpartition(".")[0] for path in dead} - {path.rpartition(".")[0] for path in read}
        return dead | {path for path in self.idle if path.rpartition(".")[0] in emptied - {""}}

    def _program(self, program: ExportedProgram, dead: set[str], share: bool) -> ExportedProgram:
        signature = program.graph_signature
        unread = {self.inputs[path].name for path in dead if path in self.inputs}
        left = [spec for spec in signature.input_specs if getattr(spec.arg, "name", None) not in unread]
        parameters = [spec for spec in left if spec.kind is InputKind.PARAMETER]
        others = [spec for spec in left if spec.kind is not InputKind.PARAMETER]
        for path in dead & self.inputs.keys():
            self.graph.erase_node(self.inputs[path])
        last = {s.arg.name for s in parameters}
        for path, (node, _) in self.added.items():
            placeholder = self._placeholder(node, last)
            last.add(placeholder.name)
            parameters.append(InputSpec(InputKind.PARAMETER, TensorArgument(name=placeholder.name), path))
        owned = _owner(share)
        gone = {id(find_tensor(self.holder, path)) for path in dead}  # under whatever name
        kept = {s.target for s in (*parameters, *others)} - self.added.keys()
        state = {k: owned(t) for k, t in program.state_dict.items() if k in kept or id(t) not in gone}
        return ExportedProgram(
            program.graph_module,
            self.graph,
            ExportGraphSignature([*parameters, *others], list(signature.output_specs)),
            {**state, **{path: value for path, (_, value) in self.added.items()}},
            dict(program.range_constraints),
            copy.deepcopy(program.module_call_graph),
            program.example_inputs,
            {k: owned(value) for k, value in program.constants.items() if k in kept or id(value) not in gone},
            verifiers=program.verifiers,
        )

    def _placeholder(self, node: fx.Node, parameters: set[str]) -> fx.Node:
        """An input in place of the attribute ``node``, behind those of the ``parameters``."""
        name = f"p_{_identifier(str(node.target))}"
        before = [n for n in self.graph.nodes if n.op == "placeholder" and n.name in parameters]
        first = next(iter(self.graph.nodes))
        with self.graph.inserting_after(before[-1]) if before else self.graph.inserting_before(first):
            placeholder = self.graph.create_node("placeholder", name, name=name)
        if all(n.name != name for n in self.graph.nodes):  # of an input that was dropped
            placeholder.name = name
        placeholder.target = placeholder.name
        placeholder.meta = dict(node.meta)
        node.replace_all_uses_with(placeholder)
        self.graph.erase_node(node)
        return placeholder

    def _module(self, module: fx.GraphModule, dead: set[str], share: bool) -> fx.GraphModule:
        result: fx.GraphModule = type(module).__new__(type(module))
        known: dict[int, Any] = {id(t): t for t in tensors(module)} if share else {}
        known |= {id(t): t for path in dead if (t := find_tensor(module, path)) is not None}
        known |= {id(module): result, id(module.graph): self.graph, id(module.meta): dict(module.meta)}
        vars(result).update(copied_state(module, known))
        for path in dead - self.inputs.keys():
            _remove(result, path)
        for path, (_, value) in self.added.items():
            _assign(result, path, value)
        result.graph = self.graph
        return result


def replace_content(model: ExportedProgram | fx.GraphModule, by: ExportedProgram | fx.GraphModule) -> None:
    """Let ``model`` be what ``by`` is."""
    model.__class__ = type(by)
    vars(model).clear()
    vars(model).update(vars(by))


def runnable(model: nn.Module | ExportedProgram) -> nn.Module:
    """A module that runs ``model``; one of its own, where it may write to buffers."""
    if isinstance(model, ExportedProgram):
        program = copy.copy(model)
        program._state_dict = copy.deepcopy(model.state_dict)
        program._constants = copy.deepcopy(model.constants)
        return program.module()
    return model


def lifted_weight(node: fx.Node) -> tuple[str, Tensor] | None:
    """The path and the value of the weight that dynamo made an input of, as long as it is there to ask."""
    given = node.meta.get("grapharg")
    source: Any = getattr(given, "source", None)
    value = getattr(given, "example", None) if source is not None else None
    if not isinstance(value, Tensor) or isinstance(value, FakeTensor):
        return None
    kind, name = (found() if callable(found) else found for found in (source.guard_source, source.name))
    if "NN_MODULE" not in kind.name:
        return None
    steps = re.findall(r"\._(?:modules|parameters|buffers)\['([^']+)'\]", name)
    return ".".join(steps) if steps else node.name, value


def _named_by_signatures(program: ExportedProgram) -> set[str]:
    """The values that modules whose calls were preserved take and return."""
    signatures = [entry.signature for entry in program.module_call_graph if entry.fqn and entry.signature is not None]
    arguments = (argument for s in signatures for argument in (*s.inputs, *s.outputs))
    return {str(argument.name) for argument in arguments if hasattr(argument, "name")}


def _same_names(copied: fx.Graph, original: fx.Graph) -> fx.Graph:
    """A copy gives new names to nodes that are called like something of Python's; signatures refer to the old ones."""
    for node, before in zip(copied.nodes, original.nodes, strict=True):
        node.name = before.name
    return copied


def _drop_unread(graph: fx.Graph) -> None:
    """Erase what unpacks or detaches a value for nobody."""
    for node in reversed(graph.nodes):
        if node.target in (operator.getitem, torch.ops.aten.detach.default) and not node.users:
            graph.erase_node(node)


def _plain_path(path: str) -> str:
    """``0.conv`` for ``L['self'].0.conv`` and ``getattr(L['self'], '0').conv``."""
    while (shorter := re.sub(r"getattr\(([^()]*), '([^']*)'\)", r"\1.\2", path)) != path:
        path = shorter
    path = re.sub(r"\._modules\['([^']*)'\]", r".\1", path)
    return re.sub(r"^L\['[^']*'\]\.?", "", path)


def _called(node: fx.Node) -> str:
    return str(getattr(node.target, "__name__", node.target))


def _identifier(path: str) -> str:
    return re.sub(r"\W", "_", path).lower()


def _owner(share: bool) -> Any:
    """Copies of tensors, one for each; or the tensors themselves."""
    memo: dict[int, Any] = {}
    return (lambda value: value) if share else (lambda value: copy.deepcopy(value, memo))


def _assign(root: nn.Module, path: str, value: Tensor | nn.Module) -> None:
    """Hang ``value`` at a dotted path, in modules that are made on the way."""
    *owners, name = path.split(".")
    for step in owners:
        if root._modules.get(step) is None:
            root._modules[step] = nn.Module().eval()
        root = root._modules[step]  # type: ignore[assignment]
    if isinstance(value, nn.Module):
        root._modules[name] = value
    elif isinstance(value, nn.Parameter):
        root._parameters[name] = value
    else:
        root._buffers[name] = value


def _remove(root: nn.Module, path: str) -> None:
    """Take out what is at a dotted path, and the modules around it that hold nothing else."""
    for owner, name in _owners(root, path):
        for space in (owner._parameters, owner._buffers, owner._modules, vars(owner)):
            space.pop(name, None)
        if type(owner) is not nn.Module or any((owner._parameters, owner._buffers, owner._modules)):
            return


def _owners(root: nn.Module, path: str) -> Iterator[tuple[nn.Module, str]]:
    """The modules around ``path``, innermost first, each with the name of what is next in it."""
    while path:
        path, _, name = path.rpartition(".")
        yield root.get_submodule(path), name
