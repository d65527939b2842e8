// Key addressing, value reading and response gate:
//   alpha = softmax_t(h^T k), o = sum_t alpha v, g = sigmoid(w [h, o] + b), h' = g o + (1 - g) h.
// A tile of 64 pixels stays in cache from its first load to its store; padded words are dropped before the products.
// Backward takes chunks of tiles: the products over pixels run once per chunk, with their sums in registers.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cmath>
#include <optional>
#include <tuple>
#include <vector>

#include "gemm.h"
#include "tensors.h"

namespace dmgan {
namespace {

constexpr int64_t kTile = 64;       // pixels, one row of four vectors
constexpr int64_t kChunkTiles = 8;  // tiles whose intermediates (about 0.6 MB at C = 64) stay in a core's L2
constexpr int64_t kVecs = kTile / kLanes;

// Pixels first ... first + count - 1 of a sample.
struct Tile {
  int64_t sample, first, count;
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

// tile [channels, kTile] of the pixels `which`; pixels beyond are zero.
template <class S>
DMGAN_CLONES void load_tile(float* tile, Pixels<const S> from, int64_t channels, Tile which) {
  const int64_t count = which.count;
  const S* base = from.data + which.first * from.pixel_step;
  if (from.pixel_step == 1) {
    for (int64_t c = 0; c < channels; ++c) {
      for (int64_t v = 0; v < kTile; v += kLanes) {
        store(tile + c * kTile + v, load_some(base + c * from.channel_step + v, count - v));
      }
    }
    return;
  }
  for (int64_t p = 0; p < kTile; ++p) {
    for (int64_t c = 0; c < channels; ++c) {
      tile[c * kTile + p] = p < count ? static_cast<float>(base[p * from.pixel_step + c * from.channel_step]) : 0.0f;
    }
  }
}

template <class S>
DMGAN_CLONES void store_tile(const float* tile, Pixels<S> to, int64_t channels, Tile which) {
  const int64_t count = which.count;
  S* base = to.data + which.first * to.pixel_step;
  if (to.pixel_step == 1) {
    for (int64_t c = 0; c < channels; ++c) {
      for (int64_t v = 0; v < count; v += kLanes) {
        store_some(base + c * to.channel_step + v, load(tile + c * kTile + v), count - v);
      }
    }
    return;
  }
  for (int64_t p = 0; p < count; ++p) {
    for (int64_t c = 0; c < channels; ++c) {
      base[p * to.pixel_step + c * to.channel_step] = static_cast<S>(tile[c * kTile + p]);
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

DMGAN_INLINE void mask_officially(const Call& call, const Tile& tile, float* logits) {
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
    for (int64_t i = 0; i < kLanes; ++i) lse[v + i] = shift[i] + std::log(total[i]);
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

// h [C, kTile] -> h' in `read`, attention [T, kTile], and per pixel the log-sum-exp and the response gate.
struct ForwardTile {
  float *h, *read, *attention, *lse, *gate;
  static int64_t floats(const Call& call) { return (2 * call.channels + call.words + 2) * kTile; }
  ForwardTile(float* work, const Call& call) {
    h = work;
    read = h + call.channels * kTile;
    attention = read + call.channels * kTile;
    lse = attention + call.words * kTile;
    gate = lse + kTile;
  }
};

DMGAN_CLONES void forward_tile(const Call& call, const Memory& memory, const Tile& tile, const ForwardTile& t) {
  const int64_t channels = call.channels, words = memory.count();
  multiply<false>(words, kTile, channels, {memory.key.data(), 1, words}, t.h, kTile, t.attention, kTile, call.wide);
  if (call.official_mask) mask_officially(call, tile, t.attention);
  softmax(words, t.attention, t.lse);
  multiply<false>(channels, kTile, words, {memory.value.data(), words, 1}, t.attention, kTile, t.read, kTile,
                  call.wide);
  if (!call.gate_weight) return;
  response_gate(call, t.h, t.read, t.gate);
  for (int64_t at = 0; at < channels * kTile; at += kLanes) {
    const Vec own = load(t.h + at);
    store(t.read + at, own + load(t.gate + at % kTile) * (load(t.read + at) - own));
  }
}

// Where a chunk's intermediates live, each a row of kChunkTiles tiles, and its sums over pixels.
struct Chunk {
  float *h, *grad_read, *attention, *grad_logits;  // [tiles, C, kTile] twice, [tiles, T, kTile] twice
  float *read, *grad_h, *grad_attention;           // one tile each
  float *lse, *grad_gate;                          // [kTile]
  Vec *gate_h, *gate_read, *gate_bias;             // [C], [C], [1]: sums over the chunk's pixels, by lane
  static int64_t floats(int64_t channels, int64_t words) {
    return kChunkTiles * kTile * 2 * (channels + words) + (2 * channels + words + 2) * kTile +
           (2 * channels + 1) * kLanes;
  }
  Chunk(float* work, int64_t channels, int64_t words) {
    h = work;
    grad_read = h + kChunkTiles * channels * kTile;
    attention = grad_read + kChunkTiles * channels * kTile;
    grad_logits = attention + kChunkTiles * words * kTile;
    read = grad_logits + kChunkTiles * words * kTile;
    grad_h = read + channels * kTile;
    grad_attention = grad_h + channels * kTile;
    lse = grad_attention + words * kTile;
    grad_gate = lse + kTile;
    gate_h = reinterpret_cast<Vec*>(grad_gate + kTile);
    gate_read = gate_h + channels;
    gate_bias = gate_read + channels;
    std::memset(gate_h, 0, (2 * channels + 1) * sizeof(Vec));
  }
};

// Recomputes a loaded tile from h and the log-sum-exp, leaves grad_h, and in the chunk what sums over pixels need.
DMGAN_CLONES void backward_tile(const Call& call, const Memory& memory, const Tile& tile, const Chunk& chunk,
                                int64_t place, bool has_grad_attention) {
  const int64_t channels = call.channels, words = memory.count();
  const float* h = chunk.h + place * channels * kTile;
  float* grad_read = chunk.grad_read + place * channels * kTile;  // at first the gradient of h'
  float* attention = chunk.attention + place * words * kTile;
  float* grad_logits = chunk.grad_logits + place * words * kTile;
  multiply<false>(words, kTile, channels, {memory.key.data(), 1, words}, h, kTile, attention, kTile, call.wide);
  if (call.official_mask) mask_officially(call, tile, attention);
  for (int64_t v = 0; v < kTile; v += kLanes) {
    const Vec none = splat(-std::numeric_limits<float>::infinity());
    const Vec total = load(chunk.lse + v);
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
    multiply<false>(channels, kTile, words, {memory.value.data(), words, 1}, attention, kTile, chunk.read, kTile,
                    call.wide);
    response_gate(call, h, chunk.read, gate);
    for (int64_t v = 0; v < kTile; v += kLanes) {
      Vec grad_gate = load(chunk.grad_gate + v);
      for (int64_t at = v; at < channels * kTile; at += kTile) {
        grad_gate += load(grad_read + at) * (load(chunk.read + at) - load(h + at));
      }
      const Vec g = load(gate + v);
      const Vec grad_gate_logit = grad_gate * g * (1.0f - g);
      chunk.gate_bias[0] += grad_gate_logit;
      for (int64_t c = 0; c < channels; ++c) {
        const int64_t at = c * kTile + v;
        const Vec grad_out = load(grad_read + at);
        chunk.gate_h[c] += load(h + at) * grad_gate_logit;
        chunk.gate_read[c] += load(chunk.read + at) * grad_gate_logit;
        store(chunk.grad_h + at, (1.0f - g) * grad_out + call.gate_weight[c] * grad_gate_logit);
        store(grad_read + at, g * grad_out + call.gate_weight[channels + c] * grad_gate_logit);
      }
    }
  } else {
    std::memset(chunk.grad_h, 0, channels * kTile * sizeof(float));
  }

  multiply<false>(words, kTile, channels, {memory.value.data(), 1, words}, grad_read, kTile, grad_logits, kTile,
                  call.wide);
  for (int64_t v = 0; v < kTile; v += kLanes) {
    Vec mean = {};
    for (int64_t at = v; at < words * kTile; at += kTile) {
      if (has_grad_attention) store(grad_logits + at, load(grad_logits + at) + load(chunk.grad_attention + at));
      mean += load(attention + at) * load(grad_logits + at);
    }
    for (int64_t at = v; at < words * kTile; at += kTile) {
      store(grad_logits + at, load(attention + at) * (load(grad_logits + at) - mean));
    }
  }
  multiply<true>(channels, kTile, words, {memory.key.data(), words, 1}, grad_logits, kTile, chunk.grad_h, kTile,
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
  const int64_t tiles = (call.pixels + kTile - 1) / kTile;
  torch::stable::parallel_for(0, call.batch * tiles, 4, [&](int64_t begin, int64_t end) {
    const ForwardTile t(scratch(ForwardTile::floats(call)), call);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t b = i / tiles, first = i % tiles * kTile;
      const Tile tile{b, first, std::min(kTile, call.pixels - first)};
      load_tile<S>(t.h, h_map.sample(b), call.channels, tile);
      forward_tile(call, memory[b], tile, t);
      store_tile<S>(t.read, out_map.sample(b), call.channels, tile);
      std::copy_n(t.lse, tile.count, lse_data + b * call.pixels + first);
      if (gate) store_tile<S>(t.gate, {gate + b * call.pixels, call.pixels, 1}, 1, tile);
      if (attention) {
        S* weights = attention + b * call.words * call.pixels;
        for (int64_t word = 0; word < call.words; ++word) {
          std::fill_n(weights + word * call.pixels + first, tile.count, static_cast<S>(0.0f));
        }
        for (int64_t k = 0; k < memory[b].count(); ++k) {
          store_tile<S>(t.attention + k * kTile, {weights + memory[b].words[k] * call.pixels, call.pixels, 1}, 1, tile);
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
  const int64_t chunk_pixels = kChunkTiles * kTile, chunks = (call.pixels + chunk_pixels - 1) / chunk_pixels;
  const int64_t row = 2 * channels * words + 2 * channels + 1;
  std::vector<float> sums(call.batch * chunks * row);
  torch::stable::parallel_for(0, call.batch * chunks, 1, [&](int64_t begin, int64_t end) {
    float* work = scratch(Chunk::floats(channels, words));
    for (int64_t i = begin; i < end; ++i) {
      const int64_t b = i / chunks;
      const Chunk chunk(work, channels, memory[b].count());
      int64_t place = 0;
      for (int64_t first = i % chunks * chunk_pixels; place < kChunkTiles && first < call.pixels; first += kTile) {
        const Tile tile{b, first, std::min(kTile, call.pixels - first)};
        load_tile<S>(chunk.h + place * channels * kTile, h_map.sample(b), channels, tile);
        load_tile<S>(chunk.grad_read + place * channels * kTile, grad_map.sample(b), channels, tile);
        load_tile<float>(chunk.lse, {lse + b * call.pixels, call.pixels, 1}, 1, tile);
        std::fill_n(chunk.grad_gate, kTile, 0.0f);
        if (grad_gate) load_tile<S>(chunk.grad_gate, {grad_gate + b * call.pixels, call.pixels, 1}, 1, tile);
        for (int64_t k = 0; grad_attention && k < memory[b].count(); ++k) {
          const S* of_word = grad_attention + (b * words + memory[b].words[k]) * call.pixels;
          load_tile<S>(chunk.grad_attention + k * kTile, {of_word, call.pixels, 1}, 1, tile);
        }
        backward_tile(call, memory[b], tile, chunk, place++, grad_attention != nullptr);
        store_tile<S>(chunk.grad_h, grad_h_map.sample(b), channels, tile);
      }
      reduce_chunk(call, memory[b].count(), chunk, place, sums.data() + i * row);
    }
  });

  // Chunks in order, so that the bits do not depend on who computed which.
  std::vector<float> gate_sums(2 * channels + 1, 0.0f);
  for (int64_t b = 0; b < call.batch; ++b) {
    const Memory& m = memory[b];
    const int64_t size = channels * m.count();
    float* total = sums.data() + b * chunks * row;
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
  m.def(
      "memory_read_forward(Tensor h, Tensor key, Tensor value, Tensor? gate_weight, Tensor? gate_bias, "
      "Tensor? padding_mask, bool official, bool want_attention, bool want_gate) -> (Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "memory_read_backward(Tensor grad_out, Tensor? grad_attention, Tensor? grad_gate, Tensor h, Tensor key, "
      "Tensor value, Tensor? gate_weight, Tensor? gate_bias, Tensor? padding_mask, Tensor lse, bool official) "
      "-> (Tensor, Tensor, Tensor, Tensor, Tensor)");
}
STABLE_TORCH_LIBRARY_IMPL(dmgan_fast_cpu, CPU, m) {
  m.impl("memory_read_forward", TORCH_BOX(&dmgan::memory_read_forward));
  m.impl("memory_read_backward", TORCH_BOX(&dmgan::memory_read_backward));
}
