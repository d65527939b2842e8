// How csrc/cuda/*.cu meet PyTorch. nvcc makes of them operators `dmgan_fast_cuda` for CUDA tensors; g++ (-x c++) makes
// operators `dmgan_fast_simt` for CPU tensors, whose kernels run on simt/simt.h: the same code, tested without a GPU.
#pragma once

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>
#include <torch/headeronly/util/shim_utils.h>

#include <optional>
#include <tuple>
#include <utility>

#include "../schemas.h"
#include "../tensors.h"
#include "common.cuh"

#ifdef __CUDACC__
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#define DMGAN_LIBRARY dmgan_fast_cuda
#define DMGAN_DISPATCH_KEY CUDA
#else
#define DMGAN_LIBRARY dmgan_fast_simt
#define DMGAN_DISPATCH_KEY CPU
#endif

#define DMGAN_OPERATOR(NAME) DMGAN_REGISTER(DMGAN_LIBRARY, DMGAN_DISPATCH_KEY, NAME)

namespace dmgan {

using OptionalTensor = std::optional<Tensor>;
constexpr auto kFloat = torch::headeronly::ScalarType::Float;

// Makes x's device the current one as long as this lives, and knows the stream to launch on.
class OnDeviceOf {
 public:
#ifdef __CUDACC__
  explicit OnDeviceOf(const Tensor& x) : guard_(x.get_device_index()) {
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(x.get_device_index(), &stream));
    stream_ = static_cast<Stream>(stream);
  }
  Stream stream() const { return stream_; }

 private:
  torch::stable::accelerator::DeviceGuard guard_;
  Stream stream_;
#else
  explicit OnDeviceOf(const Tensor&) {}
  Stream stream() const { return nullptr; }
#endif
};

// Calls run<S>() with the C++ type of x's elements.
template <class Run>
void with_element_type(const Tensor& x, Run run) {
  using torch::headeronly::ScalarType;
  switch (x.scalar_type()) {
    case ScalarType::Float:
      return run.template operator()<float>();
    case ScalarType::BFloat16:
      return run.template operator()<c10::BFloat16>();
    case ScalarType::Half:
      return run.template operator()<c10::Half>();
    default:
      STD_TORCH_CHECK(false, "dmgan_fast: the kernels take float32, bfloat16 and float16");
  }
}

template <class S>
const S* data_or_null(const OptionalTensor& x) {
  return x ? data<S>(*x) : nullptr;
}

// Of an output, which is empty if it was not asked for.
template <class S>
S* mutable_data_or_null(Tensor& x) {
  return x.numel() > 0 ? mutable_data<S>(x) : nullptr;
}

// A pixel-linear [B, C, H, W] tensor as feature maps.
template <class S>
FeatureMap<const S> feature_map(const Tensor& x) {
  return {data<S>(x), x.stride(0), x.stride(1), pixel_stride(x)};
}

template <class S>
FeatureMap<S> mutable_feature_map(Tensor& x) {
  return {mutable_data<S>(x), x.stride(0), x.stride(1), pixel_stride(x)};
}

}  // namespace dmgan
