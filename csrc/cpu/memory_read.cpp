// Key addressing, value reading and response gate:
//   alpha = softmax_t(h^T k), o = sum_t alpha v, g = sigmoid(w [h, o] + b), h' = g o + (1 - g) h.
// Chunks of four tiles of 64 pixels stay in L2 from their load to their store, and the products of a tile in L1;
// padded words are dropped before the products. Backward's sums over pixels run once per chunk, in registers.
// o enters the gate only as w_o . o = sum_t alpha (w_o . v_t), and the gate's gradient as grad . o =
// sum_t alpha (v_t . grad): with these T numbers of a pixel, backward needs no o.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <optional>
#include <tuple>
#include <type_traits>
#include <vector>

#include "../schemas.h"
#include "../tensors.h"
#include "gemm.h"

namespace dmgan {
namespace {

constexpr int64_t kTile = 64;       // pixels, one row of four vectors
constexpr int64_t kChunkTiles = 4;  // backward's intermediates of a chunk (about 0.3 MB at C = 64) stay in L2
constexpr int64_t kChunk = kChunkTiles * kTile;  // 1 kB of each channel's pixels: runs that prefetchers follow

constexpr int64_t kLarge = 8 << 20;  // bytes of a result of which little is in cache when its reader comes

constexpr int64_t kAhead = 2;  // channels fetched ahead: runs are too short for hardware to guess the next

// Pixels first ... first + count - 1 of a sample: a tile or a chunk.
struct Span {
  int64_t sample, first, count;
  Span tile(int64_t k) const { return {sample, first + k * kTile, std::min(kTile, count - k * kTile)}; }
  int64_t tiles() const { return (count + kTile - 1) / kTile; }
};

// One sample of a feature map, with evenly spaced pixels.
template <class S>
struct SampleMap {
  S* data;
  int64_t channel_step, pixel_step;
  bool past_caches = false;  // results too large for any cache to hold until they are read
};

template <class S>
struct FeatureMap {  // [B, C, N]
  S* data;
  int64_t batch_step, channel_step, pixel_step;
  bool past_caches = false;
  SampleMap<S> sample(int64_t b) const { return {data + b * batch_step, channel_step, pixel_step, past_caches}; }
};

template <class S>
FeatureMap<const S> input_map(const Tensor& x) {
  return {data<S>(x), x.stride(0), x.stride(1), pixel_stride(x)};
}

template <class S>
FeatureMap<S> output_map(Tensor& x) {
  const bool past_caches = x.numel() * static_cast<int64_t>(sizeof(S)) >= kLarge;
  return {mutable_data<S>(x), x.stride(0), x.stride(1), pixel_stride(x), past_caches};
}

// Starts a tile's trip to memory.
template <bool kWrite, class S>
DMGAN_INLINE void fetch(const S* row) {
  constexpr int64_t kLine = 64 / sizeof(S);
  DMGAN_UNROLL
  for (int64_t p = 0; p < kTile; p += kLine) __builtin_prefetch(row + p, kWrite);
}

// tiles [tiles, channels, kTile] of the pixels `which`, `step` floats from tile to tile; pixels beyond are zero.
template <class S>
DMGAN_HOT void load_tiles(float* tiles, int64_t step, SampleMap<const S> from, int64_t channels, Span which) {
  const int64_t whole = which.count / kTile;
  for (int64_t c = 0; from.pixel_step == 1 && c < channels; ++c) {
    const S* row = from.data + which.first + c * from.channel_step;
    float* to = tiles + c * kTile;
    for (int64_t k = 0; k < whole; ++k, row += kTile, to += step) {
      fetch<false>(row + kAhead * from.channel_step);
      DMGAN_UNROLL
      for (int64_t p = 0; p < kTile; p += kLanes) store(to + p, load(row + p));
    }
  }
  const int64_t first = from.pixel_step == 1 ? whole * kTile : 0;  // what is left, pixel by pixel
  for (int64_t p = first; p < which.tiles() * kTile; ++p) {
    float* to = tiles + p / kTile * step + p % kTile;
    const S* pixel = from.data + (which.first + p) * from.pixel_step;
    for (int64_t c = 0; c < channels; ++c) {
      to[c * kTile] = p < which.count ? static_cast<float>(pixel[c * from.channel_step]) : 0.0f;
    }
  }
}

// Starts the trips to memory that the chunk after this one would wait for, a tile at a time beside the products.
template <bool kWrite, class S>
DMGAN_INLINE void fetch_tile(SampleMap<S> from, int64_t channels, Span tile) {
  if (from.pixel_step != 1) return;  // one long run: hardware sees it coming
  constexpr int64_t kLine = 64 / sizeof(S);
  const S* base = from.data + tile.first;
  for (int64_t c = 0; c < channels; ++c) {
    for (int64_t p = 0; p < tile.count; p += kLine) __builtin_prefetch(base + c * from.channel_step + p, kWrite, 2);
  }
}

template <class S>
DMGAN_HOT void store_tiles(const float* tiles, int64_t step, SampleMap<S> to, int64_t channels, Span which) {
  const int64_t whole = which.count / kTile;
  for (int64_t c = 0; to.pixel_step == 1 && c < channels; ++c) {
    S* row = to.data + which.first + c * to.channel_step;
    const float* from = tiles + c * kTile;
    for (int64_t k = 0; k < whole; ++k, row += kTile, from += step) {
      if constexpr (std::is_same_v<S, float>) {
        if (to.past_caches && reinterpret_cast<uintptr_t>(row) % sizeof(Vec) == 0) {
          DMGAN_UNROLL
          for (int64_t p = 0; p < kTile; p += kLanes) stream(row + p, load(from + p));
          continue;
        }
      }
      fetch<true>(row + kAhead * to.channel_step);
      DMGAN_UNROLL
      for (int64_t p = 0; p < kTile; p += kLanes) store(row + p, load(from + p));
    }
  }
  const int64_t first = to.pixel_step == 1 ? whole * kTile : 0;  // what is left, pixel by pixel
  for (int64_t p = first; p < which.count; ++p) {
    const float* from = tiles + p / kTile * step + p % kTile;
    S* pixel = to.data + (which.first + p) * to.pixel_step;
    for (int64_t c = 0; c < channels; ++c) pixel[c * to.channel_step] = static_cast<S>(from[c * kTile]);
  }
}

// A sample's words without its padding (in "official" mode all words stay: there each pixel has its own mask).
// With a gate, its weights for h are one more key: the product with h then has the gate's share of h as its last row.
struct Memory {
  std::vector<int64_t> words;     // their places among the T words
  int64_t rows;                   // words, and one for a gate
  std::vector<float> key, value;  // [C, rows]; value's last column is unused
  std::vector<float> gate_value;  // [words]: the gate's weights for o, times each value
  int64_t count() const { return static_cast<int64_t>(words.size()); }
};

template <class S>
void gather(const S* from, int64_t channels, int64_t all, const Memory& m, std::vector<float>& to) {
  to.resize(channels * m.rows);
  for (int64_t c = 0; c < channels; ++c) {
    for (int64_t i = 0; i < m.count(); ++i) to[c * m.rows + i] = static_cast<float>(from[c * all + m.words[i]]);
  }
}

template <class S>
std::vector<Memory> gather_memory(const Tensor& key, const Tensor& value, const float* gate_weight, const bool* mask,
                                  bool official) {
  const int64_t batch = key.size(0), channels = key.size(1), all = key.size(2);
  const S *keys = data<S>(key), *values = data<S>(value);
  std::vector<Memory> memory(batch);
  for (int64_t b = 0; b < batch; ++b) {
    Memory& m = memory[b];
    for (int64_t t = 0; t < all; ++t) {
      if (official || !mask || !mask[b * all + t]) m.words.push_back(t);
    }
    m.rows = m.count() + (gate_weight ? 1 : 0);
    gather(keys + b * channels * all, channels, all, m, m.key);
    gather(values + b * channels * all, channels, all, m, m.value);
    if (!gate_weight) continue;
    m.gate_value.resize(m.count());
    for (int64_t c = 0; c < channels; ++c) {
      m.key[(c + 1) * m.rows - 1] = gate_weight[c];
      for (int64_t i = 0; i < m.count(); ++i) m.gate_value[i] += gate_weight[channels + c] * m.value[c * m.rows + i];
    }
  }
  return memory;
}

// What all tiles of a call share.
struct Call {
  int64_t batch, channels, words, pixels;
  const float* gate_weight;  // [2C], for h then for o, or null
  float gate_bias;
  const bool* official_mask;  // [B, T], only in "official" mode
  int64_t rows() const { return words + (gate_weight ? 1 : 0); }  // of any sample's memory, at most
};

// Chunk i of a call. Samples take turns: one may have many more words than another, and threads get equal shares.
Span chunk_of(const Call& call, int64_t i) {
  const int64_t first = i / call.batch * kChunk;
  return {i % call.batch, first, std::min(kChunk, call.pixels - first)};
}

DMGAN_INLINE void mask_officially(const Call& call, const Span& tile, float* logits) {
  for (int64_t p = 0; p < tile.count; ++p) {
    const int64_t row = (tile.sample * call.pixels + tile.first + p) % call.batch;
    for (int64_t t = 0; t < call.words; ++t) {
      if (call.official_mask[row * call.words + t]) logits[t * kTile + p] = -std::numeric_limits<float>::infinity();
    }
  }
}

// logits [T, kTile] -> attention in place, log-sum-exp [kTile].
DMGAN_INLINE void softmax(int64_t words, float* logits, float* lse) {
  for (int64_t v = 0; v < kTile; v += kLanes) {
    const Vec none = splat(-std::numeric_limits<float>::infinity());
    Vec largest = none;
    for (int64_t t = 0; t < words; ++t) largest = max(largest, load(logits + t * kTile + v));
    const Vec shift = largest == none ? Vec{} : largest;  // nothing to read: all weights become 0
    Vec total = {};
    for (int64_t t = 0; t < words; ++t) {
      const Vec weight = exp(load(logits + t * kTile + v) - shift);
      store(logits + t * kTile + v, weight);
      total += weight;
    }
    const Vec scale = total == 0.0f ? Vec{} : 1.0f / total;
    for (int64_t t = 0; t < words; ++t) store(logits + t * kTile + v, load(logits + t * kTile + v) * scale);
    store(lse + v, shift + log(total));
  }
}

// Maps of a forward chunk, tile after tile; h becomes h'. The last row of attention is the gate's share of h.
struct ForwardChunk {
  float *h, *attention, *gate, *lse;  // [tiles, C, kTile], [tiles, rows, kTile], [tiles, kTile] twice
  static int64_t floats(const Call& call) { return (call.channels + call.rows() + 2) * kChunk; }
  ForwardChunk(float* work, const Call& call) {
    h = work;
    attention = h + call.channels * kChunk;
    gate = attention + call.rows() * kChunk;
    lse = gate + kChunk;
  }
};

DMGAN_HOT void forward_tile(const Call& call, const Memory& memory, const Span& tile, int64_t place,
                               const ForwardChunk& chunk) {
  const int64_t channels = call.channels, words = memory.count(), rows = memory.rows;
  float* h = chunk.h + place * channels * kTile;
  float* attention = chunk.attention + place * rows * kTile;
  float* gate = chunk.gate + place * kTile;
  multiply<false>(rows, kTile, channels, {memory.key.data(), 1, rows}, h, kTile, attention, kTile);
  if (call.official_mask) mask_officially(call, tile, attention);
  softmax(words, attention, chunk.lse + place * kTile);
  const Scalars values{memory.value.data(), rows, 1};
  if (!call.gate_weight) {
    return multiply<false>(channels, kTile, words, values, attention, kTile, h, kTile);
  }
  for (int64_t v = 0; v < kTile; v += kLanes) {
    Vec of_read = {};
    for (int64_t t = 0; t < words; ++t) of_read += memory.gate_value[t] * load(attention + t * kTile + v);
    store(gate + v, sigmoid(load(attention + words * kTile + v) + of_read + call.gate_bias));
  }
  multiply_into(channels, kTile, words, values, attention, kTile,
                [=](int64_t channel, int64_t pixel, Vec read) DMGAN_INLINED {
                  float* to = h + channel * kTile + pixel;
                  const Vec own = load(to);
                  store(to, own + load(gate + pixel) * (read - own));
                });
}

// Where a chunk's intermediates live, each a row of kChunkTiles tiles, and its sums over pixels.
struct BackwardChunk {
  float *h, *grad_out, *grad_h;                     // [tiles, C, kTile]
  float *attention, *grad_logits, *grad_attention;  // [tiles, rows, kTile]; the last row is the gate's
  float *lse, *grad_gate;                           // [tiles, kTile]
  Vec *gate_attention, *gate_bias;                  // [words], [1]: sums over the chunk's pixels, by lane
  static int64_t floats(const Call& call) {
    return kChunk * (3 * call.channels + 3 * call.rows() + 2) + (call.words + 1) * kLanes;
  }
  BackwardChunk(float* work, const Call& call) {
    h = work;
    grad_out = h + call.channels * kChunk;
    grad_h = grad_out + call.channels * kChunk;
    attention = grad_h + call.channels * kChunk;
    grad_logits = attention + call.rows() * kChunk;
    grad_attention = grad_logits + call.rows() * kChunk;
    lse = grad_attention + call.rows() * kChunk;
    grad_gate = lse + kChunk;
    gate_attention = reinterpret_cast<Vec*>(grad_gate + kChunk);
    gate_bias = gate_attention + call.words;
    std::memset(gate_attention, 0, (call.words + 1) * sizeof(Vec));
  }
};

// Recomputes a loaded tile from h and the log-sum-exp, leaves grad_h, and in the chunk what sums over pixels need:
// grad_logits with the gradient of the gate's logit as its last row, and gate * attention as attention.
DMGAN_HOT void backward_tile(const Call& call, const Memory& memory, const Span& tile, const BackwardChunk& chunk,
                                int64_t place, bool has_grad_attention) {
  const int64_t channels = call.channels, words = memory.count(), rows = memory.rows;
  const bool gated = call.gate_weight;
  const float* h = chunk.h + place * channels * kTile;
  const float* grad_out = chunk.grad_out + place * channels * kTile;
  float* grad_h = chunk.grad_h + place * channels * kTile;
  float* attention = chunk.attention + place * rows * kTile;
  float* grad_logits = chunk.grad_logits + place * rows * kTile;
  const float* grad_attention = has_grad_attention ? chunk.grad_attention + place * rows * kTile : nullptr;
  alignas(64) float of_h[kTile], rest[kTile];  // grad . h, one minus the gate
  multiply<false>(rows, kTile, channels, {memory.key.data(), 1, rows}, h, kTile, attention, kTile);
  if (call.official_mask) mask_officially(call, tile, attention);
  multiply<false>(words, kTile, channels, {memory.value.data(), 1, rows}, grad_out, kTile, grad_logits, kTile);
  if (gated) {
    Vec sums[kTile / kLanes] = {};
    for (int64_t at = 0; at < channels * kTile; at += kTile) {
      DMGAN_UNROLL
      for (int v = 0; v < kTile / kLanes; ++v) sums[v] += load(grad_out + at + v * kLanes) * load(h + at + v * kLanes);
    }
    for (int v = 0; v < kTile / kLanes; ++v) store(of_h + v * kLanes, sums[v]);
  }

  for (int64_t v = 0; v < kTile; v += kLanes) {
    const Vec none = splat(-std::numeric_limits<float>::infinity());
    const Vec total = load(chunk.lse + place * kTile + v);
    const Vec shift = total == none ? Vec{} : total;
    const Vec some = total == none ? Vec{} : splat(1.0f);
    Vec sum = {}, of_read = {}, mean = {}, mean_given = {};
    for (int64_t t = 0, at = v; t < words; ++t, at += kTile) {
      // Bounded, even where rounding differs from the forward's.
      const Vec weight = exp(-max(splat(-1.0f), shift - load(attention + at))) * some;
      store(attention + at, weight);
      sum += weight;
      mean += weight * load(grad_logits + at);
      if (gated) of_read += weight * memory.gate_value[t];
      if (grad_attention) mean_given += weight * load(grad_attention + at);
    }
    // 1 but for the rounding of the log-sum-exp, which all weights have in common.
    const Vec scale = sum == 0.0f ? Vec{} : 1.0f / sum;
    mean *= scale;
    of_read *= scale;
    mean_given *= scale;
    Vec gate = splat(1.0f), grad_gate_logit = {};
    if (gated) {
      gate = sigmoid(load(attention + words * kTile + v) + of_read + call.gate_bias);
      const Vec grad_gate = load(chunk.grad_gate + place * kTile + v) + (mean - load(of_h + v));
      grad_gate_logit = grad_gate * gate * (1.0f - gate);
      mean = gate * mean + grad_gate_logit * of_read;
      chunk.gate_bias[0] += grad_gate_logit;
      store(rest + v, 1.0f - gate);
      store(grad_logits + words * kTile + v, grad_gate_logit);
    }
    mean += mean_given;
    for (int64_t t = 0, at = v; t < words; ++t, at += kTile) {
      const Vec weight = load(attention + at) * scale;
      Vec grad = gate * load(grad_logits + at);
      if (gated) {
        grad += grad_gate_logit * memory.gate_value[t];
        chunk.gate_attention[t] += weight * grad_gate_logit;
      }
      if (grad_attention) grad += load(grad_attention + at);
      store(grad_logits + at, weight * (grad - mean));
      store(attention + at, gate * weight);
    }
  }

  const Scalars keys{memory.key.data(), rows, 1};
  if (!gated) return multiply<false>(channels, kTile, words, keys, grad_logits, kTile, grad_h, kTile);
  multiply_into(channels, kTile, rows, keys, grad_logits, kTile,
                [=, &rest](int64_t channel, int64_t pixel, Vec sum) DMGAN_INLINED {
                  const int64_t at = channel * kTile + pixel;
                  store(grad_h + at, sum + load(rest + pixel) * load(grad_out + at));
                });
}

// A sample's or chunk's sums over pixels: [C, rows] of h and grad_logits, [C, words] of grad and gate * attention,
// [words] of attention and the gate logit's gradient, [1] of the latter alone.
struct Sums {
  float *keys, *values, *gate_attention, *gate_bias;
  static int64_t floats(const Call& call) { return call.channels * (call.rows() + call.words) + call.words + 1; }
  Sums(float* work, const Call& call, const Memory& memory) {
    keys = work;
    values = keys + call.channels * memory.rows;
    gate_attention = values + call.channels * memory.count();
    gate_bias = gate_attention + memory.count();
  }
};

DMGAN_HOT void reduce_chunk(const Call& call, const Memory& memory, const BackwardChunk& chunk, int64_t tiles,
                               const Sums& sums) {
  const int64_t channels = call.channels, words = memory.count(), rows = memory.rows;
  const int64_t features = channels * kTile, weights = rows * kTile;
  dots(channels, rows, tiles, kTile, chunk.h, features, chunk.grad_logits, weights, sums.keys, rows);
  dots(channels, words, tiles, kTile, chunk.grad_out, features, chunk.attention, weights, sums.values, words);
  for (int64_t t = 0; t < words; ++t) sums.gate_attention[t] = sum(chunk.gate_attention[t]);
  *sums.gate_bias = sum(*chunk.gate_bias);
}

// The first of `count` rows, plus the others in order.
DMGAN_HOT void add_rows(float* rows, int64_t count, int64_t step, int64_t columns) {
  for (int64_t r = 1; r < count; ++r) {
    for (int64_t i = 0; i < columns; ++i) rows[i] += rows[r * step + i];
  }
}

Call describe(const Tensor& h, const Tensor& key, const std::optional<Tensor>& gate_weight,
              const std::optional<Tensor>& gate_bias, const std::optional<Tensor>& mask, bool official) {
  return {h.size(0),
          h.size(1),
          key.size(2),
          h.size(2) * h.size(3),
          gate_weight ? data<float>(*gate_weight) : nullptr,
          gate_bias ? *data<float>(*gate_bias) : 0.0f,
          official && mask ? data<bool>(*mask) : nullptr};
}

template <class S>
void forward(const Call& call, const Tensor& h, const std::vector<Memory>& memory, Tensor& out, Tensor& lse,
             S* attention, S* gate) {
  const auto h_map = input_map<S>(h);
  const auto out_map = output_map<S>(out);
  float* lse_data = mutable_data<float>(lse);
  const int64_t chunks = (call.pixels + kChunk - 1) / kChunk;
  torch::stable::parallel_for(0, call.batch * chunks, 1, [&](int64_t begin, int64_t end) {
    const ForwardChunk chunk(scratch(ForwardChunk::floats(call)), call);
    for (int64_t i = begin; i < end; ++i) {
      const Span span = chunk_of(call, i);
      const int64_t b = span.sample, first = span.first, words = memory[b].count();
      load_tiles<S>(chunk.h, call.channels * kTile, h_map.sample(b), call.channels, span);
      const Span next = chunk_of(call, std::min(i + 1, end - 1));
      for (int64_t k = 0; k < span.tiles(); ++k) {
        fetch_tile<false>(h_map.sample(next.sample), call.channels, next.tile(k));
        if (!out_map.past_caches) fetch_tile<true>(out_map.sample(b), call.channels, span.tile(k));
        forward_tile(call, memory[b], span.tile(k), k, chunk);
      }
      store_tiles<S>(chunk.h, call.channels * kTile, out_map.sample(b), call.channels, span);
      std::copy_n(chunk.lse, span.count, lse_data + b * call.pixels + first);
      if (gate) store_tiles<S>(chunk.gate, kTile, {gate + b * call.pixels, call.pixels, 1}, 1, span);
      if (attention) {
        S* weights = attention + b * call.words * call.pixels;
        for (int64_t word = 0; word < call.words; ++word) {
          std::fill_n(weights + word * call.pixels + first, span.count, static_cast<S>(0.0f));
        }
        for (int64_t k = 0; k < words; ++k) {
          const SampleMap<S> of_word{weights + memory[b].words[k] * call.pixels, call.pixels, 1};
          store_tiles<S>(chunk.attention + k * kTile, memory[b].rows * kTile, of_word, 1, span);
        }
      }
    }
    end_stream();
  });
}

std::tuple<Tensor, Tensor, Tensor, Tensor> memory_read_forward(const Tensor& h, const Tensor& key, const Tensor& value,
                                                               const std::optional<Tensor>& gate_weight,
                                                               const std::optional<Tensor>& gate_bias,
                                                               const std::optional<Tensor>& mask, bool official,
                                                               bool want_attention, bool want_gate) {
  const Call call = describe(h, key, gate_weight, gate_bias, mask, official);
  Tensor out = empty_feature_map(h, call.channels, h.size(2), h.size(3));
  Tensor lse = torch::stable::new_empty(h, {call.batch, call.pixels}, torch::headeronly::ScalarType::Float);
  Tensor attention = want_attention ? torch::stable::new_empty(h, {call.batch, call.words, h.size(2), h.size(3)})
                                    : torch::stable::new_empty(h, {0});
  Tensor gate = want_gate ? torch::stable::new_empty(h, {call.batch, 1, h.size(2), h.size(3)})
                          : torch::stable::new_empty(h, {0});
  const bool* padding = mask ? data<bool>(*mask) : nullptr;
  DMGAN_FLOAT_TYPES(h, forward<S>(call, h, gather_memory<S>(key, value, call.gate_weight, padding, official), out, lse,
                                  want_attention ? mutable_data<S>(attention) : nullptr,
                                  want_gate ? mutable_data<S>(gate) : nullptr));
  return {out, lse, attention, gate};
}

template <class S>
void backward(const Call& call, const Tensor& grad_out, const S* grad_attention, const S* grad_gate, const Tensor& h,
              const std::vector<Memory>& memory, const float* lse, Tensor& grad_h, Tensor& grad_key,
              Tensor& grad_value, float* grad_gate_weight, float* grad_gate_bias) {
  const auto grad_map = input_map<S>(grad_out), h_map = input_map<S>(h);
  const auto grad_h_map = output_map<S>(grad_h);
  const int64_t channels = call.channels, words = call.words;
  const int64_t chunks = (call.pixels + kChunk - 1) / kChunk, row = Sums::floats(call);
  Tensor parts = torch::stable::new_empty(h, {call.batch * chunks, row}, torch::headeronly::ScalarType::Float);
  float* parts_data = mutable_data<float>(parts);
  torch::stable::parallel_for(0, call.batch * chunks, 1, [&](int64_t begin, int64_t end) {
    float* work = scratch(BackwardChunk::floats(call));
    for (int64_t i = begin; i < end; ++i) {
      const Span span = chunk_of(call, i), next = chunk_of(call, std::min(i + 1, end - 1));
      const int64_t b = span.sample;
      const Memory& m = memory[b];
      const BackwardChunk chunk(work, call);
      load_tiles<S>(chunk.h, channels * kTile, h_map.sample(b), channels, span);
      load_tiles<S>(chunk.grad_out, channels * kTile, grad_map.sample(b), channels, span);
      load_tiles<float>(chunk.lse, kTile, {lse + b * call.pixels, call.pixels, 1}, 1, span);
      if (grad_gate) {
        load_tiles<S>(chunk.grad_gate, kTile, {grad_gate + b * call.pixels, call.pixels, 1}, 1, span);
      } else {
        std::fill_n(chunk.grad_gate, kChunk, 0.0f);
      }
      for (int64_t k = 0; grad_attention && k < m.count(); ++k) {
        const S* of_word = grad_attention + (b * words + m.words[k]) * call.pixels;
        load_tiles<S>(chunk.grad_attention + k * kTile, m.rows * kTile, {of_word, call.pixels, 1}, 1, span);
      }
      for (int64_t k = 0; k < span.tiles(); ++k) {
        fetch_tile<false>(h_map.sample(next.sample), channels, next.tile(k));
        fetch_tile<false>(grad_map.sample(next.sample), channels, next.tile(k));
        if (!grad_h_map.past_caches) fetch_tile<true>(grad_h_map.sample(b), channels, span.tile(k));
        backward_tile(call, m, span.tile(k), chunk, k, grad_attention != nullptr);
      }
      store_tiles<S>(chunk.grad_h, channels * kTile, grad_h_map.sample(b), channels, span);
      reduce_chunk(call, m, chunk, span.tiles(), Sums(parts_data + (b * chunks + span.first / kChunk) * row, call, m));
    }
    end_stream();
  });

  // Chunks in order, so that the bits do not depend on who computed which.
  if (call.gate_weight) std::fill_n(grad_gate_weight, 2 * channels, *grad_gate_bias = 0.0f);
  for (int64_t b = 0; b < call.batch; ++b) {
    const Memory& m = memory[b];
    const Sums sums(parts_data + b * chunks * row, call, m);
    add_rows(sums.keys, chunks, row, sums.gate_bias + 1 - sums.keys);
    S* keys = mutable_data<S>(grad_key) + b * channels * words;
    S* values = mutable_data<S>(grad_value) + b * channels * words;
    std::fill_n(keys, channels * words, static_cast<S>(0.0f));
    std::fill_n(values, channels * words, static_cast<S>(0.0f));
    for (int64_t c = 0; c < channels; ++c) {
      const float of_gate = call.gate_weight ? call.gate_weight[channels + c] : 0.0f;
      float through_read = m.words.empty() ? 0.0f * *sums.gate_bias : 0.0f;  // what was read is zero: NaN stays NaN
      for (int64_t i = 0; i < m.count(); ++i) {
        keys[c * words + m.words[i]] = static_cast<S>(sums.keys[c * m.rows + i]);
        values[c * words + m.words[i]] = static_cast<S>(sums.values[c * m.count() + i] + of_gate * sums.gate_attention[i]);
        through_read += m.value[c * m.rows + i] * sums.gate_attention[i];
      }
      if (!call.gate_weight) continue;
      grad_gate_weight[c] += sums.keys[(c + 1) * m.rows - 1];
      grad_gate_weight[channels + c] += through_read;
    }
    if (call.gate_weight) *grad_gate_bias += *sums.gate_bias;
  }
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> memory_read_backward(
    const Tensor& grad_out, const std::optional<Tensor>& grad_attention, const std::optional<Tensor>& grad_gate,
    const Tensor& h, const Tensor& key, const Tensor& value, const std::optional<Tensor>& gate_weight,
    const std::optional<Tensor>& gate_bias, const std::optional<Tensor>& mask, const Tensor& lse, bool official) {
  const Call call = describe(h, key, gate_weight, gate_bias, mask, official);
  const auto wide = torch::headeronly::ScalarType::Float;
  Tensor grad_h = empty_feature_map(h, call.channels, h.size(2), h.size(3));
  Tensor grad_key = torch::stable::empty_like(key), grad_value = torch::stable::empty_like(value);
  Tensor grad_gate_weight = torch::stable::new_empty(h, {gate_weight ? 2 * call.channels : 0}, wide);
  Tensor grad_gate_bias = torch::stable::new_empty(h, {gate_weight ? 1 : 0}, wide);
  const bool* padding = mask ? data<bool>(*mask) : nullptr;
  DMGAN_FLOAT_TYPES(h, backward<S>(call, grad_out, grad_attention ? data<S>(*grad_attention) : nullptr,
                                   grad_gate ? data<S>(*grad_gate) : nullptr, h,
                                   gather_memory<S>(key, value, call.gate_weight, padding, official),
                                   data<float>(lse), grad_h, grad_key, grad_value,
                                   mutable_data<float>(grad_gate_weight), mutable_data<float>(grad_gate_bias)));
  return {grad_h, grad_key, grad_value, grad_gate_weight, grad_gate_bias};
}

}  // namespace
}  // namespace dmgan

DMGAN_REGISTER(DMGAN_CPU, CPU, memory_read_forward)
DMGAN_REGISTER(DMGAN_CPU, CPU, memory_read_backward)
