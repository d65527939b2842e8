// A 3x3 convolution and what follows it in evaluation, by the running statistics of a batch norm: its GLU, or + skip. The
// normalised map never reaches memory: the transform of the products ends with it.
#include <cmath>

#include "choice.h"

namespace dmgan {
namespace {

template <class Finish>
void of_map(Tensor& y, const Tensor& x, const Tensor& weight, const Finish& finish) {
  with_best_form(map_of(y), [&](auto form) { convolve_into<decltype(form)>(y, x, weight, false, false, finish); });
}

void of_upsampled(Tensor& y, const Tensor& x, const Tensor& weight, const Gated& finish) {
  if (takes_pairs(map_of(x))) {
    convolve_into<UpPairForward>(y, x, weight, false, false, finish);
  } else {
    convolve_into<UpForward>(y, x, weight, false, false, finish);
  }
}

// y of x [B, I, H, W], conv_weight [O, I, 3, 3] and numbers of the norm [O]: GLU, [B, O / 2, H, W], of x nearest x2
// [B, O / 2, 2H, 2W]; or + skip [B, K, H, W], which stands for O / K copies, [B, O, H, W].
Tensor folded_conv3x3_forward(const Tensor& x, const Tensor& conv_weight, const std::optional<Tensor>& weight,
                              const std::optional<Tensor>& bias, const Tensor& mean, const Tensor& var,
                              const std::optional<Tensor>& skip, double eps, bool upsample) {
  const int64_t outputs = conv_weight.size(0), channels = skip ? outputs : outputs / 2, times = upsample ? 2 : 1;
  Tensor numbers = torch::stable::new_empty(mean, {2, outputs});
  float *scales = mutable_data<float>(numbers), *biases = scales + outputs;
  for (int64_t c = 0; c < outputs; ++c) {
    const double rstd = 1.0 / std::sqrt(data<float>(var)[c] + eps);
    scales[c] = static_cast<float>(weight ? rstd * data<float>(*weight)[c] : rstd);
    biases[c] = bias ? data<float>(*bias)[c] : 0.0f;
  }
  const Norm norm{data<float>(mean), scales, biases};
  Tensor y = torch::stable::new_empty(x, {x.size(0), channels, times * x.size(2), times * x.size(3)});
  if (skip) {
    of_map(y, x, conv_weight, Skipped{norm, data<float>(*skip), skip->size(1)});
  } else if (upsample) {
    of_upsampled(y, x, conv_weight, {norm});
  } else {
    of_map(y, x, conv_weight, Gated{norm});
  }
  return y;
}

}  // namespace
}  // namespace dmgan

DMGAN_REGISTER(DMGAN_CPU, CPU, folded_conv3x3_forward)
