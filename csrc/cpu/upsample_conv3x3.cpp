// Nearest x2, then conv3x3: 9 products for the four copies of a pixel instead of 36, on differences of its neighbours.
// y[2i] = w0 (x[i-1] - x[i]) + (w0 + w1 + w2) x[i],  y[2i+1] = (w0 + w1 + w2) x[i] + w2 (x[i+1] - x[i]),  both ways.
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "../schemas.h"
#include "../tensors.h"
#include "fast_conv.h"

namespace dmgan {
namespace {

constexpr int64_t kAll = UpForm::kProducts * UpForm::kProducts;
static_assert(UpGradForm::kProducts == UpForm::kProducts);

Picture picture_of(const Tensor& x) { return {x.size(0), x.size(1), x.size(2), x.size(3)}; }

template <class Form>
Tensor convolve_with(const Tensor& x, const Tensor& weight, int64_t outputs, int64_t height, int64_t width) {
  const int64_t rows = weight.size(0), columns = weight.size(1);
  Tensor u = torch::stable::new_empty(weight, {kAll, rows, columns});
  constexpr bool kGradient = Form::kResults == 1;
  transform_weights<Form>(data<float>(weight), rows, columns, kGradient, false, mutable_data<float>(u));
  Tensor y = torch::stable::new_empty(x, {x.size(0), outputs, height, width});
  convolve<Form>(picture_of(x), data<float>(x), data<float>(u), picture_of(y), mutable_data<float>(y));
  return y;
}

Tensor upsample_conv3x3_forward(const Tensor& x, const Tensor& weight) {
  return convolve_with<UpForm>(x, weight, weight.size(0), 2 * x.size(2), 2 * x.size(3));
}

std::tuple<Tensor, Tensor> upsample_conv3x3_backward(const Tensor& grad_y, const Tensor& x, const Tensor& weight,
                                                     bool want_x, bool want_weight) {
  Tensor grad_x = want_x ? convolve_with<UpGradForm>(grad_y, weight, x.size(1), x.size(2), x.size(3))
                         : torch::stable::new_empty(x, {0});
  if (!want_weight) return {grad_x, torch::stable::new_empty(weight, {0})};
  const WeightGrad<UpForm> call{picture_of(x), picture_of(grad_y), {x.size(0), x.size(2), x.size(3)}};
  Tensor parts = torch::stable::new_empty(x, {UpForm::kProducts * call.parts() * call.sums()});
  Tensor grad_weight = torch::stable::new_empty(weight, {weight.size(0), weight.size(1), kTaps, kTaps});
  weight_grad<UpForm>(call, data<float>(x), data<float>(grad_y), mutable_data<float>(parts),
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
