// conv3x3 with padding 1, by Winograd's forms: 3 products for a pixel instead of 9 in tiles of 2 x 4 pixels, or 4 in
// tiles of 2 x 2 on maps that those don't fit. The gradient of x is the same convolution with the kernel turned and its
// channels exchanged; there tiles of 4 x 4, 2.25 products, are exact enough where many channels are summed.
#include <tuple>

#include "choice.h"
#include "few_results.h"

namespace dmgan {
namespace {

// x [B, I, H, W], weight [O, I, 3, 3], bias [O] -> [B, O, H, W]
Tensor conv3x3_forward(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias) {
  Tensor y = torch::stable::new_empty(x, {x.size(0), weight.size(0), x.size(2), x.size(3)});
  const Plain finish{bias ? data<float>(*bias) : nullptr};
  with_best_form(map_of(y), [&](auto form) { convolve_into<decltype(form)>(y, x, weight, false, false, finish); });
  return y;
}

Tensor gradient_of_input(const Tensor& grad_y, const Tensor& weight) {
  Tensor grad_x = torch::stable::new_empty(grad_y, {grad_y.size(0), weight.size(1), grad_y.size(2), grad_y.size(3)});
  if (grad_y.size(1) >= kLargeInputs && large_is_best(map_of(grad_x))) {
    convolve_into<Large>(grad_x, grad_y, weight, true, true);
  } else {
    with_best_form(map_of(grad_x),
                   [&](auto form) { convolve_into<decltype(form)>(grad_x, grad_y, weight, true, true); });
  }
  return grad_x;
}

Tensor gradient_of_weight_of(const Tensor& x, const Tensor& grad_y, const Tensor& weight) {
  if (weight.size(0) > kFewResults) {
    return with_best_form(map_of(grad_y), [&](auto form) {
      return gradient_of_weight<decltype(form)>(x, grad_y, weight);
    });
  }
  Tensor gradient = torch::stable::new_empty(weight, {weight.size(0), weight.size(1), 3, 3});
  few_weight_gradient(map_of(x), data<float>(x), weight.size(0), data<float>(grad_y), mutable_data<float>(gradient));
  return gradient;
}

std::tuple<Tensor, Tensor> conv3x3_backward(const Tensor& grad_y, const Tensor& x, const Tensor& weight, bool want_x,
                                            bool want_weight) {
  Tensor grad_x = want_x ? gradient_of_input(grad_y, weight) : nothing_like(x);
  return {grad_x, want_weight ? gradient_of_weight_of(x, grad_y, weight) : nothing_like(weight)};
}

}  // namespace
}  // namespace dmgan

DMGAN_REGISTER(DMGAN_CPU, CPU, conv3x3_forward)
DMGAN_REGISTER(DMGAN_CPU, CPU, conv3x3_backward)
