// Nearest x2, then a 3x3 convolution: y(2i + a, 2j + b) = sum over u, v of W_ab(u, v) x(i + a + u - 1, j + b + v - 1).
// The upsampled map never exists: outputs of a parity (a, b) see 2x2 pixels of x, under taps W_ab that add up those
// of the 3x3 kernel, with 4/9 of the multiplications. A block keeps a window of the map in shared memory, which all
// taps read at their shifts, and while it multiplies tiles (tile.cuh) the next channels arrive in a second buffer.
#pragma once

#include <algorithm>
#include <cstdint>

#include "tile.cuh"

namespace dmgan {

// Axes: b sample, o and i output and input channel, row and column of a feature map; m and n tiles of a warp's result,
// m along channels, n along pixels or input channels. Taps (a, b, u, v) are numbered ((2a + b) 2 + u) 2 + v.
struct UpsampleConv3x3 {
  int64_t batch;
  int in_channels, out_channels, height, width;  // of x; y is twice as high and wide
  bool channels_last;                            // x, y and their gradients, which are dense; else NCHW
};

constexpr int kConvThreads = 128, kConvWarps = kConvThreads / kWarp;
constexpr int kConvBlocks = 2;     // per multiprocessor, at least: a warp's sums take half of its 255 registers
constexpr int kConvChannels = 64;  // of a block's result; folded weights are padded to it
constexpr int kConvPixels = 128;   // of x under a block of y or of its own gradient
constexpr int kTaps = 16, kRowTaps = kTaps / 2;  // all; those of one row parity
constexpr int kStageBytes = 32;                  // of a pixel's channels that are in shared memory at a time: a sector
template <class S>
constexpr int kStage = kStageBytes / static_cast<int>(sizeof(S));

__host__ __device__ constexpr int padded(int channels) { return divide_up(channels, kConvChannels) * kConvChannels; }

// --------------------------------------------------------------------------------------------------------------------
// maps A dense [B, C, H, W].
template <class S>
struct DenseFeatureMap : FeatureMap<S> {
  int channels, height, width;
  bool packs;  // channels-last, made of whole packs

  __device__ S* pixel_at(int64_t b, int c, int row, int column) const {
    return this->at(b, c, static_cast<int64_t>(row) * width + column);
  }
};

// x is cut into tiles of `height` rows and `width` columns, a power of two of at least kTile.
struct PixelTiles {
  int height, width, down, across;

  int64_t count(int64_t batch) const { return batch * down * across; }
};

// Where a tile is: its sample and its first pixel.
struct PixelTile {
  int64_t b;
  int row, column;

  __device__ PixelTile(const PixelTiles& tiles, int64_t number)
      : b(number / (tiles.down * tiles.across)),
        row(static_cast<int>(number / tiles.across % tiles.down) * tiles.height),
        column(static_cast<int>(number % tiles.across) * tiles.width) {}
};

// What a block keeps of a feature map, zeros outside it: [kPlanes, rows, columns / kPlanes] slots, each with some
// channels of a pixel. With two planes the first one has the even columns of the window. kHalo: the outer columns are a
// tile's halo.
template <int kPlanes, bool kHalo>
struct Window {
  int row, row_step, column;  // of the map: the first row, from there to the next one, the first column
  int rows, columns;

  __host__ __device__ unsigned slots() const { return rows * columns; }
  __device__ unsigned slot(unsigned r, unsigned q) const {
    return (q % kPlanes * rows + r) * (columns / kPlanes) + q / kPlanes;
  }

  // kChannels channels from c0 on of sample b; slots are `stride` elements apart. Packs are copied without waiting.
  template <int kChannels, class S>
  __device__ __forceinline__ void load(S* to, int stride, const DenseFeatureMap<const S>& from, int64_t b,
                                       int c0) const {
    const int inner = columns - 2 * kHalo;  // these first: so the requests of a warp begin at sectors
    load_pixels<kChannels>(
        to, stride, from, b, c0, rows * inner, [=](int pixel) { return pixel / inner; },
        [=](int pixel) { return pixel % inner + kHalo; });
    if constexpr (kHalo) {
      load_pixels<kChannels>(
          to, stride, from, b, c0, rows * 2, [=](int pixel) { return pixel / 2; },
          [=, this](int pixel) { return pixel % 2 * (columns - 1); });
    }
  }

 private:
  // The pixels (row_of(k), column_of(k)) of the window.
  template <int kChannels, class S, class RowOf, class ColumnOf>
  __device__ __forceinline__ void load_pixels(S* to, int stride, const DenseFeatureMap<const S>& from, int64_t b,
                                              int c0, int pixels, RowOf row_of, ColumnOf column_of) const {
    constexpr int kSize = kPackSize<S>, kPacks = kChannels / kSize;
    const bool last = from.channels_last();
#pragma unroll 1
    for (int item = threadIdx.x; item < pixels * kPacks; item += kConvThreads) {
      // Lanes run along the dense axis.
      const int pixel = last ? item / kPacks : item % pixels, pack = (last ? item % kPacks : item / pixels) * kSize;
      const int r = row_of(pixel), q = column_of(pixel), c = c0 + pack;
      const int y = row + r * row_step, x = column + q;
      const bool inside = y >= 0 && y < from.height && x >= 0 && x < from.width;
      const S* source = from.pixel_at(b, c, y, x);
      S* slot_pack = to + slot(r, q) * stride + pack;
      if (from.packs) {
        copy_async_if(inside && c < from.channels, slot_pack, source);
      } else {
        Packed<S, kSize> values;
#pragma unroll
        for (int k = 0; k < kSize; ++k) {
          values.elements[k] = load_if(inside && c + k < from.channels, source + k * from.channel);
        }
        *reinterpret_cast<Packed<S, kSize>*>(slot_pack) = values;
      }
    }
  }
};

// --------------------------------------------------------------------------------------------------------- folded taps
// On which of the two rows (or columns) that a parity sees does row k of the 3x3 kernel fall?
__host__ __device__ constexpr int side_of(int parity, int k) { return (parity + k + 1) / 2 - parity; }

// Is (row, column) of the 3x3 kernel one of those that a folded tap adds up?
__host__ __device__ constexpr bool on_tap(int tap, int row, int column) {
  return side_of(tap / 8, row) == tap / 2 % 2 && side_of(tap / 4 % 2, column) == tap % 2;
}

constexpr int kKernel = 9, kFoldThreads = kConvChannels;  // one thread per weight o, i

// folded [kTaps, padded O, padded I] <- weight [O, I, 3, 3], zeros where padded.
template <class S>
__global__ void __launch_bounds__(kFoldThreads)
    upsample_conv3x3_fold_kernel(const S* weight, S* folded, int out_channels, int in_channels) {
  SharedArena arena;
  float* kernels = arena.take<float>(kFoldThreads * kKernel);
  const int blocks = padded(in_channels) / kFoldThreads;  // of one o
  const int o = blockIdx.x / blocks, i0 = blockIdx.x % blocks * kFoldThreads;
  const int count = o < out_channels ? min(kFoldThreads, in_channels - i0) : 0;  // of real weights
  const S* source = weight + (static_cast<int64_t>(o) * in_channels + i0) * kKernel;
  for (int k = threadIdx.x; k < kFoldThreads * kKernel; k += kFoldThreads) {
    kernels[k] = static_cast<float>(load_if(k < count * kKernel, source + k));
  }
  __syncthreads();
  S* to = folded + static_cast<int64_t>(o) * padded(in_channels) + i0 + threadIdx.x;
  const int64_t step = static_cast<int64_t>(padded(out_channels)) * padded(in_channels);
#pragma unroll
  for (int tap = 0; tap < kTaps; ++tap) {
    float total = 0.0f;
#pragma unroll
    for (int k = 0; k < kKernel; ++k) {
      if (on_tap(tap, k / 3, k % 3)) total += kernels[threadIdx.x * kKernel + k];
    }
    store(to + tap * step, total);
  }
}

// grad_weight [O, I, 3, 3] <- the sum over splits of parts [splits, kTaps, padded O, padded I], in order.
template <class S>
__global__ void __launch_bounds__(kFoldThreads)
    upsample_conv3x3_unfold_kernel(const float* parts, S* grad_weight, int out_channels, int in_channels, int splits) {
  SharedArena arena;
  float* kernels = arena.take<float>(kFoldThreads * kKernel);
  const int blocks = padded(in_channels) / kFoldThreads;  // of one o
  const int o = blockIdx.x / blocks, i0 = blockIdx.x % blocks * kFoldThreads;
  const int count = min(kFoldThreads, in_channels - i0);
  const int64_t step = static_cast<int64_t>(padded(out_channels)) * padded(in_channels);
  const float* part = parts + static_cast<int64_t>(o) * padded(in_channels) + i0 + threadIdx.x;
  float taps[kTaps] = {};
  for (int split = 0; split < splits && static_cast<int>(threadIdx.x) < count; ++split, part += kTaps * step) {
#pragma unroll
    for (int tap = 0; tap < kTaps; ++tap) taps[tap] += load(part + tap * step);
  }
#pragma unroll
  for (int k = 0; k < kKernel; ++k) {
    float total = 0.0f;
#pragma unroll
    for (int tap = 0; tap < kTaps; ++tap) {
      if (on_tap(tap, k / 3, k % 3)) total += taps[tap];
    }
    kernels[threadIdx.x * kKernel + k] = total;
  }
  __syncthreads();
  S* to = grad_weight + (static_cast<int64_t>(o) * in_channels + i0) * kKernel;
  for (int k = threadIdx.x; k < count * kKernel; k += kFoldThreads) store(to + k, kernels[k]);
}

// ------------------------------------------------------------------------------------------- y, and the gradient of x
// Forward, a block makes both column parities of y's rows of parity a, which NCHW stores side by side: pixel (i, j)
// reads rows i + a - 1 + {0, 1} of x and columns j - 1 + {0, 1, 2}, of which parity b sees two, from b on. Backward,
// pixel (i, j) of x's gradient reads rows 2i - a + {0, 2} of y's gradient for each parity a in turn, and columns
// 2j - 1 + {0, 1, 2, 3}.
template <class S, bool kBackward>
struct MapProduct {
  static constexpr int kColumnParities = kBackward ? 1 : 2;  // of the result
  static constexpr int kPlanes = kBackward ? 2 : 1;          // of the window
  static constexpr int kColumns = kBackward ? 4 : 3;         // that a pixel reads
  static constexpr int kM = 2, kN = 4;                       // tiles of a warp
  using Span = Window<kPlanes, true>;

  // Weights of a step: [kRowTaps][kWeightRows][kWeightRow], o down and i across. Rows are a pack longer than what they
  // hold: no bank conflicts.
  static constexpr int kWeightRows = kBackward ? kStage<S> : kConvChannels;
  static constexpr int kWeightColumns = kBackward ? kConvChannels : kStage<S>;
  static constexpr int kWeightRow = kWeightColumns + kPackSize<S>;
  static constexpr int kWeights = kRowTaps * kWeightRows * kWeightRow;
  static constexpr Dense kWeightDense = kBackward ? Dense::kLines : Dense::kDepth;

  static constexpr int kResultRow = kM * kTile + 4;  // floats; of the results of a warp on their way out
  static constexpr int kResults = kM * kTile * kResultRow;
  static_assert(kConvWarps * kResults * sizeof(float) <= 2 * kWeights * sizeof(S), "results take the weights' place");
  static_assert(kColumnParities * kTile <= kM * kTile);

  static __host__ __device__ Span window(const PixelTiles& tiles, int row, int column, int a) {
    return kBackward ? Span{2 * row - a, 2, 2 * column - 1, tiles.height + 1, 2 * tiles.width + 2}
                     : Span{row + a - 1, 1, column - 1, tiles.height + 1, tiles.width + 2};
  }

  static size_t shared(const PixelTiles& tiles) {
    return shared_bytes<S>(2 * kWeights) + shared_bytes<S>(2 * window(tiles, 0, 0, 0).slots() * kStage<S>);
  }

  // Column c of those that a pixel reads lies under the taps (b, v): one, or with column parities up to two.
  static __device__ constexpr bool sees(int b, int c) { return kBackward ? b == 1 - c % 2 : c - b == 0 || c - b == 1; }
  static __device__ constexpr int v_of(int b, int c) { return kBackward ? 1 - c / 2 : c - b; }

  // Starts to bring folded weights of row parity a, from channels o and i on; rows lie `row_size` apart.
  static __device__ __forceinline__ void load_weights(S* weights, const S* folded, int a, int o, int i, int rows,
                                                      int row_size) {
    constexpr int kPacks = kWeightColumns / kPackSize<S>;
#pragma unroll 1
    for (int item = threadIdx.x; item < kRowTaps * kWeightRows * kPacks; item += kConvThreads) {
      const int pack = item % kPacks * kPackSize<S>, row = item / kPacks % kWeightRows,
                tap = item / kPacks / kWeightRows;
      const int64_t line = (a * kRowTaps + tap) * static_cast<int64_t>(rows) + o + row;
      copy_async_if(true, weights + (tap * kWeightRows + row) * kWeightRow + pack, folded + line * row_size + i + pack);
    }
  }

  // A warp's results for tile n of its pixels, the first of which makes (row, column) of `to`, pass through shared
  // memory to be written along the dense axis.
  static __device__ __forceinline__ void store_results(float* results, const SumTile<S> (&sum)[kColumnParities][kM][kN],
                                                       int n, const DenseFeatureMap<S>& to, int64_t b,
                                                       int first_channel, int row, int column) {
    constexpr int kChannels = kM * kTile, kWidth = kColumnParities * kTile;
    const bool last = to.channels_last();
    __syncwarp();  // the tile before has been written
#pragma unroll
    for (int m = 0; m < kM; ++m) {
#pragma unroll
      for (int parity = 0; parity < kColumnParities; ++parity) {
        const int channel = m * kTile, place = parity * kTile;
        sum[parity][m][n].store(results + (last ? place * kResultRow + channel : channel * kResultRow + place),
                                kResultRow, !last);
      }
    }
    __syncwarp();
    for (int k = threadIdx.x % kWarp; k < kChannels * kWidth; k += kWarp) {
      const int channel = last ? k % kChannels : k / kWidth, q = last ? k / kChannels : k % kWidth;
      const int place = q % kColumnParities * kTile + q / kColumnParities, c = first_channel + channel;
      const float value = results[last ? place * kResultRow + channel : channel * kResultRow + place];
      if (c < to.channels && row < to.height && column + q < to.width) {
        store(to.pixel_at(b, c, row, column + q), value);
      }
    }
  }
};

// y from x, or kBackward x's gradient from y's: `to` <- folded taps times `from`.
template <class S, bool kBackward>
__global__ void __launch_bounds__(kConvThreads, kConvBlocks)
    upsample_conv3x3_map_kernel(DenseFeatureMap<const S> from, const S* folded, DenseFeatureMap<S> to, PixelTiles tiles,
                                int out_channels, int in_channels) {
  using Product = MapProduct<S, kBackward>;
  constexpr int kM = Product::kM, kN = Product::kN, kParities = Product::kColumnParities, kRow = Product::kWeightRow;
  const int channel_tiles = divide_up(to.channels, kConvChannels);
  const int first_channel = static_cast<int>(blockIdx.x % channel_tiles) * kConvChannels;
  const int block_a = kBackward ? 0 : blockIdx.x / channel_tiles % 2;
  const PixelTile tile(tiles, blockIdx.x / channel_tiles / (kBackward ? 1 : 2));
  const int stages = divide_up(from.channels, kStage<S>), steps = kBackward ? 2 * stages : stages;

  SharedArena arena;
  S* weights = arena.take<S>(2 * Product::kWeights);
  const typename Product::Span span = Product::window(tiles, tile.row, tile.column, 0);
  S* pixels = arena.take<S>(2 * span.slots() * kStage<S>);

  // Starts to bring the channels of a step, into one buffer of two in turn.
  const auto load_step = [&](int step) {
    const int a = kBackward ? step % 2 : block_a, c0 = (kBackward ? step / 2 : step) * kStage<S>;
    const int o = kBackward ? c0 : first_channel, i = kBackward ? first_channel : c0;
    Product::load_weights(weights + step % 2 * Product::kWeights, folded, a, o, i, padded(out_channels),
                          padded(in_channels));
    Product::window(tiles, tile.row, tile.column, a)
        .template load<kStage<S>>(pixels + step % 2 * span.slots() * kStage<S>, kStage<S>, from, tile.b, c0);
  };

  const int warp = threadIdx.x / kWarp;
  const int warp_channel = warp % 2 * kM * kTile;
  int tile_row[kN], tile_column[kN];  // of the pixels of tile n
#pragma unroll
  for (int n = 0; n < kN; ++n) {
    const int number = warp / 2 * kN + n, across = tiles.width / kTile;
    tile_row[n] = number / across;
    tile_column[n] = number % across * kTile;
  }
  SumTile<S> sum[kParities][kM][kN];

  load_step(0);
  for (int step = 0; step < steps; ++step) {
    wait_for_copies();
    __syncthreads();  // the step has arrived, and the one before has been multiplied
    if (step + 1 < steps) load_step(step + 1);
    const S* step_weights = weights + step % 2 * Product::kWeights;
    const S* step_pixels = pixels + step % 2 * span.slots() * kStage<S>;
#pragma unroll 1
    for (int depth = 0; depth < kStage<S>; depth += kTileDepth<S>) {
#pragma unroll 1
      for (int r = 0; r < 2; ++r) {
#pragma unroll
        for (int c = 0; c < Product::kColumns; ++c) {
          RightTile<S, Dense::kDepth> right[kN];
#pragma unroll
          for (int n = 0; n < kN; ++n) {
            const unsigned slot = span.slot(tile_row[n] + r, Product::kPlanes * tile_column[n] + c);
            right[n].load(step_pixels + slot * kStage<S> + depth, kStage<S>);
          }
#pragma unroll
          for (int b = 0; b < 2; ++b) {
#pragma unroll
            for (int m = 0; m < kM; ++m) {
              if (!Product::sees(b, c)) continue;
              const int tap = (2 * b + (kBackward ? 1 - r : r)) * 2 + Product::v_of(b, c);
              const int channel = warp_channel + m * kTile;
              LeftTile<S, Product::kWeightDense> left;
              left.load(step_weights + (kBackward ? (tap * kStage<S> + depth) * kRow + channel
                                                  : (tap * kConvChannels + channel) * kRow + depth),
                        kRow);
#pragma unroll
              for (int n = 0; n < kN; ++n) sum[b % kParities][m][n].add(left, right[n]);
            }
          }
        }
      }
    }
  }

  __syncthreads();  // the weights have been read
  float* results = reinterpret_cast<float*>(weights) + warp * Product::kResults;
#pragma unroll
  for (int n = 0; n < kN; ++n) {
    Product::store_results(results, sum, n, to, tile.b, first_channel + warp_channel,
                           kParities * (tile.row + tile_row[n]) + block_a, kParities * (tile.column + tile_column[n]));
  }
}

// ---------------------------------------------------------------------------------------------- gradient of the weight
// A block adds up the taps of one row parity a over the pixels of a split: dL/dW_ab(u, v) = sum over pixels (i, j) of
// dy(2i + a, 2j + b) x(i + a + u - 1, j + b + v - 1). Each warp has its own (b, u) and both v.
template <class S>
struct WeightProduct {
  static constexpr int kOut = kConvChannels, kIn = 32, kM = kOut / kTile, kN = kIn / kTile;
  static constexpr int kPixels = 128 / static_cast<int>(sizeof(S));  // of a step
  static constexpr int kGradStride = kOut + kPackSize<S>;            // from slot to slot: no bank conflicts
  static constexpr int kXStride = kIn + 2 * kPackSize<S>;            // tiles start at any slot: a multiple of 32 bytes

  static __host__ __device__ Window<2, false> grad_window(const PixelTiles& tiles, int row, int column, int a) {
    return {2 * row + a, 2, 2 * column, tiles.height, 2 * tiles.width};
  }
  static __host__ __device__ Window<1, true> x_window(const PixelTiles& tiles, int row, int column, int a) {
    return {row + a - 1, 1, column - 1, tiles.height + 1, tiles.width + 2};
  }

  static size_t shared(const PixelTiles& tiles) {
    return shared_bytes<S>(2 * grad_window(tiles, 0, 0, 0).slots() * kGradStride) +
           shared_bytes<S>(2 * x_window(tiles, 0, 0, 0).slots() * kXStride);
  }
};

// parts [splits, kTaps, padded O, padded I]
template <class S>
__global__ void __launch_bounds__(kConvThreads, kConvBlocks)
    upsample_conv3x3_grad_weight_kernel(DenseFeatureMap<const S> grad_y, DenseFeatureMap<const S> x, float* parts,
                                        PixelTiles tiles, int64_t tile_count, int64_t tiles_per_split) {
  using Product = WeightProduct<S>;
  constexpr int kM = Product::kM, kN = Product::kN, kGradStride = Product::kGradStride, kXStride = Product::kXStride;
  const int in_tiles = divide_up(x.channels, Product::kIn), out_tiles = divide_up(grad_y.channels, Product::kOut);
  const int i0 = static_cast<int>(blockIdx.x % in_tiles) * Product::kIn;
  const int o0 = static_cast<int>(blockIdx.x / in_tiles % out_tiles) * Product::kOut;
  const int a = blockIdx.x / in_tiles / out_tiles % 2;
  const int64_t split = blockIdx.x / in_tiles / out_tiles / 2;
  const int64_t first = split * tiles_per_split, end = min(first + tiles_per_split, tile_count);

  SharedArena arena;
  const Window<2, false> grad_span = Product::grad_window(tiles, 0, 0, a);
  const Window<1, true> x_span = Product::x_window(tiles, 0, 0, a);
  S* grads = arena.take<S>(2 * grad_span.slots() * kGradStride);
  S* xs = arena.take<S>(2 * x_span.slots() * kXStride);

  const auto load_tile = [&](int64_t number, int buffer) {
    const PixelTile tile(tiles, number);
    Product::grad_window(tiles, tile.row, tile.column, a)
        .template load<Product::kOut>(grads + buffer * grad_span.slots() * kGradStride, kGradStride, grad_y, tile.b,
                                      o0);
    Product::x_window(tiles, tile.row, tile.column, a)
        .template load<Product::kIn>(xs + buffer * x_span.slots() * kXStride, kXStride, x, tile.b, i0);
  };

  const int warp = threadIdx.x / kWarp, b = warp / 2, u = warp % 2;
  SumTile<S> sum[2][kM][kN];  // [v]

  load_tile(first, 0);
  for (int64_t number = first; number < end; ++number) {
    const int buffer = static_cast<int>(number - first) % 2;
    wait_for_copies();
    __syncthreads();  // the tile has arrived, and the one before has been multiplied
    if (number + 1 < end) load_tile(number + 1, 1 - buffer);
    for (int p = 0; p < Product::kPixels; p += kTile) {
      const int row = p / tiles.width, column = p % tiles.width;
      const S* grad = grads + (buffer * grad_span.slots() + grad_span.slot(row, 2 * column + b)) * kGradStride;
      const S* pixel = xs + (buffer * x_span.slots() + x_span.slot(row + u, column + b)) * kXStride;
#pragma unroll 1
      for (int depth = 0; depth < kTile; depth += kTileDepth<S>) {
        LeftTile<S, Dense::kLines> left[kM];
#pragma unroll
        for (int m = 0; m < kM; ++m) left[m].load(grad + depth * kGradStride + m * kTile, kGradStride);
#pragma unroll
        for (int v = 0; v < 2; ++v) {
#pragma unroll
          for (int n = 0; n < kN; ++n) {
            RightTile<S, Dense::kLines> right;
            right.load(pixel + (depth + v) * kXStride + n * kTile, kXStride);
#pragma unroll
            for (int m = 0; m < kM; ++m) sum[v][m][n].add(left[m], right);
          }
        }
      }
    }
  }

  const int row_floats = padded(x.channels);
#pragma unroll
  for (int v = 0; v < 2; ++v) {
    const int64_t tap = split * kTaps + ((a * 2 + b) * 2 + u) * 2 + v;
    float* part = parts + (tap * padded(grad_y.channels) + o0) * row_floats + i0;
#pragma unroll
    for (int m = 0; m < kM; ++m) {
#pragma unroll
      for (int n = 0; n < kN; ++n) sum[v][m][n].store(part + m * kTile * row_floats + n * kTile, row_floats, true);
    }
  }
}

// ------------------------------------------------------------------------------------------------------------ host
constexpr int kSplitBlocks = 256;       // which the gradient of the weight aims at: two on each of 128 multiprocessors
constexpr int64_t kSplitPixels = 1024;  // of a partial sum, at least: it is written and read again

// The shape of `pixels` pixels that covers the map with the least waste, the widest of those.
inline PixelTiles choose_tiles(int pixels, int height, int width) {
  PixelTiles best{};
  for (int tile_width = pixels; tile_width >= kTile; tile_width /= 2) {
    const int tile_height = pixels / tile_width;
    const PixelTiles tiles{tile_height, tile_width, divide_up(height, tile_height), divide_up(width, tile_width)};
    if (best.width == 0 || tiles.count(1) < best.count(1)) best = tiles;
  }
  return best;
}

template <class S>
DenseFeatureMap<S> dense_map(const UpsampleConv3x3& a, S* data, int channels, int scale) {
  const int height = scale * a.height, width = scale * a.width;
  const int64_t pixels = static_cast<int64_t>(height) * width;
  const bool aligned = reinterpret_cast<uintptr_t>(data) % kPackBytes == 0;
  const FeatureMap<S> strides{data, channels * pixels, a.channels_last ? 1 : pixels, a.channels_last ? channels : 1};
  return {strides, channels, height, width, a.channels_last && channels % kPackSize<S> == 0 && aligned};
}

// Elements of the buffer of folded weights.
inline int64_t upsample_conv3x3_folded_size(const UpsampleConv3x3& a) {
  return int64_t{kTaps} * padded(a.out_channels) * padded(a.in_channels);
}

// How the gradient of the weight is cut into partial sums: depends on the sizes only, so that results do.
struct WeightSplits {
  PixelTiles tiles;
  int64_t tile_count, tiles_per_split, splits, blocks;  // blocks of a split
};

template <class S>
WeightSplits weight_splits(const UpsampleConv3x3& a) {
  using Product = WeightProduct<S>;
  const PixelTiles tiles = choose_tiles(Product::kPixels, a.height, a.width);
  const int64_t blocks = int64_t{2} * divide_up(a.out_channels, Product::kOut) * divide_up(a.in_channels, Product::kIn);
  const int64_t count = tiles.count(a.batch), wanted = divide_up(int64_t{kSplitBlocks}, blocks);
  const int64_t per_split = std::max(divide_up(count, wanted), kSplitPixels / Product::kPixels);
  return {tiles, count, per_split, divide_up(count, per_split), blocks};
}

// Floats of its work buffer.
template <class S>
int64_t upsample_conv3x3_part_floats(const UpsampleConv3x3& a) {
  return weight_splits<S>(a).splits * upsample_conv3x3_folded_size(a);
}

template <class S>
void launch_fold(const UpsampleConv3x3& a, const S* weight, S* folded, Stream stream) {
  const int64_t blocks = int64_t{padded(a.out_channels)} * padded(a.in_channels) / kFoldThreads;
  launch(upsample_conv3x3_fold_kernel<S>, blocks, kFoldThreads, shared_bytes<float>(kFoldThreads * kKernel), stream,
         weight, folded, a.out_channels, a.in_channels);
}

// y from x, or kBackward x's gradient from y's.
template <bool kBackward, class S>
void launch_map(const UpsampleConv3x3& a, const S* from, const S* folded, S* to, Stream stream) {
  const PixelTiles tiles = choose_tiles(kConvPixels, a.height, a.width);
  const int from_channels = kBackward ? a.out_channels : a.in_channels;
  const int to_channels = kBackward ? a.in_channels : a.out_channels;
  const int64_t blocks = tiles.count(a.batch) * (kBackward ? 1 : 2) * divide_up(to_channels, kConvChannels);
  launch(upsample_conv3x3_map_kernel<S, kBackward>, blocks, kConvThreads, MapProduct<S, kBackward>::shared(tiles),
         stream, dense_map(a, from, from_channels, kBackward ? 2 : 1), folded,
         dense_map(a, to, to_channels, kBackward ? 1 : 2), tiles, a.out_channels, a.in_channels);
}

// x [B, I, H, W], weight [O, I, 3, 3], y [B, O, 2H, 2W]; `folded` has upsample_conv3x3_folded_size() elements.
template <class S>
void launch_upsample_conv3x3_forward(const UpsampleConv3x3& a, const S* x, const S* weight, S* folded, S* y,
                                     Stream stream) {
  launch_fold(a, weight, folded, stream);
  launch_map<false>(a, x, folded, y, stream);
}

template <class S>
void launch_upsample_conv3x3_grad_x(const UpsampleConv3x3& a, const S* grad_y, const S* weight, S* folded, S* grad_x,
                                    Stream stream) {
  launch_fold(a, weight, folded, stream);
  launch_map<true>(a, grad_y, folded, grad_x, stream);
}

// `parts` has upsample_conv3x3_part_floats() floats.
template <class S>
void launch_upsample_conv3x3_grad_weight(const UpsampleConv3x3& a, const S* grad_y, const S* x, float* parts,
                                         S* grad_weight, Stream stream) {
  const WeightSplits cut = weight_splits<S>(a);
  launch(upsample_conv3x3_grad_weight_kernel<S>, cut.splits * cut.blocks, kConvThreads,
         WeightProduct<S>::shared(cut.tiles), stream, dense_map(a, grad_y, a.out_channels, 2),
         dense_map(a, x, a.in_channels, 1), parts, cut.tiles, cut.tile_count, cut.tiles_per_split);
  launch(upsample_conv3x3_unfold_kernel<S>, int64_t{a.out_channels} * padded(a.in_channels) / kFoldThreads,
         kFoldThreads, shared_bytes<float>(kFoldThreads * kKernel), stream, static_cast<const float*>(parts),
         grad_weight, a.out_channels, a.in_channels, static_cast<int>(cut.splits));
}

}  // namespace dmgan
