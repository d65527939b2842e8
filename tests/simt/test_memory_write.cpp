// memory_write against double loops on odd sizes.
#include "check.h"
#include "memory_write.cuh"

namespace {

// An input for the kernel, and as a double.
template <class S>
struct Operand {
  check::Buffer<S> value;

  Operand(size_t count, float scale) : value(check::normal<S>(count, scale)) {}
  const S* data() const { return value.data(); }
  double operator[](size_t i) const { return static_cast<float>(value[i]); }
};

template <class S>
void test(int B, int D, int C, int T, bool traffic = false) {
  const int R = 2 * C;
  const Operand<S> word(B * D * T, 1.0f), mean(B * C, 1.0f), gate_word(D, 0.3f), gate_image(C, 0.3f);
  const Operand<S> word_weight(R * D, 0.3f), word_bias(R, 0.3f), image_weight(R * C, 0.3f), image_bias(R, 0.3f);
  const Operand<S> key_weight(C * R, 0.3f), key_bias(C, 0.3f), value_weight(C * R, 0.3f), value_bias(C, 0.3f);
  const std::string name = "memory_write " + std::string(check::kName<S>) + " " + std::to_string(B) + " samples, D " +
                           std::to_string(D) + ", C " + std::to_string(C) + ", " + std::to_string(T) + " words: ";

  auto key = check::nans<S>(B * C * T), value = check::nans<S>(B * C * T);
  if (traffic) check::count_traffic();
  dmgan::launch_memory_write_forward<S>(
      {B, D, C, T, word.data(), mean.data(), gate_word.data(), gate_image.data(), word_weight.data(), word_bias.data(),
       image_weight.data(), image_bias.data(), key_weight.data(), key_bias.data(), value_weight.data(),
       value_bias.data(), key.data(), value.data()},
      nullptr);
  if (traffic) check::coalesced(name + "forward");

  std::vector<double> true_key(B * C * T), true_value(B * C * T);
  for (int b = 0; b < B; ++b) {
    for (int t = 0; t < T; ++t) {
      double logit = 0.0;
      for (int d = 0; d < D; ++d) logit += gate_word[d] * word[(b * D + d) * T + t];
      for (int c = 0; c < C; ++c) logit += gate_image[c] * mean[b * C + c];
      const double gate = 1 / (1 + std::exp(-logit));
      std::vector<double> memory(R);
      for (int r = 0; r < R; ++r) {
        double written = word_bias[r], image = image_bias[r];
        for (int d = 0; d < D; ++d) written += word_weight[r * D + d] * word[(b * D + d) * T + t];
        for (int c = 0; c < C; ++c) image += image_weight[r * C + c] * mean[b * C + c];
        memory[r] = gate * std::max(written, 0.0) + (1 - gate) * std::max(image, 0.0);
      }
      for (int c = 0; c < C; ++c) {
        double k = key_bias[c], v = value_bias[c];
        for (int r = 0; r < R; ++r) {
          k += key_weight[c * R + r] * memory[r];
          v += value_weight[c * R + r] * memory[r];
        }
        true_key[(b * C + c) * T + t] = std::max(k, 0.0);
        true_value[(b * C + c) * T + t] = std::max(v, 0.0);
      }
    }
  }
  check::close(name + "key", key, true_key, check::kTolerance<S>);
  check::close(name + "value", value, true_value, check::kTolerance<S>);
}

}  // namespace

int main() {
  return check::run([] {
    test<float>(1, 7, 5, 1);
    test<float>(2, 40, 33, 18);
    test<c10::BFloat16>(2, 33, 6, 7);
#ifndef SIMT_THREADS
    test<float>(3, 256, 64, 24, true);
    test<float>(3, 64, 32, 25);
    test<c10::Half>(2, 20, 96, 33);
#endif
  });
}
