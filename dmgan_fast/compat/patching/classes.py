"""Fast classes: a module becomes fast by a subclass of its own class, put in the place of ``__class__``.

Nothing in the module changes: parameters, buffers, hooks, names and attributes are the very objects. Copies that
``DataParallel`` makes run on their own parameters, which a ``forward`` bound to one instance would not. Whole modules
are pickled as of their own class, so that they load where this library is not.
"""

from __future__ import annotations

import copy
import copyreg
from collections.abc import Callable, Hashable
from typing import Any
from weakref import WeakValueDictionary

from torch import nn

# Called with the own class's forward, the module, and what the module is called with.
FastForward = Callable[..., Any]

# After a deep copy: the module and its copy.
copied: Callable[[nn.Module, nn.Module], None] = lambda module, copy: None  # noqa: E731


_PLAIN = "_dmgan_fast_plain"  # the attribute of a fast class that names the module's own


def is_fast(module: nn.Module) -> bool:
    return _PLAIN in vars(type(module))


def plain_class(module: nn.Module) -> type[nn.Module]:
    """The module's own class."""
    kind = type(module)
    return vars(kind).get(_PLAIN, kind)


def _reduce(self: Any, protocol: Any) -> Any:
    """As an object of the own class."""
    plain = plain_class(self)
    reduced = plain.__reduce_ex__(self, protocol)
    if not isinstance(reduced, tuple):
        return reduced
    function, arguments, *rest = reduced
    if arguments == (type(self),):  # copyreg.__newobj__, with which pickle allows no class but the object's
        return (copyreg._reconstructor, (plain, object, None), *rest)  # type: ignore[attr-defined]
    return (function, tuple(plain if each is type(self) else each for each in arguments), *rest)


def _deepcopy(self: Any, memo: dict[int, Any]) -> Any:
    own: Any = getattr(plain_class(self), "__deepcopy__", None)
    if own is not None:
        new = own(self, memo)
    else:
        function, arguments, state, *_ = self.__reduce_ex__(4)
        new = memo[id(self)] = function(*arguments)
        new.__setstate__(copy.deepcopy(state, memo))
    copied(self, new)
    return new


_classes: WeakValueDictionary[tuple[type, Hashable], type] = WeakValueDictionary()


def why_no_fast_class(module: nn.Module) -> str | None:
    """None if the class can have a fast subclass without anybody noticing, else the reason."""
    kind = plain_class(module)
    if "forward" in vars(module):
        return "its forward was set on the instance, by somebody else"
    if type(kind) is not type:
        return f"its class has a metaclass, {type(kind).__name__}, which would see a subclass made"
    if any("__init_subclass__" in vars(base) for base in kind.__mro__[:-1]):
        return "its class watches for subclasses (__init_subclass__)"
    return None


def fast_class(plain: type[nn.Module], fast: FastForward, key: Hashable) -> type[nn.Module]:
    """A subclass of ``plain`` whose forward is ``fast``; the same one for the same key while it is in use."""
    known = _classes.get((plain, key))
    if known is not None:
        return known
    own_forward = plain.forward

    def forward(self: nn.Module, *arguments: Any, **named: Any) -> Any:
        return fast(own_forward, self, *arguments, **named)

    forward.__doc__ = own_forward.__doc__
    forward.__wrapped__ = own_forward  # type: ignore[attr-defined]  # for inspect.signature
    names = ("__module__", "__qualname__", "__doc__")
    body: dict[str, Any] = {name: getattr(plain, name) for name in names}
    body |= {"forward": forward, "__reduce_ex__": _reduce, "__deepcopy__": _deepcopy, _PLAIN: plain}
    made = type(plain.__name__, (plain,), body)
    _classes[plain, key] = made
    return made
