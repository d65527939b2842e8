// Registers batch_norm_glu: unpacks tensors, allocates results, launches.
#include "batch_norm_glu.cuh"
#include "register.h"

namespace dmgan {
namespace {

template <class S>
BatchNormGluInputs<S> inputs(const Tensor& x, const OptionalTensor& weight, const OptionalTensor& bias, bool glu) {
  const int channels = static_cast<int>(x.size(1));
  return {x.size(0),           channels,   glu ? channels / 2 : channels, static_cast<int>(x.size(2) * x.size(3)),
          is_channels_last(x), data<S>(x), data_or_null<float>(weight),   data_or_null<float>(bias)};
}

template <class S>
BatchNormGluBackward<S> backward_inputs(const Tensor& grad_y, const OptionalTensor& grad_mean, const Tensor& x,
                                        const OptionalTensor& weight, const OptionalTensor& bias, const Tensor& mean,
                                        const Tensor& rstd, bool glu) {
  return {inputs<S>(x, weight, bias, glu), data<S>(grad_y), data_or_null<float>(grad_mean), data<float>(mean),
          data<float>(rstd)};
}

Tensor floats(const Tensor& x, std::initializer_list<int64_t> sizes) {
  return torch::stable::new_empty(x, sizes, kFloat);
}

Tensor work_buffer(const Tensor& x, bool glu) {
  const int channels = static_cast<int>(x.size(1));
  return floats(x, {batch_norm_glu_work_floats(x.size(0), channels, glu ? channels / 2 : channels,
                                               static_cast<int>(x.size(2) * x.size(3)), is_channels_last(x))});
}

std::tuple<Tensor, Tensor> batch_norm_glu_statistics(const Tensor& x) {
  const OnDeviceOf device(x);
  Tensor mean = floats(x, {x.size(1)}), var = floats(x, {x.size(1)}), work = work_buffer(x, false);
  with_element_type(x, [&]<class S>() {
    launch_batch_norm_glu_statistics<S>(inputs<S>(x, std::nullopt, std::nullopt, false), mutable_data<float>(mean),
                                        mutable_data<float>(var), mutable_data<float>(work), device.stream());
  });
  return {mean, var};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> batch_norm_glu_forward(
    const Tensor& x, const OptionalTensor& weight, const OptionalTensor& bias, const OptionalTensor& skip,
    const OptionalTensor& given_mean, const OptionalTensor& given_var, double eps, bool want_mean) {
  const OnDeviceOf device(x);
  const int64_t channels = x.size(1), y_channels = skip ? channels : channels / 2;
  auto [mean, var] = given_mean ? std::tuple(torch::stable::clone(*given_mean), torch::stable::clone(*given_var))
                                : batch_norm_glu_statistics(x);
  Tensor y = empty_feature_map(x, y_channels, x.size(2), x.size(3)), rstd = floats(x, {channels});
  Tensor spatial_mean = want_mean ? floats(x, {x.size(0), y_channels}) : floats(x, {0});
  Tensor work = want_mean ? work_buffer(x, !skip) : floats(x, {0});
  with_element_type(x, [&, &mean = mean, &var = var]<class S>() {
    launch_batch_norm_glu_forward<S>(
        {inputs<S>(x, weight, bias, !skip), data_or_null<S>(skip), skip ? static_cast<int>(skip->size(1)) : 0,
         data<float>(mean), data<float>(var), static_cast<float>(eps), mutable_data<S>(y), mutable_data<float>(rstd),
         mutable_data_or_null<float>(spatial_mean), mutable_data_or_null<float>(work)},
        device.stream());
  });
  return {y, mean, var, rstd, spatial_mean};
}

Tensor batch_norm_glu_reduce(const Tensor& grad_y, const OptionalTensor& grad_mean, const Tensor& x,
                             const OptionalTensor& weight, const OptionalTensor& bias, const Tensor& mean,
                             const Tensor& rstd, bool glu) {
  const OnDeviceOf device(x);
  Tensor sums = floats(x, {2, x.size(1)}), work = work_buffer(x, glu);
  with_element_type(x, [&]<class S>() {
    float* dz_sum = mutable_data<float>(sums);
    launch_batch_norm_glu_reduce<S>(backward_inputs<S>(grad_y, grad_mean, x, weight, bias, mean, rstd, glu), dz_sum,
                                    dz_sum + x.size(1), mutable_data<float>(work), device.stream());
  });
  return sums;
}

std::tuple<Tensor, Tensor, Tensor> batch_norm_glu_backward(const Tensor& grad_y, const OptionalTensor& grad_mean,
                                                           const Tensor& x, const OptionalTensor& weight,
                                                           const OptionalTensor& bias, const Tensor& mean,
                                                           const Tensor& rstd, bool glu, bool training,
                                                           const OptionalTensor& sums, double count) {
  const OnDeviceOf device(x);
  const int64_t channels = x.size(1);
  Tensor grad_x = empty_feature_map(x, channels, x.size(2), x.size(3));
  Tensor grad_weight = floats(x, {channels}), grad_bias = floats(x, {channels}), work = work_buffer(x, glu);
  with_element_type(x, [&]<class S>() {
    const auto a = backward_inputs<S>(grad_y, grad_mean, x, weight, bias, mean, rstd, glu);
    float *dz_sum = mutable_data<float>(grad_bias), *dot_sum = mutable_data<float>(grad_weight);
    launch_batch_norm_glu_reduce<S>(a, dz_sum, dot_sum, mutable_data<float>(work), device.stream());
    const float* shared = sums ? data<float>(*sums) : nullptr;
    launch_batch_norm_glu_backward<S>(a,
                                      !training ? nullptr
                                      : shared  ? shared
                                                : dz_sum,
                                      shared ? shared + channels : dot_sum, count, mutable_data<S>(grad_x),
                                      device.stream());
  });
  return {grad_x, grad_weight, grad_bias};
}

}  // namespace
}  // namespace dmgan

DMGAN_OPERATOR(batch_norm_glu_statistics)
DMGAN_OPERATOR(batch_norm_glu_forward)
DMGAN_OPERATOR(batch_norm_glu_reduce)
DMGAN_OPERATOR(batch_norm_glu_backward)
