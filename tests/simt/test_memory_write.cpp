// memory_write against double loops on odd sizes.
#include "check.h"
#include "memory_write.cuh"

namespace {

using Doubles = std::vector<double>;

template <class S>
Doubles widen(const check::Buffer<S>& values) {
  Doubles wide(values.size());
  for (size_t i = 0; i < wide.size(); ++i) wide[i] = static_cast<float>(values[i]);
  return wide;
}

// An input, its gradient as the kernels give it, and as it is.
template <class S>
struct Operand {
  const char* name;
  check::Buffer<S> value, grad;
  Doubles x, truth;

  Operand(const char* n, size_t count, float scale)
      : name(n), value(check::normal<S>(count, scale)), grad(check::nans<S>(count)), x(widen(value)), truth(count) {}
};

template <class S>
void test(int B, int D, int C, int T, bool traffic = false) {
  const int R = 2 * C;
  Operand<S> word("words", B * D * T, 1.0f), mean("image mean", B * C, 1.0f);
  Operand<S> gate_word("gate_word", D, 0.3f), gate_image("gate_image", C, 0.3f);
  Operand<S> word_weight("word_weight", R * D, 0.3f), word_bias("word_bias", R, 0.3f);
  Operand<S> image_weight("image_weight", R * C, 0.3f), image_bias("image_bias", R, 0.3f);
  Operand<S> key_weight("key_weight", C * R, 0.3f), key_bias("key_bias", C, 0.3f);
  Operand<S> value_weight("value_weight", C * R, 0.3f), value_bias("value_bias", C, 0.3f);
  const auto grad_key = check::normal<S>(B * C * T, 1.0f), grad_value = check::normal<S>(B * C * T, 1.0f);
  const std::string name = "memory_write " + std::string(check::kName<S>) + " " + std::to_string(B) + " samples, D " +
                           std::to_string(D) + ", C " + std::to_string(C) + ", " + std::to_string(T) + " words: ";

  const dmgan::MemoryWriteInputs<S> inputs{B,
                                           D,
                                           C,
                                           T,
                                           word.value.data(),
                                           mean.value.data(),
                                           gate_word.value.data(),
                                           gate_image.value.data(),
                                           word_weight.value.data(),
                                           word_bias.value.data(),
                                           image_weight.value.data(),
                                           image_bias.value.data(),
                                           key_weight.value.data(),
                                           key_bias.value.data(),
                                           value_weight.value.data(),
                                           value_bias.value.data()};
  auto key = check::nans<S>(B * C * T), value = check::nans<S>(B * C * T);
  if (traffic) check::count_traffic();
  dmgan::launch_memory_write_forward<S>({inputs, key.data(), value.data()}, nullptr);
  if (traffic) check::coalesced(name + "forward");
  if (traffic) check::count_traffic();
  auto work = check::nans<float>(dmgan::MemoryWriteWork{B, C, T}.size());
  dmgan::launch_memory_write_backward<S>(
      {inputs, grad_key.data(), grad_value.data(), key.data(), value.data(), word.grad.data(), mean.grad.data(),
       gate_word.grad.data(), gate_image.grad.data(), word_weight.grad.data(), word_bias.grad.data(),
       image_weight.grad.data(), image_bias.grad.data(), key_weight.grad.data(), key_bias.grad.data(),
       value_weight.grad.data(), value_bias.grad.data(), work.data()},
      nullptr);

  if (traffic) check::coalesced(name + "backward");

  Doubles true_key(B * C * T), true_value(B * C * T);
  for (int b = 0; b < B; ++b) {
    Doubles image(R), grad_image(R);
    for (int r = 0; r < R; ++r) {
      image[r] = image_bias.x[r];
      for (int c = 0; c < C; ++c) image[r] += image_weight.x[r * C + c] * mean.x[b * C + c];
    }
    for (int t = 0; t < T; ++t) {
      const auto at = [&](int rows, int row) { return (b * rows + row) * T + t; };
      double logit = 0.0, grad_gate = 0.0;
      for (int d = 0; d < D; ++d) logit += gate_word.x[d] * word.x[at(D, d)];
      for (int c = 0; c < C; ++c) logit += gate_image.x[c] * mean.x[b * C + c];
      const double gate = 1 / (1 + std::exp(-logit));
      Doubles written(R), memory(R), grad_memory(R);
      for (int r = 0; r < R; ++r) {
        written[r] = word_bias.x[r];
        for (int d = 0; d < D; ++d) written[r] += word_weight.x[r * D + d] * word.x[at(D, d)];
        memory[r] = gate * std::max(written[r], 0.0) + (1 - gate) * std::max(image[r], 0.0);
      }
      const auto project = [&](const check::Buffer<S>& got, const check::Buffer<S>& grad_out, Doubles& out,
                               Operand<S>& weight, Operand<S>& bias) {
        for (int c = 0; c < C; ++c) {
          double sum = bias.x[c];
          for (int r = 0; r < R; ++r) sum += weight.x[c * R + r] * memory[r];
          out[at(C, c)] = std::max(sum, 0.0);
          if (!(static_cast<float>(got[at(C, c)]) > 0)) continue;  // the kernel's side of relu: it may round to zero
          const double grad = static_cast<float>(grad_out[at(C, c)]);
          bias.truth[c] += grad;
          for (int r = 0; r < R; ++r) {
            weight.truth[c * R + r] += grad * memory[r];
            grad_memory[r] += grad * weight.x[c * R + r];
          }
        }
      };
      project(key, grad_key, true_key, key_weight, key_bias);
      project(value, grad_value, true_value, value_weight, value_bias);
      for (int r = 0; r < R; ++r) {
        grad_gate += grad_memory[r] * (std::max(written[r], 0.0) - std::max(image[r], 0.0));
        grad_image[r] += image[r] > 0 ? (1 - gate) * grad_memory[r] : 0.0;
        const double grad = written[r] > 0 ? gate * grad_memory[r] : 0.0;
        word_bias.truth[r] += grad;
        for (int d = 0; d < D; ++d) {
          word_weight.truth[r * D + d] += grad * word.x[at(D, d)];
          word.truth[at(D, d)] += grad * word_weight.x[r * D + d];
        }
      }
      grad_gate *= gate * (1 - gate);
      for (int d = 0; d < D; ++d) {
        gate_word.truth[d] += grad_gate * word.x[at(D, d)];
        word.truth[at(D, d)] += grad_gate * gate_word.x[d];
      }
      for (int c = 0; c < C; ++c) {
        gate_image.truth[c] += grad_gate * mean.x[b * C + c];
        mean.truth[b * C + c] += grad_gate * gate_image.x[c];
      }
    }
    for (int r = 0; r < R; ++r) {
      image_bias.truth[r] += grad_image[r];
      for (int c = 0; c < C; ++c) {
        image_weight.truth[r * C + c] += grad_image[r] * mean.x[b * C + c];
        mean.truth[b * C + c] += grad_image[r] * image_weight.x[r * C + c];
      }
    }
  }
  const double bar = check::kTolerance<S>;
  check::close(name + "key", key, true_key, bar);
  check::close(name + "value", value, true_value, bar);
  for (const Operand<S>* operand : {&word, &mean, &gate_word, &gate_image, &word_weight, &word_bias, &image_weight,
                                    &image_bias, &key_weight, &key_bias, &value_weight, &value_bias}) {
    check::close(name + "grad " + operand->name, operand->grad, operand->truth, 2 * bar);
  }
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
