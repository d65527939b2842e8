// Registers memory_write: unpacks tensors, allocates results, launches.
#include "memory_write.cuh"
#include "register.h"

namespace dmgan {
namespace {

using Twelve =
    std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

template <class S>
MemoryWriteInputs<S> inputs(const Tensor& words, const Tensor& image_mean, const Tensor& gate_word,
                            const Tensor& gate_image, const Tensor& word_weight, const Tensor& word_bias,
                            const Tensor& image_weight, const Tensor& image_bias, const Tensor& key_weight,
                            const Tensor& key_bias, const Tensor& value_weight, const Tensor& value_bias) {
  return {words.size(0),
          static_cast<int>(words.size(1)),
          static_cast<int>(image_mean.size(1)),
          static_cast<int>(words.size(2)),
          data<S>(words),
          data<S>(image_mean),
          data<S>(gate_word),
          data<S>(gate_image),
          data<S>(word_weight),
          data<S>(word_bias),
          data<S>(image_weight),
          data<S>(image_bias),
          data<S>(key_weight),
          data<S>(key_bias),
          data<S>(value_weight),
          data<S>(value_bias)};
}

std::tuple<Tensor, Tensor> memory_write_forward(const Tensor& words, const Tensor& image_mean, const Tensor& gate_word,
                                                const Tensor& gate_image, const Tensor& word_weight,
                                                const Tensor& word_bias, const Tensor& image_weight,
                                                const Tensor& image_bias, const Tensor& key_weight,
                                                const Tensor& key_bias, const Tensor& value_weight,
                                                const Tensor& value_bias) {
  const OnDeviceOf device(words);
  Tensor key = torch::stable::new_empty(words, {words.size(0), image_mean.size(1), words.size(2)});
  Tensor value = torch::stable::empty_like(key);
  with_element_type(words, [&]<class S>() {
    launch_memory_write_forward<S>({inputs<S>(words, image_mean, gate_word, gate_image, word_weight, word_bias,
                                              image_weight, image_bias, key_weight, key_bias, value_weight, value_bias),
                                    mutable_data<S>(key), mutable_data<S>(value)},
                                   device.stream());
  });
  return {key, value};
}

Twelve memory_write_backward(const Tensor& grad_key, const Tensor& grad_value, const Tensor& key, const Tensor& value,
                             const Tensor& words, const Tensor& image_mean, const Tensor& gate_word,
                             const Tensor& gate_image, const Tensor& word_weight, const Tensor& word_bias,
                             const Tensor& image_weight, const Tensor& image_bias, const Tensor& key_weight,
                             const Tensor& key_bias, const Tensor& value_weight, const Tensor& value_bias) {
  const OnDeviceOf device(words);
  const auto like = [](const Tensor& x) { return torch::stable::empty_like(x); };
  Twelve grads{like(words),       like(image_mean), like(gate_word),    like(gate_image),
               like(word_weight), like(word_bias),  like(image_weight), like(image_bias),
               like(key_weight),  like(key_bias),   like(value_weight), like(value_bias)};
  const MemoryWriteWork at{words.size(0), image_mean.size(1), words.size(2)};
  Tensor work = torch::stable::new_empty(words, {at.size()}, kFloat);
  with_element_type(words, [&]<class S>() {
    const auto in = inputs<S>(words, image_mean, gate_word, gate_image, word_weight, word_bias, image_weight,
                              image_bias, key_weight, key_bias, value_weight, value_bias);
    std::apply(
        [&](auto&... grad) {
          launch_memory_write_backward<S>({in, data<S>(grad_key), data<S>(grad_value), data<S>(key), data<S>(value),
                                           mutable_data<S>(grad)..., mutable_data<float>(work)},
                                          device.stream());
        },
        grads);
  });
  return grads;
}

}  // namespace
}  // namespace dmgan

DMGAN_OPERATOR(memory_write_forward)
DMGAN_OPERATOR(memory_write_backward)
