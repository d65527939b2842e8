// Batch norm, then GLU or a skip: z = (x - mean) rstd weight + bias,  y = z_a sigmoid(z_b)  or  y = z + skip.
// Each pass moves every feature map once, several elements an instruction, in either layout, and keeps per channel only
// mean and rstd: the backward pass computes z again. A warp sums its strip of pixels in registers and one round of
// shuffles; a second kernel adds the strips, always in the same order.
#pragma once

#include <algorithm>
#include <vector>

#include "common.cuh"

namespace dmgan {

// Axes: b sample, c channel of x, n pixel. y's channel c is gated by x's channel c + y_channels.
template <class S>
struct BatchNormGluInputs {
  int64_t batch;
  int channels, y_channels, pixels;  // y_channels: half of x's (GLU), or all of them (skip)
  bool channels_last;                // of all feature maps; they are dense
  const S* x;                        // [B, C, N]
  const float *weight, *bias;        // [C], or null: ones and zeros

  bool glu() const { return y_channels < channels; }
};

template <class S>
struct BatchNormGluForward : BatchNormGluInputs<S> {
  const S* skip;            // [B, K, N], channel c taking c mod K; null with GLU
  int skip_channels;        // K
  const float *mean, *var;  // [C]
  float eps;
  S* y;                 // [B, Cy, N]
  float* rstd;          // [C]
  float* spatial_mean;  // [B, Cy], or null
  float* work;          // batch_norm_glu_work_floats(), for the spatial mean
};

template <class S>
struct BatchNormGluBackward : BatchNormGluInputs<S> {
  const S* grad_y;           // [B, Cy, N]
  const float* grad_mean;    // [B, Cy], or null: gradient of the spatial mean
  const float *mean, *rstd;  // [C]
};

constexpr int kNormThreads = 128;
constexpr int kNormBlocks = 4;         // per multiprocessor, at least: up to 128 registers a thread, so no spills
constexpr int64_t kStripWarps = 4096;  // aimed at: 32 for each of 128 multiprocessors
constexpr int64_t kLeastStrip = 2048;  // elements: partial sums stay a small part of what is read
constexpr int64_t kMostStrip = 8192;   // elements: eight bits of a variance cancel at most, if ever
constexpr int kStripChannels = 128;    // of a channels-last strip, at most
constexpr int kStripUnit = 8;          // pixels: no pack is split between strips
constexpr int kMergeThreads = 512;
constexpr int kMergeColumns = 8;  // of a block that adds strips: one sector of floats
constexpr int kMergeRows = kMergeThreads / kMergeColumns;

// ---------------------------------------------------------------------------------------------------------- strips
// How a pass over `channels` channels is dealt out. Sums over a strip are one row of partial sums.
struct Strips {
  int64_t batch;
  int channels, pixels;
  int per_sample, strip_pixels;
  int channel_lanes, channel_groups;  // lanes of a warp side by side in channels; warps of a strip

  __host__ __device__ int rows() const { return static_cast<int>(batch) * per_sample; }
  __host__ __device__ int warps() const { return rows() * channel_groups; }
};

template <int kPack, class S>
__device__ __forceinline__ void load_pack(float (&values)[kPack], const S* address) {
  const auto packed = load_as_is(reinterpret_cast<const Packed<S, kPack>*>(address));
#pragma unroll
  for (int k = 0; k < kPack; ++k) values[k] = static_cast<float>(packed.elements[k]);
}

template <int kPack, class S>
__device__ __forceinline__ void store_pack(S* address, const float (&values)[kPack]) {
  Packed<S, kPack> packed;
#pragma unroll
  for (int k = 0; k < kPack; ++k) packed.elements[k] = static_cast<S>(values[k]);
#ifndef __CUDACC__
  simt::probe.record(true, address, sizeof packed, simt::Site::current());
#endif
  *reinterpret_cast<Packed<S, kPack>*>(address) = packed;
}

// A thread's part of a strip: packs of kPack elements along the dense axis, which is channels if kLast (channels-last),
// else pixels. Element k of a pack belongs to channel c + k % kChannels.
template <int kPack, bool kLast>
struct StripPart {
  static constexpr int kChannels = kLast ? kPack : 1, kPixels = kLast ? 1 : kPack;

  int64_t b, row;   // sample; row of partial sums
  int c, pixels;    // first channel; pixels of a sample
  int first, end;   // the strip's pixels
  int lanes, lane;  // lanes that have the same channels and take their pixels in turn; which of them this is
  int neighbour;    // from one of them to the next
  bool works;       // has channels

  __device__ __forceinline__ explicit StripPart(const Strips& strips) {
    const int warp = blockIdx.x * (kNormThreads / kWarp) + threadIdx.x / kWarp, warp_lane = threadIdx.x % kWarp;
    const int strip = warp % strips.per_sample, group = warp / strips.per_sample % strips.channel_groups;
    lanes = kWarp / strips.channel_lanes;
    lane = kLast ? warp_lane / strips.channel_lanes : warp_lane % lanes;
    neighbour = kLast ? strips.channel_lanes : 1;
    const int channel_lane = kLast ? warp_lane % strips.channel_lanes : warp_lane / lanes;
    b = warp / strips.per_sample / strips.channel_groups;
    row = b * strips.per_sample + strip;
    c = (group * strips.channel_lanes + channel_lane) * kChannels;
    pixels = strips.pixels;
    first = strip * strips.strip_pixels;
    end = min(first + strips.strip_pixels, pixels);
    works = b < strips.batch && c < strips.channels;
  }

  // The sample's pixel 0 of `channel`, in a feature map of `channels` channels.
  template <class T>
  __device__ __forceinline__ T* start(T* map, int channels, int channel) const {
    return map + (kLast ? b * pixels * channels + channel : (b * channels + channel) * pixels);
  }

  // From there to pixel n.
  __device__ __forceinline__ int64_t step(int channels, int n) const {
    return kLast ? static_cast<int64_t>(n) * channels : n;
  }

  // work(n) for the first pixel of each pack.
  template <class Work>
  __device__ __forceinline__ void for_each_pack(Work work) const {
#pragma unroll 2
    for (int n = first + lane * kPixels; works && n < end; n += lanes * kPixels) work(n);
  }

  // The same for the first pack of each thread alone; how many pixels that makes over all lanes.
  template <class Work>
  __device__ __forceinline__ int for_first_pack(Work work) const {
    if (works && first + lane * kPixels < end) work(first + lane * kPixels);
    return min(end - first, lanes * kPixels);
  }

  // Sum over the lanes with the same channels.
  __device__ __forceinline__ float sum(float value) const {
    for (int bits = neighbour; bits < neighbour * lanes; bits *= 2) value += __shfl_xor_sync(kAllLanes, value, bits);
    return value;
  }

  // The same of each channel, as columns c ... of a row of partial sums.
  __device__ __forceinline__ void store_sums(float* parts, int columns, const float (&values)[kChannels]) const {
    float sums[kChannels];
#pragma unroll
    for (int k = 0; k < kChannels; ++k) sums[k] = sum(values[k]);
    store_row(parts, columns, sums);
  }
  __device__ __forceinline__ void store_row(float* parts, int columns, const float (&sums)[kChannels]) const {
    if (works && lane == 0) store_pack(parts + row * columns + c, sums);
  }
};

// Sum over a merging block's threads of the same column, for each of them.
__device__ __forceinline__ float sum_of_column(float* shared, float value) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
#pragma unroll
  for (int bits = kMergeColumns; bits < kWarp; bits *= 2) value += __shfl_xor_sync(kAllLanes, value, bits);
  __syncthreads();  // the sums before have been read
  if (lane < kMergeColumns) shared[warp * kMergeColumns + lane] = value;
  __syncthreads();
  float total = 0.0f;
#pragma unroll
  for (int w = 0; w < kMergeThreads / kWarp; ++w) total += shared[w * kMergeColumns + lane % kMergeColumns];
  return total;
}

// Sums over the rows of parts [groups, rows, columns]: use(group, column, sum), by one thread each. One block per group
// and kMergeColumns columns.
template <class Use>
__device__ __forceinline__ void merge_rows(const float* parts, int rows, int columns, Use use) {
  SharedArena arena;
  float* shared = arena.take<float>(kMergeThreads / kWarp * kMergeColumns);
  const int blocks = divide_up(columns, kMergeColumns);
  const int64_t group = blockIdx.x / blocks;
  const int column = static_cast<int>(blockIdx.x % blocks) * kMergeColumns + threadIdx.x % kMergeColumns;
  const int first = threadIdx.x / kMergeColumns;
  float total = 0.0f;
#pragma unroll 4
  for (int r = first; r < rows && column < columns; r += kMergeRows) {
    total += load(parts + (group * rows + r) * columns + column);
  }
  total = sum_of_column(shared, total);
  if (first == 0 && column < columns) use(group, column, total);
}

// ------------------------------------------------------------------------------------------------------ statistics
// Mean and sum of squared deviations of each channel over each strip. The sums are of x less the mean of the first
// packs. These are a share w of the strip, so by the law of total variance the square of the sum is at most (1 - w) / w
// times the result: however large the mean, the bits that cancel are few (kMostStrip).
template <class S, int kPack, bool kLast>
__global__ void __launch_bounds__(kNormThreads, kNormBlocks)
    batch_norm_glu_moments_kernel(const S* x, float* means, float* squares, Strips strips) {
  const StripPart<kPack, kLast> part(strips);
  constexpr int kChannels = part.kChannels;
  const S* start = part.start(x, strips.channels, part.c);
  float values[kPack], pivot[kChannels] = {}, shift[kChannels] = {}, square[kChannels] = {};

  const int pivots = part.for_first_pack([&](int n) {
    load_pack(values, start + part.step(strips.channels, n));
#pragma unroll
    for (int k = 0; k < kPack; ++k) pivot[k % kChannels] += values[k];
  });
#pragma unroll
  for (int k = 0; k < kChannels; ++k) pivot[k] = part.sum(pivot[k]) / pivots;

  part.for_each_pack([&](int n) {
    load_pack(values, start + part.step(strips.channels, n));
#pragma unroll
    for (int k = 0; k < kPack; ++k) {
      const float deviation = values[k] - pivot[k % kChannels];
      shift[k % kChannels] += deviation;
      square[k % kChannels] += deviation * deviation;
    }
  });
#pragma unroll
  for (int k = 0; k < kChannels; ++k) {
    const float shift_sum = part.sum(shift[k]), mean_shift = shift_sum / (part.end - part.first);
    pivot[k] += mean_shift;
    square[k] = part.sum(square[k]) - shift_sum * mean_shift;
  }
  part.store_row(means, strips.channels, pivot);
  part.store_row(squares, strips.channels, square);
}

// Mean and biased variance of each channel from its strips: the mean first, then deviations from it.
static __global__ void __launch_bounds__(kMergeThreads)
    batch_norm_glu_merge_moments_kernel(const float* means, const float* squares, float* mean, float* var,
                                        Strips strips) {
  SharedArena arena;
  float* shared = arena.take<float>(kMergeThreads / kWarp * kMergeColumns);
  const int c = blockIdx.x * kMergeColumns + threadIdx.x % kMergeColumns, first = threadIdx.x / kMergeColumns;
  const bool works = c < strips.channels;
  const float count = static_cast<float>(strips.batch) * strips.pixels;
  const float pivot = works ? load(means + c) : 0.0f;
  const auto over_strips = [&](auto term) {  // sum of term(i, pixels) over elements i of the partial sums
    float total = 0.0f;
#pragma unroll 4
    for (int r = first; r < strips.rows() && works; r += kMergeRows) {
      const int at = r % strips.per_sample * strips.strip_pixels;
      total += term(static_cast<int64_t>(r) * strips.channels + c, min(strips.strip_pixels, strips.pixels - at));
    }
    return sum_of_column(shared, total);
  };
  const float all_mean =
      pivot + over_strips([&](int64_t i, int pixels) { return (load(means + i) - pivot) * pixels; }) / count;
  const float square = over_strips([&](int64_t i, int pixels) {
    const float deviation = load(means + i) - all_mean;
    return load(squares + i) + deviation * deviation * pixels;
  });
  if (first == 0 && works) {
    store(mean + c, all_mean);
    store(var + c, relu(square / count));
  }
}

// ------------------------------------------------------------------------------------------ from x to z, by channel
// x-hat = (x - mean) rstd and z = x-hat weight + bias, for the channels of a thread.
template <int kChannels>
struct Affine {
  float mean[kChannels], rstd[kChannels], weight[kChannels], bias[kChannels];

  // For channels c ..., all but rstd.
  template <class S>
  __device__ __forceinline__ void load_channels(const BatchNormGluInputs<S>& in, const float* means, int c) {
#pragma unroll
    for (int k = 0; k < kChannels; ++k) {
      weight[k] = 1.0f;
      bias[k] = 0.0f;
    }
    load_pack(mean, means + c);
    if (in.weight) load_pack(weight, in.weight + c);
    if (in.bias) load_pack(bias, in.bias + c);
  }

  __device__ __forceinline__ float xhat(float x, int k) const { return (x - mean[k]) * rstd[k]; }
  __device__ __forceinline__ float z(float xhat, int k) const { return xhat * weight[k] + bias[k]; }
};

template <bool kGlu>
constexpr int kHalves = kGlu ? 2 : 1;  // of x's channels: half 0 is as wide as y, half 1 gates it

// --------------------------------------------------------------------------------------------------------- forward
// y, and its sums over each strip if the spatial mean is wanted. The first strip stores rstd.
template <class S, int kPack, bool kLast, bool kGlu>
__global__ void __launch_bounds__(kNormThreads, kNormBlocks)
    batch_norm_glu_forward_kernel(BatchNormGluForward<S> a, Strips strips) {
  using Part = StripPart<kPack, kLast>;
  constexpr int kChannels = Part::kChannels;
  const Part part(strips);
  Affine<kChannels> affine[kHalves<kGlu>];
#pragma unroll
  for (int half = 0; half < kHalves<kGlu>; ++half) {
    if (!part.works) continue;
    const int c = part.c + half * a.y_channels;
    float(&rstd)[kChannels] = affine[half].rstd;
    affine[half].load_channels(a, a.mean, c);
    load_pack(rstd, a.var + c);
#pragma unroll
    for (int k = 0; k < kChannels; ++k) rstd[k] = 1.0f / sqrtf(rstd[k] + a.eps);
    if (part.row == 0 && part.lane == 0) store_pack(a.rstd + c, rstd);
  }
  const S* x = part.start(a.x, a.channels, part.c);
  const S* other = kGlu ? part.start(a.x, a.channels, part.c + a.y_channels)
                        : part.start(a.skip, a.skip_channels, part.c % a.skip_channels);
  S* y = part.start(a.y, a.y_channels, part.c);
  float sums[kChannels] = {};

  part.for_each_pack([&](int n) {
    float values[kPack], others[kPack], results[kPack];
    load_pack(values, x + part.step(a.channels, n));
    load_pack(others, other + part.step(kGlu ? a.channels : a.skip_channels, n));
#pragma unroll
    for (int k = 0; k < kPack; ++k) {
      const int i = k % kChannels;
      const float z = affine[0].z(affine[0].xhat(values[k], i), i);
      if constexpr (kGlu) {
        results[k] = z * sigmoid(affine[1].z(affine[1].xhat(others[k], i), i));
      } else {
        results[k] = z + others[k];
      }
      sums[i] += results[k];
    }
    store_pack(y + part.step(a.y_channels, n), results);
  });
  if (a.spatial_mean) part.store_sums(a.work, a.y_channels, sums);
}

static __global__ void __launch_bounds__(kMergeThreads)
    batch_norm_glu_merge_mean_kernel(const float* parts, float* spatial_mean, Strips strips) {
  merge_rows(parts, strips.per_sample, strips.channels,
             [&](int64_t b, int c, float sum) { store(spatial_mean + b * strips.channels + c, sum / strips.pixels); });
}

// -------------------------------------------------------------------------------------------------------- backward
// x-hat and dz, the gradient of z, of a thread's packs.
template <class S, int kPack, bool kLast, bool kGlu>
struct GradOfZ {
  using Part = StripPart<kPack, kLast>;
  static constexpr int kChannels = Part::kChannels;

  const BatchNormGluBackward<S>& a;
  const Part& part;
  Affine<kChannels> affine[kHalves<kGlu>];
  float of_mean[kChannels] = {};  // what the spatial mean adds to each pixel's dy
  const S *x, *grad_y;

  __device__ __forceinline__ GradOfZ(const BatchNormGluBackward<S>& inputs, const Part& p)
      : a(inputs), part(p), x(p.start(a.x, a.channels, p.c)), grad_y(p.start(a.grad_y, a.y_channels, p.c)) {
    if (!part.works) return;
#pragma unroll
    for (int half = 0; half < kHalves<kGlu>; ++half) {
      affine[half].load_channels(a, a.mean, channel(half));
      load_pack(affine[half].rstd, a.rstd + channel(half));
    }
    if (a.grad_mean) load_pack(of_mean, a.grad_mean + part.b * a.y_channels + part.c);
#pragma unroll
    for (int k = 0; k < kChannels; ++k) of_mean[k] /= a.pixels;
  }

  __device__ __forceinline__ int channel(int half) const { return part.c + half * a.y_channels; }

  // In x, from pixel 0 of the thread's first channel to pixel n of the same channel of `half`.
  __device__ __forceinline__ int64_t step(int half, int n) const {
    const int64_t channels_between = half * a.y_channels;
    return part.step(a.channels, n) + (kLast ? channels_between : channels_between * a.pixels);
  }

  __device__ __forceinline__ void at(int n, float (&xhat)[kHalves<kGlu>][kPack],
                                     float (&dz)[kHalves<kGlu>][kPack]) const {
#pragma unroll
    for (int half = 0; half < kHalves<kGlu>; ++half) {
      load_pack(xhat[half], x + step(half, n));
#pragma unroll
      for (int k = 0; k < kPack; ++k) xhat[half][k] = affine[half].xhat(xhat[half][k], k % kChannels);
    }
    load_pack(dz[0], grad_y + part.step(a.y_channels, n));
#pragma unroll
    for (int k = 0; k < kPack; ++k) {
      const int i = k % kChannels;
      dz[0][k] += of_mean[i];
      if constexpr (kGlu) {
        const float gate = sigmoid(affine[1].z(xhat[1][k], i));
        dz[0][k] *= gate;
        dz[1][k] = dz[0][k] * affine[0].z(xhat[0][k], i) * (1.0f - gate);
      }
    }
  }
};

// parts [2, rows, C]: sums over each strip of dz, then of dz x-hat
template <class S, int kPack, bool kLast, bool kGlu>
__global__ void __launch_bounds__(kNormThreads, kNormBlocks)
    batch_norm_glu_sums_kernel(BatchNormGluBackward<S> a, float* parts, Strips strips) {
  const StripPart<kPack, kLast> part(strips);
  const GradOfZ<S, kPack, kLast, kGlu> grad(a, part);
  constexpr int kChannels = grad.kChannels;
  float dz_sum[kHalves<kGlu>][kChannels] = {}, dot_sum[kHalves<kGlu>][kChannels] = {};
  part.for_each_pack([&](int n) {
    float xhat[kHalves<kGlu>][kPack], dz[kHalves<kGlu>][kPack];
    grad.at(n, xhat, dz);
#pragma unroll
    for (int half = 0; half < kHalves<kGlu>; ++half) {
#pragma unroll
      for (int k = 0; k < kPack; ++k) {
        dz_sum[half][k % kChannels] += dz[half][k];
        dot_sum[half][k % kChannels] += dz[half][k] * xhat[half][k];
      }
    }
  });
  float* dot_parts = parts + static_cast<int64_t>(strips.rows()) * a.channels;
#pragma unroll
  for (int half = 0; half < kHalves<kGlu>; ++half) {
    part.store_sums(parts + half * a.y_channels, a.channels, dz_sum[half]);
    part.store_sums(dot_parts + half * a.y_channels, a.channels, dot_sum[half]);
  }
}

static __global__ void __launch_bounds__(kMergeThreads)
    batch_norm_glu_merge_sums_kernel(const float* parts, float* dz_sum, float* dot_sum, int rows, int channels) {
  merge_rows(parts, rows, channels,
             [&](int64_t which, int c, float sum) { store((which == 0 ? dz_sum : dot_sum) + c, sum); });
}

// dx = weight rstd (dz - sum dz / count - x-hat sum (dz x-hat) / count); without sums (evaluation) weight rstd dz.
template <class S, int kPack, bool kLast, bool kGlu>
__global__ void __launch_bounds__(kNormThreads, kNormBlocks)
    batch_norm_glu_backward_kernel(BatchNormGluBackward<S> a, const float* dz_sum, const float* dot_sum,
                                   float per_count, S* grad_x, Strips strips) {
  const StripPart<kPack, kLast> part(strips);
  const GradOfZ<S, kPack, kLast, kGlu> grad(a, part);
  constexpr int kChannels = grad.kChannels;
  float dz_mean[kHalves<kGlu>][kChannels] = {}, dot_mean[kHalves<kGlu>][kChannels] = {};
#pragma unroll
  for (int half = 0; half < kHalves<kGlu>; ++half) {
    if (!part.works || !dz_sum) continue;
    load_pack(dz_mean[half], dz_sum + grad.channel(half));
    load_pack(dot_mean[half], dot_sum + grad.channel(half));
#pragma unroll
    for (int k = 0; k < kChannels; ++k) {
      dz_mean[half][k] *= per_count;
      dot_mean[half][k] *= per_count;
    }
  }
  S* dx = part.start(grad_x, a.channels, part.c);
  part.for_each_pack([&](int n) {
    float xhat[kHalves<kGlu>][kPack], dz[kHalves<kGlu>][kPack];
    grad.at(n, xhat, dz);
#pragma unroll
    for (int half = 0; half < kHalves<kGlu>; ++half) {
#pragma unroll
      for (int k = 0; k < kPack; ++k) {
        const int i = k % kChannels;
        const float centred = dz[half][k] - dz_mean[half][i] - xhat[half][k] * dot_mean[half][i];
        dz[half][k] = centred * (grad.affine[half].rstd[i] * grad.affine[half].weight[i]);
      }
      store_pack(dx + grad.step(half, n), dz[half]);
    }
  });
}

// ------------------------------------------------------------------------------------------------------------ host
// Elements of a pack; along channels the constants of more, and of their gates, would not stay in registers.
template <class S, bool kLast>
constexpr int kWidestPack = kLast ? 4 : kPackSize<S>;

// Strips depend on the sizes only, so that the work buffer does; lanes also on the pack.
inline Strips choose_strips(int64_t batch, int channels, int pixels, bool channels_last, int pack) {
  const auto lanes_for = [](int packs) {
    int lanes = 1;
    while (lanes < packs && lanes < kWarp) lanes *= 2;
    return lanes;
  };
  const int width = channels_last ? std::min(channels, kStripChannels) : 1;
  const int64_t elements = std::clamp(batch * channels * pixels / kStripWarps, kLeastStrip, kMostStrip);
  const int strip_pixels = divide_up(divide_up(static_cast<int>(elements), width), kStripUnit) * kStripUnit;
  const int lanes = channels_last ? lanes_for(divide_up(channels, pack)) : kWarp / lanes_for(divide_up(pixels, pack));
  const int channels_of_a_lane = channels_last ? pack : 1;
  return {batch,
          channels,
          pixels,
          divide_up(pixels, strip_pixels),
          strip_pixels,
          lanes,
          divide_up(channels, lanes * channels_of_a_lane)};
}

// Floats of a work buffer that is large enough for each pass.
inline int64_t batch_norm_glu_work_floats(int64_t batch, int channels, int y_channels, int pixels, bool channels_last) {
  const auto rows = [&](int strip_channels) {
    return choose_strips(batch, strip_channels, pixels, channels_last, 1).rows();
  };
  return int64_t{2} * channels * std::max(rows(channels), rows(y_channels));
}

// A feature map, or numbers per channel.
struct Operand {
  const void* data;
  int channels;
};

// Calls run<kPack, kLast>(strips) for a pass over `channels` channels: widest packs if weight, bias and all operands
// are made of such.
template <class S, class Run>
void with_strips(const BatchNormGluInputs<S>& a, int channels, const std::vector<Operand>& operands, Run run) {
  const auto with_layout = [&]<bool kLast>() {
    constexpr int kPack = kWidestPack<S, kLast>;
    const auto packs = [&](const Operand& operand) {
      return (kLast ? operand.channels : a.pixels) % kPack == 0 &&
             reinterpret_cast<uintptr_t>(operand.data) % kPackBytes == 0;
    };
    const bool all_pack = packs({a.weight, a.channels}) && packs({a.bias, a.channels}) &&
                          std::all_of(operands.begin(), operands.end(), packs);
    const auto strips = [&](int pack) { return choose_strips(a.batch, channels, a.pixels, kLast, pack); };
    all_pack ? run.template operator()<kPack, kLast>(strips(kPack)) : run.template operator()<1, kLast>(strips(1));
  };
  a.channels_last ? with_layout.template operator()<true>() : with_layout.template operator()<false>();
}

inline int64_t strip_blocks(const Strips& strips) { return divide_up(strips.warps(), kNormThreads / kWarp); }

inline int64_t merge_blocks(int columns) { return divide_up(columns, kMergeColumns); }

constexpr size_t kMergeShared = shared_bytes<float>(kMergeThreads / kWarp * kMergeColumns);

// mean, var [C]
template <class S>
void launch_batch_norm_glu_statistics(const BatchNormGluInputs<S>& a, float* mean, float* var, float* work,
                                      Stream stream) {
  with_strips(a, a.channels, {{a.x, a.channels}}, [&]<int kPack, bool kLast>(const Strips& strips) {
    float* squares = work + static_cast<int64_t>(strips.rows()) * a.channels;
    launch(batch_norm_glu_moments_kernel<S, kPack, kLast>, strip_blocks(strips), kNormThreads, 0, stream, a.x, work,
           squares, strips);
    launch(batch_norm_glu_merge_moments_kernel, merge_blocks(a.channels), kMergeThreads, kMergeShared, stream,
           static_cast<const float*>(work), static_cast<const float*>(squares), mean, var, strips);
  });
}

template <class S>
void launch_batch_norm_glu_forward(const BatchNormGluForward<S>& a, Stream stream) {
  const Operand x{a.x, a.channels}, y{a.y, a.y_channels}, other = a.glu() ? y : Operand{a.skip, a.skip_channels};
  const Operand mean{a.mean, a.channels}, var{a.var, a.channels}, rstd{a.rstd, a.channels};
  with_strips(a, a.y_channels, {x, y, other, mean, var, rstd}, [&]<int kPack, bool kLast>(const Strips& strips) {
    launch(a.glu() ? batch_norm_glu_forward_kernel<S, kPack, kLast, true>
                   : batch_norm_glu_forward_kernel<S, kPack, kLast, false>,
           strip_blocks(strips), kNormThreads, 0, stream, a, strips);
    if (a.spatial_mean) {
      launch(batch_norm_glu_merge_mean_kernel, a.batch * merge_blocks(a.y_channels), kMergeThreads, kMergeShared,
             stream, static_cast<const float*>(a.work), a.spatial_mean, strips);
    }
  });
}

template <class S, class... More>
std::vector<Operand> operands(const BatchNormGluBackward<S>& a, More... more) {
  return {{a.x, a.channels},    {a.grad_y, a.y_channels}, {a.grad_mean, a.y_channels},
          {a.mean, a.channels}, {a.rstd, a.channels},     {more, a.channels}...};
}

// sum dz and sum dz x-hat, [C] each
template <class S>
void launch_batch_norm_glu_reduce(const BatchNormGluBackward<S>& a, float* dz_sum, float* dot_sum, float* work,
                                  Stream stream) {
  with_strips(a, a.y_channels, operands(a), [&]<int kPack, bool kLast>(const Strips& strips) {
    launch(a.glu() ? batch_norm_glu_sums_kernel<S, kPack, kLast, true>
                   : batch_norm_glu_sums_kernel<S, kPack, kLast, false>,
           strip_blocks(strips), kNormThreads, 0, stream, a, work, strips);
    launch(batch_norm_glu_merge_sums_kernel, 2 * merge_blocks(a.channels), kMergeThreads, kMergeShared, stream,
           static_cast<const float*>(work), dz_sum, dot_sum, strips.rows(), a.channels);
  });
}

// grad_x from those sums over all processes, `count` values a channel; null: evaluation
template <class S>
void launch_batch_norm_glu_backward(const BatchNormGluBackward<S>& a, const float* dz_sum, const float* dot_sum,
                                    double count, S* grad_x, Stream stream) {
  with_strips(a, a.y_channels, operands(a, dz_sum, dot_sum, grad_x), [&]<int kPack, bool kLast>(const Strips& strips) {
    launch(a.glu() ? batch_norm_glu_backward_kernel<S, kPack, kLast, true>
                   : batch_norm_glu_backward_kernel<S, kPack, kLast, false>,
           strip_blocks(strips), kNormThreads, 0, stream, a, dz_sum, dot_sum, static_cast<float>(1.0 / count), grad_x,
           strips);
  });
}

}  // namespace dmgan
