// Shorthands for PyTorch's stable tensors.
#pragma once
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/shim_utils.h>

#include <cstdint>

namespace dmgan {

using torch::stable::Tensor;

// Both throw unless x is of the dtype that S is.
template <class S>
const S* data(const Tensor& x) {
  return x.const_data_ptr<S>();
}

template <class S>
S* mutable_data(Tensor& x) {
  return x.mutable_data_ptr<S>();
}

// Dense channels-last and not also NCHW, as torch's is_contiguous(memory_format=channels_last) has it.
inline bool is_channels_last(const Tensor& x) {
  if (x.is_contiguous()) return false;
  int64_t expected = 1;
  for (const int64_t dim : {1, 3, 2, 0}) {
    if (x.size(dim) != 1 && x.stride(dim) != expected) return false;
    expected *= x.size(dim);
  }
  return true;
}

// From one pixel of a pixel-linear [B, C, H, W] to the next. The stride of an axis of size 1 means nothing.
inline int64_t pixel_stride(const Tensor& x) { return x.size(3) > 1 ? x.stride(3) : x.stride(2); }

// A feature map [B, channels, height, width] of x's dtype, channels-last; a tensor of its own, for autograd to change.
inline Tensor empty_channels_last(const Tensor& x, int64_t channels, int64_t height, int64_t width) {
  const int64_t sizes[] = {x.size(0), channels, height, width};
  const int64_t strides[] = {channels * height * width, 1, width * channels, channels};
  int32_t dtype = 0, device = 0;
  AtenTensorHandle y = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(x.get(), &dtype));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(x.get(), &device));
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(4, sizes, strides, dtype, device, x.get_device_index(), &y));
  return Tensor(y);
}

// A feature map [B, channels, height, width] of x's dtype, channels-last if x is.
inline Tensor empty_feature_map(const Tensor& x, int64_t channels, int64_t height, int64_t width) {
  if (is_channels_last(x)) return empty_channels_last(x, channels, height, width);
  return torch::stable::new_empty(x, {x.size(0), channels, height, width});
}

}  // namespace dmgan
