"""C++ internals of the CPU kernels at every level: vectors, products, forms, tiles and convolutions, on any numbers and
sizes that hypothesis thinks of.
"""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

ULP = 2.0**-23
EPS = 2.0**-24
FORMS = ("Two", "Four", "Up", "UpPair", "Down")
UP_SAMPLING = ("UpUp", "UpPairs")
CONVOLUTIONS = ("TwoTwo", "TwoFour", "FourFour", *UP_SAMPLING, "DownDown")

few = settings(max_examples=30, deadline=None)
seeds = st.integers(0, 2**32 - 1)
float32 = st.floats(width=32, allow_nan=False)


def floats(low, high):
    return st.lists(st.floats(low, high, width=32), min_size=1, max_size=70).map(lambda x: np.array(x, np.float32))


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


# ------------------------------------------------------------------------------------------------------------- vectors


def ulps(found, truth):
    """Error in units in the last place of float32, of numbers that float32 holds as normal ones."""
    return np.abs(found.astype(np.float64) - truth) / np.exp2(np.floor(np.log2(np.abs(truth))) - 23)


@few
@given(x=floats(-87.25, 88))
def test_exponential_is_within_two_units_in_the_last_place(internals, x):
    assert ulps(internals.exp(x), np.exp(x.astype(np.float64))).max() <= 2


def test_exponential_is_within_two_units_in_the_last_place_everywhere(internals):
    x = np.linspace(-87.3, 88, 400_000, dtype=np.float32)
    assert ulps(internals.exp(x), np.exp(x.astype(np.float64))).max() <= 2


def test_exponential_of_what_no_float_holds_is_zero(internals):
    x = np.array([-87.4, -88, -104, -1e30, -np.inf, 0, -0.0, 1e-40], np.float32)
    assert internals.exp(x).tolist() == [0, 0, 0, 0, 0, 1, 1, 1]


@few
@given(x=floats(2.0**-126, 3.4028234663852886e38))
def test_logarithm_is_within_two_units_in_the_last_place(internals, x):
    truth = np.log(x.astype(np.float64))
    assert (np.abs(internals.log(x) - truth) <= 2 * ULP * np.maximum(np.abs(truth), 0.25)).all()


def test_logarithm_around_one_and_over_all_magnitudes(internals):
    x = np.concatenate([np.linspace(0.5, 2, 100_001), np.geomspace(1.2e-38, 3.4e38, 200_000)]).astype(np.float32)
    truth = np.log(x.astype(np.float64))
    assert (np.abs(internals.log(x) - truth) <= 2 * ULP * np.maximum(np.abs(truth), 0.25)).all()
    assert internals.log(np.array([0, 1], np.float32)).tolist() == [-np.inf, 0]


@few
@given(x=floats(-(2.0**100), 2.0**100))
def test_sigmoid_is_as_exact_as_float32(internals, x):
    truth = 1 / (1 + np.exp(-np.maximum(x.astype(np.float64), -87.0)))
    assert (np.abs(internals.sigmoid(x) - truth) <= 4 * ULP * truth).all()


def test_sigmoid_of_infinities_and_large_numbers(internals):
    found = internals.sigmoid(np.array([np.inf, 100, 0, -80, -100, -np.inf], np.float32))
    assert found[:3].tolist() == [1, 1, 0.5]
    assert (found[3:] > 0).all()
    assert found[3:].max() < 1e-34


@few
@given(x=floats(-(2.0**100), 2.0**100), y=float32)
def test_maximum_is_of_each_lane(internals, x, y):
    assert np.array_equal(internals.max(x, y), np.maximum(x, np.float32(y)))


# What a bit pattern stands for, by NumPy and PyTorch.
def half_of(raw):
    return raw.view(np.float16).astype(np.float32)


def bfloat16_of(raw):
    return torch.from_numpy(raw.view(np.int16)).view(torch.bfloat16).float().numpy()


def rounded_to_half(x):
    with np.errstate(over="ignore"):
        return x.astype(np.float16).astype(np.float32)


def rounded_to_bfloat16(x):
    return torch.from_numpy(x).bfloat16().float().numpy()


KINDS = [("half", half_of, rounded_to_half), ("bfloat16", bfloat16_of, rounded_to_bfloat16)]


@pytest.mark.parametrize(("name", "true", "rounded"), KINDS, ids=["half", "bfloat16"])
def test_every_pattern_of_sixteen_bits_is_read_right_and_comes_back(internals, name, true, rounded):
    raw = np.arange(1 << 16, dtype=np.uint16)
    values = getattr(internals, f"load_{name}")(raw, 1)
    np.testing.assert_array_equal(values, true(raw))  # takes NaN for equal to NaN
    back = getattr(internals, f"store_{name}")(values, 1)[: 1 << 16]
    numbers = ~np.isnan(values)
    assert np.array_equal(back[numbers], raw[numbers])
    assert np.isnan(true(back[~numbers])).all()


@pytest.mark.parametrize(("name", "true", "rounded"), KINDS, ids=["half", "bfloat16"])
def test_ties_between_all_neighbours_go_to_the_even_one(internals, name, true, rounded):
    numbers = true(np.arange(1 << 16, dtype=np.uint16))
    numbers = np.unique(numbers[np.isfinite(numbers)])
    ties = ((numbers[1:].astype(np.float64) + numbers[:-1]) / 2).astype(np.float32)
    found = np.concatenate([ties, np.nextafter(ties, np.float32(-np.inf)), np.nextafter(ties, np.float32(np.inf))])
    stored = true(getattr(internals, f"store_{name}")(found, 1)[: len(found)])
    assert np.array_equal(stored, rounded(found))


@pytest.mark.parametrize(("name", "true", "rounded"), KINDS, ids=["half", "bfloat16"])
@few
@given(bits=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=70), step=st.integers(1, 3))
def test_any_floats_are_rounded_to_the_nearest(internals, name, true, rounded, bits, step):
    x = np.array(bits, np.uint32).view(np.float32)
    stored = getattr(internals, f"store_{name}")(x, step)
    np.testing.assert_array_equal(true(stored[: len(x) * step : step].copy()), rounded(x))


@pytest.mark.parametrize("name", ["float", "half", "bfloat16"])
@few
@given(count=st.integers(1, 70), step=st.integers(1, 3))
def test_parts_of_vectors_touch_only_their_elements(internals, name, count, step):
    x = (1 + np.arange(count) % 200).astype(np.float32)
    stored = getattr(internals, f"store_{name}")(x, step)
    before = stored[-1]
    elsewhere = np.ones(len(stored), bool)
    elsewhere[: count * step : step] = False
    assert before in (7.0, 0xABCD)
    assert (stored[elsewhere] == before).all()
    loaded = getattr(internals, f"load_{name}")(stored[: (count - 1) * step + 1].copy(), step)
    assert np.array_equal(loaded[:count], x)
    assert len(loaded) % internals.lanes == 0
    assert (loaded[count:] == 0).all()


@few
@given(count=st.sampled_from([1, 2, 3, 4, 8, 9, 16, 24]), seed=seeds)
def test_sums_of_lanes_land_in_order(internals, count, seed):
    x = np.random.default_rng(seed).integers(-999, 999, (count, internals.lanes)).astype(np.float32)  # exact sums
    assert np.array_equal(internals.sums(x), x.sum(1))


@pytest.mark.parametrize("step", [2, 4])
def test_interleaving_puts_lanes_side_by_side_and_deinterleaving_takes_them_apart(internals, step):
    x = np.arange(step * internals.lanes, dtype=np.float32).reshape(step, internals.lanes)
    woven = getattr(internals, f"interleave{step}")(x)
    assert np.array_equal(woven, x.T.ravel())
    assert np.array_equal(getattr(internals, f"deinterleave{step}")(woven), x)


def test_transposing_exchanges_rows_and_lanes(internals):
    x = np.arange(internals.lanes**2, dtype=np.float32).reshape(internals.lanes, -1)
    assert np.array_equal(internals.transpose(x), x.T)


# ------------------------------------------------------------------------------------------------------------ products


@few
@given(rows=st.integers(1, 40), depth=st.integers(1, 40), vectors=st.integers(1, 9), seed=seeds, data=st.data())
def test_products_are_those_of_float64(internals, rows, depth, vectors, seed, data):
    turned, added = data.draw(st.booleans()), data.draw(st.booleans())
    columns = vectors * internals.lanes
    a, b, c = normal(seed, rows, depth), normal(seed + 1, depth, columns), normal(seed + 2, rows, columns)
    found = internals.multiply(a.T.copy() if turned else a, turned, b, c if added else None)
    truth = a.astype(np.float64) @ b + (c if added else 0)
    allowed = (depth + 1) * EPS * (np.abs(a).astype(np.float64) @ np.abs(b) + np.abs(c))
    assert (np.abs(found - truth) <= allowed).all()


@few
@given(
    tiles=st.integers(1, 4), rows=st.integers(1, 11), columns=st.integers(1, 15), vectors=st.integers(1, 4), seed=seeds
)
def test_dot_products_over_tiles_are_those_of_float64(internals, tiles, rows, columns, vectors, seed):
    lanes = vectors * internals.lanes
    a, b = normal(seed, tiles, rows, lanes), normal(seed + 1, tiles, columns, lanes)
    truth = np.einsum("trk,tck->rc", a.astype(np.float64), b)
    allowed = tiles * lanes * EPS * np.einsum("trk,tck->rc", np.abs(a).astype(np.float64), np.abs(b))
    assert (np.abs(internals.dots(a, b) - truth) <= allowed).all()


def test_products_and_dot_products_have_any_number_of_rows_and_columns(internals):
    for rows in range(1, 31):
        for vectors in range(1, 10):
            a, b = normal(rows, rows, 3), normal(vectors, 3, vectors * internals.lanes)
            np.testing.assert_allclose(internals.multiply(a, False, b), a @ b, rtol=0, atol=1e-5)
        for columns in range(1, 14):
            a, b = normal(rows, 2, rows, internals.lanes), normal(columns, 2, columns, internals.lanes)
            truth = np.einsum("trk,tck->rc", a, b)
            np.testing.assert_allclose(internals.dots(a, b), truth, rtol=0, atol=1e-4)


@few
@given(count=st.integers(0, 100), seed=seeds)
def test_a_dot_product_has_any_length(internals, count, seed):
    a, b = normal(seed, count), normal(seed + 1, count)
    allowed = (count + 1) * EPS * (np.abs(a).astype(np.float64) @ np.abs(b))
    assert abs(internals.dot(a, b) - a.astype(np.float64) @ b) <= allowed


# --------------------------------------------------------------------------------------------------------------- forms


def taps_of(name):
    """[results, window, taps]: which tap of the kernel takes which pixel to which result."""
    taps = np.zeros((4, 10, 4))
    for result in range(4):
        for tap in range(4):
            of_x = (result - 1 + tap) // 2 + 1
            pixel = {"Up": of_x, "UpPair": of_x, "Down": 2 * result + tap}.get(name, result + tap)
            taps[result, pixel, tap] += 1
    return taps


@pytest.mark.parametrize("name", FORMS)
@few
@given(seed=seeds)
def test_a_form_is_the_direct_convolution(internals, name, seed):
    form = getattr(internals, name)
    random = np.random.default_rng(seed)
    window, kernel = random.standard_normal(form.window), random.standard_normal(form.weights.shape[1])
    truth = np.einsum("rpt,p,t->r", taps_of(name)[: form.results, : form.window, : len(kernel)], window, kernel)
    values = (form.weights @ kernel) * form.of_window(window)[form.value_of]
    found = form.result(values.reshape(-1, form.products).sum(0))  # values that a product sums
    np.testing.assert_allclose(found, truth, rtol=0, atol=1e-13 * np.abs(kernel).sum() * np.abs(window).max())


@pytest.mark.parametrize("name", FORMS)
def test_spreading_a_gradient_is_the_transpose_of_gathering_results(internals, name):
    form = getattr(internals, name)
    to = np.stack([form.result(unit) for unit in np.eye(form.products)], axis=1)
    spread = np.stack([form.spread(unit) for unit in np.eye(form.results)], axis=1)
    assert np.array_equal(spread, to.T)


def test_the_gradient_of_up_sampling_is_the_transpose_of_it(internals):
    form, up = internals.UpGradient, internals.Up
    for tap, kernel in enumerate(np.eye(3)):
        # Gradients of y from pixel 2i - 1 on, and what x[i] gives to each of them.
        gathered = [((form.weights @ kernel) * form.of_window(unit)).sum() for unit in np.eye(form.window)]
        before, after = np.zeros(up.window), np.zeros(up.window)
        given_to = []
        for pixel in (2, 1, 0):  # x[i] as the last, the middle and the first pixel of a window
            window = np.zeros(up.window)
            window[pixel] = 1
            given_to.append(up.result((up.weights @ kernel) * up.of_window(window)))
        before, middle, after = given_to
        assert np.array_equal(gathered, [before[1], middle[0], middle[1], after[0]]), f"tap {tap}"


def test_the_gradient_of_up_sampled_pairs_is_the_transpose_of_it(internals):
    form = internals.UpPairGradient
    for tap, kernel in enumerate(np.eye(3)):
        # Gradients of y from pixel 4i - 1 on, and what x[2i] and x[2i + 1] give to each of them.
        gathered = np.stack(
            [form.result((form.weights @ kernel) * form.of_window(unit)) for unit in np.eye(form.window)], axis=1
        )
        truth = [[(k - 1 + tap - 1) // 2 == pixel for k in range(form.window)] for pixel in range(form.results)]
        assert np.array_equal(gathered, truth), f"tap {tap}"


@pytest.mark.parametrize("name", [*FORMS, "UpGradient", "UpPairGradient", "DownGradient"])
@few
@given(seed=seeds)
def test_vectors_of_tiles_are_transformed_as_single_ones(internals, name, seed):
    form = getattr(internals, name)
    ways = [("of_window", "of_windows", form.window)]
    ways += [("result", "results_of", form.products)] if name != "UpGradient" else []
    ways += [("spread", "spreads", form.results)] if name in FORMS else []
    for single, together, count in ways:
        x = np.random.default_rng(seed).integers(-64, 64, (count, internals.lanes)).astype(np.float32)
        truth = np.stack([getattr(form, single)(column) for column in x.T.astype(np.float64)], axis=1)
        np.testing.assert_allclose(getattr(form, together)(x), truth, rtol=0, atol=64 * 40 * EPS)


# --------------------------------------------------------------------------------------------------------------- tiles

tilings = st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 40))


@few
@given(tiling=tilings, data=st.data())
def test_a_group_finds_each_tile_and_its_neighbours(internals, tiling, data):
    batch, rows, columns = tiling
    tile = data.draw(st.integers(0, batch * rows * columns + 3))
    group = internals.find(batch, rows, columns, tile)
    lanes = [None] * internals.lanes
    for sample, row, column, first, count in group["runs"]:
        for i in range(count):
            lanes[first + i] = (sample, row, column + i)
    wanted = [divmod(tile + k, rows * columns) for k in range(internals.lanes)]
    wanted = [(sample, *divmod(rest, columns)) if sample < batch else None for sample, rest in wanted]
    assert lanes == wanted
    assert group["lanes"] == sum(place is not None for place in wanted)
    assert group["before"] == [-1 if place and place[2] > 0 else 0 for place in wanted]
    assert group["after"] == [-1 if place and place[2] + 1 < columns else 0 for place in wanted]


def place_of(tile, batch, rows, columns):
    sample, rest = divmod(tile, rows * columns)
    return (sample, *divmod(rest, columns)) if sample < batch else None


@pytest.mark.parametrize(
    ("step", "row_step", "first"), [(1, 1, -1), (2, 2, -1), (4, 2, -1), (4, 4, -1), (2, 2, 0), (4, 4, 0)]
)
@few
@given(batch=st.integers(1, 3), height=st.integers(1, 9), width=st.integers(1, 90), data=st.data())
def test_a_row_of_windows_holds_its_pixels_and_zeros(internals, step, row_step, first, batch, height, width, data):
    planes = 1 + np.arange(batch * height * width, dtype=np.float32).reshape(batch, height, width)
    rows, columns = -(-height // row_step), -(-width // step)
    tile = data.draw(st.integers(0, batch * rows * columns - 1))
    r = data.draw(st.integers(0, row_step + 1 if first else row_step - 1))
    wanted = np.zeros(step * internals.lanes, np.float32)

    def pixel(place, offset):
        y, x = place[1] * row_step + r + first, place[2] * step + offset
        inside = 0 <= y < height and 0 <= x < width
        return planes[place[0], y, x] if inside else 0.0

    for lane in range(internals.lanes):
        place = place_of(tile + lane, batch, rows, columns)
        if place:
            wanted[lane * step : (lane + 1) * step] = [pixel(place, q) for q in range(step)]
    found = internals.row_of(step, row_step, first, planes, tile, r)
    assert np.array_equal(found[1:-1], wanted)
    begins = place_of(tile, batch, rows, columns)
    ends = place_of(tile + internals.lanes - 1, batch, rows, columns)
    assert found[0] == pixel(begins, -1)
    assert found[-1] == (pixel(ends, step) if ends and ends[2] + 1 < columns else 0)


@pytest.mark.parametrize(("name", "row_step", "step"), [("1", 1, 1), ("2", 2, 2), ("24", 2, 4), ("4", 4, 4)])
@few
@given(batch=st.integers(1, 3), height=st.integers(1, 9), width=st.integers(1, 90))
def test_results_of_all_groups_fill_the_map(internals, name, row_step, step, batch, height, width):
    planes = np.arange(batch * height * width, dtype=np.float32).reshape(batch, height, width)
    rows, columns = -(-height // row_step), -(-width // step)
    padded = np.full((batch, rows * row_step, columns * step), -1, np.float32)
    padded[:, :height, :width] = planes
    tiles = padded.reshape(batch, rows, row_step, columns, step).transpose(0, 1, 3, 2, 4).reshape(-1, row_step, step)
    groups = -(-len(tiles) // internals.lanes)
    results = np.full((groups * internals.lanes, row_step, step), -1, np.float32)
    results[: len(tiles)] = tiles
    results = results.reshape(groups, internals.lanes, row_step, step).transpose(0, 2, 1, 3)
    found = getattr(internals, f"write_runs{name}")(results.reshape(groups, row_step, -1).copy(), batch, height, width)
    assert np.array_equal(found, planes)


# -------------------------------------------------------------------------------------------------------- convolutions


def truths(name, x, weight, grad):
    """y and both gradients, in float64."""
    x, weight = (torch.from_numpy(t).double().requires_grad_() for t in (x, weight))
    stride = 2 if name == "DownDown" else 1
    y = F.conv2d(F.interpolate(x, scale_factor=2) if name in UP_SAMPLING else x, weight, padding=1, stride=stride)
    grads = torch.autograd.grad(y, (x, weight), torch.from_numpy(grad).double())
    return [t.detach().numpy() for t in (y, *grads)]


def pictures(name, seed, batch, inputs, outputs, height, width):
    """x, weight, and a gradient of y; height and width are of the smaller map."""
    up, down, taps = 1 + (name in UP_SAMPLING), 1 + (name == "DownDown"), 3 + (name == "DownDown")
    x, weight = normal(seed, batch, inputs, down * height, down * width), normal(seed, outputs, inputs, taps, taps)
    return x, weight, normal(seed + 1, batch, outputs, up * height, up * width)


def rms(values):
    return np.sqrt((values.astype(np.float64) ** 2).mean())


def error(found, truth, *factors):
    """Root mean square of what is wrong, over that of the truth, or of one product where sums cancel to less: fewer
    products meet sums of operands, whose rounding a result that is small by chance does not make smaller."""
    return rms(found - truth) / max(rms(truth), rms(factors[0]) * rms(factors[1]))


sizes = st.tuples(
    st.integers(1, 3), st.integers(1, 20), st.integers(1, 20), st.integers(1, 13), st.integers(1, 40)
)  # batch, inputs, outputs, height, width


@pytest.mark.parametrize("name", CONVOLUTIONS)
@settings(max_examples=20, deadline=None)
@example(size=(1, 1, 1, 1, 1), seed=25)  # a result that is small by chance
@given(size=sizes, seed=seeds)
def test_convolutions_and_gradients_are_those_of_float64(internals, name, size, seed):
    batch, inputs, outputs, height, width = size
    x, weight, grad = pictures(name, seed, batch, inputs, outputs, height, width)
    form = getattr(internals, name)
    found = form.forward(x, weight), form.gradient_of_x(grad, weight), form.gradient_of_weight(x, grad)
    factors = (x, weight), (grad, weight), (x, grad)
    for ours, true, pair in zip(found, truths(name, x, weight, grad), factors, strict=True):
        assert ours.shape == true.shape
        assert error(ours, true, *pair) < 4e-6


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_have_the_same_bits_however_work_is_shared_out(internals, name):
    x, weight, grad = pictures(name, 0, 2, 9, 12, 70, 66)
    form = getattr(internals, name)
    found = []
    try:
        for parts in (1, 2, 5):
            internals.share_out(parts)
            found.append([form.forward(x, weight), form.gradient_of_x(grad, weight), form.gradient_of_weight(x, grad)])
    finally:
        internals.share_out(1)
    for other in found[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(found[0], other, strict=True))
