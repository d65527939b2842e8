// Memory writing: g = sigmoid(A w_i + B mean(h)),  m_i = g relu(M_w w_i) + (1 - g) relu(M_r mean(h)),
// k_i = relu(K m_i),  v_i = relu(V m_i).
// One launch: a block takes eight words through all four products, so the memory m never leaves shared memory and
// every weight is read once per block. Backward: one block per sample for what depends on the words, then one product
// over all samples' words for the weights.
#pragma once

#include "common.cuh"

namespace dmgan {

// Axes: b sample, c channel of the image, d dimension of a word, t word, r channel of the memory (2C).
template <class S>
struct MemoryWriteInputs {
  int64_t batch;
  int dimensions, channels, words;
  const S *word, *image_mean;          // [B, D, T], [B, C]
  const S *gate_word, *gate_image;     // [D], [C]
  const S *word_weight, *word_bias;    // [2C, D], [2C]
  const S *image_weight, *image_bias;  // [2C, C], [2C]
  const S *key_weight, *key_bias;      // [C, 2C], [C]
  const S *value_weight, *value_bias;  // [C, 2C], [C]
};

template <class S>
struct MemoryWriteForward : MemoryWriteInputs<S> {
  S *key, *value;  // [B, C, T]
};

template <class S>
struct MemoryWriteBackward : MemoryWriteInputs<S> {
  const S *grad_key, *grad_value, *key, *value;
  S *grad_word, *grad_image_mean, *grad_gate_word, *grad_gate_image, *grad_word_weight, *grad_word_bias;
  S *grad_image_weight, *grad_image_bias, *grad_key_weight, *grad_key_bias, *grad_value_weight, *grad_value_bias;
  float* work;  // MemoryWriteWork::size() numbers
};

constexpr int kWriteThreads = 128;
constexpr int kWriteBlocks = 4;     // per multiprocessor: up to 128 registers a thread, so no spills
constexpr int kWriteWords = 8;      // words of a block
constexpr int kWordsPerThread = 4;  // one float4
constexpr int kRowsPerThread = 2;
constexpr int kStageRows = kWriteThreads / (kWriteWords / kWordsPerThread) * kRowsPerThread;
constexpr int kStageInner = kWarp;                // one coalesced read of a weight's row
constexpr int kStageRow = kStageRows + 1;         // odd: no bank conflicts either way
constexpr int kOuterTile = kWarp;                 // weight gradients: side of a block's tile
constexpr int kOuterRows = 2, kOuterColumns = 4;  // and of a thread's

// use(r, t, sum) with sum = sum_k weight[r][k] * x[k][t] (kTransposed: weight[k][r]), for all rows r and kWriteWords
// words. Each (r, t) belongs to the same thread every time.
template <bool kTransposed, class S, class Use>
__device__ __forceinline__ void multiply(float* stage, const S* weight, int rows, int inner, const float* x, Use use) {
  constexpr int kGroups = kStageRows / kRowsPerThread;  // a thread's rows are this far apart
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int first_row = threadIdx.x % kGroups, first_word = threadIdx.x / kGroups * kWordsPerThread;
  for (int r0 = 0; r0 < rows; r0 += kStageRows) {
    float sum[kRowsPerThread][kWordsPerThread] = {};
    for (int k0 = 0; k0 < inner; k0 += kStageInner) {
      const int count = min(kStageInner, inner - k0);
      __syncthreads();  // the stage before has been read; x has been written
      if constexpr (kTransposed) {
        const int r = threadIdx.x;
#pragma unroll 8
        for (int k = 0; k < count; ++k) {
          if (r0 + r < rows) stage[k * kStageRow + r] = load(weight + static_cast<int64_t>(k0 + k) * rows + r0 + r);
        }
      } else {
#pragma unroll 8
        for (int r = warp; r < min(kStageRows, rows - r0); r += kWriteThreads / kWarp) {
          if (lane < count) {
            stage[lane * kStageRow + r] = load(weight + static_cast<int64_t>(r0 + r) * inner + k0 + lane);
          }
        }
      }
      __syncthreads();
#pragma unroll 4
      for (int k = 0; k < count; ++k) {
        const float4 four = *reinterpret_cast<const float4*>(x + (k0 + k) * kWriteWords + first_word);
#pragma unroll
        for (int j = 0; j < kRowsPerThread; ++j) {
          const float w = stage[k * kStageRow + first_row + j * kGroups];
          sum[j][0] += w * four.x;
          sum[j][1] += w * four.y;
          sum[j][2] += w * four.z;
          sum[j][3] += w * four.w;
        }
      }
    }
#pragma unroll
    for (int j = 0; j < kRowsPerThread; ++j) {
      const int r = r0 + first_row + j * kGroups;
#pragma unroll
      for (int t = 0; t < kWordsPerThread; ++t) {
        if (r < rows) use(r, first_word + t, sum[j][t]);
      }
    }
  }
  __syncthreads();
}
static_assert(kStageRows == kWriteThreads);  // a transposed stage is read one row per thread

// [rows][kWriteWords] <- f(i) for words t0 ... of a [B, rows, T] tensor, i being the element's offset; zeros past T.
template <class F>
__device__ __forceinline__ void gather_words(float* x, int64_t b, int rows, int words, int t0, F f) {
  for (int i = threadIdx.x; i < rows * kWriteWords; i += kWriteThreads) {
    const int t = t0 + i % kWriteWords;
    x[i] = t < words ? f((b * rows + i / kWriteWords) * words + t) : 0.0f;
  }
}

// store_one(i, value) for each element of [rows][kWriteWords] inside the caption.
template <class F>
__device__ __forceinline__ void scatter_words(const float* x, int64_t b, int rows, int words, int t0, F store_one) {
  for (int i = threadIdx.x; i < rows * kWriteWords; i += kWriteThreads) {
    const int t = t0 + i % kWriteWords;
    if (t < words) store_one((b * rows + i / kWriteWords) * words + t, x[i]);
  }
}

// What both directions compute of a sample and of eight of its words.
struct MemoryWriteTile {
  float *stage, *word, *mean, *image, *gate, *memory;

  template <class S>
  __device__ MemoryWriteTile(SharedArena& arena, const MemoryWriteInputs<S>& in)
      : stage(arena.take<float>(kStageInner * kStageRow)),
        word(arena.take<float>(in.dimensions * kWriteWords)),        // [D][kWriteWords]
        mean(arena.take<float>(in.channels)),                        // [C]
        image(arena.take<float>(2 * in.channels)),                   // [2C]: relu(M_r mean(h))
        gate(arena.take<float>(kWriteWords)),                        // [kWriteWords]
        memory(arena.take<float>(2 * in.channels * kWriteWords)) {}  // [2C][kWriteWords]

  static size_t bytes(int dimensions, int channels) {
    return shared_bytes<float>(kStageInner * kStageRow) + shared_bytes<float>(dimensions * kWriteWords) +
           shared_bytes<float>(channels) + shared_bytes<float>(2 * channels) + shared_bytes<float>(kWriteWords) +
           shared_bytes<float>(2 * channels * kWriteWords);
  }

  template <class S>
  __device__ __forceinline__ void load_image(const MemoryWriteInputs<S>& in, int64_t b) {
    const int lane = threadIdx.x % kWarp, channels = in.channels;
    for (int c = threadIdx.x; c < channels; c += kWriteThreads) mean[c] = load(in.image_mean + b * channels + c);
    __syncthreads();
    for (int r = threadIdx.x / kWarp; r < 2 * channels; r += kWriteThreads / kWarp) {
      float sum = 0.0f;
      for (int c = lane; c < channels; c += kWarp) {
        sum += load(in.image_weight + static_cast<int64_t>(r) * channels + c) * mean[c];
      }
      sum = warp_sum(sum);
      if (lane == 0) image[r] = fmaxf(sum + load(in.image_bias + r), 0.0f);
    }
  }

  // Leaves relu(M_w w) in `memory`.
  template <class S>
  __device__ __forceinline__ void load_words(const MemoryWriteInputs<S>& in, int64_t b, int t0) {
    const int lane = threadIdx.x % kWarp;
    gather_words(word, b, in.dimensions, in.words, t0, [&](int64_t i) { return load(in.word + i); });
    __syncthreads();
    for (int t = threadIdx.x / kWarp; t < kWriteWords; t += kWriteThreads / kWarp) {
      float logit = 0.0f;
      for (int d = lane; d < in.dimensions; d += kWarp) logit += load(in.gate_word + d) * word[d * kWriteWords + t];
      for (int c = lane; c < in.channels; c += kWarp) logit += load(in.gate_image + c) * mean[c];
      logit = warp_sum(logit);
      if (lane == 0) gate[t] = sigmoid(logit);
    }
    multiply<false>(stage, in.word_weight, 2 * in.channels, in.dimensions, word, [&](int r, int t, float sum) {
      memory[r * kWriteWords + t] = fmaxf(sum + load(in.word_bias + r), 0.0f);
    });
  }

  // Element i of m, from relu(M_w w).
  __device__ __forceinline__ float mixed(int i) const {
    const float g = gate[i % kWriteWords];
    return g * memory[i] + (1.0f - g) * image[i / kWriteWords];
  }
};

// --------------------------------------------------------------------------------------------------------- forward
template <class S>
__global__ void __launch_bounds__(kWriteThreads, kWriteBlocks) memory_write_forward_kernel(MemoryWriteForward<S> a) {
  const int parts = divide_up(a.words, kWriteWords), channels = a.channels;
  const int64_t b = blockIdx.x / parts;
  const int t0 = static_cast<int>(blockIdx.x % parts) * kWriteWords;
  SharedArena arena;
  MemoryWriteTile tile(arena, a);
  float* result = arena.take<float>(channels * kWriteWords);  // [C][kWriteWords]

  tile.load_image(a, b);
  tile.load_words(a, b, t0);
  for (int i = threadIdx.x; i < 2 * channels * kWriteWords; i += kWriteThreads) tile.memory[i] = tile.mixed(i);
  const auto project = [&](const S* weight, const S* bias, S* out) {
    multiply<false>(tile.stage, weight, channels, 2 * channels, tile.memory,
                    [&](int c, int t, float sum) { result[c * kWriteWords + t] = fmaxf(sum + load(bias + c), 0.0f); });
    scatter_words(result, b, channels, a.words, t0, [&](int64_t i, float x) { store(out + i, x); });
    __syncthreads();
  };
  project(a.key_weight, a.key_bias, a.key);
  project(a.value_weight, a.value_bias, a.value);
}

// -------------------------------------------------------------------------------------------------------- backward
// Where the factors of the weights' gradients lie in the work buffer. Row 2C holds the gradient of the gate's logit.
struct MemoryWriteWork {
  int64_t batch, channels, words;
  __host__ __device__ int64_t written() const { return 0; }                                    // [B, 2C + 1, T]
  __host__ __device__ int64_t memory() const { return batch * (2 * channels + 1) * words; }    // [B, 2C, T]: m
  __host__ __device__ int64_t key() const { return memory() + 2 * batch * channels * words; }  // [B, C, T]
  __host__ __device__ int64_t value() const { return key() + batch * channels * words; }       // [B, C, T]
  __host__ __device__ int64_t image() const { return value() + batch * channels * words; }     // [B, 2C + 1]
  __host__ __device__ int64_t size() const { return image() + batch * (2 * channels + 1); }
};

// One sample: gradients of its words and mean, and, in the work buffer, those of what each relu took in.
template <class S>
__global__ void __launch_bounds__(kWriteThreads, kWriteBlocks) memory_write_backward_kernel(MemoryWriteBackward<S> a) {
  const int channels = a.channels, wide = 2 * channels;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int64_t b = blockIdx.x;
  const MemoryWriteWork at{a.batch, channels, a.words};
  SharedArena arena;
  MemoryWriteTile tile(arena, a);
  float* grad = arena.take<float>(channels * kWriteWords);     // [C][kWriteWords]: of key's or value's relu's input
  float* grad_memory = arena.take<float>(wide * kWriteWords);  // [2C][kWriteWords]; of relu(M_w w)'s input later
  float* grad_image = arena.take<float>(wide);                 // [2C]
  float* grad_logit = arena.take<float>(kWriteWords);          // of the gate's logit

  tile.load_image(a, b);
  for (int r = threadIdx.x; r < wide; r += kWriteThreads) grad_image[r] = 0.0f;
  float sum_logit = 0.0f;  // thread 0: sum over words

  for (int t0 = 0; t0 < a.words; t0 += kWriteWords) {
    const int count = min(kWriteWords, a.words - t0);
    tile.load_words(a, b, t0);
    float* written = tile.memory;
    for (int i = threadIdx.x; i < wide * kWriteWords; i += kWriteThreads) {
      const int r = i / kWriteWords, t = i % kWriteWords;
      if (t < count) store(a.work + at.memory() + (b * wide + r) * a.words + t0 + t, tile.mixed(i));
    }

    const auto pull = [&](const S* grad_out, const S* out, const S* weight, float* work, bool first) {
      gather_words(grad, b, channels, a.words, t0, [&](int64_t i) {
        const float passed = load(grad_out + i);
        return load(out + i) > 0.0f ? passed : 0.0f;
      });
      __syncthreads();
      scatter_words(grad, b, channels, a.words, t0, [&](int64_t i, float x) { store(work + i, x); });
      multiply<true>(tile.stage, weight, wide, channels, grad, [&](int r, int t, float sum) {
        float* total = grad_memory + r * kWriteWords + t;
        *total = first ? sum : *total + sum;
      });
    };
    pull(a.grad_key, a.key, a.key_weight, a.work + at.key(), true);
    pull(a.grad_value, a.value, a.value_weight, a.work + at.value(), false);

    for (int t = warp; t < kWriteWords; t += kWriteThreads / kWarp) {
      float sum = 0.0f;
      for (int r = lane; r < wide; r += kWarp) {
        sum += grad_memory[r * kWriteWords + t] * (written[r * kWriteWords + t] - tile.image[r]);
      }
      sum = warp_sum(sum);
      if (lane == 0) grad_logit[t] = sum * tile.gate[t] * (1.0f - tile.gate[t]);
    }
    __syncthreads();
    for (int r = threadIdx.x; r < wide; r += kWriteThreads) {
      float through = 0.0f;
#pragma unroll
      for (int t = 0; t < kWriteWords; ++t) {
        const int i = r * kWriteWords + t;
        through += (1.0f - tile.gate[t]) * grad_memory[i];
        grad_memory[i] = written[i] > 0.0f ? tile.gate[t] * grad_memory[i] : 0.0f;
      }
      grad_image[r] += through;
    }
    __syncthreads();
    float* work = a.work + at.written() + b * (wide + 1) * a.words + t0;
    for (int i = threadIdx.x; i < wide * kWriteWords; i += kWriteThreads) {
      const int r = i / kWriteWords, t = i % kWriteWords;
      if (t < count) store(work + static_cast<int64_t>(r) * a.words + t, grad_memory[i]);
    }
    for (int t = threadIdx.x; t < count; t += kWriteThreads) {
      store(work + static_cast<int64_t>(wide) * a.words + t, grad_logit[t]);
    }
    for (int t = 0; t < count; ++t) sum_logit += grad_logit[t];
    multiply<true>(tile.stage, a.word_weight, a.dimensions, wide, grad_memory, [&](int d, int t, float sum) {
      tile.word[d * kWriteWords + t] = sum + grad_logit[t] * load(a.gate_word + d);
    });
    scatter_words(tile.word, b, a.dimensions, a.words, t0, [&](int64_t i, float x) { store(a.grad_word + i, x); });
    __syncthreads();
  }

  float* work = a.work + at.image() + b * (wide + 1);
  for (int r = threadIdx.x; r < wide; r += kWriteThreads) {
    if (!(tile.image[r] > 0.0f)) grad_image[r] = 0.0f;
    store(work + r, grad_image[r]);
  }
  if (threadIdx.x == 0) store(work + wide, sum_logit);
  __syncthreads();
  for (int c = threadIdx.x; c < channels; c += kWriteThreads) {
    float sum = sum_logit * load(a.gate_image + c);
#pragma unroll 8
    for (int r = 0; r < wide; ++r) sum += load(a.image_weight + static_cast<int64_t>(r) * channels + c) * grad_image[r];
    store(a.grad_image_mean + b * channels + c, sum);
  }
}

// One weight's gradient, sum over samples b and words t of grad[b, r, t] * x[b, k, t], and its bias's, sum of grad. If
// there is a gate, row `rows` of grad belongs to it.
template <class S>
struct OuterProduct {
  const float* grad;  // [B, rows (+ 1), T]
  const S* x;         // [B, columns, T], or null for
  const float* x_float;
  int rows, columns, words;
  S *weight, *bias, *gate;  // [rows, columns], [rows], [columns] or null

  __host__ __device__ int all_rows() const { return rows + (gate != nullptr); }
  __host__ __device__ int row_tiles() const { return divide_up(all_rows(), kOuterTile); }
  __host__ __device__ int tiles() const { return row_tiles() * divide_up(columns + 1, kOuterTile); }
};

template <class S>
struct OuterProducts {
  OuterProduct<S> word, image, key, value;
};

template <class S>
__device__ __forceinline__ void outer_product(const OuterProduct<S>& product, int64_t batch, int tile) {
  constexpr int kRow = kOuterTile + 1;  // odd: no bank conflicts either way
  constexpr int kAcross = kOuterTile / kOuterColumns, kDown = kOuterTile / kOuterRows;
  static_assert(kAcross * kDown == kWriteThreads);
  const int r0 = tile % product.row_tiles() * kOuterTile, k0 = tile / product.row_tiles() * kOuterTile;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int column = threadIdx.x % kAcross, row = threadIdx.x / kAcross;
  SharedArena arena;
  float* grad = arena.take<float>(kWarp * kRow);  // [word of any sample][r]
  float* x = arena.take<float>(kWarp * kRow);     // [word of any sample][k]
  float sum[kOuterRows][kOuterColumns] = {};

  const int64_t all_words = batch * product.words;
  for (int64_t s0 = 0; s0 < all_words; s0 += kWarp) {
    const int64_t b = (s0 + lane) / product.words, t = (s0 + lane) % product.words;
    const bool inside = s0 + lane < all_words;
    __syncthreads();  // the words before have been read
#pragma unroll
    for (int i = warp; i < kOuterTile; i += kWriteThreads / kWarp) {
      const int r = r0 + i, k = k0 + i;
      const bool real = inside && k < product.columns;
      const int64_t from = (b * product.columns + k) * product.words + t;
      float factor = inside && k == product.columns ? 1.0f : 0.0f;  // the bias's column
      if (real) factor = product.x ? load(product.x + from) : load(product.x_float + from);
      x[lane * kRow + i] = factor;
      grad[lane * kRow + i] = inside && r < product.all_rows()
                                  ? load(product.grad + (b * product.all_rows() + r) * product.words + t)
                                  : 0.0f;
    }
    __syncthreads();
#pragma unroll 4
    for (int s = 0; s < kWarp; ++s) {
#pragma unroll
      for (int i = 0; i < kOuterRows; ++i) {
#pragma unroll
        for (int j = 0; j < kOuterColumns; ++j) {
          sum[i][j] += grad[s * kRow + row + i * kDown] * x[s * kRow + column + j * kAcross];
        }
      }
    }
  }
#pragma unroll
  for (int i = 0; i < kOuterRows; ++i) {
#pragma unroll
    for (int j = 0; j < kOuterColumns; ++j) {
      const int r = r0 + row + i * kDown, k = k0 + column + j * kAcross;
      if (r < product.rows && k < product.columns) {
        store(product.weight + static_cast<int64_t>(r) * product.columns + k, sum[i][j]);
      } else if (r < product.rows && k == product.columns) {
        store(product.bias + r, sum[i][j]);
      } else if (r < product.all_rows() && k < product.columns) {
        store(product.gate + k, sum[i][j]);
      }
    }
  }
}

template <class S>
__global__ void __launch_bounds__(kWriteThreads, kWriteBlocks)
    memory_write_weights_kernel(OuterProducts<S> products, int64_t batch) {
  int tile = blockIdx.x;
  if (tile < products.word.tiles()) return outer_product(products.word, batch, tile);
  tile -= products.word.tiles();
  if (tile < products.image.tiles()) return outer_product(products.image, batch, tile);
  tile -= products.image.tiles();
  if (tile < products.key.tiles()) return outer_product(products.key, batch, tile);
  outer_product(products.value, batch, tile - products.key.tiles());
}

// ------------------------------------------------------------------------------------------------------------ host
template <class S>
void launch_memory_write_forward(const MemoryWriteForward<S>& a, Stream stream) {
  const size_t shared =
      MemoryWriteTile::bytes(a.dimensions, a.channels) + shared_bytes<float>(a.channels * kWriteWords);
  launch(memory_write_forward_kernel<S>, a.batch * divide_up(a.words, kWriteWords), kWriteThreads, shared, stream, a);
}

template <class S>
void launch_memory_write_backward(const MemoryWriteBackward<S>& a, Stream stream) {
  const int wide = 2 * a.channels;
  const size_t shared = MemoryWriteTile::bytes(a.dimensions, a.channels) +
                        shared_bytes<float>(a.channels * kWriteWords) + shared_bytes<float>(wide * kWriteWords) +
                        shared_bytes<float>(wide) + shared_bytes<float>(kWriteWords);
  launch(memory_write_backward_kernel<S>, a.batch, kWriteThreads, shared, stream, a);

  const MemoryWriteWork at{a.batch, a.channels, a.words};
  const OuterProducts<S> products{{a.work + at.written(), a.word, nullptr, wide, a.dimensions, a.words,
                                   a.grad_word_weight, a.grad_word_bias, a.grad_gate_word},
                                  {a.work + at.image(), a.image_mean, nullptr, wide, a.channels, 1, a.grad_image_weight,
                                   a.grad_image_bias, a.grad_gate_image},
                                  {a.work + at.key(), nullptr, a.work + at.memory(), a.channels, wide, a.words,
                                   a.grad_key_weight, a.grad_key_bias, nullptr},
                                  {a.work + at.value(), nullptr, a.work + at.memory(), a.channels, wide, a.words,
                                   a.grad_value_weight, a.grad_value_bias, nullptr}};
  const int64_t tiles = products.word.tiles() + products.image.tiles() + products.key.tiles() + products.value.tiles();
  launch(memory_write_weights_kernel<S>, tiles, kWriteThreads, 2 * shared_bytes<float>(kWarp * (kOuterTile + 1)),
         stream, products, a.batch);
}

}  // namespace dmgan
