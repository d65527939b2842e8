// Memory reading: alpha_ij = softmax_i(h_j . k_i),  o_j = sum_i alpha_ij v_i,  g = sigmoid(w [h_j, o_j] + b),
// h'_j = g o_j + (1 - g) h_j.
// One pass over h: a tile of pixels stays in shared memory while one thread per pixel keeps the weights of all its
// words in registers. w_o . o_j = sum_i alpha_ij (w_o . v_i), so the gate is known before o_j is. Captions longer than
// a register row are left to PyTorch (kernels/_long_captions.py).
#pragma once

#include <algorithm>

#include "common.cuh"

namespace dmgan {

// Axes: b sample, c channel, n pixel of the image, p pixel of the tile, t word. Tiles: `tile` pixels, `panel` channels
// whose keys and values are in shared memory, kWords words in a register row (the caption is padded to it).
template <class S>
struct MemoryReadInputs {
  int64_t batch;
  int channels, pixels, words;  // at least one each
  FeatureMap<const S> h;
  const S *key, *value;                  // [B, C, T]
  const float *gate_weight, *gate_bias;  // [2C] for h, then o; [1]; null: no gate, h' = o
  const bool* padding_mask;              // [B, T], true: padding; null: every word is read
  bool official;                         // pixel n of sample b takes row (b N + n) mod B of the mask
};

template <class S>
struct MemoryReadForward : MemoryReadInputs<S> {
  FeatureMap<S> out;
  float* lse;    // [B, N]
  S* attention;  // [B, T, N] or null
  S* gate;       // [B, N] or null
};

template <class S>
struct MemoryReadBackward : MemoryReadInputs<S> {
  FeatureMap<const S> grad_out;
  const S *grad_attention, *grad_gate;  // or null
  const float* lse;
  FeatureMap<S> grad_h;
  S *grad_key, *grad_value;
  float *grad_gate_weight, *grad_gate_bias;  // null without a gate
  float* work;                               // memory_read_work_floats()
};

constexpr int kLongestRow = 32;            // words; captions have 18, or a few more
constexpr int kForwardPixels = 128;        // largest tile; one thread each
constexpr int kBackwardPixels = 64;        // largest tile; two threads each
constexpr int kLeastPixels = 8;            // smallest tile: what many channels leave room for
constexpr int kPanelChannels = 64;         // channels of key and value held at a time: all of the authors' models
constexpr size_t kGoodShared = 55 * 1024;  // bytes of a block, so that four share a multiprocessor (two on sm_80)
constexpr int kSliceBlocks = 512;          // blocks which the backward pass aims at: four per multiprocessor of 128
constexpr int kReduceThreads = 128;

// Rows of a tile are an odd number of 4-byte banks apart: reading along pixels or along channels meets no conflict.
template <class S>
__host__ __device__ constexpr int tile_row(int tile) {
  return tile + static_cast<int>(sizeof(float) / sizeof(S));
}

// ------------------------------------------------------------------------------------------------ tiles and panels
// [C][row] <- pixels n0 ... n0 + tile - 1 of sample b; zeros past the image. Lanes run along the dense axis.
template <class S>
__device__ __forceinline__ void load_tile(S* rows, FeatureMap<const S> map, int64_t b, int channels, int n0, int pixels,
                                          int tile) {
  const int row = tile_row<S>(tile), threads = blockDim.x, thread = threadIdx.x;
  const bool channels_last = map.channels_last();
  const S* first = map.at(b, 0, n0);
  const auto element = [&](int c, int p) {
    return n0 + p < pixels ? load_as_is(first + c * map.channel + p * map.pixel) : S(0.0f);
  };
  if (channels_last) {
    for (int c = thread % kWarp; c < channels; c += kWarp) {
#pragma unroll 8
      for (int p = thread / kWarp; p < tile; p += threads / kWarp) rows[c * row + p] = element(c, p);
    }
  } else {
    const int p = thread % tile;
#pragma unroll 8
    for (int c = thread / tile; c < channels; c += threads / tile) rows[c * row + p] = element(c, p);
  }
}

// The reverse of load_tile.
template <class S>
__device__ __forceinline__ void store_tile(const S* rows, FeatureMap<S> map, int64_t b, int channels, int n0,
                                           int pixels, int tile) {
  const int row = tile_row<S>(tile), threads = blockDim.x, thread = threadIdx.x;
  const int live = min(tile, pixels - n0);
  S* first = map.at(b, 0, n0);
  if (map.channels_last()) {
    for (int c = thread % kWarp; c < channels; c += kWarp) {
      for (int p = thread / kWarp; p < live; p += threads / kWarp) {
        store(first + c * map.channel + p * map.pixel, static_cast<float>(rows[c * row + p]));
      }
    }
  } else {
    const int p = thread % tile;
    for (int c = thread / tile; p < live && c < channels; c += threads / tile) {
      store(first + c * map.channel + p * map.pixel, static_cast<float>(rows[c * row + p]));
    }
  }
}

// [panel][kWords] <- channels c0 ... of sample b's key or value; zeros past the caption.
template <int kWords, class S>
__device__ __forceinline__ void load_words(float* rows, const S* source, int64_t b, int channels, int words, int c0,
                                           int count) {
  const S* first = source + (b * channels + c0) * words;
  for (int i = threadIdx.x; i < count * kWords; i += blockDim.x) {
    const int c = i / kWords, t = i % kWords;
    const float x = load(first + static_cast<int64_t>(c) * words + min(t, words - 1));
    rows[i] = t < words ? x : 0.0f;
  }
}

// Bit t is set if pixel n of sample b reads word t.
template <int kWords, class S>
__device__ __forceinline__ uint32_t readable_words(const MemoryReadInputs<S>& in, int64_t b, int n) {
  const int64_t row = in.official ? (b * in.pixels + n) % in.batch : b;
  uint32_t readable = 0;
#pragma unroll
  for (int t = 0; t < kWords; ++t) {
    const bool reads = t < in.words && !(in.padding_mask && load_as_is(in.padding_mask + row * in.words + t));
    readable |= static_cast<uint32_t>(reads) << t;
  }
  return readable;
}

// row[t] += x * words[t]
template <int kWords>
__device__ __forceinline__ void multiply_add(float (&row)[kWords], float x, const float* words) {
#pragma unroll
  for (int t = 0; t < kWords; t += 4) {
    const float4 four = *reinterpret_cast<const float4*>(words + t);
    row[t] += x * four.x;
    row[t + 1] += x * four.y;
    row[t + 2] += x * four.z;
    row[t + 3] += x * four.w;
  }
}

// sum_t row[t] * words[t]
template <int kWords>
__device__ __forceinline__ float dot(const float (&row)[kWords], const float* words) {
  float sum = 0.0f;
#pragma unroll
  for (int t = 0; t < kWords; t += 4) {
    const float4 four = *reinterpret_cast<const float4*>(words + t);
    sum += row[t] * four.x + row[t + 1] * four.y + row[t + 2] * four.z + row[t + 3] * four.w;
  }
  return sum;
}

// What a block keeps of key, value and gate weights: one panel of channels.
template <int kWords>
struct Panel {
  float *key, *value;      // [panel][kWords]
  float *gate_h, *gate_o;  // [panel]: the gate's weights
  float* gate_read;        // [kWords]: w_o . v_t
  int size;

  __device__ Panel(SharedArena& arena, int size_)
      : key(arena.take<float>(size_ * kWords)),
        value(arena.take<float>(size_ * kWords)),
        gate_h(arena.take<float>(size_)),
        gate_o(arena.take<float>(size_)),
        gate_read(arena.take<float>(kWords)),
        size(size_) {}

  static size_t bytes(int size) {
    return 2 * shared_bytes<float>(size * kWords) + 2 * shared_bytes<float>(size) + shared_bytes<float>(kWords);
  }

  // Visits all channels, panel by panel: work(c, i) for channel c, which is row i of the panel. Leaves gate_read and
  // the last panel behind.
  template <class S, class Work>
  __device__ __forceinline__ void for_each_channel(const MemoryReadInputs<S>& in, int64_t b, bool works, Work work) {
    float read = 0.0f;  // thread t sums w_o . v_t
    for (int c0 = 0; c0 < in.channels; c0 += size) {
      const int count = min(size, in.channels - c0);
      __syncthreads();  // the panel before has been read
      load_words<kWords>(key, in.key, b, in.channels, in.words, c0, count);
      load_words<kWords>(value, in.value, b, in.channels, in.words, c0, count);
      for (int i = threadIdx.x; i < count; i += blockDim.x) {
        gate_h[i] = in.gate_weight ? load(in.gate_weight + c0 + i) : 0.0f;
        gate_o[i] = in.gate_weight ? load(in.gate_weight + in.channels + c0 + i) : 0.0f;
      }
      __syncthreads();
      if (works) {
#pragma unroll 2
        for (int i = 0; i < count; ++i) work(c0 + i, i);
      }
      if (threadIdx.x < kWords) {
        for (int i = 0; i < count; ++i) read += gate_o[i] * value[i * kWords + threadIdx.x];
      }
    }
    if (threadIdx.x < kWords) gate_read[threadIdx.x] = read;
    __syncthreads();
  }

  // The same for one of key (`keys`) or value, without the sums. All channels are still there if they fit one panel.
  template <class S, class Work>
  __device__ __forceinline__ void for_each_channel_of(bool keys, const MemoryReadInputs<S>& in, int64_t b, bool works,
                                                      Work work) {
    float* rows = keys ? key : value;
    for (int c0 = 0; c0 < in.channels; c0 += size) {
      const int count = min(size, in.channels - c0);
      if (size < in.channels) {
        __syncthreads();
        load_words<kWords>(rows, keys ? in.key : in.value, b, in.channels, in.words, c0, count);
        __syncthreads();
      }
      if (works) {
#pragma unroll 2
        for (int i = 0; i < count; ++i) work(c0 + i, rows + i * kWords);
      }
    }
  }
};

// --------------------------------------------------------------------------------------------------------- forward
template <class S, int kWords>
__global__ void __launch_bounds__(kForwardPixels, kWords == kLongestRow ? 3 : 5)
    memory_read_forward_kernel(MemoryReadForward<S> a, int tile, int panel_channels) {
  const int channels = a.channels, row = tile_row<S>(tile), tiles = divide_up(a.pixels, tile);
  const int64_t b = blockIdx.x / tiles;
  const int n0 = static_cast<int>(blockIdx.x % tiles) * tile;

  SharedArena arena;
  S* h = arena.take<S>(channels * row);  // [C][row]; h' takes its place
  Panel<kWords> panel(arena, panel_channels);

  load_tile(h, a.h, b, channels, n0, a.pixels, tile);

  const int p = threadIdx.x, n = n0 + p;
  const bool works = p < tile, live = works && n < a.pixels;
  float weight[kWords] = {};  // logits, then their exponentials, then alpha
  float gate_logit = 0.0f;
  panel.for_each_channel(a, b, works, [&](int c, int i) {
    const float x = static_cast<float>(h[c * row + p]);
    multiply_add(weight, x, panel.key + i * kWords);
    gate_logit += x * panel.gate_h[i];
  });
  const uint32_t readable = live ? readable_words<kWords>(a, b, n) : 0;
  float highest = -INFINITY, total = 0.0f;
#pragma unroll
  for (int t = 0; t < kWords; ++t) {
    if (!(readable >> t & 1)) weight[t] = -INFINITY;
    highest = fmaxf(highest, weight[t]);
  }
#pragma unroll
  for (int t = 0; t < kWords; ++t) {  // without a readable word all are zero; a NaN, which is no maximum, stays
    weight[t] = readable == 0 ? 0.0f : expf(weight[t] - highest);
    total += weight[t];
  }
  const float scale = readable == 0 ? 0.0f : 1.0f / total;
#pragma unroll
  for (int t = 0; t < kWords; ++t) {
    weight[t] *= scale;
    if (a.attention && live && t < a.words) store(a.attention + (b * a.words + t) * a.pixels + n, weight[t]);
  }
  const float gate =
      a.gate_weight ? sigmoid(gate_logit + dot(weight, panel.gate_read) + load(a.gate_bias)) : 1.0f;
  if (live) {
    store(a.lse + b * a.pixels + n, readable == 0 ? -INFINITY : highest + logf(total));
    if (a.gate) store(a.gate + b * a.pixels + n, gate);
  }
  panel.for_each_channel_of(false, a, b, works, [&](int c, const float* value) {
    S* x = h + c * row + p;
    *x = static_cast<S>(gate * dot(weight, value) + (1.0f - gate) * static_cast<float>(*x));
  });
  __syncthreads();
  store_tile(h, a.out, b, channels, n0, a.pixels, tile);
}

// -------------------------------------------------------------------------------------------------------- backward
// Where a slice's (and a sample's) sums over pixels lie in the work buffer.
struct MemoryReadSums {
  static constexpr int64_t kSector = 8;  // floats: all sums start at a memory sector
  int64_t channels, words;
  __host__ __device__ int64_t key() const { return 0; }                        // [T, C]: dL/dk
  __host__ __device__ int64_t value() const { return words * channels; }       // [T, C]: sum_j g alpha_ij dh'_j
  __host__ __device__ int64_t gate_h() const { return 2 * words * channels; }  // [C]: sum_j dz_j h_j
  __host__ __device__ int64_t read() const { return gate_h() + channels; }     // [T]: sum_j dz_j alpha_ij
  __host__ __device__ int64_t bias() const { return read() + words; }          // [1]: sum_j dz_j
  __host__ __device__ int64_t size() const { return divide_up(bias() + 1, kSector) * kSector; }
};

constexpr int kBlocking = 4;  // words and channels per thread in a product over pixels

// sums[t][c] (+)= sum_p factor[t][p] * rows[c][p] for the words of the register row. The work is dealt out from
// `first_thread` on: two products in a row start half a block apart and so fill each other's last round.
template <int kWords, class S>
__device__ __forceinline__ void multiply_over_pixels(float* sums, const float* factor, const S* rows, int channels,
                                                     int words, int tile, int first_thread, bool first) {
  const int row = tile_row<S>(tile), factor_row = tile_row<float>(tile), threads = blockDim.x;
  const int step = divide_up(channels, kBlocking);  // a thread's channels are this far apart: no bank conflicts
  for (int i = (threadIdx.x + threads - first_thread) % threads; i < step * (kWords / kBlocking); i += threads) {
    const int c0 = i % step, t1 = i / step * kBlocking;
    float product[kBlocking][kBlocking] = {};
#pragma unroll 2
    for (int p = 0; p < tile; ++p) {
      float x[kBlocking], y[kBlocking];
#pragma unroll
      for (int j = 0; j < kBlocking; ++j) {
        x[j] = factor[(t1 + j) * factor_row + p];
        y[j] = static_cast<float>(rows[min(c0 + j * step, channels - 1) * row + p]);
      }
#pragma unroll
      for (int j = 0; j < kBlocking; ++j) {
#pragma unroll
        for (int k = 0; k < kBlocking; ++k) product[j][k] += x[j] * y[k];
      }
    }
#pragma unroll
    for (int j = 0; j < kBlocking; ++j) {
#pragma unroll
      for (int k = 0; k < kBlocking; ++k) {
        const int t = t1 + j, c = c0 + k * step;
        if (t < words && c < channels) {
          float* sum = sums + static_cast<int64_t>(t) * channels + c;
          store(sum, first ? product[j][k] : load(sum) + product[j][k]);
        }
      }
    }
  }
}

// What a block of the backward pass keeps of a tile of pixels.
template <class S, int kWords>
struct BackwardTile {
  SharedArena& arena;
  int channels, tile, panel_channels;
  int row = tile_row<S>(tile), word_row = tile_row<float>(tile);
  S* h = arena.take<S>(channels * row);     // [C][row]
  S* grad = arena.take<S>(channels * row);  // [C][row]: dh', then dh in its place
  Panel<kWords> panel{arena, panel_channels};
  float* ds = arena.take<float>(kWords * word_row);     // [kWords][word_row]
  float* gated = arena.take<float>(kWords * word_row);  // [kWords][word_row]: first dh' . v, then g alpha
  float* gate = arena.take<float>(tile);                // g
  float* dz = arena.take<float>(tile);                  // gradient of the gate's logit
  float* dz_per_gate = arena.take<float>(tile);         // dz / g

  static size_t bytes(int channels, int tile, int panel_channels) {
    return 2 * shared_bytes<S>(channels * tile_row<S>(tile)) + Panel<kWords>::bytes(panel_channels) +
           2 * shared_bytes<float>(kWords * tile_row<float>(tile)) + 3 * shared_bytes<float>(tile);
  }

  // For pixel n, which is p of the tile: its leading thread gets alpha in `weight` and returns w_h . h; the other one
  // writes dh' . v to `gated` and dh' . h to `dz`.
  __device__ __forceinline__ float weigh(float (&weight)[kWords], const MemoryReadBackward<S>& a, int64_t b, int n,
                                         int p, bool works, bool leads, bool live, float lse) {
    const S* factor = leads ? h : grad;
    float side = 0.0f;
#pragma unroll
    for (int t = 0; t < kWords; ++t) weight[t] = 0.0f;
    panel.for_each_channel(a, b, works, [&](int c, int i) {
      const float x = static_cast<float>(factor[c * row + p]);
      multiply_add(weight, x, (leads ? panel.key : panel.value) + i * kWords);
      side += x * (leads ? panel.gate_h[i] : static_cast<float>(h[c * row + p]));
    });
    if (works && !leads) {
#pragma unroll
      for (int t = 0; t < kWords; ++t) gated[t * word_row + p] = weight[t];
      dz[p] = side;
    }
    const uint32_t readable = live ? readable_words<kWords>(a, b, n) : 0;
#pragma unroll
    for (int t = 0; t < kWords; ++t) weight[t] = readable >> t & 1 ? expf(weight[t] - lse) : 0.0f;
    float total = 0.0f;  // 1 but for the rounding of lse, which all weights have in common
#pragma unroll
    for (int t = 0; t < kWords; ++t) total += weight[t];
    const float scale = total == 0.0f ? 0.0f : 1.0f / total;
#pragma unroll
    for (int t = 0; t < kWords; ++t) weight[t] *= scale;
    __syncthreads();
    return side;
  }

  // Adds the tile's part to the slice's sums; the first tile stores it.
  __device__ __forceinline__ void add_to(float* sums, const MemoryReadBackward<S>& a, bool first) const {
    const MemoryReadSums at{a.channels, a.words};
    const int half = blockDim.x / 2;
    multiply_over_pixels<kWords>(sums + at.key(), ds, h, a.channels, a.words, tile, 0, first);
    multiply_over_pixels<kWords>(sums + at.value(), gated, grad, a.channels, a.words, tile, half, first);
    if (!a.gate_weight) return;
    const auto add = [&](int64_t where, auto product) {  // one factor per pixel: one thread for each sum
      float total = 0.0f;
      for (int q = 0; q < tile; ++q) total += product(q);
      store(sums + where, first ? total : load(sums + where) + total);
    };
    for (int t = threadIdx.x; t < a.words; t += blockDim.x) {
      add(at.read() + t, [&](int q) { return gated[t * word_row + q] * dz_per_gate[q]; });
    }
    for (int c = threadIdx.x; c <= a.channels; c += blockDim.x) {
      if (c < a.channels) {
        add(at.gate_h() + c, [&](int q) { return dz[q] * static_cast<float>(h[c * row + q]); });
      } else {
        add(at.bias(), [&](int q) { return dz[q]; });
      }
    }
  }
};

// Gradient of h, and each slice's sums over its tiles. With da = g (dh' . v) + dz (w_o . v) + dL/dalpha, where
// dz = dg g (1 - g) and dg = dh' . (o - h) + dL/dg:  ds = alpha (da - sum_i alpha da) and
// dh = (1 - g) dh' + dz w_h + ds k.
// Two threads share a pixel: one multiplies h by the keys while the other multiplies dh' by the values.
template <class S, int kWords>
__global__ void __launch_bounds__(2 * kBackwardPixels, kWords == kLongestRow ? 2 : 3)
    memory_read_backward_kernel(MemoryReadBackward<S> a, int tile, int panel_channels, int slices,
                                int tiles_per_slice) {
  const int64_t b = blockIdx.x / slices;
  const int first_tile = static_cast<int>(blockIdx.x % slices) * tiles_per_slice;
  const int last_tile = min(first_tile + tiles_per_slice, divide_up(a.pixels, tile)) - 1;
  float* sums = a.work + blockIdx.x * MemoryReadSums{a.channels, a.words}.size();
  SharedArena arena;
  BackwardTile<S, kWords> block{arena, a.channels, tile, panel_channels};
  const int row = block.row, word_row = block.word_row;

  const int p = threadIdx.x % tile, part = threadIdx.x / tile;
  const bool works = part < 2, leads = part == 0;  // the leading thread of a pixel has its logits
  float weight[kWords];

  for (int tile_index = first_tile; tile_index <= last_tile; ++tile_index) {
    const int n0 = tile_index * tile, n = n0 + p;
    const bool live = leads && n < a.pixels;
    __syncthreads();  // the tile before has been stored, maybe in another layout
    load_tile(block.h, a.h, b, a.channels, n0, a.pixels, tile);
    load_tile(block.grad, a.grad_out, b, a.channels, n0, a.pixels, tile);
    const float lse = live ? load(a.lse + b * a.pixels + n) : -INFINITY;
    const auto grad_attention = [&](int t) {
      return a.grad_attention && live && t < a.words ? load(a.grad_attention + (b * a.words + t) * a.pixels + n) : 0.0f;
    };

    const float side = block.weigh(weight, a, b, n, p, works, leads, live, lse);
    if (leads) {
      float pulled = 0.0f, attended = 0.0f;  // sum_i alpha (dh' . v, dL/dalpha)
#pragma unroll
      for (int t = 0; t < kWords; ++t) {
        pulled += weight[t] * block.gated[t * word_row + p];
        attended += weight[t] * grad_attention(t);
      }
      const float gate_read = dot(weight, block.panel.gate_read);  // sum_i alpha (w_o . v)
      float gate = 1.0f, dz = 0.0f, dz_per_gate = 0.0f;
      if (a.gate_weight) {
        gate = sigmoid(side + gate_read + load(a.gate_bias));
        float grad_gate = pulled - block.dz[p];
        if (a.grad_gate && live) grad_gate += load(a.grad_gate + b * a.pixels + n);
        dz_per_gate = grad_gate * (1.0f - gate);
        dz = dz_per_gate * gate;
      }
      const float mean = gate * pulled + dz * gate_read + attended;  // sum_i alpha da
#pragma unroll
      for (int t = 0; t < kWords; ++t) {
        float* gated = block.gated + t * word_row + p;
        const float da = gate * *gated + dz * block.panel.gate_read[t] + grad_attention(t);
        block.ds[t * word_row + p] = weight[t] * (da - mean);
        *gated = weight[t] * gate;
      }
      block.gate[p] = gate;
      block.dz[p] = dz;
      block.dz_per_gate[p] = dz_per_gate;
    }
    __syncthreads();
    block.add_to(sums, a, tile_index == first_tile);
    __syncthreads();
    float gate = 1.0f, dz = 0.0f;
    if (works) {
#pragma unroll
      for (int t = 0; t < kWords; ++t) weight[t] = block.ds[t * word_row + p];
      gate = block.gate[p];
      dz = block.dz[p];
    }
    block.panel.for_each_channel_of(true, a, b, works, [&](int c, const float* key) {
      if (c % 2 != part) return;  // the two threads of a pixel take channels in turn
      const float gate_h = a.gate_weight ? dz * load(a.gate_weight + c) : 0.0f;
      S* grad = block.grad + c * row + p;
      *grad = static_cast<S>((1.0f - gate) * static_cast<float>(*grad) + gate_h + dot(weight, key));
    });
    __syncthreads();
    store_tile(block.grad, a.grad_h, b, a.channels, n0, a.pixels, tile);
  }
}

// [B, size] <- [B, slices, size], of which the first `used` numbers count
static __global__ void __launch_bounds__(kReduceThreads)
    memory_read_sum_slices_kernel(const float* parts, float* sums, int64_t batch, int slices, int64_t size,
                                  int64_t used) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= batch * size || i % size >= used) return;
  const float* part = parts + i / size * slices * size + i % size;
  float total = 0.0f;
#pragma unroll 8
  for (int s = 0; s < slices; ++s) total += load(part + s * size);
  store(sums + i, total);
}

// dL/dk and dL/dv = sum g alpha dh' + w_o sum dz alpha of sample b, kWarp channels from c0 on: sums lie in [T, C],
// results in [C, T].
template <class S>
__device__ __forceinline__ void finish_words(const MemoryReadBackward<S>& a, const float* sums, int64_t b, int c0) {
  constexpr int kRow = kWarp + 1;  // no bank conflicts
  const MemoryReadSums at{a.channels, a.words};
  const float* sample = sums + b * at.size();
  SharedArena arena;
  float* key = arena.take<float>(kWarp * kRow);  // [t][c]
  float* value = arena.take<float>(kWarp * kRow);
  const int lane = threadIdx.x % kWarp, warps = blockDim.x / kWarp, warp = threadIdx.x / kWarp;
  static_assert(kLongestRow <= kWarp);
  const int columns = min(kWarp, a.channels - c0);
  for (int t = warp; t < a.words && lane < columns; t += warps) {
    const int i = t * a.channels + c0 + lane;
    key[t * kRow + lane] = load(sample + at.key() + i);
    const float read = a.gate_weight ? load(sample + at.read() + t) : 0.0f;
    const float gate_o = a.gate_weight ? load(a.gate_weight + a.channels + c0 + lane) : 0.0f;
    value[t * kRow + lane] = load(sample + at.value() + i) + gate_o * read;
  }
  __syncthreads();
  for (int c = warp; c < columns && lane < a.words; c += warps) {
    const int64_t i = (b * a.channels + c0 + c) * a.words + lane;
    store(a.grad_key + i, key[lane * kRow + c]);
    store(a.grad_value + i, value[lane * kRow + c]);
  }
}

// dL/dw_h = sum dz h and dL/dw_o = sum dz o = sum v (sum dz alpha) of channel c, or dL/db = sum dz for c = C. One warp.
template <class S>
__device__ __forceinline__ void finish_gate(const MemoryReadBackward<S>& a, const float* sums, int c) {
  const MemoryReadSums at{a.channels, a.words};
  const int lane = threadIdx.x % kWarp;
  const bool bias = c == a.channels;
  float for_h = 0.0f, for_o = 0.0f;
  for (int64_t b = lane; b < a.batch; b += kWarp) {
    for_h += load(sums + b * at.size() + (bias ? at.bias() : at.gate_h() + c));
  }
  for (int64_t b = 0; b < a.batch && !bias && lane < a.words; ++b) {
    for_o += load(a.value + (b * a.channels + c) * a.words + lane) * load(sums + b * at.size() + at.read() + lane);
  }
  for_h = warp_sum(for_h);
  for_o = warp_sum(for_o);
  if (lane != 0) return;
  if (bias) {
    store(a.grad_gate_bias, for_h);
  } else {
    store(a.grad_gate_weight + c, for_h);
    store(a.grad_gate_weight + a.channels + c, for_o);
  }
}

// Gradients of all but h from the samples' sums: the first `word_blocks` blocks do the words, the others the gate.
template <class S>
__global__ void __launch_bounds__(kReduceThreads)
    memory_read_finish_kernel(MemoryReadBackward<S> a, const float* sums, int64_t word_blocks) {
  if (blockIdx.x < word_blocks) {
    const int parts = divide_up(a.channels, kWarp);
    finish_words(a, sums, blockIdx.x / parts, static_cast<int>(blockIdx.x % parts) * kWarp);
  } else {
    const int c = static_cast<int>(blockIdx.x - word_blocks) * (kReduceThreads / kWarp) + threadIdx.x / kWarp;
    if (c <= a.channels) finish_gate(a, sums, c);
  }
}

// ------------------------------------------------------------------------------------------------------------ host
// The largest tile that leaves room for several blocks, else the largest that fits at all.
template <class Bytes>
int choose_tile(int largest, int pixels, Bytes bytes) {
  while (largest > kWarp && largest / 2 >= pixels) largest /= 2;
  for (int tile = largest; tile >= kWarp; tile /= 2) {
    if (bytes(tile) <= kGoodShared) return tile;
  }
  for (int tile = kWarp; tile >= kLeastPixels; tile /= 2) {
    if (bytes(tile) <= shared_limit()) return tile;
  }
  throw std::runtime_error("memory_read: needs " + std::to_string(bytes(kLeastPixels)) +
                           " bytes of shared memory, the device has " + std::to_string(shared_limit()));
}

// Equal panels of at most kPanelChannels channels.
inline int choose_panel(int channels) { return divide_up(channels, divide_up(channels, kPanelChannels)); }

// How the backward pass cuts samples: depends on the sizes only, so that results do.
struct MemoryReadSlices {
  int tile, slices, tiles_per_slice;
};

// Calls run<kWords>() with the shortest register row that holds the caption. 20 words: the authors' captions.
template <class Run>
auto with_row(int words, Run run) {
  if (words <= 8) return run.template operator()<8>();
  if (words <= 16) return run.template operator()<16>();
  if (words <= 20) return run.template operator()<20>();
  if (words <= kLongestRow) return run.template operator()<kLongestRow>();
  throw std::runtime_error("memory_read: the kernels take at most " + std::to_string(kLongestRow) + " words, got " +
                           std::to_string(words));
}

template <class S>
MemoryReadSlices memory_read_slices(int64_t batch, int channels, int pixels, int words, int blocks) {
  const int tile = with_row(words, [&]<int kWords>() {
    return choose_tile(kBackwardPixels, pixels, [&](int size) {
      return BackwardTile<S, kWords>::bytes(channels, size, choose_panel(channels));
    });
  });
  const int tiles = divide_up(pixels, tile);
  const int wanted = static_cast<int>(divide_up<int64_t>(blocks, std::max(batch, int64_t{1})));
  const int tiles_per_slice = divide_up(tiles, std::min(wanted, tiles));
  return {tile, divide_up(tiles, tiles_per_slice), tiles_per_slice};
}

// Floats of the backward pass's work buffer: the sums of each slice, then of each sample.
template <class S>
int64_t memory_read_work_floats(int64_t batch, int channels, int pixels, int words, int blocks = kSliceBlocks) {
  const int slices = memory_read_slices<S>(batch, channels, pixels, words, blocks).slices;
  return batch * (slices + 1) * MemoryReadSums{channels, words}.size();
}

template <class S>
void launch_memory_read_forward(const MemoryReadForward<S>& a, Stream stream) {
  with_row(a.words, [&]<int kWords>() {
    const int panel = choose_panel(a.channels);
    const auto bytes = [&](int tile) {
      return shared_bytes<S>(a.channels * tile_row<S>(tile)) + Panel<kWords>::bytes(panel);
    };
    const int tile = choose_tile(kForwardPixels, a.pixels, bytes);
    launch(memory_read_forward_kernel<S, kWords>, a.batch * divide_up(a.pixels, tile), std::max(tile, kWarp),
           bytes(tile), stream, a, tile, panel);
  });
}

template <class S>
void launch_memory_read_backward(const MemoryReadBackward<S>& a, Stream stream, int blocks = kSliceBlocks) {
  const auto [tile, slices, tiles_per_slice] = memory_read_slices<S>(a.batch, a.channels, a.pixels, a.words, blocks);
  const MemoryReadSums at{a.channels, a.words};
  float* samples = a.work + a.batch * slices * at.size();
  with_row(a.words, [&, tile = tile, slices = slices, tiles_per_slice = tiles_per_slice]<int kWords>() {
    const int panel = choose_panel(a.channels);
    launch(memory_read_backward_kernel<S, kWords>, a.batch * slices, std::max(2 * tile, kWarp),
           BackwardTile<S, kWords>::bytes(a.channels, tile, panel), stream, a, tile, panel, slices, tiles_per_slice);
  });
  const int64_t sum_blocks = divide_up<int64_t>(a.batch * at.size(), kReduceThreads);
  const int64_t used = a.gate_weight ? at.bias() + 1 : at.gate_h();
  launch(memory_read_sum_slices_kernel, sum_blocks, kReduceThreads, 0, stream, static_cast<const float*>(a.work),
         samples, a.batch, slices, at.size(), used);
  const int64_t word_blocks = a.batch * divide_up(a.channels, kWarp);
  const int64_t gate_blocks = a.gate_weight ? divide_up(a.channels + 1, kReduceThreads / kWarp) : 0;
  launch(memory_read_finish_kernel<S>, word_blocks + gate_blocks, kReduceThreads,
         2 * shared_bytes<float>(kWarp * (kWarp + 1)), stream, a, static_cast<const float*>(samples), word_blocks);
}

}  // namespace dmgan
