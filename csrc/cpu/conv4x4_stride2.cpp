// conv4x4 with stride 2 and padding 1 of maps with even height and width: 9 products for a pixel instead of 16, as four
// convolutions of 2 x 2 taps, one for each parity of a pixel's place, in tiles of 2 x 2 pixels. By additions alone.
#include <tuple>

#include "convolutions.h"

namespace dmgan {
namespace {

using Forward = Form<Down, Down, 128>;
using Gradient = Form<DownGradient, DownGradient, 128>;

// x [B, I, 2H, 2W], weight [O, I, 4, 4], bias [O] -> [B, O, H, W]
Tensor conv4x4_stride2_forward(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias) {
  Tensor y = torch::stable::new_empty(x, {x.size(0), weight.size(0), x.size(2) / 2, x.size(3) / 2});
  convolve_into<Forward>(y, x, weight, false, false, Plain{bias ? data<float>(*bias) : nullptr});
  return y;
}

std::tuple<Tensor, Tensor> conv4x4_stride2_backward(const Tensor& grad_y, const Tensor& x, const Tensor& weight,
                                                    bool want_x, bool want_weight) {
  Tensor grad_x = want_x ? torch::stable::empty_like(x) : nothing_like(x);
  if (want_x) convolve_into<Gradient>(grad_x, grad_y, weight, true, false);
  return {grad_x, want_weight ? gradient_of_weight<Forward>(x, grad_y, weight) : nothing_like(weight)};
}

}  // namespace
}  // namespace dmgan

DMGAN_REGISTER(DMGAN_CPU, CPU, conv4x4_stride2_forward)
DMGAN_REGISTER(DMGAN_CPU, CPU, conv4x4_stride2_backward)
