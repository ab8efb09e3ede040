"""A griffe extension: a class whose fields are its constructor's arguments shows them, with their defaults."""

import importlib
import inspect

import griffe


class Constructors(griffe.Extension):
    """The signature is the one that Python sees; annotations are those that stand in the source."""

    def on_class_members(self, *, node, cls: griffe.Class, agent, **kwargs) -> None:
        if "__init__" in cls.members or not cls.is_public:
            return
        found = getattr(importlib.import_module(cls.module.path), cls.name, None)
        try:
            signature = inspect.signature(found)
        except (TypeError, ValueError):
            return
        parameters = griffe.Parameters(
            griffe.Parameter("self", kind=griffe.ParameterKind.positional_or_keyword),
            *(_parameter(cls, value) for value in signature.parameters.values()),
        )
        cls.set_member("__init__", griffe.Function("__init__", parameters=parameters))


def _parameter(cls: griffe.Class, value: inspect.Parameter) -> griffe.Parameter:
    kind = getattr(griffe.ParameterKind, value.kind.name.lower())
    field = cls.members.get(value.name)
    annotation = field.annotation if isinstance(field, griffe.Attribute) else None
    default = None if value.default is inspect.Parameter.empty else _short(value.default)
    return griffe.Parameter(value.name, kind=kind, default=default, annotation=annotation)


def _short(default: object) -> str:
    text = " ".join(repr(default).split())
    return text if len(text) < 40 else "..."
