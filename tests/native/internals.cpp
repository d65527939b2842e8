// A Python module for tests: vector functions, products, forms and tiles of one CPU level. Built by CMakeLists.txt.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <stdexcept>
#include <string>

#include "kernels.h"

namespace py = pybind11;
using namespace kernels;

namespace {

using Floats = py::array_t<float, py::array::c_style | py::array::forcecast>;
using Doubles = py::array_t<double, py::array::c_style | py::array::forcecast>;
using Shape = std::vector<py::ssize_t>;

void check(bool condition, const char* what) {
  if (!condition) throw std::invalid_argument(what);
}

Floats array(const Shape& shape, const std::vector<float>& from) { return Floats(shape, from.data()); }

// What is not written shows.
Floats nans(const Shape& shape) {
  Floats y(shape);
  std::fill_n(y.mutable_data(), y.size(), std::numeric_limits<float>::quiet_NaN());
  return y;
}

// ---------------------------------------------------------------------------------------------------------- vectors

template <class Function>
Floats elementwise(const Floats& x, const Function& function) {
  Floats y(x.size());
  for (int64_t i = 0; i < x.size(); i += kLanes) {
    store_some(y.mutable_data() + i, function(load_some(x.data() + i, x.size() - i)), x.size() - i);
  }
  return y;
}

// What `values` become in memory, `step` elements apart, in a buffer that was full of `before`.
template <class S, class Raw>
py::array_t<Raw> stored(const Floats& values, int64_t step, Raw before) {
  const int64_t count = values.size();
  py::array_t<Raw> raw(count * step + kLanes);
  std::fill_n(raw.mutable_data(), raw.size(), before);
  S* to = reinterpret_cast<S*>(raw.mutable_data());
  for (int64_t i = 0; i < count; i += kLanes) {
    std::vector<float> lanes(kLanes, 3.0f);
    std::copy_n(values.data() + i, std::min(kLanes, count - i), lanes.data());
    store_some(to + i * step, load(lanes.data()), count - i, step);
  }
  return raw;
}

// The floats that `raw` holds `step` elements apart, in whole vectors.
template <class S, class Raw>
Floats loaded(const py::array_t<Raw, py::array::c_style>& raw, int64_t step) {
  const int64_t count = (raw.size() + step - 1) / step;
  Floats values(round_up(count, kLanes));
  const S* from = reinterpret_cast<const S*>(raw.data());
  for (int64_t i = 0; i < count; i += kLanes) {
    store(values.mutable_data() + i, load_some(from + i * step, count - i, step));
  }
  return values;
}

template <int kCount>
Floats lanes_summed(const Floats& x) {
  check(x.size() == kCount * kLanes, "x must be [count, lanes]");
  Vec vectors[kCount];
  for (int i = 0; i < kCount; ++i) vectors[i] = load(x.data() + i * kLanes);
  Floats totals(kCount);
  store_sums<kCount>(vectors, totals.mutable_data());
  return totals;
}

Floats sums(const Floats& x) {
  switch (x.size() / kLanes) {
    case 1: return lanes_summed<1>(x);
    case 2: return lanes_summed<2>(x);
    case 3: return lanes_summed<3>(x);
    case 4: return lanes_summed<4>(x);
    case 8: return lanes_summed<8>(x);
    case 9: return lanes_summed<9>(x);
    case 16: return lanes_summed<16>(x);
    case 24: return lanes_summed<24>(x);
  }
  throw std::invalid_argument("1, 2, 3, 4, 8, 9, 16 or 24 vectors");
}

template <int kStep>
Floats apart(const Floats& x) {
  check(x.size() == kStep * kLanes, "x must be [step * lanes]");
  Vec s[kStep];
  deinterleave<kStep>(x.data(), s);
  Floats y({int64_t{kStep}, kLanes});
  for (int k = 0; k < kStep; ++k) store(y.mutable_data() + k * kLanes, s[k]);
  return y;
}

template <int kStep>
Floats together(const Floats& x) {
  check(x.size() == kStep * kLanes, "x must be [step, lanes]");
  Vec s[kStep];
  for (int k = 0; k < kStep; ++k) s[k] = load(x.data() + k * kLanes);
  Floats y(kStep * kLanes);
  interleave<kStep>(s, y.mutable_data());
  return y;
}

Floats transposed(const Floats& x) {
  check(x.size() == kLanes * kLanes, "x must be [lanes, lanes]");
  Vec rows[kLanes];
  for (int64_t k = 0; k < kLanes; ++k) rows[k] = load(x.data() + k * kLanes);
  transpose(rows);
  Floats y({kLanes, kLanes});
  for (int64_t k = 0; k < kLanes; ++k) store(y.mutable_data() + k * kLanes, rows[k]);
  return y;
}

// --------------------------------------------------------------------------------------------------------- products

// a [rows, depth], or its transpose, times b [depth, columns]; added to c if that is given.
Floats product(const Floats& a, bool turned, const Floats& b, const std::optional<Floats>& c) {
  const int64_t depth = b.shape(0), columns = b.shape(1), rows = a.shape(turned ? 1 : 0);
  check(a.shape(turned ? 0 : 1) == depth && columns % kLanes == 0, "sizes don't fit");
  Floats y = nans({rows, columns});
  const Scalars scalars{a.data(), turned ? 1 : depth, turned ? rows : 1};
  if (c) {
    std::copy_n(c->data(), rows * columns, y.mutable_data());
    multiply<true>(rows, columns, depth, scalars, b.data(), columns, y.mutable_data(), columns);
  } else {
    multiply<false>(rows, columns, depth, scalars, b.data(), columns, y.mutable_data(), columns);
  }
  return y;
}

// Sum over tiles of a [tiles, rows, lanes] times b [tiles, columns, lanes] transposed.
Floats all_dots(const Floats& a, const Floats& b) {
  const int64_t tiles = a.shape(0), rows = a.shape(1), columns = b.shape(1), lanes = a.shape(2);
  check(b.shape(0) == tiles && b.shape(2) == lanes && lanes % kLanes == 0, "sizes don't fit");
  Floats y = nans({rows, columns});
  dots(rows, columns, tiles, lanes, a.data(), rows * lanes, b.data(), columns * lanes, y.mutable_data(), columns);
  return y;
}

// ------------------------------------------------------------------------------------------------------------ forms

template <int kInputs, int kOutputs, class Transform>
Doubles in_doubles(const Doubles& x, const Transform& transform) {
  check(x.size() == kInputs, "wrong number of inputs");
  Doubles y(kOutputs);
  transform(x.data(), y.mutable_data());
  return y;
}

template <int kInputs, int kOutputs, class Transform>
Floats in_vectors(const Floats& x, const Transform& transform) {
  check(x.size() == kInputs * kLanes, "wrong number of inputs");
  Vec inputs[kInputs], outputs[kOutputs];
  for (int k = 0; k < kInputs; ++k) inputs[k] = load(x.data() + k * kLanes);
  transform(inputs, outputs);
  Floats y({int64_t{kOutputs}, kLanes});
  for (int k = 0; k < kOutputs; ++k) store(y.mutable_data() + k * kLanes, outputs[k]);
  return y;
}

template <class H, bool kTo, bool kSpread>
void bind_form(py::module_& m, const char* name) {
  auto form = py::class_<H>(m, name, py::module_local());  // other levels have forms of the same name
  form.attr("window") = +H::kWindow;
  form.attr("step") = +H::kStep;
  form.attr("products") = +H::kProducts;
  form.attr("results") = +H::kResults;
  form.attr("weights") = Doubles({int64_t{kTerms<H>}, int64_t{H::kTaps}}, &H::kWeights[0][0]);
  std::vector<int> values;
  for (int term = 0; term < kTerms<H>; ++term) values.push_back(value_of<H>(term));
  form.attr("value_of") = values;
  const auto from = [](const auto* d, auto* v) { H::from(d, v); };
  form.def_static("of_window", [=](const Doubles& d) { return in_doubles<H::kWindow, H::kValues>(d, from); });
  form.def_static("of_windows", [=](const Floats& d) { return in_vectors<H::kWindow, H::kValues>(d, from); });
  if constexpr (kTo) {
    const auto to = [](const auto* p, auto* y) { H::to(p, y); };
    form.def_static("result", [=](const Doubles& p) { return in_doubles<H::kProducts, H::kResults>(p, to); });
    form.def_static("results_of", [=](const Floats& p) { return in_vectors<H::kProducts, H::kResults>(p, to); });
  }
  if constexpr (kSpread) {
    const auto spread = [](const auto* y, auto* p) { H::spread(y, p); };
    form.def_static("spread", [=](const Doubles& y) { return in_doubles<H::kResults, H::kProducts>(y, spread); });
    form.def_static("spreads", [=](const Floats& y) { return in_vectors<H::kResults, H::kProducts>(y, spread); });
  }
}

// ------------------------------------------------------------------------------------------------------------ tiles

Group found(const Tiling& tiling, int64_t tile) {
  Group group;
  group.find(tiling, tile);
  return group;
}

py::dict found_group(int64_t batch, int64_t rows, int64_t columns, int64_t tile) {
  const Group group = found({batch, rows, columns}, tile);
  py::list runs, before, after;
  for (int k = 0; k < group.runs; ++k) {
    const Run& run = group.run[k];
    runs.append(py::make_tuple(run.sample, run.row, run.column, run.first, run.count));
  }
  for (int64_t i = 0; i < kLanes; ++i) {
    before.append(static_cast<int>(group.before[i]));
    after.append(static_cast<int>(group.after[i]));
  }
  return py::dict(py::arg("lanes") = group.lanes, py::arg("runs") = runs, py::arg("before") = before,
                  py::arg("after") = after);
}

// A plane [B, H, W] with nothing but NaN around it.
template <int kStep, int kRowStep, int kFirst>
Floats row(const Floats& planes, int64_t tile, int r) {
  const int64_t batch = planes.shape(0), height = planes.shape(1), width = planes.shape(2);
  std::vector<float> room(planes.size() + 4 * kRowFloats<kStep>, std::numeric_limits<float>::quiet_NaN());
  float* plane = room.data() + 2 * kRowFloats<kStep>;
  std::copy_n(planes.data(), planes.size(), plane);
  const Tiling tiling{batch, (height + kRowStep - 1) / kRowStep, (width + kStep - 1) / kStep};
  const Group group = found(tiling, tile);
  alignas(64) float staged[kRowFloats<kStep>];
  const bool whole = group.is_whole(kStep, width);
  const float* from = row_of<kStep, kRowStep, kFirst>(group, plane, height * width, height, width, r, whole, staged);
  Floats y(kStep * kLanes + 2);
  float* to = y.mutable_data();
  to[0] = group.before[0] ? from[-1] : 0.0f;
  std::copy_n(from, kStep * kLanes, to + 1);
  to[kStep * kLanes + 1] = group.after[kLanes - 1] ? from[kStep * kLanes] : 0.0f;
  return y;
}

Floats row_at(int step, int row_step, int first, const Floats& planes, int64_t tile, int r) {
  if (step == 1 && row_step == 1 && first == -1) return row<1, 1, -1>(planes, tile, r);
  if (step == 2 && row_step == 2 && first == -1) return row<2, 2, -1>(planes, tile, r);
  if (step == 4 && row_step == 2 && first == -1) return row<4, 2, -1>(planes, tile, r);
  if (step == 4 && row_step == 4 && first == -1) return row<4, 4, -1>(planes, tile, r);
  if (step == 2 && row_step == 2 && first == 0) return row<2, 2, 0>(planes, tile, r);
  if (step == 4 && row_step == 4 && first == 0) return row<4, 4, 0>(planes, tile, r);
  throw std::invalid_argument("no such row");
}

// Planes [B, H, W], NaN where nothing was written, of results [groups, kRowStep, kStep * lanes].
template <int kRowStep, int kStep>
Floats written(const Floats& results, int64_t batch, int64_t height, int64_t width) {
  Floats planes = nans({batch, height, width});
  const Tiling tiling{batch, (height + kRowStep - 1) / kRowStep, (width + kStep - 1) / kStep};
  for (int64_t g = 0; g * kLanes < tiling.count(); ++g) {
    const Group group = found(tiling, g * kLanes);
    for (int r = 0; r < kRowStep; ++r) {
      write_runs<kRowStep, kStep>(group, results.data() + (g * kRowStep + r) * kStep * kLanes, planes.mutable_data(),
                                  height * width, height, width, r);
    }
  }
  return planes;
}

// ----------------------------------------------------------------------------------------------------- convolutions

template <class F>
void bind_convolution(py::module_& m, const char* name) {
  struct Tag {};
  const auto sizes = [](const Floats& x, int64_t outputs) {
    return Sizes{x.shape(0), x.shape(1), outputs, x.shape(2), x.shape(3)};
  };
  auto form = py::class_<Tag>(m, name, py::module_local());
  form.def_static("forward", [=](const Floats& x, const Floats& weight) {
    const Sizes s = sizes(x, weight.shape(0));
    const Pictures<F> p(s);
    return array({s.batch, s.outputs, p.y.height, p.y.width}, forward<F>(s, x.data(), weight.data()));
  });
  form.def_static("gradient_of_x", [=](const Floats& grad, const Floats& weight) {
    const int64_t height = Pictures<F>::of_x(grad.shape(2)), width = Pictures<F>::of_x(grad.shape(3));
    const Sizes s{grad.shape(0), weight.shape(1), weight.shape(0), height, width};
    return array({s.batch, s.inputs, height, width}, gradient_of_x<F>(s, grad.data(), weight.data()));
  });
  form.def_static("gradient_of_weight", [=](const Floats& x, const Floats& grad) {
    const Sizes s = sizes(x, grad.shape(1));
    return array({s.outputs, s.inputs, F::Vertical::kTaps, F::Horizontal::kTaps},
                 gradient_of_weight<F>(s, x.data(), grad.data()));
  });
}

}  // namespace

PYBIND11_MODULE(DMGAN_INTERNALS, m) {
  using Words = py::array_t<uint16_t, py::array::c_style>;
  m.attr("lanes") = +kLanes;
  m.attr("registers") = +kRegisters;
  m.def("exp", [](const Floats& x) { return elementwise(x, [](Vec v) { return dmgan::exp(v); }); });
  m.def("log", [](const Floats& x) { return elementwise(x, [](Vec v) { return dmgan::log(v); }); });
  m.def("sigmoid", [](const Floats& x) { return elementwise(x, [](Vec v) { return sigmoid(v); }); });
  m.def("max", [](const Floats& x, float y) { return elementwise(x, [=](Vec v) { return max(v, splat(y)); }); });
  m.def("store_float", [](const Floats& x, int64_t step) { return stored<float, float>(x, step, 7.0f); });
  m.def("store_bfloat16", [](const Floats& x, int64_t step) { return stored<BFloat16, uint16_t>(x, step, 0xabcd); });
  m.def("store_half", [](const Floats& x, int64_t step) { return stored<Half, uint16_t>(x, step, 0xabcd); });
  m.def("load_float", [](const Floats& x, int64_t step) { return loaded<float, float>(x, step); });
  m.def("load_bfloat16", [](const Words& x, int64_t step) { return loaded<BFloat16>(x, step); });
  m.def("load_half", [](const Words& x, int64_t step) { return loaded<Half>(x, step); });
  m.def("sums", sums);
  m.def("deinterleave2", apart<2>);
  m.def("deinterleave4", apart<4>);
  m.def("interleave2", together<2>);
  m.def("interleave4", together<4>);
  m.def("transpose", transposed);
  m.def("multiply", product, py::arg("a"), py::arg("turned"), py::arg("b"), py::arg("c") = py::none());
  m.def("dots", all_dots);
  m.def("dot", [](const Floats& a, const Floats& b) { return dot(a.data(), b.data(), a.size()); });
  bind_form<Two, true, true>(m, "Two");
  bind_form<Four, true, true>(m, "Four");
  bind_form<Up, true, true>(m, "Up");
  bind_form<UpGradient, false, false>(m, "UpGradient");
  bind_form<UpPair, true, true>(m, "UpPair");
  bind_form<UpPairGradient, true, false>(m, "UpPairGradient");
  bind_form<Down, true, true>(m, "Down");
  bind_form<DownGradient, true, false>(m, "DownGradient");
  m.def("find", found_group);
  m.def("row_of", row_at);
  m.def("write_runs1", written<1, 1>);
  m.def("write_runs2", written<2, 2>);
  m.def("write_runs24", written<2, 4>);
  m.def("write_runs4", written<4, 4>);
  bind_convolution<TwoTwo>(m, "TwoTwo");
  bind_convolution<TwoFour>(m, "TwoFour");
  bind_convolution<FourFour>(m, "FourFour");
  bind_convolution<UpUp>(m, "UpUp");
  bind_convolution<UpPairs>(m, "UpPairs");
  bind_convolution<DownDown>(m, "DownDown");
  m.def("share_out", [](int64_t parts) { kernels::parts = parts; });
}
