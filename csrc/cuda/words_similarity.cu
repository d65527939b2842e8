// Registers words_similarity: unpacks tensors, allocates results, launches.
#include "register.h"
#include "words_similarity.cuh"

namespace dmgan {
namespace {

template <class S>
WordsSimilarityInputs<S> inputs(const Tensor& regions, const Tensor& words, const Tensor& lengths, double gamma1,
                                double gamma2) {
  return {regions.size(0),
          static_cast<int>(words.size(0)),
          static_cast<int>(regions.size(1)),
          static_cast<int>(regions.size(2)),
          static_cast<int>(words.size(2)),
          data<S>(regions),
          data<S>(words),
          data<int64_t>(lengths),
          static_cast<float>(gamma1),
          static_cast<float>(gamma2)};
}

Tensor words_similarity_forward(const Tensor& regions, const Tensor& words, const Tensor& lengths, double gamma1,
                                double gamma2) {
  const OnDeviceOf device(regions);
  Tensor scores = torch::stable::new_empty(regions, {regions.size(0), words.size(0)}, kFloat);
  with_element_type(regions, [&]<class S>() {
    const auto in = inputs<S>(regions, words, lengths, gamma1, gamma2);
    Tensor work = torch::stable::new_empty(regions, {words_similarity_work(in).forward_size()}, kFloat);
    launch_words_similarity_forward<S>(in, mutable_data<float>(scores), mutable_data<float>(work), device.stream());
  });
  return scores;
}

std::tuple<Tensor, Tensor> words_similarity_backward(const Tensor& grad, const Tensor& scores, const Tensor& regions,
                                                     const Tensor& words, const Tensor& lengths, double gamma1,
                                                     double gamma2) {
  const OnDeviceOf device(regions);
  Tensor grad_regions = torch::stable::empty_like(regions), grad_words = torch::stable::empty_like(words);
  with_element_type(regions, [&]<class S>() {
    const auto in = inputs<S>(regions, words, lengths, gamma1, gamma2);
    Tensor work = torch::stable::new_empty(regions, {words_similarity_work(in).backward_size()}, kFloat);
    launch_words_similarity_backward<S>(in, data<float>(grad), data<float>(scores), mutable_data<S>(grad_regions),
                                        mutable_data<S>(grad_words), mutable_data<float>(work), device.stream());
  });
  return {grad_regions, grad_words};
}

}  // namespace
}  // namespace dmgan

DMGAN_OPERATOR(words_similarity_forward)
DMGAN_OPERATOR(words_similarity_backward)
