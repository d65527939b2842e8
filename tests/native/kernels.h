// The kernels' internals without PyTorch: for tests from Python (internals.cpp) and on other processors (cross.cpp).
#pragma once
#include <cstdint>

namespace kernels {
inline int64_t parts = 1;  // that work is shared out in
}

namespace torch::stable {
// As PyTorch's, in kernels::parts parts: one after the other, the last first.
template <class F>
void parallel_for(int64_t begin, int64_t end, int64_t, const F& f) {
  for (int64_t k = kernels::parts; k-- > 0;) {
    const int64_t first = begin + (end - begin) * k / kernels::parts;
    const int64_t last = begin + (end - begin) * (k + 1) / kernels::parts;
    if (first < last) f(first, last);
  }
}
}  // namespace torch::stable

#include "../../csrc/cpu/fast_conv.h"

namespace kernels {
using namespace dmgan;

using TwoTwo = Form<Two, Two, 32>;
using TwoFour = Form<Two, Four, 32>;
using FourFour = Form<Four, Four, 16>;
using UpUp = Form<Up, Up, 32>;
using UpPairs = Form<UpPair, UpPair, 32>;
using DownDown = Form<Down, Down, 32>;

struct Sizes {
  int64_t batch, inputs, outputs, height, width;  // of x
};

// Sizes of a form's pictures: a side of y has as many results as x has windows, which begin every kStep pixels.
template <class F>
struct Pictures {
  static constexpr int64_t kResults = F::Horizontal::kResults, kStep = F::Horizontal::kStep;
  static_assert(F::Vertical::kResults * kStep == kResults * F::Vertical::kStep);
  static constexpr int64_t of_y(int64_t side_of_x) { return side_of_x * kResults / kStep; }
  static constexpr int64_t of_x(int64_t side_of_y) { return side_of_y * kStep / kResults; }
  FeatureMap x, y;
  Tiling tiling;
  explicit Pictures(const Sizes& s)
      : x{s.batch, s.inputs, s.height, s.width},
        y{s.batch, s.outputs, of_y(s.height), of_y(s.width)},
        tiling{s.batch, (y.height + F::Vertical::kResults - 1) / F::Vertical::kResults,
               (y.width + F::Horizontal::kResults - 1) / F::Horizontal::kResults} {}
};

template <class F, bool kSum = false, class Finish = Plain>
std::vector<float> convolved(const Convolution<F>& call, const float* x, const float* weight, bool transposed,
                             bool flipped, const Finish& finish = {}) {
  const int64_t channels = call.y.channels / (kIsGated<Finish> ? 2 : 1);
  std::vector<float> u(weight_floats(call));
  std::vector<float> y(call.y.batch * channels * call.y.pixels(), std::numeric_limits<float>::quiet_NaN());
  transform_weights<F, Finish>(call, weight, transposed, flipped, u.data());
  convolve<F, kSum>(call, x, u.data(), finish, y.data());
  return y;
}

// y of x [B, I, H, W] and weight [O, I, taps, taps].
template <class F>
std::vector<float> forward(const Sizes& sizes, const float* x, const float* weight) {
  const Pictures<F> p(sizes);
  return convolved<F>({p.x, p.y, p.tiling}, x, weight, false, false);
}

// The gradient of x: the same form with the kernel turned; for up- and down-sampling a form of its own.
template <class F>
std::vector<float> gradient_of_x(const Sizes& sizes, const float* grad_y, const float* weight) {
  const Pictures<F> p(sizes);
  if constexpr (std::is_same_v<F, UpUp>) {
    using Gradient = Form<UpGradient, UpGradient, 32>;
    return convolved<Gradient, true>({p.y, p.x, p.tiling}, grad_y, weight, true, false);
  } else if constexpr (std::is_same_v<F, UpPairs>) {
    using Gradient = Form<UpPairGradient, UpPairGradient, 32>;
    return convolved<Gradient>({p.y, p.x, p.tiling}, grad_y, weight, true, false);
  } else if constexpr (std::is_same_v<F, DownDown>) {
    using Gradient = Form<DownGradient, DownGradient, 32>;
    return convolved<Gradient>({p.y, p.x, {p.y.batch, (p.y.height + 1) / 2, (p.y.width + 1) / 2}}, grad_y, weight, true,
                               false);
  } else {
    return convolved<F>({p.y, p.x, p.tiling}, grad_y, weight, true, true);
  }
}

template <class F>
std::vector<float> gradient_of_weight(const Sizes& sizes, const float* x, const float* grad_y) {
  const Pictures<F> p(sizes);
  const WeightGradient<F> call{p.x, p.y, p.tiling};
  std::vector<float> parts_of_it(call.floats()), grad(sizes.outputs * sizes.inputs * F::kTaps);
  weight_gradient<F>(call, x, grad_y, parts_of_it.data(), grad.data());
  return grad;
}

}  // namespace kernels
