// Registers memory_write: unpacks tensors, allocates results, launches.
#include "memory_write.cuh"
#include "register.h"

namespace dmgan {
namespace {

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
    launch_memory_write_forward<S>({words.size(0),
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
                                    data<S>(value_bias),
                                    mutable_data<S>(key),
                                    mutable_data<S>(value)},
                                   device.stream());
  });
  return {key, value};
}

}  // namespace
}  // namespace dmgan

DMGAN_OPERATOR(memory_write_forward)
