"""Every backend against float64, in every dtype and layout and on odd shapes."""

from dataclasses import replace

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from dmgan_fast import functional
from dmgan_fast.errors import BackendError
from tests.ops.conftest import LEVELS, NAMES
from tests.ops.harness import DTYPES, LAYOUTS, VECTOR_LAYOUTS, Case, check, inputs, run, with_threads

pytestmark = pytest.mark.usefixtures("poisoned_memory")


GENERATOR = torch.Generator().manual_seed(0)  # the cases are made at import: the same in every process


def rand(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=GENERATOR)


@pytest.fixture
def poisoned_memory():
    """Fresh memory holds NaN, so that an element no kernel wrote shows."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def padding(batch, words, full=False):
    lengths = torch.tensor([max(1, words - 3 * b) for b in range(batch)])
    if full:
        lengths[-1] = 0
    return torch.arange(words) >= lengths[:, None]


def read_case(batch, channels, height, width, words, *, mask="paper", gate=True, maps=False, layout="contiguous"):
    scale = channels**-0.25  # logits of a few units, as in training
    tensors = {
        "h": rand(batch, channels, height, width) * scale,
        "key": rand(batch, channels, words).relu() * scale,
        "value": rand(batch, channels, words).relu(),
    }
    fixed = {"return_attention": maps, "return_gate": maps and gate}
    if gate:
        tensors |= {"gate_weight": rand(2 * channels) * scale, "gate_bias": rand(1)}
    else:
        fixed |= {"gate_weight": None, "gate_bias": None}
    if mask != "none":
        fixed |= {"padding_mask": padding(batch, words, full=mask == "full")}
        fixed |= {"mask_mode": "official" if mask == "official" else "paper"}
    return Case("memory_read", tensors, fixed, layout, pictures=("h",))


READ = {
    "one word": read_case(1, 5, 3, 7, 1, mask="none"),
    "odd": read_case(3, 5, 3, 7, 7),
    "birds": read_case(2, 64, 9, 8, 18),
    "no gate": read_case(2, 48, 5, 13, 25, gate=False),
    "many words": read_case(2, 32, 7, 11, 33),
    "very many words": read_case(1, 32, 5, 5, 70),
    "wide": read_case(2, 96, 9, 9, 18, mask="none"),
    "widest": read_case(1, 512, 4, 5, 7),
    "official": read_case(3, 32, 5, 7, 18, mask="official", maps=True),
    "fully padded": read_case(2, 5, 3, 7, 7, mask="full", maps=True),
    "maps without gate": read_case(2, 5, 3, 7, 7, maps=True, gate=False),
    "channels last": read_case(2, 32, 9, 8, 18, layout="channels_last"),
    "sliced channels": read_case(2, 32, 5, 8, 18, layout="sliced channels"),
    "sliced channels last": read_case(2, 32, 5, 8, 18, layout="sliced channels of channels_last"),
    "sliced rows": read_case(2, 32, 5, 8, 18, layout="sliced rows"),
    "expanded": read_case(2, 32, 5, 8, 18, layout="expanded"),
    "one pixel": read_case(2, 32, 1, 1, 18),
    "many tiles": read_case(1, 8, 37, 31, 5),
}


def write_case(batch, word_channels, words, channels):
    def weight(rows, columns):
        return rand(rows, columns) * columns**-0.5

    tensors = {
        "words": rand(batch, word_channels, words),
        "image_mean": rand(batch, channels),
        "gate_word": rand(word_channels) * word_channels**-0.5,
        "gate_image": rand(channels) * channels**-0.5,
        "word_weight": weight(2 * channels, word_channels),
        "word_bias": rand(2 * channels) * 0.1,
        "image_weight": weight(2 * channels, channels),
        "image_bias": rand(2 * channels) * 0.1,
        "key_weight": weight(channels, 2 * channels),
        "key_bias": rand(channels) * 0.1,
        "value_weight": weight(channels, 2 * channels),
        "value_bias": rand(channels) * 0.1,
    }
    return Case("memory_write", tensors)


WRITE = {
    "one word": write_case(2, 17, 1, 8),
    "birds": write_case(2, 256, 18, 64),
    "odd": write_case(3, 33, 7, 5),
    "many words": write_case(2, 40, 33, 48),
    "wide": write_case(1, 64, 25, 96),
}


def norm_case(batch, channels, height, width, *, training=True, skip=0, mean=False, affine=True, **kinds):
    tensors = {"x": rand(batch, channels, height, width) * 2 + 0.5 + torch.arange(channels)[:, None, None] / 4}
    fixed = {"training": training, "eps": 1e-4, "return_mean": mean}
    if affine:
        tensors |= {"weight": rand(channels) + 1, "bias": rand(channels)}
    else:
        fixed |= {"weight": None, "bias": None}
    if skip:
        tensors["skip"] = rand(batch, skip, height, width)
    if affine:
        fixed |= {"running_mean": rand(channels), "running_var": rand(channels).exp()}
    else:
        fixed |= {"running_mean": None, "running_var": None}
    return Case("batch_norm_glu", tensors, fixed, pictures=("x", "skip"), wide=("weight", "bias"), **kinds)


NORM = {
    "odd": norm_case(3, 10, 3, 7),
    "one sample": norm_case(1, 4, 9, 5),
    "large": norm_case(2, 8, 37, 41),
    "mean": norm_case(2, 12, 9, 7, mean=True),
    "evaluation": norm_case(2, 12, 9, 7, training=False, mean=True),
    "skip": norm_case(2, 12, 9, 7, skip=12),
    "half skip and mean": norm_case(2, 12, 9, 7, skip=6, mean=True),
    "plain": norm_case(2, 12, 9, 7, affine=False),
    "channels last": norm_case(2, 12, 9, 7, mean=True, layout="channels_last"),
    "channels last skip": norm_case(2, 36, 9, 7, skip=36, layout="channels_last"),
    "channels last evaluation": norm_case(2, 72, 5, 7, training=False, layout="channels_last"),
    "sliced": norm_case(2, 12, 5, 7, layout="sliced channels"),
    "one pixel": norm_case(5, 12, 1, 1),
}


def upsample_case(batch, in_channels, out_channels, height, width, layout="contiguous"):
    x = rand(batch, in_channels, height, width)
    weight = rand(out_channels, in_channels, 3, 3) * (9 * in_channels) ** -0.5
    return Case("upsample_conv3x3", {"x": x, "weight": weight}, layout=layout, pictures=("x",))


UPSAMPLE = {
    "one pixel": upsample_case(1, 4, 6, 1, 1),
    "odd": upsample_case(3, 5, 7, 3, 5),
    "one row": upsample_case(2, 4, 6, 1, 9),
    "block": upsample_case(2, 32, 48, 4, 5),
    "wide": upsample_case(1, 96, 33, 3, 4),
    "channels last": upsample_case(2, 16, 20, 6, 5, layout="channels_last"),
    "sliced": upsample_case(2, 16, 20, 6, 5, layout="sliced channels"),
    "expanded": upsample_case(2, 16, 20, 6, 5, layout="expanded"),
}


def similarity_case(pictures, captions, channels, height, width, words):
    lengths = torch.tensor([max(1, words - 2 * k) for k in range(captions)])
    tensors = {
        "regions": rand(pictures, channels, height, width) * channels**-0.25,
        "words": rand(captions, channels, words) * channels**-0.25,
    }
    return Case("words_similarity", tensors, {"lengths": lengths, "gamma1": 4.0, "gamma2": 5.0}, pictures=("regions",))


SIMILARITY = {
    "one": similarity_case(1, 1, 5, 2, 3, 1),
    "odd": similarity_case(3, 2, 20, 3, 5, 7),
    "birds": similarity_case(2, 2, 64, 9, 9, 18),
    "more captions": similarity_case(2, 11, 32, 4, 4, 9),
    "many words": similarity_case(2, 2, 32, 4, 4, 33),
    "many tiles of words": similarity_case(3, 12, 24, 5, 7, 30),
}

CASES = {"memory_read": READ, "memory_write": WRITE, "batch_norm_glu": NORM}
CASES |= {"upsample_conv3x3": UPSAMPLE, "words_similarity": SIMILARITY}
ALL = [pytest.param(case, id=f"{op}-{name}") for op, cases in CASES.items() for name, case in cases.items()]
ONE_OF_EACH = [pytest.param(list(cases.values())[1], id=op) for op, cases in CASES.items()]
# The lowest of several levels of CPU is for few machines: sixteen bits in one case of each op.
LOWEST = [f"cpu-{LEVELS[-1]}"] if len(LEVELS) > 1 else []
RUNS = [
    pytest.param(*case.values, dtype, name, id=f"{name}-{case.id}-{dtype}")
    for name in NAMES
    for case in ALL
    for dtype in DTYPES
    if name not in LOWEST or dtype == torch.float32 or case.values[0] is list(CASES[case.values[0].op].values())[1]
]
# Enough pixels, channels and captions for several threads.
SHARED = [
    pytest.param(read_case(2, 24, 31, 33, 9, maps=True), id="memory_read"),
    pytest.param(write_case(5, 40, 9, 32), id="memory_write"),
    pytest.param(norm_case(2, 20, 37, 41, mean=True), id="batch_norm_glu"),
    pytest.param(norm_case(2, 36, 37, 41, mean=True, layout="channels_last"), id="batch_norm_glu channels last"),
    pytest.param(norm_case(2, 20, 37, 41, skip=10), id="batch_norm_glu skip"),
    pytest.param(similarity_case(5, 7, 32, 9, 9, 9), id="words_similarity"),
    pytest.param(similarity_case(5, 7, 32, 5, 5, 29), id="words_similarity-many words"),
]


# Small cases; layouts that say something of axes of size 1 meet one row and one column.
OF_LINES = ("tokens", "odd strides", "odd strides of channels_last")
OF_SIDES = {
    "memory_read": lambda height, width: read_case(2, 5, height, width, 5, maps=True),
    "batch_norm_glu": lambda height, width: norm_case(2, 44, height, width, skip=44, mean=True),  # fewer are luck
    "upsample_conv3x3": lambda height, width: upsample_case(2, 8, 4, height, width),
    "words_similarity": lambda height, width: similarity_case(2, 2, 12, height, width, 4),
}
OF_A_LAYOUT = [
    pytest.param([replace(of_sides(*sides), layout=layout) for sides in chosen], id=f"{op}-{layout}")
    for op, of_sides in OF_SIDES.items()
    for layout in LAYOUTS
    for chosen in ([(1, 9), (9, 1)] if layout in OF_LINES else [(4, 6)],)
    # Regions whose channels are all the same have cosines that are rounding, and so are their gradients.
    if (op, layout) != ("words_similarity", "expanded channels")
]
SMALL = {op: of_sides(3, 5) for op, of_sides in OF_SIDES.items()} | {"memory_write": WRITE["odd"]}
OTHERS = [
    pytest.param(replace(case, others=layout), id=f"{op}-{layout}")
    for op, case in SMALL.items()
    for layout in VECTOR_LAYOUTS
]


@pytest.mark.parametrize("cases", OF_A_LAYOUT)
def test_images_may_have_any_strides(cases, backend):
    for case in cases:
        check(case, torch.float32, backend, backend.device)


@pytest.mark.parametrize("case", OTHERS)
def test_other_tensors_may_have_any_strides(case, backend):
    check(case, torch.float32, backend, backend.device)


@pytest.mark.parametrize("layout", ["offset", "offset channels_last"])
@pytest.mark.parametrize("op", OF_SIDES)
def test_sixteen_bit_images_may_lie_anywhere(op, layout, backend):
    """Kernels read packs of 16 bytes where they can."""
    check(replace(OF_SIDES[op](4, 6), layout=layout, others="offset"), torch.bfloat16, backend, backend.device)


def test_similarity_is_exact_where_regions_cancel(backend):
    """Regions of mean zero and words that hardly choose among them: contexts near zero, whose norms lose all digits
    unless they are norms of the sum of the regions itself."""
    case = similarity_case(2, 12, 32, 4, 4, 19)
    regions, words = case.tensors["regions"], case.tensors["words"]
    tensors = {"regions": regions - regions.mean((2, 3), keepdim=True), "words": words / 100}
    check(replace(case, tensors=tensors), torch.float32, backend, backend.device)


def test_logits_in_the_thousands_cost_the_gradients_of_a_read_no_digits(backend):
    # Their weights are computed again from one number of each pixel, whose rounding all of them have in common.
    case = read_case(2, 24, 8, 8, 9, mask="none", gate=False)
    case.tensors |= {name: 30 * case.tensors[name] for name in ("h", "key")}
    check(case, torch.float32, backend, backend.device)


@pytest.mark.parametrize("first", [0, 8])
def test_similarity_is_exact_where_contexts_are_like_words(first, backend):
    """Cosines near 1, from some caption on: there a word's gradient is a small difference of large vectors."""
    case = similarity_case(2, 12, 64, 5, 5, 18)
    common = rand(1, 64, 1, 1) * 64**-0.25
    regions, words = 0.03 * case.tensors["regions"] + common, case.tensors["words"].clone()
    words[first:] = 0.03 * words[first:] + common[..., 0]
    case = replace(case, tensors={"regions": regions, "words": words})
    check(replace(case, fixed=case.fixed | {"lengths": torch.full((12,), 18)}), torch.float32, backend, backend.device)


@pytest.mark.parametrize("op", CASES)
def test_the_level_asked_for_runs(op, level):
    case = list(CASES[op].values())[1]
    tensors = inputs(case, torch.float32, "cpu")
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        run(case, tensors, "cpu")
    ran = {event.key for event in profiler.key_averages() if event.key.startswith("dmgan_fast_cpu")}
    assert {f"dmgan_fast_cpu_{level}::{op}_{way}" for way in ("forward", "backward")} <= ran
    assert all(name.startswith(f"dmgan_fast_cpu_{level}::") for name in ran)


@pytest.mark.parametrize("case", SHARED)
def test_bits_do_not_depend_on_the_number_of_threads(case, level):
    tensors = inputs(case, torch.float32, "cpu")
    (one, one_grads), (two, two_grads) = (with_threads(count, run, case, tensors, "cpu") for count in (1, 2))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert all(torch.equal(one_grads[name], two_grads[name]) for name in one_grads)


@pytest.mark.parametrize(("case", "dtype", "backend"), RUNS, indirect=["backend"])
def test_results_and_gradients_are_as_exact_as_eager(case, dtype, backend):
    check(case, dtype, backend, backend.device)


@pytest.mark.parametrize("case", ONE_OF_EACH)
def test_a_second_run_gives_the_same_bits(case, backend):
    tensors = inputs(case, torch.float32, backend.device)
    first, first_grads = run(case, tensors, backend)
    again, again_grads = run(case, tensors, backend)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert all(torch.equal(first_grads[name], again_grads[name]) for name in first_grads)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's in Triton's interpreter: of NaN, which it is about
@pytest.mark.parametrize("op", SMALL)
def test_no_nan_is_lost(op, backend):
    """Whatever NaN in an input makes NaN in the reference is NaN: none ends in a maximum or a sum that is left out."""
    without_padding = {"memory_read": read_case(2, 5, 3, 5, 5, mask="none", maps=True)}  # which weighs 0, or NaN
    case, lost = without_padding.get(op, SMALL[op]), []
    for name, value in case.tensors.items():
        given = value.clone()
        given.view(-1)[given.numel() // 2] = torch.nan
        one = replace(case, tensors=case.tensors | {name: given})
        expected, found = (
            run(one, inputs(one, torch.float32, backend.device), which) for which in ("reference", backend)
        )
        pairs = [(f"result {k}", *pair) for k, pair in enumerate(zip(expected[0], found[0], strict=True))]
        pairs += [(f"gradient of {k}", expected[1][k], found[1][k]) for k in expected[1]]
        lost += [f"{what} with a NaN in {name}" for what, a, b in pairs if (a.isnan() & ~b.isnan()).any()]
    assert not lost


@pytest.mark.parametrize("case", ONE_OF_EACH)
def test_the_result_has_the_layout_of_the_input(case, backend):
    if "x" in case.tensors or "h" in case.tensors:
        case = Case(case.op, case.tensors, case.fixed, "channels_last", case.pictures, case.wide)
        results, grads = run(case, inputs(case, torch.float32, backend.device), backend)
        assert results[0].is_contiguous(memory_format=torch.channels_last)
        assert grads[case.pictures[0]].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("case", [case for case in ONE_OF_EACH if case.id != "upsample_conv3x3"])
def test_second_derivatives_are_refused_with_a_way_out(case, backend):
    tensors = inputs(case, torch.float32, backend.device)
    output = getattr(functional, case.op)(**tensors, **case.fixed, backend=backend)
    output = output if isinstance(output, torch.Tensor) else output[0]
    leaf = next(iter(tensors.values()))
    (grad,) = torch.autograd.grad(output.square().sum(), leaf, create_graph=True)
    with pytest.raises(BackendError, match=f"{case.op}: .*no second derivatives; use backend='reference'"):
        grad.sum().backward()


@pytest.mark.parametrize("case", ONE_OF_EACH)
def test_float64_is_the_references(case, backend):
    with pytest.raises(BackendError, match=r"it takes float32, bfloat16 and float16, got torch.float64"):
        run(case, inputs(case, torch.float64, backend.device), backend)
