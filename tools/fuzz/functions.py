"""Losses, metrics, models, sampler, planner and what reads short texts: every public function beside the ops."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._pytree import tree_leaves

from dmgan_fast import losses, metrics
from dmgan_fast.compat import (
    export_discriminator,
    export_generator,
    export_text_encoder,
    import_discriminator,
    import_generator,
    import_text_encoder,
    patch,
)
from dmgan_fast.config import load_config
from dmgan_fast.data.vocabulary import Vocabulary
from dmgan_fast.devices import pick_device
from dmgan_fast.modules import (
    Discriminator,
    DiscriminatorConfig,
    Generator,
    GeneratorConfig,
    ImageEncoder,
    ImageEncoderConfig,
    TextEncoder,
    TextEncoderConfig,
)
from dmgan_fast.ops._backends import VARIABLE
from dmgan_fast.runs.config import PretrainConfig, StepConfig, TrainConfig
from dmgan_fast.runs.presets import build_config
from dmgan_fast.sampling import Sampler
from dmgan_fast.sizes import parse_size
from dmgan_fast.training import Batch, TrainStep, plan
from tools.fuzz.ops import FLAG
from tools.fuzz.tensors import INF, NAN, ROUNDING, SMALL, Allowed, Signature, compare, copied, exact
from tools.fuzz.verdict import Target, Wrong

GAMMA = {"4": 4.0, "10": 10, "!0": 0.0, "!negative": -1.0, "!nan": NAN, "!inf": INF, "!None": None, "!text": "a"}
COUNT = {
    "2": 2, "3": 3, "5": 5, "!1": 1, "!0": 0, "!negative": -3, "!2.5": 2.5, "!None": None, "!text": "a",
    "!huge": 1 << 70,
}  # fmt: skip
SEED = {"0": 0, "7": 7, "!negative": -1, "!huge": 1 << 80, "!2.5": 2.5, "!None": None, "!text": "a"}
SIDE, WORDS = 64, ("<end>", "red", "blue", "bird", "apple")


# -------------------------------------------------------------------------------------------------- calls with tensors


def _numbers(found: Any) -> list[Tensor]:
    leaves = [torch.as_tensor(x) for x in tree_leaves(found) if isinstance(x, (Tensor, float))]
    return [x for x in leaves if x.dtype.is_floating_point]


def _on_reference(run: Callable[[], Any]) -> Any:
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = "reference"
    try:
        return run()
    finally:
        os.environ.pop(VARIABLE)
        if before is not None:
            os.environ[VARIABLE] = before


def _call(
    make: Callable[[torch.dtype], Callable[..., Any]],
    signature: Signature,
    prepare: Callable[[dict[str, Any]], dict[str, Any]],
    case: Mapping[str, Any],
) -> None:
    """Call a function; what it accepts must be what it says in float64."""
    arguments = prepare(signature.build(case))
    own, low = copied(arguments), copied(arguments)
    torch.manual_seed(0)
    found = _numbers(make(torch.float32)(**own))
    if any(isinstance(x, Tensor) and x.is_meta for x in tree_leaves(arguments)):
        return
    torch.manual_seed(0)
    eager = _numbers(_on_reference(lambda: make(torch.float32)(**low)))
    torch.manual_seed(0)
    truth = _numbers(make(torch.float64)(**exact(arguments)))
    for k, (x, y, z) in enumerate(zip(found, eager, truth, strict=True)):
        compare(f"result {k}", x, y, z, Allowed.of(arguments))


def _target(
    name: str,
    function: Callable[..., Any],
    inputs: Mapping[str, str],
    options: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    prepare: Callable[[dict[str, Any]], dict[str, Any]] = lambda arguments: arguments,
    sizes: Mapping[str, tuple[int, ...]] | None = None,
    dtypes: tuple[str, ...] | None = None,
    of_dtype: bool = False,
    meta: bool = True,
    share: float = 1.0,
    also: tuple[str, ...] = (),
) -> Target:
    """``of_dtype``: ``function`` makes the callable for a dtype. ``also``: further words that a refusal may name."""
    more = {} if dtypes is None else {"dtypes": dtypes}
    signature = Signature(inputs, options or {}, sizes or {}, meta=meta, **more)

    def make(dtype: torch.dtype) -> Callable[..., Any]:
        return function(dtype) if of_dtype else function

    def check(case: Any) -> None:
        _call(make, signature, prepare, case)

    return Target(name, "function", signature.cases(), check, lambda case: (*signature.names, *also), share)


def _losses() -> Iterator[Target]:
    gammas = dict.fromkeys(("gamma1", "gamma2", "gamma3"), GAMMA)
    words = {"words": "B D T", "lengths": "B, lengths T", "class_ids?": "B, indices 3"}
    pairwise = {"B": SMALL}  # every image with every caption: the reference would need B² times the rest
    yield _target("words_loss", losses.words_loss, {"regions": "B D H W", **words}, gammas, sizes=pairwise)
    pairs = {"codes": "B D", "sentences": "B D", "class_ids?": "B, indices 3"}
    yield _target("sentence_loss", losses.sentence_loss, pairs, {"gamma3": GAMMA})
    yield _target("conditioning_loss", losses.conditioning_loss, {"mu": "B C", "logvar": "B C"})
    pictures = {"real": f"B 3 {SIDE} {SIDE}", "fake": f"B 3 {SIDE} {SIDE}", "sentence": "B 4"}
    small: dict[str, Any] = {"sizes": {"B": (1, 2)}, "dtypes": ("float32", "float64"), "of_dtype": True, "share": 0.05}

    def judged(dtype: torch.dtype) -> Callable[..., Any]:
        return lambda **given: losses.discriminator_loss(_discriminator(dtype), **given)

    yield _target("discriminator_loss", judged, pictures, **small, also=("images", "features"))

    def drawn(dtype: torch.dtype) -> Callable[..., Any]:
        def run(fake: Any, **given: Any) -> Any:
            return losses.generator_loss([_discriminator(dtype)], [fake], image_encoder=_image_encoder(dtype), **given)

        return run

    inputs = {
        "fake": f"B 3 {SIDE} {SIDE}",
        "sentence": "B 4",
        **{name: text.replace("D", "4") for name, text in words.items()},
    }
    options = {"damsm_weight": GAMMA, **gammas}
    yield _target(
        "generator_loss", drawn, inputs, options, **small, also=("fakes", "images", "features", "codes", "regions")
    )


def _covariances(arguments: dict[str, Any]) -> dict[str, Any]:
    """Matrices become covariances where they are square."""

    def square(x: Any) -> Any:
        return x @ x.t() if _is_plain_matrix(x) and x.shape[0] == x.shape[1] else x

    return {name: square(x) if name.startswith("cov") else x for name, x in arguments.items()}


def _probabilities(arguments: dict[str, Any]) -> dict[str, Any]:
    x = arguments["probabilities"]
    return arguments | ({"probabilities": x.softmax(1)} if _is_plain_matrix(x) else {})


def _is_plain_matrix(x: Any) -> bool:
    """That PyTorch computes with."""
    return isinstance(x, Tensor) and x.dim() == 2 and x.dtype in ROUNDING and x.layout == torch.strided


def _metrics() -> Iterator[Target]:
    wide: dict[str, Any] = {"dtypes": ("float64", "float32"), "meta": False}
    gaussians = {"mean1": "D", "cov1": "D D", "mean2": "D", "cov2": "D D"}
    yield _target("frechet_distance", metrics.frechet_distance, gaussians, prepare=_covariances, **wide)
    yield _target(
        "inception_score",
        metrics.inception_score,
        {"probabilities": "N C"},
        {"splits": COUNT | {"1": 1}},
        prepare=_probabilities,
        **wide,
    )
    pairs = {"features1": "N D", "features2": "M D"}
    options = {"subsets": COUNT, "subset_size": COUNT, "seed": SEED}
    yield _target("kernel_distance", metrics.kernel_distance, pairs, options, **wide)
    options = {"candidates": COUNT, "folds": COUNT, "seed": SEED}
    options |= {"slicing": {"exact": "exact", "official": "official", "!another": "all", "!None": None}}
    codes = {"image_codes": "N D", "text_codes": "N D", "class_ids?": "N, indices 4"}
    yield _target("r_precision", metrics.r_precision, codes, options, **wide)

    def moments(features: Any, more: Any) -> Any:
        found = metrics.FeatureMoments.of(features).add(more)
        return found.mean, found.covariance

    yield _target("FeatureMoments", moments, {"features": "N D", "more": "M D"}, **wide, also=("a covariance needs",))


# -------------------------------------------------------------------------------------------------------------- models


@cache
def _generator(dtype: torch.dtype) -> Generator:
    torch.manual_seed(0)
    config = GeneratorConfig(
        image_sizes=(64, 128),
        base_channels=1,
        word_channels=4,
        condition_channels=3,
        noise_channels=2,
        residual_blocks=1,
    )
    return Generator(config).eval().to(dtype)


@cache
def _discriminator(dtype: torch.dtype) -> Discriminator:
    torch.manual_seed(0)
    return Discriminator(DiscriminatorConfig(image_size=SIDE, base_channels=1, sentence_channels=4)).eval().to(dtype)


@cache
def _text_encoder(dtype: torch.dtype) -> TextEncoder:
    torch.manual_seed(0)
    return (
        TextEncoder(TextEncoderConfig(vocabulary_size=len(WORDS), word_channels=4, embedding_channels=3))
        .eval()
        .to(dtype)
    )


@cache
def _image_encoder(dtype: torch.dtype) -> ImageEncoder:
    torch.manual_seed(0)
    return ImageEncoder(ImageEncoderConfig(kind="compact", channels=4, image_size=32, base_channels=1)).eval().to(dtype)


def _batch(given: Mapping[str, Any]) -> Batch:
    return Batch(
        images=[given["images"], given["larger"]], **{k: v for k, v in given.items() if k not in ("images", "larger")}
    )


def _models() -> Iterator[Target]:
    small: dict[str, Any] = {
        "of_dtype": True,
        "share": 0.05,
        "dtypes": ("float32", "float32", "float32", "float64", "bfloat16"),
    }
    text = {"sentence": "B 4", "words": "B 4 T", "padding_mask?": "B T, bool"}
    yield _target(
        "Generator",
        _generator,
        {"noise": "B 2", **text, "eps": "B 3"},
        {"return_attention": FLAG},
        sizes={"B": (1, 2)},
        **small,
    )
    yield _target(
        "Discriminator",
        _discriminator,
        {"images": f"B 3 {SIDE} {SIDE}", "sentence?": "B 4"},
        sizes={"B": (1, 2)},
        **small,
        also=("features",),
    )
    yield _target("ImageEncoder", _image_encoder, {"images": "B 3 H W"}, **small)
    captions = {"captions": f"B T, indices {len(WORDS)}", "lengths": "B, lengths T"}
    yield _target("TextEncoder", _text_encoder, captions, **small | {"share": 0.5}, meta=False)

    def step(dtype: torch.dtype) -> Callable[..., Any]:
        torch.manual_seed(0)
        models = (
            Generator(_generator(torch.float32).config),
            *(
                Discriminator(DiscriminatorConfig(image_size=side, base_channels=1, sentence_channels=4))
                for side in (64, 128)
            ),
        )
        generator, *judges = (model.to(dtype) for model in models)
        taken = TrainStep(generator, judges, _image_encoder(dtype), StepConfig())  # type: ignore[arg-type]

        def run(noise: Any, eps: Any, **given: Any) -> Any:
            return taken(_batch(given), noise=noise, eps=eps)

        return run

    inputs = {
        "images": "B 3 64 64", "larger": "B 3 128 128", "words": "B 4 T", "sentence": "B 4",
        "padding_mask": "B T, bool",
        "lengths": "B, lengths T", "class_ids?": "B, indices 3", "noise": "B 2", "eps": "B 3",
    }  # fmt: skip
    yield _target(
        "TrainStep", step, inputs, sizes={"B": (2, 3)}, **small | {"share": 0.01}, meta=False, also=("batch", "codes")
    )


# ------------------------------------------------------------------------------------------- sampler, planner, settings


@cache
def _sampler() -> Sampler:
    return Sampler(_generator(torch.float32), _text_encoder(torch.float32), Vocabulary(WORDS))


TEXTS = ("a red bird", "blue", "", " ", "nothing known", "red " * 40, "RED\0bird", "\ud800red", "é", 3, None)
DRAWS: dict[str, dict[str, Any]] = {
    "seed": SEED,
    "count": {"1": 1, "2": 2, "!0": 0, "!negative": -1, "!1.5": 1.5, "!None": None, "!text": "a"},
    "batch_size": {"1": 1, "3": 3, "!0": 0, "!negative": -1, "!1.5": 1.5, "!None": None, "!text": "a"},
    "maps": FLAG,
    "tile": {"None": None, "32": 32, "!1": 1, "!0": 0, "!negative": -8, "!2.5": 2.5, "!text": "a", "!huge": 1 << 20},
    "truncation": {"None": None, "0.7": 0.7, "!0": 0.0, "!negative": -1.0, "!nan": NAN, "!inf": INF, "!text": "a"},
}


@st.composite
def _sampling(draw: Any) -> dict[str, Any]:
    odd = draw(st.integers(0, 2)) == 2
    options = {}
    for name, allowed in DRAWS.items():
        options[name] = draw(st.sampled_from([k for k in allowed if odd or not k.startswith("!")]))
    return {
        "captions": draw(st.lists(st.sampled_from(TEXTS[:4] if not odd else TEXTS), max_size=2)),
        "options": options,
    }


def _sample(case: Mapping[str, Any]) -> None:
    options = {name: DRAWS[name][label] for name, label in case["options"].items()}
    drawn = _sampler().sample(case["captions"], **options)
    if len(drawn) != len(case["captions"]) * options["count"]:
        raise Wrong(f"{len(drawn)} drawings for {len(case['captions'])} captions, count={options['count']}")
    for each in drawn:
        if not all(image.isfinite().all() for image in each.images):
            raise Wrong(f"the drawing of {each.caption!r} is not finite")


PLANS: dict[str, dict[str, Any]] = {
    "config": {"small": _generator, "!None": None, "!text": "birds", "!a dictionary": {}},
    "batch_size": {"2": 2, "4": 4, "!1": 1, "!0": 0, "!2.5": 2.5, "!text": "a", "!None": None},
    "memory_bytes": {"1 GiB": 1 << 30, "!1": 1, "!0": 0, "!negative": -1, "!2.5": 2.5, "!text": "24GiB", "!None": None},
    "device": {"cpu": "cpu", "None": None, "cuda": "cuda", "!another": "nonsense", "!meta": "meta", "!a number": 3},
}


@st.composite
def _planning(draw: Any) -> dict[str, str]:
    return {name: draw(st.sampled_from(list(allowed))) for name, allowed in PLANS.items()}


def _plan(case: Mapping[str, str]) -> None:
    given = {name: PLANS[name][label] for name, label in case.items()}
    config = given.pop("config")
    found = plan(_generator(torch.float32).config if config is _generator else config, **given)
    if found.fits != (found.peak_bytes <= given["memory_bytes"]):
        raise Wrong("the plan does not say whether its peak fits")


VALUES = (
    None, True, 0, 1, 2, -1, 3.5, "", "a", "64", "demo", [], [64], [64, 128], {}, {"steps": 1}, {"a": {"b": 1}}, 1e308,
    1 << 70, "nan", ["a", None], {"image_sizes": [64]}, {1: 2}, {None: 3},
)  # fmt: skip
KEYS = (
    "loop", "data", "generator", "step", "encoders", "init_from", "batch_norm", "spectral_norm", "steps", "source",
    "image_sizes", "word_channels", "rnn", "betas", "memory", "dropout", "kind", "side", "vocabulary_size", "another",
    "",
    "loop.steps", 3, None,
)  # fmt: skip
CONFIGS = {
    c.__name__: c
    for c in (
        GeneratorConfig,
        DiscriminatorConfig,
        TextEncoderConfig,
        ImageEncoderConfig,
        StepConfig,
        TrainConfig,
        PretrainConfig,
    )
}


@st.composite
def _settings(draw: Any) -> tuple[str, dict[Any, Any]]:
    def level(depth: int) -> dict[Any, Any]:
        keys = draw(st.lists(st.sampled_from(KEYS), max_size=3))
        inner = [draw(st.booleans()) and depth < 2 for _ in keys]
        return {
            k: level(depth + 1) if deep else draw(st.sampled_from(VALUES)) for k, deep in zip(keys, inner, strict=True)
        }

    return draw(st.sampled_from(list(CONFIGS))), level(0)


def _configure(case: tuple[str, dict[Any, Any]]) -> None:
    name, values = case
    load_config(CONFIGS[name], values)


LETTERS = st.text(alphabet="0123456789.,-+ kKmMgGtTiIbBeEnaf\0é/:=cudapst", max_size=12)


def _small_texts() -> Iterator[Target]:
    def size(case: str) -> None:
        if parse_size(case) < 1:
            raise Wrong("a size below one byte")

    sizes = LETTERS | st.sampled_from(("24GiB", "900 MB", "1.5KiB", "0.1B", "9" * 400, "1e9"))
    yield Target("parse_size", "function", sizes, size, lambda case: ("memory",))
    names = LETTERS | st.sampled_from(("auto", "cpu", "cuda", "cuda:0", "cuda:9", "meta", "mps"))
    yield Target("pick_device", "function", names, lambda case: void(pick_device(case)), lambda case: ("device",))

    def setting(case: str) -> None:
        build_config(TrainConfig, overrides=[case])

    words = st.sampled_from(
        (
            "loop.steps=",
            "generator.",
            "step.memory=",
            "=",
            "",
            "data.source=",
            "loop=",
            "[",
            "{",
            "&a [*a]",
            "!!python/object:x",
            "1e400",
        )
    )
    yield Target(
        "setting", "function", st.lists(words | LETTERS, min_size=1, max_size=3).map("".join), setting,
        lambda case: ("configuration", "setting", case.partition("=")[0]),
    )  # fmt: skip


def void(_: object) -> None:
    """Nothing of it."""


# ------------------------------------------------------------------------------------------------ the authors' weights


STATES: dict[str, tuple[Callable[[Any], Any], Callable[[], Any], Callable[[Any], Any]]] = {
    "import_generator": (import_generator, lambda: _generator(torch.float32), export_generator),
    "import_discriminator": (import_discriminator, lambda: _discriminator(torch.float32), export_discriminator),
    "import_text_encoder": (import_text_encoder, lambda: _text_encoder(torch.float32), export_text_encoder),
}
SPOIL: dict[str, Callable[[Tensor], Any]] = {
    "missing": lambda x: None,
    "an axis less": lambda x: x[0] if x.dim() else x,
    "an axis more": lambda x: x[None],
    "empty": lambda x: x[:0] if x.dim() else x,
    "twice": lambda x: torch.cat((x, x)) if x.dim() else x,
    "half": lambda x: x[: len(x) // 2] if x.dim() else x,
    "int64": lambda x: x.long(),
    "float16": lambda x: x.half(),
    "complex": lambda x: x.to(torch.complex64),
    "sparse": lambda x: x.to_sparse(),
    "on meta": lambda x: x.to("meta"),
    "nan": lambda x: x * NAN if x.is_floating_point() else x,
    "a scalar": lambda x: torch.tensor(1.0),
    "text": lambda x: "x",
    "None": lambda x: ...,
    "huge": lambda x: torch.ones(1).expand(1 << 40),
}


@cache
def _state(name: str) -> dict[str, Tensor]:
    _, model, export = STATES[name]
    return dict(export(model()))


def _states() -> Iterator[Target]:
    for name, (read, _, _) in STATES.items():

        def cases(name: str = name) -> st.SearchStrategy[Any]:
            changes = st.tuples(st.sampled_from(sorted(_state(name))), st.sampled_from(list(SPOIL)))
            prefix = st.sampled_from(("", "module.", "netG.", "\n"))
            return st.tuples(st.lists(changes, max_size=3), prefix)

        def check(case: Any, name: str = name, read: Callable[[Any], Any] = read) -> None:
            changes, prefix = case
            state: dict[str, Any] = dict(_state(name))
            for key, change in changes:
                if key in state and isinstance(state[key], Tensor):
                    value = SPOIL[change](state[key])
                    state[key] = None if value is ... else value
                    if value is None:
                        del state[key]
            read({prefix + key: value for key, value in state.items()})

        # a key of the state, or what the file is not
        yield Target(name, "function", st.deferred(cases), check, lambda case: ("authors", "import_", "."), 0.1)


def _patching() -> Iterator[Target]:
    things = {
        "a model": lambda: torch.nn.Sequential(torch.nn.Conv2d(8, 16, 3,
        padding=1), torch.nn.BatchNorm2d(16), torch.nn.GLU(dim=1)),
        "None": lambda: None, "text": lambda: "x", "a tensor": lambda: torch.ones(3), "a module": lambda: torch.nn,
        "a class": lambda: torch.nn.Linear, "a list": lambda: [torch.nn.Linear(2, 2)], "nothing": torch.nn.Sequential,
        "shared": lambda: torch.nn.ModuleList([torch.nn.BatchNorm2d(4)] * 2),
    }  # fmt: skip
    names = ("memory", "batch_norm_glu", "upsample", "convolutions", "words_loss", "spectral_norm", "image_encoder")
    cases = st.tuples(
        st.sampled_from(list(things)), st.dictionaries(st.sampled_from(names), st.sampled_from(list(FLAG)), max_size=2)
    )

    def check(case: Any) -> None:
        thing, options = case
        target = things[thing]()
        before = list(target.state_dict()) if isinstance(target, torch.nn.Module) else []
        handle = patch(target, **{name: FLAG[label] for name, label in options.items()})
        if before and list(target.state_dict()) != before:
            raise Wrong("patch changed the names in the state dict")
        handle.unpatch()

    yield Target("patch", "function", cases, check, lambda case: ("patch", *case[1]), 0.1)


def targets() -> Iterator[Target]:
    """Each function."""
    yield from (*_losses(), *_metrics(), *_models())
    named = lambda case: (*DRAWS, "caption", "draw")  # noqa: E731
    yield Target("Sampler.sample", "function", _sampling(), _sample, named, 0.05)
    yield Target("plan", "function", _planning(), _plan, lambda case: ("plan", "device", "memory"), 0.005)
    yield Target("load_config", "function", _settings(), _configure, lambda case: ("config",))
    yield from (*_small_texts(), *_states(), *_patching())
