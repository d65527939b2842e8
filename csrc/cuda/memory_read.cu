// Registers memory_read: unpacks tensors, allocates results, launches.
#include "memory_read.cuh"
#include "register.h"

namespace dmgan {
namespace {

template <class S>
MemoryReadInputs<S> inputs(const Tensor& h, const Tensor& key, const Tensor& value, const OptionalTensor& gate_weight,
                           const OptionalTensor& gate_bias, const OptionalTensor& padding_mask, bool official) {
  return {h.size(0),
          static_cast<int>(h.size(1)),
          static_cast<int>(h.size(2) * h.size(3)),
          static_cast<int>(key.size(2)),
          feature_map<S>(h),
          data<S>(key),
          data<S>(value),
          data_or_null<float>(gate_weight),
          data_or_null<float>(gate_bias),
          data_or_null<bool>(padding_mask),
          official};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> memory_read_forward(const Tensor& h, const Tensor& key, const Tensor& value,
                                                               const OptionalTensor& gate_weight,
                                                               const OptionalTensor& gate_bias,
                                                               const OptionalTensor& padding_mask, bool official,
                                                               bool want_attention, bool want_gate) {
  const OnDeviceOf device(h);
  const int64_t batch = h.size(0), channels = h.size(1), height = h.size(2), width = h.size(3), words = key.size(2);
  Tensor out = empty_feature_map(h, channels, height, width);
  Tensor lse = torch::stable::new_empty(h, {batch, height * width}, kFloat);
  Tensor attention =
      want_attention ? torch::stable::new_empty(h, {batch, words, height, width}) : torch::stable::new_empty(h, {0});
  Tensor gate = want_gate ? torch::stable::new_empty(h, {batch, 1, height, width}) : torch::stable::new_empty(h, {0});
  with_element_type(h, [&]<class S>() {
    launch_memory_read_forward<S>(
        {inputs<S>(h, key, value, gate_weight, gate_bias, padding_mask, official), mutable_feature_map<S>(out),
         mutable_data<float>(lse), mutable_data_or_null<S>(attention), mutable_data_or_null<S>(gate)},
        device.stream());
  });
  return {out, lse, attention, gate};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> memory_read_backward(
    const Tensor& grad_out, const OptionalTensor& grad_attention, const OptionalTensor& grad_gate, const Tensor& h,
    const Tensor& key, const Tensor& value, const OptionalTensor& gate_weight, const OptionalTensor& gate_bias,
    const OptionalTensor& padding_mask, const Tensor& lse, bool official) {
  const OnDeviceOf device(h);
  const int64_t channels = h.size(1);
  Tensor grad_h = empty_feature_map(h, channels, h.size(2), h.size(3));
  Tensor grad_key = torch::stable::empty_like(key), grad_value = torch::stable::empty_like(value);
  Tensor grad_gate_weight = torch::stable::new_empty(h, {gate_weight ? 2 * channels : 0}, kFloat);
  Tensor grad_gate_bias = torch::stable::new_empty(h, {gate_weight ? 1 : 0}, kFloat);
  with_element_type(h, [&]<class S>() {
    const auto in = inputs<S>(h, key, value, gate_weight, gate_bias, padding_mask, official);
    Tensor work =
        torch::stable::new_empty(h, {memory_read_work_floats<S>(in.batch, in.channels, in.pixels, in.words)}, kFloat);
    launch_memory_read_backward<S>(
        {in, feature_map<S>(grad_out), data_or_null<S>(grad_attention), data_or_null<S>(grad_gate), data<float>(lse),
         mutable_feature_map<S>(grad_h), mutable_data<S>(grad_key), mutable_data<S>(grad_value),
         mutable_data_or_null<float>(grad_gate_weight), mutable_data_or_null<float>(grad_gate_bias),
         mutable_data<float>(work)},
        device.stream());
  });
  return {grad_h, grad_key, grad_value, grad_gate_weight, grad_gate_bias};
}

}  // namespace
}  // namespace dmgan

DMGAN_OPERATOR(memory_read_forward)
DMGAN_OPERATOR(memory_read_backward)
