"""What each op is, said once: its inputs, the functions that its kernels have and the custom ops that run them.

From this table come the checks of arguments, the results of tensors without data, the operations that are counted, what
a backend refuses, the schemas and the derivatives of the custom ops, and the signatures in docs/backends.md;
csrc/schemas.h is compared with it. It stands below all who fulfil it: the native loader, PyTorch's kernels, the ops.

A signature is written ``h, mask?, bool official -> out, lse``: a bare name is a tensor, ``?`` one that may be None.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor

from dmgan_fast import layouts
from dmgan_fast.errors import InputError

BACKENDS = ("cuda", "triton", "aten", "cpu")  # that have kernels
FLOATS = (torch.float32, torch.bfloat16, torch.float16)
REFERENCE_FLOATS = (*FLOATS, torch.float64)  # that the reference takes
KINDS = {"bool": (torch.bool,), "integers": (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)}
MANY = 4096  # sets of shapes that an op remembers
AXES = {"C": "channels", "T": "words"}  # of the letters in shapes, those that kernels have limits for


def by_name(function: Callable[..., Any], names: Sequence[str]) -> Callable[..., Any]:
    """``function`` for arguments in the order of ``names``, of which it takes those that its parameters name."""
    places = [names.index(name) for name in inspect.signature(function).parameters]
    return lambda *arguments: function(*(arguments[place] for place in places))


# ------------------------------------------------------------------------------------------------------------ functions


class Argument(NamedTuple):
    name: str
    kind: str  # as in PyTorch's schemas: "Tensor", "Tensor?", "bool", ...

    @property
    def is_tensor(self) -> bool:
        return self.kind.startswith("Tensor")

    @classmethod
    def read(cls, text: str) -> Argument:
        kind, _, name = text.strip().rpartition(" ")
        return cls(name.removesuffix("?"), kind or ("Tensor?" if name.endswith("?") else "Tensor"))


@dataclass(frozen=True, eq=False)
class Function:
    """A function of an op's kernels, or a custom op.

    ``shapes``: the results of tensors without data; by default they are gradients, ``grad_x`` like ``x``. ``flops``:
    floating point operations as the CPU library does them, of the shapes of tensors. Both name the arguments that they
    look at; ``flops`` may look at the shape ``result`` too.
    """

    name: str
    signature: str
    shapes: Callable[..., Any] | None = None
    flops: Callable[..., float] | None = None

    @cached_property
    def arguments(self) -> tuple[Argument, ...]:
        return tuple(map(Argument.read, self.signature.split("->")[0].split(",")))

    @cached_property
    def parameters(self) -> tuple[str, ...]:
        return tuple(argument.name for argument in self.arguments)

    @cached_property
    def results(self) -> tuple[str, ...]:
        return tuple(name.strip() for name in self.signature.split("->")[1].split(","))

    @property
    def schema(self) -> str:
        """As PyTorch and csrc/schemas.h write it, after the name."""
        results = ", ".join("Tensor" for _ in self.results)
        returned = f"({results})" if len(self.results) > 1 else results
        return f"({', '.join(f'{kind} {name}' for name, kind in self.arguments)}) -> {returned}"

    @cached_property
    def fake(self) -> Callable[..., Any]:
        """The results of tensors without data, for all arguments in their order."""
        if self.shapes is not None:
            return by_name(self.shapes, self.parameters)
        places = [self.parameters.index(name.removeprefix("grad_")) for name in self.results]
        return lambda *arguments: tuple(_empty(arguments[place]) for place in places)

    def as_custom_op(self, name: str) -> Function:
        """The custom op that runs this function on a backend."""
        inputs, results = self.signature.split("->")
        return Function(name, f"{inputs.strip()}, str backend ->{results}", self.shapes)


def is_autocast(x: Tensor) -> bool:
    """Whether autocast is on where ``x`` is; tensors without data know none."""
    return not x.is_meta and torch.is_autocast_enabled(x.device.type)


def without_autocast(x: Tensor) -> AbstractContextManager[Any]:
    """Within, autocast is off where ``x`` is."""
    return torch.autocast(x.device.type, enabled=False) if is_autocast(x) else nullcontext()


def require_tensor(where: str, name: str, value: Any, kind: str = "floats") -> None:
    """Raise ``InputError``, which begins with ``where``, unless ``value`` is a dense tensor of that kind.

    ``kind``: ``"floats"``, ``"any"`` for every dtype, or one of ``KINDS``.
    """
    if not isinstance(value, Tensor):
        raise InputError(f"{where}: {name} must be a tensor, got {type(value).__name__}")
    if not torch.compiler.is_compiling() and (value.layout != torch.strided or value.is_nested):
        what = "nested" if value.is_nested else str(value.layout).removeprefix("torch.")
        raise InputError(f"{where}: {name} must be a dense tensor, got one that is {what}")
    if kind == "floats" and not value.dtype.is_floating_point:
        raise InputError(f"{where}: {name} must be floating point, got {value.dtype}")
    if kind == "floats" and value.dtype not in REFERENCE_FLOATS:
        raise InputError(f"{where}: {name} must be float32, bfloat16, float16 or float64, got {value.dtype}")
    if kind in KINDS and value.dtype not in KINDS[kind]:
        raise InputError(f"{where}: {name} must be {kind}, got {value.dtype}")


def require_tensors(where: str, kind: str = "floats", **values: Any) -> None:
    """``require_tensor`` for each, and none of them may be empty."""
    for name, value in values.items():
        require_tensor(where, name, value, kind)
        if value.numel() == 0:
            raise InputError(f"{where}: {name} is empty, got {list(value.shape)}")


def require_fits(where: str, weight: Tensor, **values: Tensor) -> None:
    """Raise ``InputError`` unless each is where ``weight`` is, and of its dtype or under autocast."""
    for name, value in values.items():
        if value.device != weight.device:
            raise InputError(f"{where}: {name} is on {value.device}, the weights are on {weight.device}")
        if value.dtype != weight.dtype and not is_autocast(weight):
            raise InputError(f"{where}: {name} is {value.dtype}, the weights are {weight.dtype}")


def _empty(x: Tensor) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


# --------------------------------------------------------------------------------------------------------------- inputs

Sizes = dict[str, int]


class Input(NamedTuple):
    """A tensor that a public function takes, written ``"B C T"``: a letter stands for any size, the same everywhere.

    ``"like key"`` has key's shape. A kind may follow, ``"B T, bool"``: without one a tensor has the first input's dtype
    (under autocast any), ``any`` is a floating-point dtype of its own.
    """

    name: str
    optional: bool
    axes: tuple[str, ...]
    kind: str
    like: str

    @classmethod
    def read(cls, name: str, text: str, others: Mapping[str, str]) -> Input:
        shape, _, kind = text.partition(", ")
        like = shape.removeprefix("like ") if shape.startswith("like ") else ""
        axes = (others[like].partition(", ")[0] if like else shape).split()
        return cls(name.removesuffix("?"), name.endswith("?"), tuple(axes), kind, like)


@dataclass(frozen=True, eq=False)
class Op:
    """What an op is.

    ``inputs``: tensors of the public function by name (``name?`` may be None); the first sets the dtype. ``functions``:
    what its kernels are, ``NAME_forward``, ``NAME_backward`` and whatever else. ``custom``: its custom ops; by default
    one for each of these two. ``bring``: how kernels get a tensor, by its name: by a function of it, or in the layout
    of the tensor named; by default contiguous. ``kernels``: the backends that have them. ``limits``: the largest sizes
    that kernels take, by letter. ``python``: its custom ops run other ops, so that whoever counts follows them inside.
    """

    name: str
    inputs: Mapping[str, str]
    functions: tuple[Function, ...] = ()
    custom: tuple[Function, ...] = ()
    bring: Mapping[str, Callable[[Tensor], Tensor] | str] = field(default_factory=dict)
    kernels: tuple[str, ...] = ("cuda", "triton", "cpu")
    limits: Mapping[str, int] = field(default_factory=dict)
    python: bool = False
    read: tuple[Input, ...] = field(init=False)
    known: Sizes = field(init=False)  # sizes that are written as numbers
    twins: Mapping[str, tuple[str, int, int]] = field(init=False)  # of "C", "2C" by how much; and the other way round
    checked: dict[Any, Sizes] = field(init=False, default_factory=dict)  # what check has said of shapes and dtypes

    def __post_init__(self) -> None:
        read = tuple(Input.read(name, text, self.inputs) for name, text in self.inputs.items())
        axes = {axis for each in read for axis in each.axes}
        numbers = {axis: int(axis) for axis in axes if axis.isdigit()}
        double = [axis for axis in axes - numbers.keys() if axis[0] == "2"]
        twins = {axis: (axis[1:], 1, 2) for axis in double} | {axis[1:]: (axis, 2, 1) for axis in double}
        self.__dict__.update(read=read, known=numbers, twins=twins)

    def function(self, name: str) -> Function:
        """The kernels' ``NAME_<name>``."""
        return next(each for each in self.functions if each.name == f"{self.name}_{name}")

    def custom_op(self, name: str = "") -> Function:
        """The custom op ``NAME``, or ``NAME_<name>``."""
        wanted = f"{self.name}_{name}" if name else self.name
        own = [each for each in self.custom if each.name == wanted]
        return own[0] if own else self.function(name or "forward").as_custom_op(wanted)

    def shapes(self, **sizes: int) -> dict[str, tuple[int, ...]]:
        """Of its inputs by name, for sizes of the letters (``B=2, C=3``)."""
        sizes = self.known | sizes | {f"2{axis}": 2 * size for axis, size in sizes.items()}
        return {each.name: tuple(sizes[axis] for axis in each.axes) for each in self.read}

    def check(self, *tensors: Tensor | None) -> Sizes:
        """The sizes that the letters stand for, of tensors in the order of ``inputs``.

        Raises:
            InputError: for what is no dense tensor, shapes that do not fit, and dtypes or devices that differ.
        """
        first = tensors[0]
        autocast = isinstance(first, Tensor) and is_autocast(first)
        if torch.compiler.is_compiling():
            return self._check(tensors, autocast)
        try:  # the same come again and again
            given = (
                autocast,
                *[(x.shape, x.dtype, x.device, x.layout) if isinstance(x, Tensor) else x for x in tensors],
            )
            return self.checked[given]
        except RuntimeError:  # a nested tensor has no shape
            return self._check(tensors, autocast)
        except (KeyError, TypeError):  # sizes of a traced call are symbols, which have no hash
            sizes = self._check(tensors, autocast)
        with suppress(TypeError):
            if len(self.checked) == MANY:
                self.checked.clear()
            self.checked[given] = sizes
        return sizes

    def _check(self, tensors: Sequence[Tensor | None], autocast: bool) -> Sizes:
        sizes, base = dict(self.known), tensors[0]
        for (name, optional, axes, kind, like), tensor in zip(self.read, tensors, strict=True):
            if tensor is None and optional:
                continue
            require_tensor(self.name, name, tensor, "any")
            assert tensor is not None
            if tuple(map(sizes.get, axes)) != tensor.shape:
                sizes = self._learn(sizes, axes, tensor.shape) or self._refuse(name, sizes, axes, like, tensor.shape)
            if tensor is base:
                device, dtype = tensor.device, tensor.dtype
                require_tensor(self.name, name, tensor)
            elif tensor.device != device:
                places = f"{name} is on {tensor.device}, {self.read[0].name} is on {device}"
                raise InputError(f"{self.name}: {places}; they must be on one device")
            elif not kind:
                if tensor.dtype != dtype and not autocast:
                    types = f"{name} is {tensor.dtype}, {self.read[0].name} is {dtype}"
                    raise InputError(f"{self.name}: {types}; they must have one dtype")
                require_tensor(self.name, name, tensor)
            elif kind == "any":
                require_tensor(self.name, name, tensor)
            elif tensor.dtype not in KINDS[kind.split()[0]]:
                raise InputError(f"{self.name}: {name} must be {kind}, got {tensor.dtype}")
        return sizes

    def _learn(self, sizes: Sizes, axes: tuple[str, ...], shape: Sequence[int]) -> Sizes | None:
        """The sizes with those of letters that had none; None for a shape that does not fit."""
        if len(shape) != len(axes):
            return None
        sizes = dict(sizes)
        for axis, size in zip(axes, shape, strict=True):
            if size < 1 or sizes.setdefault(axis, size) != size:
                return None
            if axis in self.twins:
                twin, times, part = self.twins[axis]
                sizes[twin] = size * times // part
        return sizes

    def _refuse(self, name: str, sizes: Sizes, axes: tuple[str, ...], like: str, shape: Sequence[int]) -> NoReturn:
        wanted = ", ".join(str(sizes.get(axis, axis)) for axis in axes)
        what = f"the shape of {like} " if like else "shape "
        raise InputError(f"{self.name}: {name} must have {what}[{wanted}], got {list(shape)}")


# -------------------------------------------------------------------------------------- results of tensors without data


def _per_channel(x: Tensor) -> Tensor:
    return x.new_empty(x.shape[1], dtype=torch.float32)


def _like(x: Tensor) -> Tensor:
    """A feature map in the layout of ``x``."""
    return layouts.empty_map(x, *x.shape[1:])


def _read(h: Tensor, key: Tensor, want_attention: bool, want_gate: bool) -> tuple[Tensor, ...]:
    batch, _, height, width = h.shape
    return (
        _like(h),
        h.new_empty((batch, height * width), dtype=torch.float32),
        h.new_empty((batch, key.shape[2], height, width) if want_attention else (0,)),
        h.new_empty((batch, 1, height, width) if want_gate else (0,)),
    )


def _read_gradients(h: Tensor, key: Tensor, value: Tensor, gate_weight: Tensor | None) -> tuple[Tensor, ...]:
    gate = (2 * h.shape[1], 1) if gate_weight is not None else (0, 0)
    return _like(h), _empty(key), _empty(value), *(h.new_empty(size, dtype=torch.float32) for size in gate)


def _write(words: Tensor, image_mean: Tensor) -> tuple[Tensor, Tensor]:
    size = (words.shape[0], image_mean.shape[1], words.shape[2])
    return words.new_empty(size), words.new_empty(size)


def _norm(x: Tensor, skip: Tensor | None, want_mean: bool) -> tuple[Tensor, ...]:
    channels = x.shape[1] if skip is not None else x.shape[1] // 2
    spatial_mean = x.new_empty((x.shape[0], channels) if want_mean else (0,), dtype=torch.float32)
    y = layouts.empty_map(x, channels, *x.shape[2:])
    return y, _per_channel(x), _per_channel(x), _per_channel(x), spatial_mean


def _relayout(x: Tensor) -> Tensor:
    back = layouts.is_channels_last(x)
    return torch.empty_like(x, memory_format=torch.contiguous_format if back else torch.channels_last)


def _tiled(
    x: Tensor, conv_weight: Tensor, outputs: int, scale: int = 1, image: Tensor | None = None, want_mean: bool = False
) -> tuple[Tensor, ...]:
    height, width = scale * x.shape[2], scale * x.shape[3]
    dtype = torch.promote_types(x.dtype, torch.float32)
    if image is None:
        y = layouts.empty_map(x, outputs, height, width)
    else:
        y = x.new_empty((x.shape[0], image.shape[0], height, width))
    norm = (x.new_empty(conv_weight.shape[0], dtype=dtype) for _ in range(3))
    spatial_mean = x.new_empty((x.shape[0], outputs) if want_mean else (0,), dtype=dtype)
    return y, *norm, spatial_mean, x.new_empty((), dtype=dtype)


def _tiled_glu(
    x: Tensor, conv_weight: Tensor, head_weight: Tensor | None, upsample: bool, want_mean: bool
) -> tuple[Tensor, ...]:
    return _tiled(x, conv_weight, conv_weight.shape[0] // 2, 2 if upsample else 1, head_weight, want_mean)


def _tiled_skip(x: Tensor, conv_weight: Tensor) -> tuple[Tensor, ...]:
    y, mean, var, rstd, _, share = _tiled(x, conv_weight, conv_weight.shape[0])
    return y, mean, var, rstd, share


def _wanted(x: Tensor, weight: Tensor, want_x: bool, want_weight: bool) -> tuple[Tensor, Tensor]:
    return _like(x) if want_x else x.new_empty(0), weight.new_empty(weight.shape if want_weight else 0)


def _tiled_gradients(
    x: Tensor, conv_weight: Tensor, mean: Tensor, want_x: bool, want_conv_weight: bool
) -> tuple[Tensor, ...]:
    return *_wanted(x, conv_weight, want_x, want_conv_weight), _empty(mean), _empty(mean)


def _tiled_glu_gradients(
    x: Tensor, conv_weight: Tensor, head_weight: Tensor | None, mean: Tensor, want_x: bool, want_conv_weight: bool
) -> tuple[Tensor, ...]:
    head = x.new_empty(0 if head_weight is None else head_weight.shape)
    return *_tiled_gradients(x, conv_weight, mean, want_x, want_conv_weight), head


# ------------------------------------------------------------------------------------------------------------ the table


def _tensors(inputs: Mapping[str, str]) -> str:
    return ", ".join(inputs)


WRITE = {
    "words": "B D T",
    "image_mean": "B C",
    "gate_word": "D",
    "gate_image": "C",
    "word_weight": "2C D",
    "word_bias": "2C",
    "image_weight": "2C C",
    "image_bias": "2C",
    "key_weight": "C 2C",
    "key_bias": "C",
    "value_weight": "C 2C",
    "value_bias": "C",
}
MEMORY_WRITE = Op(
    "memory_write",
    inputs=WRITE,
    functions=(
        Function("memory_write_forward", f"{_tensors(WRITE)} -> key, value", _write),
        Function(
            "memory_write_backward",
            f"grad_key, grad_value, key, value, {_tensors(WRITE)} -> {', '.join(f'grad_{name}' for name in WRITE)}",
        ),
    ),
    limits={"C": 512},  # a pixel's features stay on chip
)

READ = {
    "h": "B C H W",
    "key": "B C T",
    "value": "like key",
    "gate_weight?": "2C",
    "gate_bias?": "1",
    "padding_mask?": "B T, bool (True: padding)",
}
MEMORY_READ = Op(
    "memory_read",
    inputs=READ,
    functions=(
        Function(
            "memory_read_forward",
            f"{_tensors(READ)}, bool official, bool want_attention, bool want_gate -> out, lse, attention, gate",
            _read,
        ),
        Function(
            "memory_read_backward",
            f"grad_out, grad_attention?, grad_gate?, {_tensors(READ)}, lse, bool official "
            "-> grad_h, grad_key, grad_value, grad_gate_weight, grad_gate_bias",
            _read_gradients,
        ),
    ),
    bring={
        "h": layouts.pixel_linear,
        "grad_out": layouts.pixel_linear,
        "gate_weight": layouts.wide,
        "gate_bias": layouts.wide,
    },
    limits={"C": 512},
)

NORM = "weight?, bias?, mean, rstd"
BATCH_NORM_GLU = Op(
    "batch_norm_glu",
    inputs={
        "x": "B 2C H W",
        "weight?": "2C, any",
        "bias?": "2C, any",
        "running_mean?": "2C, any",
        "running_var?": "2C, any",
        "skip?": "B K H W, any",
    },
    functions=(
        Function("batch_norm_glu_statistics", "x -> mean, var", lambda x: (_per_channel(x), _per_channel(x))),
        Function(
            "batch_norm_glu_forward",
            "x, weight?, bias?, skip?, mean?, var?, float eps, bool want_mean -> y, mean, var, rstd, spatial_mean",
            _norm,
        ),
        Function(
            "batch_norm_glu_reduce",
            f"grad_y, grad_mean?, x, {NORM}, bool glu -> sums",
            lambda x: x.new_empty((2, x.shape[1]), dtype=torch.float32),
        ),
        Function(
            "batch_norm_glu_backward",
            f"grad_y, grad_mean?, x, {NORM}, bool glu, bool training, sums?, float count "
            "-> grad_x, grad_weight, grad_bias",
            lambda x: (_like(x), _per_channel(x), _per_channel(x)),
        ),
    ),
    custom=(
        Function(
            "batch_norm_glu_shared_statistics",
            "x, str group, str backend -> mean, var, share",
            lambda x: (_per_channel(x), _per_channel(x), x.new_empty((), dtype=torch.float32)),
        ),
        Function(
            "batch_norm_glu",
            "x, weight?, bias?, skip?, mean?, var?, share?, float eps, bool training, bool want_mean, str group, "
            "str backend -> y, mean, var, rstd, spatial_mean",
            _norm,
        ),
        Function(
            "batch_norm_glu_backward",
            f"grad_y, grad_spatial_mean?, x, {NORM}, share?, bool glu, bool training, str group, str backend "
            "-> grad_x, grad_weight, grad_bias",
            lambda x: (_like(x), _per_channel(x), _per_channel(x)),
        ),
    ),
    bring={
        "x": layouts.dense,
        "grad_y": "x",
        "skip": "x",
        **dict.fromkeys(("weight", "bias", "mean", "var"), layouts.wide),
    },
)


class Products(NamedTuple):
    """Products for a pixel of the smaller map and a pair of channels, as the CPU library does them."""

    forward: float
    of_x: float
    of_weight: float


def _pairs(a: Sequence[int], b: Sequence[int], weight: Sequence[int]) -> int:
    """Operations for one product with each: maps in a batch, pixels of the lower resolution, pairs of channels."""
    return 2 * a[0] * min(a[2] * a[3], b[2] * b[3]) * weight[0] * weight[1]


PRODUCTS = {
    "conv3x3": Products(3, 2.25, 3),
    "conv4x4_stride2": Products(9, 9, 9),
    "upsample_conv3x3": Products(6.25, 6.25, 6.25),
}


def _convolution(
    name: str,
    taps: int,
    *,
    up: int = 1,
    down: int = 1,
    bias: bool = True,
    kernels: tuple[str, ...] = ("cuda", "triton", "cpu"),
) -> Op:
    """A convolution whose result is ``up / down`` times as wide as x."""
    products = PRODUCTS[name]

    def shape(x: Tensor, weight: Tensor) -> Tensor:
        height, width = (side * up // down for side in x.shape[2:])
        return layouts.empty_map(x, weight.shape[0], height, width)

    def flops(x: Sequence[int], weight: Sequence[int], result: Sequence[int]) -> float:
        return products.forward * _pairs(x, result, weight)

    def gradient_flops(
        grad_y: Sequence[int], x: Sequence[int], weight: Sequence[int], want_x: bool, want_weight: bool
    ) -> float:
        return (want_x * products.of_x + want_weight * products.of_weight) * _pairs(grad_y, x, weight)

    inputs = {"x": "B I H W", "weight": f"O I {taps} {taps}"} | ({"bias?": "O"} if bias else {})
    backward = "grad_y, x, weight, bool want_x, bool want_weight -> grad_x, grad_weight"
    return Op(
        name,
        inputs=inputs,
        functions=(
            Function(f"{name}_forward", f"{_tensors(inputs)} -> y", shape, flops),
            Function(f"{name}_backward", backward, _wanted, gradient_flops),
        ),
        bring={"x": layouts.dense, "grad_y": "x"},
        kernels=kernels,
        python=True,
    )


CONV3X3 = _convolution("conv3x3", 3)
CONV4X4_STRIDE2 = _convolution("conv4x4_stride2", 4, down=2)
UPSAMPLE_CONV3X3 = _convolution("upsample_conv3x3", 3, up=2, bias=False, kernels=("cuda", "triton", "aten", "cpu"))


def _folded(x: Tensor, conv_weight: Tensor, skip: Tensor | None, upsample: bool) -> Tensor:
    channels, times = conv_weight.shape[0] // (2 if skip is None else 1), 2 if upsample else 1
    return layouts.empty_map(x, channels, times * x.shape[2], times * x.shape[3])


def _folded_flops(x: Sequence[int], conv_weight: Sequence[int], upsample: bool) -> float:
    return PRODUCTS["upsample_conv3x3" if upsample else "conv3x3"].forward * _pairs(x, x, conv_weight)


FOLDED_CONV3X3 = Op(
    "folded_conv3x3",
    inputs={
        "x": "B I H W",
        "conv_weight": "O I 3 3",
        **dict.fromkeys(("weight?", "bias?", "running_mean", "running_var"), "O, any"),
        "skip?": "B K H W",
    },
    functions=(
        Function(
            "folded_conv3x3_forward",
            "x, conv_weight, weight?, bias?, mean, var, skip?, float eps, bool upsample -> y",
            _folded,
            _folded_flops,
        ),
    ),
    bring={"x": layouts.dense, "skip": "x", **dict.fromkeys(("weight", "bias", "mean", "var"), layouts.wide)},
    python=True,
)

WORDS_SIMILARITY = Op(
    "words_similarity",
    inputs={"regions": "B D H W", "words": "B' D T", "lengths": "B', integers"},
    functions=(
        Function(
            "words_similarity_forward",
            "regions, words, lengths, float gamma1, float gamma2 -> scores",
            lambda regions, words: regions.new_empty((regions.shape[0], words.shape[0]), dtype=torch.float32),
        ),
        Function(
            "words_similarity_backward",
            "grad, scores, regions, words, lengths, float gamma1, float gamma2 -> grad_regions, grad_words",
        ),
    ),
    bring={"lengths": lambda lengths: lengths.long().contiguous()},
)

# Blocks in tiles: PyTorch's convolutions around the kernels of batch_norm_glu.
BLOCK = {"x": "B I H W", "conv_weight": "2C I 3 3", **dict.fromkeys(list(BATCH_NORM_GLU.inputs)[1:5], "2C, any")}
TILED_GLU = Op(
    "tiled_glu",
    inputs=BLOCK | {"head_weight?": "O C 3 3"},
    custom=(
        Function(
            "tiled_glu",
            "x, conv_weight, weight?, bias?, mean?, var?, head_weight?, bool upsample, float eps, bool training, "
            "bool want_mean, int rows, str group, str backend -> y, mean, var, rstd, spatial_mean, share",
            _tiled_glu,
        ),
        Function(
            "tiled_glu_backward",
            f"grad_y, grad_spatial_mean?, x, conv_weight, {NORM}, share, head_weight?, image?, bool upsample, "
            "bool training, bool want_x, bool want_conv_weight, int rows, str group, str backend "
            "-> grad_x, grad_conv_weight, grad_weight, grad_bias, grad_head_weight",
            _tiled_glu_gradients,
        ),
    ),
    python=True,
)
TILED_SKIP = Op(
    "tiled_skip",
    inputs={name: text.replace("2C", "C") for name, text in BLOCK.items()} | {"skip": "B K H W"},
    custom=(
        Function(
            "tiled_skip",
            "x, conv_weight, weight?, bias?, mean?, var?, skip, float eps, bool training, int rows, str group, "
            "str backend -> y, mean, var, rstd, share",
            _tiled_skip,
        ),
        Function(
            "tiled_skip_backward",
            f"grad_y, x, conv_weight, {NORM}, share, bool training, bool want_x, bool want_conv_weight, int rows, "
            "str group, str backend -> grad_x, grad_conv_weight, grad_weight, grad_bias",
            _tiled_gradients,
        ),
    ),
    python=True,
)

OPS = {each.name: each for each in list(globals().values()) if isinstance(each, Op)}
RELAYOUT = Function("relayout", "x -> y", _relayout)  # of the CPU library: NCHW to channels-last, and back


def functions() -> Iterator[Function]:
    """All that native libraries may have."""
    for op in OPS.values():
        yield from op.functions
    yield RELAYOUT


def describe(namespace: str, *, flops: bool) -> None:
    """Give the operators of a native library that is loaded their results without data and, if asked, their flops."""
    operators = getattr(torch.ops, namespace)
    for function in functions():
        if hasattr(operators, function.name):  # convolutions and layouts are the CPU libraries' alone
            torch.library.register_fake(f"{namespace}::{function.name}", function.fake)
            if flops and function.flops:
                _register_flops(getattr(operators, function.name), function)


def _register_flops(operator: Any, function: Function) -> None:
    from torch.utils.flop_counter import register_flop_formula  # which imports Triton

    assert function.flops is not None
    count = by_name(function.flops, (*function.parameters, "result"))
    register_flop_formula(operator)(lambda *shapes, out_shape, **_: int(count(*shapes, out_shape)))
