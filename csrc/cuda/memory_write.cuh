// Memory writing: g = sigmoid(A w_i + B mean(h)),  m_i = g relu(M_w w_i) + (1 - g) relu(M_r mean(h)),
// k_i = relu(K m_i),  v_i = relu(V m_i).
// One launch: a block takes eight words through all four products, so the memory m never leaves shared memory and
// every weight is read once per block. The gradients are PyTorch's matrix products (dmgan_fast/aten/memory_write.py).
#pragma once

#include <initializer_list>

#include "common.cuh"

namespace dmgan {

// Axes: b sample, c channel of the image, d dimension of a word, t word, r channel of the memory (2C).
template <class S>
struct MemoryWrite {
  int64_t batch;
  int dimensions, channels, words;
  const S *word, *image_mean;          // [B, D, T], [B, C]
  const S *gate_word, *gate_image;     // [D], [C]
  const S *word_weight, *word_bias;    // [2C, D], [2C]
  const S *image_weight, *image_bias;  // [2C, C], [2C]
  const S *key_weight, *key_bias;      // [C, 2C], [C]
  const S *value_weight, *value_bias;  // [C, 2C], [C]
  S *key, *value;                      // [B, C, T]
};

constexpr int kWriteThreads = 128;
constexpr int kWriteBlocks = 4;     // per multiprocessor: up to 128 registers a thread, so no spills
constexpr int kWriteWords = 8;      // words of a block
constexpr int kWordsPerThread = 4;  // one float4
constexpr int kRowsPerThread = 2;
constexpr int kStageRows = kWriteThreads / (kWriteWords / kWordsPerThread) * kRowsPerThread;
constexpr int kStageInner = kWarp;         // one coalesced read of a weight's row
constexpr int kStageRow = kStageRows + 1;  // odd: no bank conflicts either way

// use(r, t, sum) with sum = sum_k weight[r][k] * x[k][t], for all rows r and kWriteWords words.
template <class S, class Use>
__device__ __forceinline__ void multiply(float* stage, const S* weight, int rows, int inner, const float* x, Use use) {
  constexpr int kRowStep = kStageRows / kRowsPerThread;  // a thread's rows are this far apart
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int first_row = threadIdx.x % kRowStep, first_word = threadIdx.x / kRowStep * kWordsPerThread;
  for (int r0 = 0; r0 < rows; r0 += kStageRows) {
    float sum[kRowsPerThread][kWordsPerThread] = {};
    for (int k0 = 0; k0 < inner; k0 += kStageInner) {
      const int count = min(kStageInner, inner - k0);
      __syncthreads();  // the stage before has been read; x has been written
#pragma unroll 8
      for (int r = warp; r < min(kStageRows, rows - r0); r += kWriteThreads / kWarp) {
        if (lane < count) {
          stage[lane * kStageRow + r] = load(weight + static_cast<int64_t>(r0 + r) * inner + k0 + lane);
        }
      }
      __syncthreads();
#pragma unroll 4
      for (int k = 0; k < count; ++k) {
        const float4 four = *reinterpret_cast<const float4*>(x + (k0 + k) * kWriteWords + first_word);
#pragma unroll
        for (int j = 0; j < kRowsPerThread; ++j) {
          const float w = stage[k * kStageRow + first_row + j * kRowStep];
          sum[j][0] += w * four.x;
          sum[j][1] += w * four.y;
          sum[j][2] += w * four.z;
          sum[j][3] += w * four.w;
        }
      }
    }
#pragma unroll
    for (int j = 0; j < kRowsPerThread; ++j) {
      const int r = r0 + first_row + j * kRowStep;
#pragma unroll
      for (int t = 0; t < kWordsPerThread; ++t) {
        if (r < rows) use(r, first_word + t, sum[j][t]);
      }
    }
  }
  __syncthreads();
}

// Visits [rows][kWriteWords] of a [B, rows, T] tensor, words t0 ...: use(i, offset) for element i, whose offset in the
// tensor is -1 past the caption.
template <class Use>
__device__ __forceinline__ void for_each_word(int64_t b, int rows, int words, int t0, Use use) {
  for (int i = threadIdx.x; i < rows * kWriteWords; i += kWriteThreads) {
    const int t = t0 + i % kWriteWords;
    use(i, t < words ? (b * rows + i / kWriteWords) * words + t : -1);
  }
}

template <class S>
__global__ void __launch_bounds__(kWriteThreads, kWriteBlocks) memory_write_forward_kernel(MemoryWrite<S> a) {
  const int parts = divide_up(a.words, kWriteWords), channels = a.channels, wide = 2 * channels;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, warps = kWriteThreads / kWarp;
  const int64_t b = blockIdx.x / parts;
  const int t0 = static_cast<int>(blockIdx.x % parts) * kWriteWords;
  SharedArena arena;
  float* stage = arena.take<float>(kStageInner * kStageRow);
  float* word = arena.take<float>(a.dimensions * kWriteWords);  // [D][kWriteWords]
  float* mean = arena.take<float>(channels);                    // [C]
  float* image = arena.take<float>(wide);                       // [2C]: relu(M_r mean(h))
  float* gate = arena.take<float>(kWriteWords);                 // [kWriteWords]
  float* memory = arena.take<float>(wide * kWriteWords);        // [2C][kWriteWords]
  float* result = arena.take<float>(channels * kWriteWords);    // [C][kWriteWords]

  for (int c = threadIdx.x; c < channels; c += kWriteThreads) mean[c] = load(a.image_mean + b * channels + c);
  for_each_word(b, a.dimensions, a.words, t0, [&](int i, int64_t at) { word[i] = at < 0 ? 0.0f : load(a.word + at); });
  __syncthreads();
  for (int r = warp; r < wide; r += warps) {
    float sum = 0.0f;
    for (int c = lane; c < channels; c += kWarp) {
      sum += load(a.image_weight + static_cast<int64_t>(r) * channels + c) * mean[c];
    }
    sum = warp_sum(sum);
    if (lane == 0) image[r] = relu(sum + load(a.image_bias + r));
  }
  for (int t = warp; t < kWriteWords; t += warps) {
    float logit = 0.0f;
    for (int d = lane; d < a.dimensions; d += kWarp) logit += load(a.gate_word + d) * word[d * kWriteWords + t];
    for (int c = lane; c < channels; c += kWarp) logit += load(a.gate_image + c) * mean[c];
    logit = warp_sum(logit);
    if (lane == 0) gate[t] = sigmoid(logit);
  }
  multiply(stage, a.word_weight, wide, a.dimensions, word, [&](int r, int t, float sum) {
    const float written = relu(sum + load(a.word_bias + r));
    memory[r * kWriteWords + t] = gate[t] * written + (1.0f - gate[t]) * image[r];
  });
  const auto project = [&](const S* weight, const S* bias, S* out) {
    multiply(stage, weight, channels, wide, memory, [&](int c, int t, float sum) {
      result[c * kWriteWords + t] = relu(sum + load(bias + c));
    });
    for_each_word(b, channels, a.words, t0, [&](int i, int64_t at) {
      if (at >= 0) store(out + at, result[i]);
    });
    __syncthreads();
  };
  project(a.key_weight, a.key_bias, a.key);
  project(a.value_weight, a.value_bias, a.value);
}

template <class S>
void launch_memory_write_forward(const MemoryWrite<S>& a, Stream stream) {
  const int wide = 2 * a.channels;
  size_t shared = 0;
  for (const int floats : {kStageInner * kStageRow, a.dimensions * kWriteWords, a.channels, wide, kWriteWords,
                           wide * kWriteWords, a.channels * kWriteWords}) {
    shared += shared_bytes<float>(floats);
  }
  launch(memory_write_forward_kernel<S>, a.batch * divide_up(a.words, kWriteWords), kWriteThreads, shared, stream, a);
}

}  // namespace dmgan
