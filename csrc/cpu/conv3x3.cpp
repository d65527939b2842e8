// conv3x3 with padding 1, by Winograd's forms: 2.25 products for a pixel instead of 9 in tiles of 4 x 4 pixels; on maps
// that they don't fit, 3 in tiles of 2 x 4 or 4 in tiles of 2 x 2. The gradient of x is the same convolution with the
// kernel turned and its channels exchanged.
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "../schemas.h"
#include "../tensors.h"
#include "fast_conv.h"

namespace dmgan {
namespace {

FeatureMap map_of(const Tensor& x) { return {x.size(0), x.size(1), x.size(2), x.size(3)}; }

template <class F>
Tiling tiling_of(const FeatureMap& map) {
  constexpr int64_t kRows = F::Vertical::kResults, kColumns = F::Horizontal::kResults;
  return {map.batch, (map.height + kRows - 1) / kRows, (map.width + kColumns - 1) / kColumns};
}

// Products of a form for every pair of channels; tiles fill whole vectors.
template <class F>
int64_t products(const FeatureMap& map) {
  return round_up(tiling_of<F>(map).count(), kColumns * kLanes) * F::kProducts;
}

// f(form) with the form that takes the fewest products on such a map.
template <class Function>
auto with_best_form(const FeatureMap& map, const Function& f) {
  using Large = Form<Four, Four>;
  using Wide = Form<Two, Four>;
  using Small = Form<Two, Two>;
  const int64_t large = products<Large>(map), wide = products<Wide>(map), small = products<Small>(map);
  if (large <= wide && large <= small) return f(Large{});
  return wide <= small ? f(Wide{}) : f(Small{});
}

// y [B, O, H, W] of x [B, I, H, W], float32 NCHW; with `transposed`, weight [I, O, 3, 3] is turned and exchanged.
Tensor convolve_with(const Tensor& x, const Tensor& weight, bool transposed) {
  Tensor y = torch::stable::new_empty(x, {x.size(0), weight.size(transposed ? 1 : 0), x.size(2), x.size(3)});
  with_best_form(map_of(y), [&](auto form) {
    using F = decltype(form);
    const Convolution<F> call{map_of(x), map_of(y), tiling_of<F>(map_of(y))};
    Tensor u = torch::stable::new_empty(weight, {F::kProducts, weight.size(0), weight.size(1)});
    transform_weights<F>(call, data<float>(weight), transposed, transposed, mutable_data<float>(u));
    convolve<F>(call, data<float>(x), data<float>(u), mutable_data<float>(y));
  });
  return y;
}

Tensor conv3x3_forward(const Tensor& x, const Tensor& weight) { return convolve_with(x, weight, false); }

std::tuple<Tensor, Tensor> conv3x3_backward(const Tensor& grad_y, const Tensor& x, const Tensor& weight, bool want_x,
                                            bool want_weight) {
  Tensor grad_x = want_x ? convolve_with(grad_y, weight, true) : torch::stable::new_empty(x, {0});
  if (!want_weight) return {grad_x, torch::stable::new_empty(weight, {0})};
  Tensor grad_weight = torch::stable::new_empty(weight, {weight.size(0), weight.size(1), kTaps, kTaps});
  with_best_form(map_of(grad_y), [&](auto form) {
    using F = decltype(form);
    const WeightGradient<F> call{map_of(x), map_of(grad_y), tiling_of<F>(map_of(grad_y))};
    Tensor parts = torch::stable::new_empty(x, {call.floats()});
    weight_gradient<F>(call, data<float>(x), data<float>(grad_y), mutable_data<float>(parts),
                       mutable_data<float>(grad_weight));
  });
  return {grad_x, grad_weight};
}

}  // namespace
}  // namespace dmgan

STABLE_TORCH_LIBRARY_FRAGMENT(DMGAN_CPU, m) {
  m.def(dmgan::schemas::conv3x3_forward);
  m.def(dmgan::schemas::conv3x3_backward);
}
STABLE_TORCH_LIBRARY_IMPL(DMGAN_CPU, CPU, m) {
  m.impl("conv3x3_forward", TORCH_BOX(&dmgan::conv3x3_forward));
  m.impl("conv3x3_backward", TORCH_BOX(&dmgan::conv3x3_backward));
}
