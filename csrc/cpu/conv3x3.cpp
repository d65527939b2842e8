// conv3x3 with padding 1, by Winograd's F(2x2, 3x3): 16 products for four pixels instead of 36. The gradient of x is
// the same convolution with the kernel turned and its channels exchanged.
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "../schemas.h"
#include "../tensors.h"
#include "fast_conv.h"

namespace dmgan {
namespace {

constexpr int64_t kAll = PlainForm::kProducts * PlainForm::kProducts;

Picture picture_of(const Tensor& x) { return {x.size(0), x.size(1), x.size(2), x.size(3)}; }

// y [B, O, H, W] of x [B, I, H, W], float32 NCHW; with `transposed`, weight [I, O, 3, 3] is turned and exchanged.
Tensor convolve_with(const Tensor& x, const Tensor& weight, bool transposed) {
  const int64_t rows = weight.size(0), columns = weight.size(1), outputs = transposed ? columns : rows;
  Tensor u = torch::stable::new_empty(weight, {kAll, rows, columns});
  transform_weights<PlainForm>(data<float>(weight), rows, columns, transposed, transposed, mutable_data<float>(u));
  Tensor y = torch::stable::new_empty(x, {x.size(0), outputs, x.size(2), x.size(3)});
  convolve<PlainForm>(picture_of(x), data<float>(x), data<float>(u), picture_of(y), mutable_data<float>(y));
  return y;
}

Tensor conv3x3_forward(const Tensor& x, const Tensor& weight) { return convolve_with(x, weight, false); }

std::tuple<Tensor, Tensor> conv3x3_backward(const Tensor& grad_y, const Tensor& x, const Tensor& weight, bool want_x,
                                            bool want_weight) {
  Tensor grad_x = want_x ? convolve_with(grad_y, weight, true) : torch::stable::new_empty(x, {0});
  if (!want_weight) return {grad_x, torch::stable::new_empty(weight, {0})};
  const WeightGrad<PlainForm> call{
      picture_of(x), picture_of(grad_y), {x.size(0), (x.size(2) + 1) / 2, (x.size(3) + 1) / 2}};
  Tensor parts = torch::stable::new_empty(x, {PlainForm::kProducts * call.parts() * call.sums()});
  Tensor grad_weight = torch::stable::new_empty(weight, {weight.size(0), weight.size(1), kTaps, kTaps});
  weight_grad<PlainForm>(call, data<float>(x), data<float>(grad_y), mutable_data<float>(parts),
                         mutable_data<float>(grad_weight));
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
