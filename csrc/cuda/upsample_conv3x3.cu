// Registers upsample_conv3x3: unpacks tensors, allocates results, launches.
#include "register.h"
#include "upsample_conv3x3.cuh"

namespace dmgan {
namespace {

UpsampleConv3x3 sizes(const Tensor& x, const Tensor& weight) {
  return {x.size(0),
          static_cast<int>(x.size(1)),
          static_cast<int>(weight.size(0)),
          static_cast<int>(x.size(2)),
          static_cast<int>(x.size(3)),
          is_channels_last(x)};
}

Tensor upsample_conv3x3_forward(const Tensor& x, const Tensor& weight) {
  const OnDeviceOf device(x);
  const UpsampleConv3x3 a = sizes(x, weight);
  Tensor y = empty_feature_map(x, a.out_channels, 2 * x.size(2), 2 * x.size(3));
  Tensor folded = torch::stable::new_empty(weight, {upsample_conv3x3_folded_size(a)});
  with_element_type(x, [&]<class S>() {
    launch_upsample_conv3x3_forward<S>(a, data<S>(x), data<S>(weight), mutable_data<S>(folded), mutable_data<S>(y),
                                       device.stream());
  });
  return y;
}

std::tuple<Tensor, Tensor> upsample_conv3x3_backward(const Tensor& grad_y, const Tensor& x, const Tensor& weight,
                                                     bool want_x, bool want_weight) {
  const OnDeviceOf device(x);
  const UpsampleConv3x3 a = sizes(x, weight);
  Tensor grad_x = want_x ? torch::stable::empty_like(x) : torch::stable::new_empty(x, {0});
  Tensor grad_weight = want_weight ? torch::stable::empty_like(weight) : torch::stable::new_empty(weight, {0});
  with_element_type(x, [&]<class S>() {
    if (want_x) {
      Tensor folded = torch::stable::new_empty(weight, {upsample_conv3x3_folded_size(a)});
      launch_upsample_conv3x3_grad_x<S>(a, data<S>(grad_y), data<S>(weight), mutable_data<S>(folded),
                                        mutable_data<S>(grad_x), device.stream());
    }
    if (want_weight) {
      Tensor parts = torch::stable::new_empty(x, {upsample_conv3x3_part_floats<S>(a)}, kFloat);
      launch_upsample_conv3x3_grad_weight<S>(a, data<S>(grad_y), data<S>(x), mutable_data<float>(parts),
                                             mutable_data<S>(grad_weight), device.stream());
    }
  });
  return {grad_x, grad_weight};
}

}  // namespace
}  // namespace dmgan

DMGAN_OPERATOR(upsample_conv3x3_forward)
DMGAN_OPERATOR(upsample_conv3x3_backward)
