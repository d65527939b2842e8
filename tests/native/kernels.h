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

struct Sizes {
  int64_t batch, inputs, outputs, height, width;  // of x
};

// Sizes of a form's pictures: y is as often as large as x as a window has more results than steps.
template <class F>
struct Pictures {
  static constexpr int64_t kScaleV = F::Vertical::kResults / F::Vertical::kStep;
  static constexpr int64_t kScaleH = F::Horizontal::kResults / F::Horizontal::kStep;
  FeatureMap x, y;
  Tiling tiling;
  explicit Pictures(const Sizes& s)
      : x{s.batch, s.inputs, s.height, s.width},
        y{s.batch, s.outputs, kScaleV * s.height, kScaleH * s.width},
        tiling{s.batch, (y.height + F::Vertical::kResults - 1) / F::Vertical::kResults,
               (y.width + F::Horizontal::kResults - 1) / F::Horizontal::kResults} {}
};

template <class F, bool kSum = false>
std::vector<float> convolved(const Convolution<F>& call, const float* x, const float* weight, bool transposed,
                             bool flipped) {
  std::vector<float> u(F::kProducts * call.x.channels * call.y.channels);
  std::vector<float> y(call.y.batch * call.y.channels * call.y.pixels(), std::numeric_limits<float>::quiet_NaN());
  transform_weights<F>(call, weight, transposed, flipped, u.data());
  convolve<F, kSum>(call, x, u.data(), y.data());
  return y;
}

// y of x [B, I, H, W] and weight [O, I, 3, 3].
template <class F>
std::vector<float> forward(const Sizes& sizes, const float* x, const float* weight) {
  const Pictures<F> p(sizes);
  return convolved<F>({p.x, p.y, p.tiling}, x, weight, false, false);
}

// The gradient of x: the same form with the kernel turned, or for up-sampling a form of its own.
template <class F>
std::vector<float> gradient_of_x(const Sizes& sizes, const float* grad_y, const float* weight) {
  const Pictures<F> p(sizes);
  if constexpr (Pictures<F>::kScaleH == 2) {
    using Gradient = Form<UpGradient, UpGradient>;
    return convolved<Gradient, true>({p.y, p.x, p.tiling}, grad_y, weight, true, false);
  } else {
    return convolved<F>({p.y, p.x, p.tiling}, grad_y, weight, true, true);
  }
}

template <class F>
std::vector<float> gradient_of_weight(const Sizes& sizes, const float* x, const float* grad_y) {
  const Pictures<F> p(sizes);
  const WeightGradient<F> call{p.x, p.y, p.tiling};
  std::vector<float> parts_of_it(call.floats()), grad(sizes.outputs * sizes.inputs * kTaps * kTaps);
  weight_gradient<F>(call, x, grad_y, parts_of_it.data(), grad.data());
  return grad;
}

}  // namespace kernels
