// Nearest x2, then conv3x3: 9 products for the four copies of a pixel instead of 36, on differences of its neighbours.
// y[2i] = w0 (x[i-1] - x[i]) + (w0 + w1 + w2) x[i],  y[2i+1] = (w0 + w1 + w2) x[i] + w2 (x[i+1] - x[i]),  both ways.
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "../schemas.h"
#include "../tensors.h"
#include "fast_conv.h"

namespace dmgan {
namespace {

using Forward = Form<Up, Up>;
using Gradient = Form<UpGradient, UpGradient>;

FeatureMap map_of(const Tensor& x) { return {x.size(0), x.size(1), x.size(2), x.size(3)}; }
Tiling tiling_of(const Tensor& low) { return {low.size(0), low.size(2), low.size(3)}; }  // a tile for each pixel

Tensor upsample_conv3x3_forward(const Tensor& x, const Tensor& weight) {
  Tensor y = torch::stable::new_empty(x, {x.size(0), weight.size(0), 2 * x.size(2), 2 * x.size(3)});
  const Convolution<Forward> call{map_of(x), map_of(y), tiling_of(x)};
  Tensor u = torch::stable::new_empty(weight, {Forward::kProducts, weight.size(0), weight.size(1)});
  transform_weights<Forward>(call, data<float>(weight), false, false, mutable_data<float>(u));
  convolve<Forward>(call, data<float>(x), data<float>(u), mutable_data<float>(y));
  return y;
}

Tensor gradient_of_input(const Tensor& grad_y, const Tensor& x, const Tensor& weight) {
  Tensor grad_x = torch::stable::new_empty(x, {x.size(0), x.size(1), x.size(2), x.size(3)});
  const Convolution<Gradient> call{map_of(grad_y), map_of(x), tiling_of(x)};
  Tensor u = torch::stable::new_empty(weight, {Gradient::kProducts, weight.size(0), weight.size(1)});
  transform_weights<Gradient>(call, data<float>(weight), true, false, mutable_data<float>(u));
  convolve<Gradient, true>(call, data<float>(grad_y), data<float>(u), mutable_data<float>(grad_x));
  return grad_x;
}

std::tuple<Tensor, Tensor> upsample_conv3x3_backward(const Tensor& grad_y, const Tensor& x, const Tensor& weight,
                                                     bool want_x, bool want_weight) {
  Tensor grad_x = want_x ? gradient_of_input(grad_y, x, weight) : torch::stable::new_empty(x, {0});
  if (!want_weight) return {grad_x, torch::stable::new_empty(weight, {0})};
  const WeightGradient<Forward> call{map_of(x), map_of(grad_y), tiling_of(x)};
  Tensor parts = torch::stable::new_empty(x, {call.floats()});
  Tensor grad_weight = torch::stable::new_empty(weight, {weight.size(0), weight.size(1), kTaps, kTaps});
  weight_gradient<Forward>(call, data<float>(x), data<float>(grad_y), mutable_data<float>(parts),
                           mutable_data<float>(grad_weight));
  return {grad_x, grad_weight};
}

}  // namespace
}  // namespace dmgan

STABLE_TORCH_LIBRARY_FRAGMENT(DMGAN_CPU, m) {
  m.def(dmgan::schemas::upsample_conv3x3_forward);
  m.def(dmgan::schemas::upsample_conv3x3_backward);
}
STABLE_TORCH_LIBRARY_IMPL(DMGAN_CPU, CPU, m) {
  m.impl("upsample_conv3x3_forward", TORCH_BOX(&dmgan::upsample_conv3x3_forward));
  m.impl("upsample_conv3x3_backward", TORCH_BOX(&dmgan::upsample_conv3x3_backward));
}
