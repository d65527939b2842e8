// Matching score of every image with every caption:
//   p = softmax over words (r . w);  a = softmax over regions (gamma1 p);  c = sum_n a r_n;
//   score = log sum_t exp(gamma2 cos(c_t, w_t)).
// A thread takes images one by one and meets the captions in tiles; nothing of size B B' N T is ever stored. Backward
// computes a tile again, but where there are many words, c only if it has to: the rest of what it needs are sums of
// products of pairs of regions. Words beyond a caption's length are dropped before the products.
#include <torch/csrc/stable/library.h>

#include <cmath>
#include <algorithm>
#include <tuple>
#include <vector>

#include "../schemas.h"
#include "../tensors.h"
#include "gemm.h"
#include "tiles.h"

namespace dmgan {
namespace {

constexpr float kCosineEps = 1e-8f;  // the authors' clamp of the product of norms
constexpr int64_t kTileRows = 96;    // words of a tile of captions, unless one caption has more
// Sums of pairs of regions lose digits where regions cancel, |c|^2 being far below sum_n a_n |r_n|^2, and where the
// cosine of a context and its word is near 1: there gradients take contexts.
constexpr float kCancels = 1.0f / 1024, kAlike = 0.7f;
constexpr int64_t kWordSlices = 16;  // of images: each sums its gradients of the words

// All captions' words without padding, one row of `width` floats each.
struct Captions {
  std::vector<float> words, norms;
  std::vector<float> panels;   // for backward (with_panels): each tile's words once more, in panels
  std::vector<int64_t> first;  // row of each caption's first word; one more entry at the end
  std::vector<int64_t> tiles;  // first caption of each tile; one more entry at the end
  int64_t most_rows = 0;       // of a tile
};

struct Call {
  int64_t images, captions, channels, regions, words;
  int64_t width, lanes;  // channels and regions, rounded up to whole vectors
  float gamma1, gamma2;
  Panels maps() const { return {channels, lanes}; }
  Panels rows() const { return {regions, width}; }
  Panels pairs() const { return {regions, lanes}; }
};

void pack(const Panels& panels, const float* rows, float* to) {
  for (int64_t k = 0; k < panels.depth; ++k, rows += panels.columns) {
    for (int64_t n = 0; n < panels.columns; n += kLanes) store(to + panels.at(k, n), load(rows + n));
  }
}

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

Captions with_panels(const Call& call, Captions all) {
  all.panels.resize(all.words.size());
  for (size_t tile = 0; tile + 1 < all.tiles.size(); ++tile) {
    const int64_t start = all.first[all.tiles[tile]], rows = all.first[all.tiles[tile + 1]] - start;
    pack({rows, call.width}, all.words.data() + start * call.width, all.panels.data() + start * call.width);
  }
  return all;
}

// One image's regions, and a tile's maps. What products read in order lies in panels.
struct Work {
  float *regions, *by_region;            // rows of channels and rows of regions: maps(), rows(), in panels
  float *logits, *weights, *attention;   // [rows, lanes]: r . w, p, a
  float *of_maps;                        // [rows, lanes]: gradients of the attention, then of the logits
  float *context, *grad_context;         // [rows, width]
  float *pulled;                         // [rows, lanes or width], in panels: what a product reads of either
  float *grad_by_region;                 // [regions, width]
  float *gram, *squares;                 // pairs(), in panels: r_m . r_n, and the gradient's sums of a_m a_n
  float *diagonal;                       // [lanes], of gram
  static int64_t floats(const Call& call, int64_t rows) {
    return call.channels * call.lanes + 2 * call.regions * call.width + (2 * call.regions + 1) * call.lanes +
           rows * (4 * call.lanes + 2 * call.width + std::max(call.lanes, call.width));
  }
  Work(float* memory, const Call& call, int64_t rows) {
    regions = memory;
    by_region = regions + call.channels * call.lanes;
    logits = by_region + call.regions * call.width;
    weights = logits + rows * call.lanes;
    attention = weights + rows * call.lanes;
    of_maps = attention + rows * call.lanes;
    context = of_maps + rows * call.lanes;
    grad_context = context + rows * call.width;
    pulled = grad_context + rows * call.width;
    grad_by_region = pulled + rows * std::max(call.lanes, call.width);
    gram = grad_by_region + call.regions * call.width;
    squares = gram + call.regions * call.lanes;
    diagonal = squares + call.regions * call.lanes;
  }
};

template <class S>
void load_image(const Call& call, const S* from, const Work& w) {
  const Panels maps = call.maps(), rows = call.rows();
  for (int64_t d = 0; d < call.width; d += kLanes) {
    for (int64_t n = 0; n < call.lanes; n += kLanes) {
      Vec x[kLanes] = {};
      for (int64_t i = 0; i < std::min(kLanes, call.channels - d); ++i) {
        x[i] = load_some(from + (d + i) * call.regions + n, call.regions - n);
        store(w.regions + maps.at(d + i, n), x[i]);
      }
      transpose(x);
      for (int64_t i = 0; i < std::min(kLanes, call.regions - n); ++i) store(w.by_region + rows.at(n + i, d), x[i]);
    }
  }
}

template <class S>
void store_gradient(const Call& call, const Work& w, S* to) {
  for (int64_t d = 0; d < call.width; d += kLanes) {
    for (int64_t n = 0; n < call.lanes; n += kLanes) {
      Vec x[kLanes] = {};
      for (int64_t i = 0; i < std::min(kLanes, call.regions - n); ++i) {
        x[i] = load(w.grad_by_region + (n + i) * call.width + d);
      }
      transpose(x);
      for (int64_t i = 0; i < std::min(kLanes, call.channels - d); ++i) {
        store_some(to + (d + i) * call.regions + n, x[i], call.regions - n);
      }
    }
  }
}

DMGAN_INLINE float largest(Vec x) {
  float result = x[0];
  for (int64_t i = 1; i < kLanes; ++i) result = result > x[i] ? result : x[i];
  return result;
}

// The logits, p and a of the tile of captions first ... last - 1.
DMGAN_HOT void attend(const Call& call, const Captions& all, int64_t first, int64_t last, const Work& w) {
  const int64_t start = all.first[first], rows = all.first[last] - start;
  multiply_by_panels<false>(rows, call.maps(), {all.words.data() + start * call.width, call.width, 1}, w.regions,
                            w.logits, call.lanes);
  for (int64_t k = first; k < last; ++k) {
    const float* logits = w.logits + (all.first[k] - start) * call.lanes;
    float* weights = w.weights + (all.first[k] - start) * call.lanes;
    const int64_t end = (all.first[k + 1] - all.first[k]) * call.lanes;
    for (int64_t v = 0; v < call.lanes; v += kLanes) {
      if (end == 0) break;
      Vec most = load(logits + v), total{};
      for (int64_t at = v; at < end; at += call.lanes) most = max(most, load(logits + at));
      for (int64_t at = v; at < end; at += call.lanes) {
        const Vec e = exp(load(logits + at) - most);
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
}

// c of the tile, `rows` words.
DMGAN_HOT void contexts(const Call& call, int64_t rows, const Work& w) {
  multiply_by_panels<false>(rows, call.rows(), {w.attention, call.lanes, 1}, w.by_region, w.context, call.width);
}

struct Match {
  float product, context_square, word_norm, clamped;  // c . w, |c|^2, |w|, max(|c| |w|, eps)
  Match(float product, float context_square, float word_norm)
      : product(product),
        context_square(context_square),
        word_norm(word_norm),
        clamped(std::max(std::sqrt(context_square) * word_norm, kCosineEps)) {}
  float cosine() const { return product / clamped; }
};

// The gradients of a score through one of its words: of_product w - to_context c of c, of_product c - to_word w of w.
struct Pull {
  float of_product = 0, to_context = 0, to_word = 0;
  Pull() = default;
  Pull(const Call& call, const Match& match, float grad, float score) {
    if (call.channels == 1 && std::fabs(match.cosine()) == 1) return;  // else rounding, over |c|, would be left
    const float of_cosine = grad * call.gamma2 * std::exp(call.gamma2 * match.cosine() - score);
    of_product = of_cosine / match.clamped;
    if (match.clamped > kCosineEps) {  // the clamp passes no gradient to the norms
      to_context = of_cosine * match.cosine() / match.context_square;
      to_word = of_cosine * match.cosine() / (match.word_norm * match.word_norm);
    }
  }
};

DMGAN_HOT void score_tile(const Call& call, const Captions& all, int64_t first, int64_t last, const Work& w,
                             float* scores) {
  attend(call, all, first, last, w);
  contexts(call, all.first[last] - all.first[first], w);
  for (int64_t k = first; k < last; ++k) {
    std::vector<float> logits;
    float most = -std::numeric_limits<float>::infinity(), total = 0;
    for (int64_t row = all.first[k]; row < all.first[k + 1]; ++row) {
      const float* context = w.context + (row - all.first[first]) * call.width;
      const Match match(dot(context, all.words.data() + row * call.width, call.width),
                        dot(context, context, call.width), all.norms[row]);
      logits.push_back(call.gamma2 * match.cosine());
      most = std::max(most, logits.back());
    }
    for (const float logit : logits) total += std::exp(logit - most);
    scores[k] = most + std::log(total);
  }
}

// Fills what is above the diagonal of `pairs`, by whole panels, from what is below it.
void mirror(const Call& call, float* pairs) {
  const Panels lie = call.pairs();
  for (int64_t n = 0; n < call.lanes; n += kLanes) {
    for (int64_t k = 0; k < n / Panels::kWide * Panels::kWide; k += kLanes) {
      Vec x[kLanes] = {};
      for (int64_t i = 0; i < std::min(kLanes, call.regions - n); ++i) x[i] = load(pairs + lie.at(n + i, k));
      transpose(x);
      for (int64_t i = 0; i < kLanes; ++i) store(pairs + lie.at(k + i, n), x[i]);
    }
  }
}

DMGAN_HOT void multiply_pairs(const Call& call, const Work& w) {
  const Panels maps = call.maps(), pairs = call.pairs();
  for (int64_t n = 0; n < call.lanes; n += Panels::kWide) {
    for (int64_t k = n; k < call.regions; k += Panels::kWide) {
      multiply_panel<false>(std::min(Panels::kWide, call.regions - k), maps.width(n), call.channels,
                            {w.regions + maps.at(0, k), 1, maps.width(k)}, w.regions + maps.at(0, n),
                            w.gram + pairs.at(k, n), pairs.width(n));
    }
  }
  mirror(call, w.gram);
  std::fill_n(w.diagonal, call.lanes, 0.0f);
  for (int64_t n = 0; n < call.regions; ++n) w.diagonal[n] = w.gram[pairs.at(n, n)];
}

// Adds sum_m squares_nm r_m to grad_by_region.
DMGAN_HOT void spread_pairs(const Call& call, const Work& w) {
  const Panels pairs = call.pairs();
  mirror(call, w.squares);
  for (int64_t n = 0; n < call.regions; n += Panels::kWide) {
    multiply_by_panels<true>(std::min(Panels::kWide, call.regions - n), call.rows(),
                             {w.squares + pairs.at(0, n), 1, pairs.width(n)}, w.by_region,
                             w.grad_by_region + n * call.width, call.width);
  }
}

// of_maps = the gradient of p. The gradient dc of a context goes to regions by a_n dc and to the attention by dc . r_n.
DMGAN_HOT void pull_contexts(const Call& call, const Captions& all, int64_t first, int64_t last, const Work& w,
                             const float* grad, const float* scores, float* grad_words) {
  const int64_t start = all.first[first], rows = all.first[last] - start;
  const Panels of_tile{rows, call.width};
  contexts(call, rows, w);
  for (int64_t k = first; k < last; ++k) {
    for (int64_t row = all.first[k]; row < all.first[k + 1]; ++row) {
      const int64_t r = row - start;
      const float* context = w.context + r * call.width;
      const float* word = all.words.data() + row * call.width;
      float* grad_word = grad_words + r * call.width;
      const Match match(dot(context, word, call.width), dot(context, context, call.width), all.norms[row]);
      const Pull pull(call, match, grad[k], scores[k]);
      for (int64_t d = 0; d < call.width; d += kLanes) {
        const Vec c = load(context + d), x = load(word + d), of_context = pull.of_product * x - pull.to_context * c;
        store(w.grad_context + r * call.width + d, of_context);
        store(w.pulled + of_tile.at(r, d), of_context);
        store(grad_word + d, load(grad_word + d) + pull.of_product * c - pull.to_word * x);
      }
    }
  }
  multiply_by_panels<true>(call.regions, of_tile, {w.attention, 1, call.lanes}, w.pulled, w.grad_by_region, call.width);
  multiply_by_panels<false>(rows, call.maps(), {w.grad_context, call.width, 1}, w.regions, w.of_maps, call.lanes);
  // sum_n a_n (r_n . dc) = c . dc: the softmax over regions needs no pass of its own.
  for (int64_t r = 0; r < rows; ++r) {
    const Vec mean = splat(dot(w.context + r * call.width, w.grad_context + r * call.width, call.width));
    for (int64_t at = r * call.lanes; at < (r + 1) * call.lanes; at += kLanes) {
      store(w.of_maps + at, call.gamma1 * load(w.attention + at) * (load(w.of_maps + at) - mean));
    }
  }
}

// of_maps = c . r_n = sum_m a_m (r_m . r_n), and the match of each word; false where that would lose digits.
DMGAN_HOT bool match_pairs(const Call& call, const Captions& all, int64_t start, int64_t rows, const Work& w,
                           std::vector<Match>& matches) {
  multiply_by_panels<false>(rows, call.pairs(), {w.attention, call.lanes, 1}, w.gram, w.of_maps, call.lanes);
  for (int64_t r = 0; r < rows; ++r) {
    const float* attention = w.attention + r * call.lanes;
    const float square = dot(attention, w.of_maps + r * call.lanes, call.lanes);
    const Match match(dot(attention, w.logits + r * call.lanes, call.lanes), square, all.norms[start + r]);
    const bool cancels = !(square >= kCancels * dot(attention, w.diagonal, call.lanes));
    if (cancels || !(std::fabs(match.cosine()) <= kAlike)) return false;
    matches.push_back(match);
  }
  return true;
}

// As pull_contexts, after match_pairs and without contexts:
//   dc . r_n = of_product (w . r_n) - to_context (c . r_n),
//   a_n dc = (of_product a_n) w - sum_m (to_context a_m a_n) r_m,  of_product c = sum_n (of_product a_n) r_n.
// Sums of to_context a_m a_n go to squares. Terms of of_product are left to products that backward_tile takes anyway.
DMGAN_HOT void pull_pairs(const Call& call, const Captions& all, int64_t first, int64_t last, const Work& w,
                          const std::vector<Match>& matches, const float* grad, const float* scores, float* grad_words,
                          Pull* pulls) {
  const int64_t start = all.first[first], rows = all.first[last] - start;
  const Panels pairs = call.pairs(), of_tile{rows, call.lanes};
  for (int64_t k = first; k < last; ++k) {
    for (int64_t row = all.first[k]; row < all.first[k + 1]; ++row) {
      const int64_t r = row - start;
      const Pull pull(call, matches[r], grad[k], scores[k]);
      const float* word = all.words.data() + row * call.width;
      float* grad_word = grad_words + r * call.width;
      for (int64_t d = 0; d < call.width; d += kLanes) {
        store(grad_word + d, load(grad_word + d) - pull.to_word * load(word + d));
      }
      const float mean = pull.of_product * matches[r].product - pull.to_context * matches[r].context_square;
      for (int64_t v = 0; v < call.lanes; v += kLanes) {
        const int64_t at = r * call.lanes + v;
        const Vec a = load(w.attention + at);
        const Vec of_a = pull.of_product * load(w.logits + at) - pull.to_context * load(w.of_maps + at);
        store(w.of_maps + at, call.gamma1 * a * (of_a - mean));
        store(w.pulled + of_tile.at(r, v), -pull.to_context * a);
      }
      pulls[r] = pull;
    }
  }
  for (int64_t n = 0; n < call.lanes; n += Panels::kWide) {
    multiply_panel<true>(call.regions - n, pairs.width(n), rows, {w.attention + n, 1, call.lanes},
                         w.pulled + of_tile.at(0, n), w.squares + pairs.at(n, n), pairs.width(n));
  }
}

// Adds a tile's gradients to grad_by_region and to grad_words [rows, width], by pairs if asked and exact.
DMGAN_HOT void backward_tile(const Call& call, const Captions& all, int64_t first, int64_t last, const Work& w,
                             const float* grad, const float* scores, float* grad_words, bool& pairs) {
  attend(call, all, first, last, w);
  const int64_t start = all.first[first], rows = all.first[last] - start;
  std::vector<Pull> pulls(rows);  // zeros, where pull_contexts has done it
  std::vector<Match> matches;
  pairs = pairs && match_pairs(call, all, start, rows, w, matches);
  if (pairs) {
    pull_pairs(call, all, first, last, w, matches, grad, scores, grad_words, pulls.data());
  } else {
    pull_contexts(call, all, first, last, w, grad, scores, grad_words);
  }
  for (int64_t k = first; k < last; ++k) {
    const int64_t begin = (all.first[k] - start) * call.lanes, end = (all.first[k + 1] - start) * call.lanes;
    const Pull* pull = pulls.data() + all.first[k] - start;
    for (int64_t v = 0; v < call.lanes; v += kLanes) {
      Vec mean{};
      for (int64_t at = begin + v; at < end; at += call.lanes) mean += load(w.weights + at) * load(w.of_maps + at);
      for (int64_t at = begin + v, t = 0; at < end; at += call.lanes, ++t) {
        const Vec of_logit = load(w.weights + at) * (load(w.of_maps + at) - mean);
        store(w.of_maps + at, of_logit + pull[t].of_product * load(w.attention + at));
      }
    }
  }
  multiply_by_panels<true>(call.regions, {rows, call.width}, {w.of_maps, 1, call.lanes},
                           all.panels.data() + start * call.width, w.grad_by_region, call.width);
  multiply_by_panels<true>(rows, call.rows(), {w.of_maps, call.lanes, 1}, w.by_region, grad_words, call.width);
}

// Whether pairs of regions pay: they save three products of words, regions and channels for 1.6 of words and pairs, and
// 1.6 (2, to be clearly faster) of pairs and channels for each image. 0.6: down to the diagonal, by panels.
bool pairs_pay(const Call& call, const Captions& all) {
  return all.first.back() * (15 * call.width - 8 * call.lanes) > 10 * call.lanes * call.width;
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

// Adds an image's gradients to grad_by_region and to grad_words of all captions. After a tile that takes contexts, the
// others do too: trying costs a product.
void backward_image(const Call& call, const Captions& all, const Work& w, const float* grad, const float* scores,
                    float* grad_words) {
  std::fill_n(w.grad_by_region, call.regions * call.width, 0.0f);
  bool pairs = pairs_pay(call, all);
  const bool multiplied = pairs;
  if (multiplied) {
    multiply_pairs(call, w);
    std::fill_n(w.squares, call.regions * call.lanes, 0.0f);
  }
  for (size_t tile = 0; tile + 1 < all.tiles.size(); ++tile) {
    const int64_t first = all.tiles[tile], last = all.tiles[tile + 1];
    backward_tile(call, all, first, last, w, grad, scores, grad_words + all.first[first] * call.width, pairs);
  }
  if (multiplied) spread_pairs(call, w);
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
        float* grad_image_words = of_words + slice * row_floats;
        load_image(call, regions + b * call.channels * call.regions, w);
        backward_image(call, all, w, grad + b * call.captions, scores + b * call.captions, grad_image_words);
        store_gradient(call, w, grad_regions + b * call.channels * call.regions);
      }
    }
  });
  torch::stable::parallel_for(0, call.captions, 1, [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) {
      S* to = grad_words + k * call.channels * call.words;
      std::fill_n(to, call.channels * call.words, static_cast<S>(0.0f));
      for (int64_t row = all.first[k]; row < all.first[k + 1]; ++row) {
        for (int64_t d = 0; d < call.width; d += kLanes) {
          Vec total{};
          for (int64_t slice = 0; slice < slices; ++slice) {
            total += load(of_words + slice * row_floats + row * call.width + d);
          }
          store_some(to + d * call.words + row - all.first[k], total, call.channels - d, call.words);
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
  const int64_t* of = data<int64_t>(lengths);
  DMGAN_FLOAT_TYPES(regions, backward<S>(call, with_panels(call, gather_captions<S>(call, words, of)),
                                         data<float>(grad), data<float>(scores), regions,
                                         mutable_data<S>(grad_regions), mutable_data<S>(grad_words)));
  return {grad_regions, grad_words};
}

}  // namespace
}  // namespace dmgan

DMGAN_REGISTER(DMGAN_CPU, CPU, words_similarity_forward)
DMGAN_REGISTER(DMGAN_CPU, CPU, words_similarity_backward)
