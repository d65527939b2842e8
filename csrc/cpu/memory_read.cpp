// Key addressing, value reading and response gate:
//   alpha = softmax_t(h^T k), o = sum_t alpha v, g = sigmoid(w [h, o] + b), h' = g o + (1 - g) h.
// Chunks of eight tiles of 64 pixels stay in L2 from their load to their store, and the products of a tile in L1;
// padded words are dropped before the products. Backward's sums over pixels run once per chunk, in registers.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <optional>
#include <tuple>
#include <vector>

#include "../schemas.h"
#include "../tensors.h"
#include "gemm.h"

namespace dmgan {
namespace {

constexpr int64_t kTile = 64;       // pixels, one row of four vectors
constexpr int64_t kChunkTiles = 8;  // backward's intermediates of a chunk (about 0.6 MB at C = 64) stay in L2
constexpr int64_t kChunk = kChunkTiles * kTile;  // 2 kB of each channel's pixels: runs that prefetchers follow

constexpr int64_t kAhead = 2;  // channels fetched ahead: runs are too short for hardware to guess the next

// Pixels first ... first + count - 1 of a sample: a tile or a chunk.
struct Span {
  int64_t sample, first, count;
  Span tile(int64_t k) const { return {sample, first + k * kTile, std::min(kTile, count - k * kTile)}; }
  int64_t tiles() const { return (count + kTile - 1) / kTile; }
};

// One picture's feature map with evenly spaced pixels.
template <class S>
struct Pixels {
  S* data;
  int64_t channel_step, pixel_step;
};

template <class S>
struct Map {  // [B, C, N]
  S* data;
  int64_t batch_step, channel_step, pixel_step;
  Pixels<S> sample(int64_t b) const { return {data + b * batch_step, channel_step, pixel_step}; }
};

template <class S>
Map<const S> input_map(const Tensor& x) {
  return {data<S>(x), x.stride(0), x.stride(1), x.stride(3)};
}

template <class S>
Map<S> output_map(Tensor& x) {
  return {mutable_data<S>(x), x.stride(0), x.stride(1), x.stride(3)};
}

// tiles [tiles, channels, kTile] of the pixels `which`, `step` floats from tile to tile; pixels beyond are zero.
template <class S>
DMGAN_CLONES void load_tiles(float* tiles, int64_t step, Pixels<const S> from, int64_t channels, Span which) {
  const int64_t count = which.count, end = which.tiles() * kTile;
  const S* base = from.data + which.first * from.pixel_step;
  if (from.pixel_step == 1) {
    for (int64_t c = 0; c < channels; ++c) {
      for (int64_t p = 0; p < end; p += kLanes) {
        __builtin_prefetch(base + (c + kAhead) * from.channel_step + p);
        store(tiles + p / kTile * step + c * kTile + p % kTile, load_some(base + c * from.channel_step + p, count - p));
      }
    }
    return;
  }
  for (int64_t p = 0; p < end; ++p) {
    float* to = tiles + p / kTile * step + p % kTile;
    for (int64_t c = 0; c < channels; ++c) {
      to[c * kTile] = p < count ? static_cast<float>(base[p * from.pixel_step + c * from.channel_step]) : 0.0f;
    }
  }
}

template <class S>
DMGAN_CLONES void store_tiles(const float* tiles, int64_t step, Pixels<S> to, int64_t channels, Span which) {
  S* base = to.data + which.first * to.pixel_step;
  if (to.pixel_step == 1) {
    for (int64_t c = 0; c < channels; ++c) {
      for (int64_t p = 0; p < which.count; p += kLanes) {
        __builtin_prefetch(base + (c + kAhead) * to.channel_step + p, 1);
        const Vec x = load(tiles + p / kTile * step + c * kTile + p % kTile);
        store_some(base + c * to.channel_step + p, x, which.count - p);
      }
    }
    return;
  }
  for (int64_t p = 0; p < which.count; ++p) {
    const float* from = tiles + p / kTile * step + p % kTile;
    for (int64_t c = 0; c < channels; ++c) {
      base[p * to.pixel_step + c * to.channel_step] = static_cast<S>(from[c * kTile]);
    }
  }
}

// A sample's words without its padding (in "official" mode all words stay: there each pixel has its own mask).
struct Memory {
  std::vector<float> key, value;  // [C, count]
  std::vector<int64_t> words;     // their places among the T words
  int64_t count() const { return static_cast<int64_t>(words.size()); }
};

template <class S>
std::vector<Memory> gather_memory(const Tensor& key, const Tensor& value, const bool* mask, bool official) {
  const int64_t batch = key.size(0), channels = key.size(1), all = key.size(2);
  std::vector<Memory> memory(batch);
  for (int64_t b = 0; b < batch; ++b) {
    Memory& m = memory[b];
    for (int64_t t = 0; t < all; ++t) {
      if (official || !mask || !mask[b * all + t]) m.words.push_back(t);
    }
    for (const auto& [from, to] : {std::pair{&key, &m.key}, std::pair{&value, &m.value}}) {
      to->reserve(channels * m.count());
      for (int64_t c = 0; c < channels; ++c) {
        for (const int64_t t : m.words) to->push_back(static_cast<float>(data<S>(*from)[(b * channels + c) * all + t]));
      }
    }
  }
  return memory;
}

// What all tiles of a call share.
struct Call {
  int64_t batch, channels, words, pixels;
  const float* gate_weight;  // [2C] or null
  float gate_bias;
  const bool* official_mask;  // [B, T], only in "official" mode
  bool wide;
};

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
    const Vec scale = total > 0.0f ? 1.0f / total : Vec{};
    for (int64_t t = 0; t < words; ++t) store(logits + t * kTile + v, load(logits + t * kTile + v) * scale);
    store(lse + v, shift + log(total));
  }
}

// The response gate [kTile] of features and read [C, kTile].
DMGAN_INLINE void response_gate(const Call& call, const float* h, const float* read, float* gate) {
  for (int64_t v = 0; v < kTile; v += kLanes) {
    Vec of_h = {}, of_read = {};
    for (int64_t c = 0; c < call.channels; ++c) {
      of_h += call.gate_weight[c] * load(h + c * kTile + v);
      of_read += call.gate_weight[call.channels + c] * load(read + c * kTile + v);
    }
    store(gate + v, sigmoid(of_h + of_read + call.gate_bias));
  }
}

// Maps of a forward chunk, tile after tile; h becomes h'.
struct ForwardChunk {
  float *h, *attention, *gate, *lse;  // [tiles, C, kTile], [tiles, T, kTile], [tiles, kTile] twice
  float* read;                        // of one tile
  static int64_t floats(const Call& call) {
    return (kChunkTiles * (call.channels + call.words + 2) + call.channels) * kTile;
  }
  ForwardChunk(float* work, const Call& call) {
    h = work;
    attention = h + call.channels * kChunk;
    gate = attention + call.words * kChunk;
    lse = gate + kChunk;
    read = lse + kChunk;
  }
};

DMGAN_CLONES void forward_tile(const Call& call, const Memory& memory, const Span& tile, int64_t place,
                               const ForwardChunk& chunk) {
  const int64_t channels = call.channels, words = memory.count();
  float* h = chunk.h + place * channels * kTile;
  float* attention = chunk.attention + place * words * kTile;
  float* gate = chunk.gate + place * kTile;
  multiply<false>(words, kTile, channels, {memory.key.data(), 1, words}, h, kTile, attention, kTile, call.wide);
  if (call.official_mask) mask_officially(call, tile, attention);
  softmax(words, attention, chunk.lse + place * kTile);
  float* read = call.gate_weight ? chunk.read : h;
  multiply<false>(channels, kTile, words, {memory.value.data(), words, 1}, attention, kTile, read, kTile, call.wide);
  if (!call.gate_weight) return;
  response_gate(call, h, read, gate);
  for (int64_t at = 0; at < channels * kTile; at += kLanes) {
    const Vec own = load(h + at);
    store(h + at, own + load(gate + at % kTile) * (load(read + at) - own));
  }
}

// Where a chunk's intermediates live, each a row of kChunkTiles tiles, and its sums over pixels.
struct Chunk {
  float *h, *grad_read, *attention, *grad_logits;  // [tiles, C, kTile] twice, [tiles, T, kTile] twice
  float *grad_h, *grad_attention;                  // [tiles, C, kTile], [tiles, T, kTile]
  float *lse, *grad_gate;                          // [tiles, kTile]
  float* read;                                     // of one tile
  Vec *gate_h, *gate_read, *gate_bias;             // [C], [C], [1]: sums over the chunk's pixels, by lane
  static int64_t floats(int64_t channels, int64_t words) {
    return kChunk * (3 * channels + 3 * words + 2) + channels * kTile + (2 * channels + 1) * kLanes;
  }
  Chunk(float* work, int64_t channels, int64_t words) {
    h = work;
    grad_read = h + channels * kChunk;
    grad_h = grad_read + channels * kChunk;
    attention = grad_h + channels * kChunk;
    grad_logits = attention + words * kChunk;
    grad_attention = grad_logits + words * kChunk;
    lse = grad_attention + words * kChunk;
    grad_gate = lse + kChunk;
    read = grad_gate + kChunk;
    gate_h = reinterpret_cast<Vec*>(read + channels * kTile);
    gate_read = gate_h + channels;
    gate_bias = gate_read + channels;
    std::memset(gate_h, 0, (2 * channels + 1) * sizeof(Vec));
  }
};

// Recomputes a loaded tile from h and the log-sum-exp, leaves grad_h, and in the chunk what sums over pixels need.
DMGAN_CLONES void backward_tile(const Call& call, const Memory& memory, const Span& tile, const Chunk& chunk,
                                int64_t place, bool has_grad_attention) {
  const int64_t channels = call.channels, words = memory.count();
  const float* h = chunk.h + place * channels * kTile;
  float* grad_read = chunk.grad_read + place * channels * kTile;  // at first the gradient of h'
  float* attention = chunk.attention + place * words * kTile;
  float* grad_logits = chunk.grad_logits + place * words * kTile;
  float* grad_h = chunk.grad_h + place * channels * kTile;
  const float* grad_attention = has_grad_attention ? chunk.grad_attention + place * words * kTile : nullptr;
  multiply<false>(words, kTile, channels, {memory.key.data(), 1, words}, h, kTile, attention, kTile, call.wide);
  if (call.official_mask) mask_officially(call, tile, attention);
  for (int64_t v = 0; v < kTile; v += kLanes) {
    const Vec none = splat(-std::numeric_limits<float>::infinity());
    const Vec total = load(chunk.lse + place * kTile + v);
    const Vec shift = total == none ? Vec{} : total;
    const Vec some = total == none ? Vec{} : splat(1.0f);
    for (int64_t t = 0; t < words; ++t) {
      const int64_t at = t * kTile + v;
      // No more than 1, even where rounding differs from the forward's.
      store(attention + at, exp(-max(shift - load(attention + at), Vec{})) * some);
    }
  }

  if (call.gate_weight) {
    alignas(64) float gate[kTile];
    float* const read = chunk.read;
    const float *const of_h = call.gate_weight, *const of_read = of_h + channels;
    Vec *const sum_h = chunk.gate_h, *const sum_read = chunk.gate_read;
    multiply<false>(channels, kTile, words, {memory.value.data(), words, 1}, attention, kTile, read, kTile, call.wide);
    response_gate(call, h, read, gate);
    for (int64_t v = 0; v < kTile; v += kLanes) {
      Vec grad_gate = load(chunk.grad_gate + place * kTile + v);
      for (int64_t at = v; at < channels * kTile; at += kTile) {
        grad_gate += load(grad_read + at) * (load(read + at) - load(h + at));
      }
      const Vec g = load(gate + v);
      const Vec grad_gate_logit = grad_gate * g * (1.0f - g);
      chunk.gate_bias[0] += grad_gate_logit;
      for (int64_t c = 0, at = v; c < channels; ++c, at += kTile) {
        const Vec grad_out = load(grad_read + at);
        sum_h[c] += load(h + at) * grad_gate_logit;
        sum_read[c] += load(read + at) * grad_gate_logit;
        store(grad_h + at, (1.0f - g) * grad_out + of_h[c] * grad_gate_logit);
        store(grad_read + at, g * grad_out + of_read[c] * grad_gate_logit);
      }
    }
  } else {
    std::memset(grad_h, 0, channels * kTile * sizeof(float));
  }

  multiply<false>(words, kTile, channels, {memory.value.data(), 1, words}, grad_read, kTile, grad_logits, kTile,
                  call.wide);
  for (int64_t v = 0; v < kTile; v += kLanes) {
    Vec mean = {};
    for (int64_t at = v; at < words * kTile; at += kTile) {
      if (grad_attention) store(grad_logits + at, load(grad_logits + at) + load(grad_attention + at));
      mean += load(attention + at) * load(grad_logits + at);
    }
    for (int64_t at = v; at < words * kTile; at += kTile) {
      store(grad_logits + at, load(attention + at) * (load(grad_logits + at) - mean));
    }
  }
  multiply<true>(channels, kTile, words, {memory.key.data(), words, 1}, grad_logits, kTile, grad_h, kTile,
                 call.wide);
}

// sums: grad_key [C, words], grad_value [C, words], grad_gate_weight [2C], grad_gate_bias [1].
DMGAN_CLONES void reduce_chunk(const Call& call, int64_t words, const Chunk& chunk, int64_t tiles, float* sums) {
  const int64_t channels = call.channels, features = channels * kTile, weights = words * kTile;
  dots(channels, words, tiles, kTile, chunk.h, features, chunk.grad_logits, weights, sums, words, call.wide);
  sums += channels * words;
  dots(channels, words, tiles, kTile, chunk.grad_read, features, chunk.attention, weights, sums, words, call.wide);
  sums += channels * words;
  for (int64_t c = 0; c < 2 * channels + 1; ++c) sums[c] = sum(chunk.gate_h[c]);
}

Call describe(const Tensor& h, const Tensor& key, const std::optional<Tensor>& gate_weight,
              const std::optional<Tensor>& gate_bias, const std::optional<Tensor>& mask, bool official) {
  return {h.size(0),
          h.size(1),
          key.size(2),
          h.size(2) * h.size(3),
          gate_weight ? data<float>(*gate_weight) : nullptr,
          gate_bias ? *data<float>(*gate_bias) : 0.0f,
          official && mask ? data<bool>(*mask) : nullptr,
          wide_registers()};
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
      const int64_t b = i / chunks, first = i % chunks * kChunk, words = memory[b].count();
      const Span span{b, first, std::min(kChunk, call.pixels - first)};
      load_tiles<S>(chunk.h, call.channels * kTile, h_map.sample(b), call.channels, span);
      for (int64_t k = 0; k < span.tiles(); ++k) forward_tile(call, memory[b], span.tile(k), k, chunk);
      store_tiles<S>(chunk.h, call.channels * kTile, out_map.sample(b), call.channels, span);
      std::copy_n(chunk.lse, span.count, lse_data + b * call.pixels + first);
      if (gate) store_tiles<S>(chunk.gate, kTile, {gate + b * call.pixels, call.pixels, 1}, 1, span);
      if (attention) {
        S* weights = attention + b * call.words * call.pixels;
        for (int64_t word = 0; word < call.words; ++word) {
          std::fill_n(weights + word * call.pixels + first, span.count, static_cast<S>(0.0f));
        }
        for (int64_t k = 0; k < words; ++k) {
          const Pixels<S> of_word{weights + memory[b].words[k] * call.pixels, call.pixels, 1};
          store_tiles<S>(chunk.attention + k * kTile, words * kTile, of_word, 1, span);
        }
      }
    }
  });
}

std::tuple<Tensor, Tensor, Tensor, Tensor> memory_read_forward(const Tensor& h, const Tensor& key, const Tensor& value,
                                                               const std::optional<Tensor>& gate_weight,
                                                               const std::optional<Tensor>& gate_bias,
                                                               const std::optional<Tensor>& mask, bool official,
                                                               bool want_attention, bool want_gate) {
  const Call call = describe(h, key, gate_weight, gate_bias, mask, official);
  Tensor out = empty_picture(h, call.channels, h.size(2), h.size(3));
  Tensor lse = torch::stable::new_empty(h, {call.batch, call.pixels}, torch::headeronly::ScalarType::Float);
  Tensor attention = want_attention ? torch::stable::new_empty(h, {call.batch, call.words, h.size(2), h.size(3)})
                                    : torch::stable::new_empty(h, {0});
  Tensor gate = want_gate ? torch::stable::new_empty(h, {call.batch, 1, h.size(2), h.size(3)})
                          : torch::stable::new_empty(h, {0});
  DMGAN_FLOAT_TYPES(h, forward<S>(call, h, gather_memory<S>(key, value, mask ? data<bool>(*mask) : nullptr, official),
                                  out, lse, want_attention ? mutable_data<S>(attention) : nullptr,
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
  const int64_t chunks = (call.pixels + kChunk - 1) / kChunk, row = 2 * channels * words + 2 * channels + 1;
  Tensor parts = torch::stable::new_empty(h, {call.batch * chunks, row}, torch::headeronly::ScalarType::Float);
  float* sums = mutable_data<float>(parts);
  torch::stable::parallel_for(0, call.batch * chunks, 1, [&](int64_t begin, int64_t end) {
    float* work = scratch(Chunk::floats(channels, words));
    for (int64_t i = begin; i < end; ++i) {
      const int64_t b = i / chunks, first = i % chunks * kChunk, count = memory[b].count();
      const Span span{b, first, std::min(kChunk, call.pixels - first)};
      const Chunk chunk(work, channels, words);
      load_tiles<S>(chunk.h, channels * kTile, h_map.sample(b), channels, span);
      load_tiles<S>(chunk.grad_read, channels * kTile, grad_map.sample(b), channels, span);
      load_tiles<float>(chunk.lse, kTile, {lse + b * call.pixels, call.pixels, 1}, 1, span);
      if (grad_gate) {
        load_tiles<S>(chunk.grad_gate, kTile, {grad_gate + b * call.pixels, call.pixels, 1}, 1, span);
      } else {
        std::fill_n(chunk.grad_gate, kChunk, 0.0f);
      }
      for (int64_t k = 0; grad_attention && k < count; ++k) {
        const S* of_word = grad_attention + (b * words + memory[b].words[k]) * call.pixels;
        load_tiles<S>(chunk.grad_attention + k * kTile, count * kTile, {of_word, call.pixels, 1}, 1, span);
      }
      for (int64_t k = 0; k < span.tiles(); ++k) {
        backward_tile(call, memory[b], span.tile(k), chunk, k, grad_attention != nullptr);
      }
      store_tiles<S>(chunk.grad_h, channels * kTile, grad_h_map.sample(b), channels, span);
      reduce_chunk(call, count, chunk, span.tiles(), sums + i * row);
    }
  });

  // Chunks in order, so that the bits do not depend on who computed which.
  std::vector<float> gate_sums(2 * channels + 1, 0.0f);
  for (int64_t b = 0; b < call.batch; ++b) {
    const Memory& m = memory[b];
    const int64_t size = channels * m.count();
    float* total = sums + b * chunks * row;
    for (int64_t chunk = 1; chunk < chunks; ++chunk) {
      const float* part = total + chunk * row;
      for (int64_t i = 0; i < 2 * size + 2 * channels + 1; ++i) total[i] += part[i];
    }
    for (auto* to : {&grad_key, &grad_value}) {
      S* target = mutable_data<S>(*to) + b * channels * words;
      for (int64_t i = 0; i < channels * words; ++i) target[i] = static_cast<S>(0.0f);
      for (int64_t c = 0; c < channels; ++c) {
        for (int64_t i = 0; i < m.count(); ++i) target[c * words + m.words[i]] = static_cast<S>(total[c * m.count() + i]);
      }
      total += size;
    }
    for (int64_t c = 0; c < 2 * channels + 1; ++c) gate_sums[c] += total[c];
  }
  if (call.gate_weight) {
    std::copy(gate_sums.begin(), gate_sums.end() - 1, grad_gate_weight);
    *grad_gate_bias = gate_sums.back();
  }
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> memory_read_backward(
    const Tensor& grad_out, const std::optional<Tensor>& grad_attention, const std::optional<Tensor>& grad_gate,
    const Tensor& h, const Tensor& key, const Tensor& value, const std::optional<Tensor>& gate_weight,
    const std::optional<Tensor>& gate_bias, const std::optional<Tensor>& mask, const Tensor& lse, bool official) {
  const Call call = describe(h, key, gate_weight, gate_bias, mask, official);
  const auto wide = torch::headeronly::ScalarType::Float;
  Tensor grad_h = empty_picture(h, call.channels, h.size(2), h.size(3));
  Tensor grad_key = torch::stable::empty_like(key), grad_value = torch::stable::empty_like(value);
  Tensor grad_gate_weight = torch::stable::new_empty(h, {gate_weight ? 2 * call.channels : 0}, wide);
  Tensor grad_gate_bias = torch::stable::new_empty(h, {gate_weight ? 1 : 0}, wide);
  DMGAN_FLOAT_TYPES(h, backward<S>(call, grad_out, grad_attention ? data<S>(*grad_attention) : nullptr,
                                   grad_gate ? data<S>(*grad_gate) : nullptr, h,
                                   gather_memory<S>(key, value, mask ? data<bool>(*mask) : nullptr, official),
                                   data<float>(lse), grad_h, grad_key, grad_value,
                                   mutable_data<float>(grad_gate_weight), mutable_data<float>(grad_gate_bias)));
  return {grad_h, grad_key, grad_value, grad_gate_weight, grad_gate_bias};
}

}  // namespace
}  // namespace dmgan

STABLE_TORCH_LIBRARY_FRAGMENT(dmgan_fast_cpu, m) {
  m.def(dmgan::schemas::memory_read_forward);
  m.def(dmgan::schemas::memory_read_backward);
}
STABLE_TORCH_LIBRARY_IMPL(dmgan_fast_cpu, CPU, m) {
  m.impl("memory_read_forward", TORCH_BOX(&dmgan::memory_read_forward));
  m.impl("memory_read_backward", TORCH_BOX(&dmgan::memory_read_backward));
}
