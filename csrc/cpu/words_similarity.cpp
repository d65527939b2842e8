// Matching score of every image with every caption:
//   p = softmax over words (r . w);  a = softmax over regions (gamma1 p);  c = sum_n a r_n;
//   score = log sum_t exp(gamma2 cos(c_t, w_t)).
// A thread takes images one by one and meets the captions in tiles that stay in its L2; nothing of size B B' N T is
// ever stored. Backward computes a tile again. Words beyond a caption's length are dropped before the products.
#include <torch/csrc/stable/library.h>

#include <cmath>
#include <algorithm>
#include <tuple>
#include <vector>

#include "../schemas.h"
#include "../tensors.h"
#include "gemm.h"

namespace dmgan {
namespace {

constexpr float kCosineEps = 1e-8f;  // the authors' clamp of the product of norms
constexpr int64_t kTileRows = 96;    // words of a tile of captions, unless one caption has more
constexpr int64_t kWordSlices = 16;  // of images: each sums its gradients of the words
constexpr int64_t kRun = 16;         // regions that change between rows and columns at a time

// All captions' words without padding, one row of `width` floats each.
struct Captions {
  std::vector<float> words, norms;
  std::vector<int64_t> first;  // row of each caption's first word; one more entry at the end
  std::vector<int64_t> tiles;  // first caption of each tile; one more entry at the end
  int64_t most_rows = 0;       // of a tile
};

struct Call {
  int64_t images, captions, channels, regions, words;
  int64_t width, lanes;  // channels and regions, rounded up to whole vectors
  float gamma1, gamma2;
};

template <class S>
Captions gather_captions(const Call& call, const Tensor& words, const int64_t* lengths) {
  Captions all;
  all.first.push_back(0);
  for (int64_t k = 0; k < call.captions; ++k) {
    all.first.push_back(all.first.back() + std::clamp<int64_t>(lengths[k], 0, call.words));
  }
  all.words.assign(all.first.back() * call.width, 0.0f);
  for (int64_t k = 0; k < call.captions; ++k) {
    const S* from = data<S>(words) + k * call.channels * call.words;
    for (int64_t row = all.first[k]; row < all.first[k + 1]; ++row) {
      float* to = all.words.data() + row * call.width;
      for (int64_t d = 0; d < call.channels; ++d) to[d] = static_cast<float>(from[d * call.words + row - all.first[k]]);
      all.norms.push_back(std::sqrt(dot(to, to, call.width)));
    }
  }
  all.tiles.push_back(0);
  for (int64_t k = 1; k <= call.captions; ++k) {
    const int64_t start = all.first[all.tiles.back()];
    if (k == call.captions || all.first[k + 1] - start > kTileRows) {
      all.most_rows = std::max(all.most_rows, all.first[k] - start);
      all.tiles.push_back(k);
    }
  }
  return all;
}

// One image's regions as rows of channels and as rows of regions, and a tile's maps.
struct Work {
  float *regions, *by_region;                          // [channels, lanes], [regions, width]
  float *weights, *attention, *grad;                   // [rows, lanes]: p, a, and gradients in backward
  float *context, *grad_context;                       // [rows, width]
  float *grad_by_region;                               // [regions, width]
  static int64_t floats(const Call& call, int64_t rows) {
    return call.channels * call.lanes + 2 * call.regions * call.width + rows * (3 * call.lanes + 2 * call.width);
  }
  Work(float* memory, const Call& call, int64_t rows) {
    regions = memory;
    by_region = regions + call.channels * call.lanes;
    weights = by_region + call.regions * call.width;
    attention = weights + rows * call.lanes;
    grad = attention + rows * call.lanes;
    context = grad + rows * call.lanes;
    grad_context = context + rows * call.width;
    grad_by_region = grad_context + rows * call.width;
  }
};

template <class S>
void load_image(const Call& call, const S* from, const Work& w) {
  std::fill_n(w.regions, call.channels * call.lanes, 0.0f);
  std::fill_n(w.by_region, call.regions * call.width, 0.0f);
  for (int64_t first = 0; first < call.regions; first += kRun) {
    const int64_t end = std::min(first + kRun, call.regions);
    for (int64_t d = 0; d < call.channels; ++d) {
      for (int64_t n = first; n < end; ++n) {
        const float x = static_cast<float>(from[d * call.regions + n]);
        w.regions[d * call.lanes + n] = x;
        w.by_region[n * call.width + d] = x;
      }
    }
  }
}

template <class S>
void store_gradient(const Call& call, const Work& w, S* to) {
  for (int64_t first = 0; first < call.regions; first += kRun) {
    const int64_t end = std::min(first + kRun, call.regions);
    for (int64_t d = 0; d < call.channels; ++d) {
      for (int64_t n = first; n < end; ++n) {
        to[d * call.regions + n] = static_cast<S>(w.grad_by_region[n * call.width + d]);
      }
    }
  }
}

DMGAN_INLINE float largest(Vec x) {
  float result = x[0];
  for (int64_t i = 1; i < kLanes; ++i) result = result > x[i] ? result : x[i];
  return result;
}

// p, a and c of the tile of captions first ... last - 1.
DMGAN_HOT void attend(const Call& call, const Captions& all, int64_t first, int64_t last, const Work& w) {
  const int64_t start = all.first[first], rows = all.first[last] - start;
  multiply<false>(rows, call.lanes, call.channels, {all.words.data() + start * call.width, call.width, 1}, w.regions,
                  call.lanes, w.weights, call.lanes);
  for (int64_t k = first; k < last; ++k) {
    float* weights = w.weights + (all.first[k] - start) * call.lanes;
    const int64_t end = (all.first[k + 1] - all.first[k]) * call.lanes;
    for (int64_t v = 0; v < call.lanes; v += kLanes) {
      if (end == 0) break;
      Vec most = load(weights + v), total{};
      for (int64_t at = v; at < end; at += call.lanes) most = max(most, load(weights + at));
      for (int64_t at = v; at < end; at += call.lanes) {
        const Vec e = exp(load(weights + at) - most);
        store(weights + at, e);
        total += e;
      }
      const Vec scale = 1.0f / total;
      for (int64_t at = v; at < end; at += call.lanes) store(weights + at, load(weights + at) * scale);
    }
  }
  for (int64_t r = 0; r < rows; ++r) {
    const float* weights = w.weights + r * call.lanes;
    float* attention = w.attention + r * call.lanes;
    Vec most = splat(0.0f), total{};  // weights are not negative
    for (int64_t v = 0; v < call.lanes; v += kLanes) most = max(most, load_some(weights + v, call.regions - v));
    const Vec shift = splat(largest(most));
    for (int64_t v = 0; v < call.lanes; v += kLanes) {
      store(attention + v, exp(call.gamma1 * (load(weights + v) - shift)));
    }
    std::fill(attention + call.regions, attention + call.lanes, 0.0f);
    for (int64_t v = 0; v < call.lanes; v += kLanes) total += load(attention + v);
    const Vec scale = splat(1.0f / sum(total));
    for (int64_t v = 0; v < call.lanes; v += kLanes) store(attention + v, load(attention + v) * scale);
  }
  multiply<false>(rows, call.width, call.regions, {w.attention, call.lanes, 1}, w.by_region, call.width, w.context,
                  call.width);
}

struct Match {
  float product, context_norm, clamped;  // c . w, |c|, max(|c| |w|, eps)
  float cosine() const { return product / clamped; }
};

DMGAN_INLINE Match match(const Call& call, const Captions& all, int64_t row, const float* context) {
  const float norm = std::sqrt(dot(context, context, call.width));
  return {dot(context, all.words.data() + row * call.width, call.width), norm,
          std::max(norm * all.norms[row], kCosineEps)};
}

DMGAN_HOT void score_tile(const Call& call, const Captions& all, int64_t first, int64_t last, const Work& w,
                             float* scores) {
  attend(call, all, first, last, w);
  for (int64_t k = first; k < last; ++k) {
    std::vector<float> logits;
    float most = -std::numeric_limits<float>::infinity(), total = 0;
    for (int64_t row = all.first[k]; row < all.first[k + 1]; ++row) {
      const float* context = w.context + (row - all.first[first]) * call.width;
      logits.push_back(call.gamma2 * match(call, all, row, context).cosine());
      most = std::max(most, logits.back());
    }
    for (const float logit : logits) total += std::exp(logit - most);
    scores[k] = most + std::log(total);
  }
}

// Adds a tile's gradients to grad_by_region and to grad_words [rows, width].
DMGAN_HOT void backward_tile(const Call& call, const Captions& all, int64_t first, int64_t last, const Work& w,
                                const float* grad, const float* scores, float* grad_words) {
  attend(call, all, first, last, w);
  const int64_t start = all.first[first], rows = all.first[last] - start;
  for (int64_t k = first; k < last; ++k) {
    for (int64_t row = all.first[k]; row < all.first[k + 1]; ++row) {
      const float* context = w.context + (row - start) * call.width;
      const float* word = all.words.data() + row * call.width;
      float* grad_context = w.grad_context + (row - start) * call.width;
      float* grad_word = grad_words + (row - start) * call.width;
      const Match m = match(call, all, row, context);
      const float of_cosine = grad[k] * call.gamma2 * std::exp(call.gamma2 * m.cosine() - scores[k]);
      const float of_product = of_cosine / m.clamped;
      const bool free = m.clamped > kCosineEps;  // the clamp passes no gradient to the norms
      const float to_context = free ? of_cosine * m.cosine() / (m.context_norm * m.context_norm) : 0.0f;
      const float to_word = free ? of_cosine * m.cosine() / (all.norms[row] * all.norms[row]) : 0.0f;
      for (int64_t d = 0; d < call.width; d += kLanes) {
        const Vec c = load(context + d), x = load(word + d);
        store(grad_context + d, of_product * x - to_context * c);
        store(grad_word + d, load(grad_word + d) + of_product * c - to_word * x);
      }
    }
  }
  multiply<true>(call.regions, call.width, rows, {w.attention, 1, call.lanes}, w.grad_context, call.width,
                 w.grad_by_region, call.width);
  multiply<false>(rows, call.lanes, call.channels, {w.grad_context, call.width, 1}, w.regions, call.lanes, w.grad,
                  call.lanes);
  // sum_n a_n (r_n . dc) = c . dc: the softmax over regions needs no pass of its own.
  for (int64_t r = 0; r < rows; ++r) {
    const Vec mean = splat(dot(w.context + r * call.width, w.grad_context + r * call.width, call.width));
    for (int64_t at = r * call.lanes; at < (r + 1) * call.lanes; at += kLanes) {
      store(w.grad + at, call.gamma1 * load(w.attention + at) * (load(w.grad + at) - mean));
    }
  }
  for (int64_t k = first; k < last; ++k) {
    const int64_t begin = (all.first[k] - start) * call.lanes, end = (all.first[k + 1] - start) * call.lanes;
    for (int64_t v = 0; v < call.lanes; v += kLanes) {
      Vec mean{};
      for (int64_t at = begin + v; at < end; at += call.lanes) mean += load(w.weights + at) * load(w.grad + at);
      for (int64_t at = begin + v; at < end; at += call.lanes) {
        store(w.grad + at, load(w.weights + at) * (load(w.grad + at) - mean));
      }
    }
  }
  multiply<true>(call.regions, call.width, rows, {w.grad, 1, call.lanes}, all.words.data() + start * call.width,
                 call.width, w.grad_by_region, call.width);
  multiply<true>(rows, call.width, call.regions, {w.grad, call.lanes, 1}, w.by_region, call.width, grad_words,
                 call.width);
}

Call describe(const Tensor& regions, const Tensor& words, double gamma1, double gamma2) {
  return {regions.size(0),
          words.size(0),
          regions.size(1),
          regions.size(2),
          words.size(2),
          round_up(regions.size(1), kLanes),
          round_up(regions.size(2), kLanes),
          static_cast<float>(gamma1),
          static_cast<float>(gamma2)};
}

template <class S>
void forward(const Call& call, const Captions& all, const S* regions, float* scores) {
  torch::stable::parallel_for(0, call.images, 1, [&](int64_t begin, int64_t end) {
    const Work w(scratch(Work::floats(call, all.most_rows)), call, all.most_rows);
    for (int64_t b = begin; b < end; ++b) {
      load_image(call, regions + b * call.channels * call.regions, w);
      for (size_t tile = 0; tile + 1 < all.tiles.size(); ++tile) {
        score_tile(call, all, all.tiles[tile], all.tiles[tile + 1], w, scores + b * call.captions);
      }
    }
  });
}

Tensor words_similarity_forward(const Tensor& regions, const Tensor& words, const Tensor& lengths, double gamma1,
                                double gamma2) {
  const Call call = describe(regions, words, gamma1, gamma2);
  Tensor scores =
      torch::stable::new_empty(regions, {call.images, call.captions}, torch::headeronly::ScalarType::Float);
  DMGAN_FLOAT_TYPES(regions, forward<S>(call, gather_captions<S>(call, words, data<int64_t>(lengths)),
                                        data<S>(regions), mutable_data<float>(scores)));
  return scores;
}

template <class S>
void backward(const Call& call, const Captions& all, const float* grad, const float* scores, const Tensor& like,
              S* grad_regions, S* grad_words) {
  const S* regions = data<S>(like);
  const int64_t slices = std::min(kWordSlices, call.images), row_floats = all.first.back() * call.width;
  Tensor work = torch::stable::new_zeros(like, {slices, row_floats}, torch::headeronly::ScalarType::Float);
  float* of_words = mutable_data<float>(work);
  torch::stable::parallel_for(0, slices, 1, [&](int64_t begin, int64_t end) {
    const Work w(scratch(Work::floats(call, all.most_rows)), call, all.most_rows);
    for (int64_t slice = begin; slice < end; ++slice) {
      for (int64_t b = slice; b < call.images; b += slices) {
        load_image(call, regions + b * call.channels * call.regions, w);
        std::fill_n(w.grad_by_region, call.regions * call.width, 0.0f);
        for (size_t tile = 0; tile + 1 < all.tiles.size(); ++tile) {
          const int64_t first = all.tiles[tile], last = all.tiles[tile + 1];
          backward_tile(call, all, first, last, w, grad + b * call.captions, scores + b * call.captions,
                        of_words + slice * row_floats + all.first[first] * call.width);
        }
        store_gradient(call, w, grad_regions + b * call.channels * call.regions);
      }
    }
  });
  torch::stable::parallel_for(0, call.captions, 1, [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) {
      S* to = grad_words + k * call.channels * call.words;
      std::fill_n(to, call.channels * call.words, static_cast<S>(0.0f));
      for (int64_t row = all.first[k]; row < all.first[k + 1]; ++row) {
        for (int64_t d = 0; d < call.channels; ++d) {
          float total = 0;
          for (int64_t slice = 0; slice < slices; ++slice) total += of_words[slice * row_floats + row * call.width + d];
          to[d * call.words + row - all.first[k]] = static_cast<S>(total);
        }
      }
    }
  });
}

std::tuple<Tensor, Tensor> words_similarity_backward(const Tensor& grad, const Tensor& scores, const Tensor& regions,
                                                     const Tensor& words, const Tensor& lengths, double gamma1,
                                                     double gamma2) {
  const Call call = describe(regions, words, gamma1, gamma2);
  Tensor grad_regions = torch::stable::empty_like(regions), grad_words = torch::stable::empty_like(words);
  DMGAN_FLOAT_TYPES(regions, backward<S>(call, gather_captions<S>(call, words, data<int64_t>(lengths)),
                                         data<float>(grad), data<float>(scores), regions,
                                         mutable_data<S>(grad_regions), mutable_data<S>(grad_words)));
  return {grad_regions, grad_words};
}

}  // namespace
}  // namespace dmgan

DMGAN_REGISTER(DMGAN_CPU, CPU, words_similarity_forward)
DMGAN_REGISTER(DMGAN_CPU, CPU, words_similarity_backward)
