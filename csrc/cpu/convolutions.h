// The convolutions of fast_conv.h on PyTorch's tensors: float32, NCHW, dense.
#pragma once
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <optional>

#include "../schemas.h"
#include "../tensors.h"
#include "fast_conv.h"

namespace dmgan {

inline FeatureMap map_of(const Tensor& x) { return {x.size(0), x.size(1), x.size(2), x.size(3)}; }

// Tiles that cover a map of results; a form's last tiles may reach beyond it.
template <class F>
Tiling tiling_of(const FeatureMap& results) {
  constexpr int64_t kRows = F::Vertical::kResults, kColumns = F::Horizontal::kResults;
  return {results.batch, (results.height + kRows - 1) / kRows, (results.width + kColumns - 1) / kColumns};
}

// y = form of x, finished; weight as transform_weights has it.
template <class F, bool kSum = false, class Finish = Plain>
void convolve_into(Tensor& y, const Tensor& x, const Tensor& weight, bool transposed, bool flipped,
                   const Finish& finish = {}) {
  FeatureMap results = map_of(y);
  if constexpr (kIsGated<Finish>) results.channels *= 2;
  const Convolution<F> call{map_of(x), results, tiling_of<F>(results)};
  Tensor u = torch::stable::new_empty(weight, {weight_floats(call)});
  transform_weights<F, Finish>(call, data<float>(weight), transposed, flipped, mutable_data<float>(u));
  convolve<F, kSum>(call, data<float>(x), data<float>(u), finish, mutable_data<float>(y));
}

// The gradient of the weight, like `weight`, of a convolution of x by a form whose results have gradient `grad_y`.
template <class F>
Tensor gradient_of_weight(const Tensor& x, const Tensor& grad_y, const Tensor& weight) {
  const WeightGradient<F> call{map_of(x), map_of(grad_y), tiling_of<F>(map_of(grad_y))};
  Tensor parts = torch::stable::new_empty(x, {call.floats()});
  Tensor gradient = torch::stable::new_empty(weight, {weight.size(0), weight.size(1), weight.size(2), weight.size(3)});
  weight_gradient<F>(call, data<float>(x), data<float>(grad_y), mutable_data<float>(parts),
                     mutable_data<float>(gradient));
  return gradient;
}

inline Tensor nothing_like(const Tensor& x) { return torch::stable::new_empty(x, {0}); }

}  // namespace dmgan
