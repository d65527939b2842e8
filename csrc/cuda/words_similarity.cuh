// Matching of every image with every caption: s = softmax over words of r_n . w_t,  a = softmax over regions of
// gamma1 s,  c_t = sum_n a_tn r_n,  score = log sum_t exp(gamma2 cos(c_t, w_t)).
// The words of a group of captions are the rows of one matrix, so that every sum over channels, words or regions is a
// large product; one multiplication, tiled in shared memory and registers, does them all, and the softmaxes work on its
// results while they are in L2. Captions come in groups: memory stays linear in the batch. Backward computes it again.
#pragma once

#include <algorithm>

#include "common.cuh"

namespace dmgan {

// Axes: b image, k caption of the group, d dimension, n region, t word, m row: word t of caption k, m = k T + t.
template <class S>
struct WordsSimilarityInputs {
  int64_t images;
  int captions, dimensions, regions, words;
  const S* region;         // [B, D, N]
  const S* word;           // [K, D, T]
  const int64_t* lengths;  // [K]: words beyond are padding
  float gamma1, gamma2;

  __host__ __device__ int rows() const { return captions * words; }
  __device__ const S* region_of(int64_t b) const { return region + b * dimensions * regions; }
  __host__ __device__ int64_t word_at(int64_t k, int d, int t) const { return (k * dimensions + d) * words + t; }
  __host__ __device__ int64_t row_at(int64_t m) const { return m * dimensions; }  // in rows [M, D]
  __host__ __device__ int64_t map_at(int64_t m) const { return m * regions; }     // in maps [M, N]
  __device__ int length(int k) const {
    return static_cast<int>(min(load_as_is(lengths + k), static_cast<int64_t>(words)));
  }
  __device__ bool is_padding(int m) const { return m % words >= length(m / words); }
};

constexpr int kGroup = 16;           // captions: their maps are about as large as the regions, and fill a large GPU
constexpr int kWordSlices = 16;      // of images: each sums its gradients of the words, to fill the GPU
constexpr float kCosineEps = 1e-8f;  // the authors' clamp of the product of norms
constexpr int kSimilarityThreads = 128;
constexpr int kSimilarityWarps = kSimilarityThreads / kWarp;

// --------------------------------------------------------------------------------------------------------- products
constexpr int kProductTile = 64;   // rows and columns of a block
constexpr int kProductDepth = 16;  // terms of the sum that are in shared memory at a time: two sectors of floats
constexpr int kProductRows = 8, kProductColumns = 4;  // of a thread
constexpr int kProductBlocks = 4;                     // per multiprocessor: up to 128 registers a thread, so no spills
constexpr int kProductStageRow = kProductTile + 4;    // rows start at a float4, four banks further each
constexpr int kColumnThreads = kProductTile / kProductColumns;
static_assert(kColumnThreads * (kProductTile / kProductRows) == kSimilarityThreads);

// One operand of a product: rows of the left, columns of the right. Its memory is dense along the sum (kDepthDense) or
// along those lines.
template <class T, bool kDepthDense>
struct Factor {
  const T* data;
  int64_t stride;  // of the other axis

  __device__ const T* at(int line, int depth) const {
    return data + (kDepthDense ? line * stride + depth : depth * stride + line);
  }
};

// A block's tile of the [rows, columns] results of each of many products.
class ProductTile {
 public:
  int64_t batch;  // number of the product

  __device__ __forceinline__ ProductTile(SharedArena& arena, int rows, int columns)
      : rows_(rows),
        columns_(columns),
        left_(arena.take<float>(kProductDepth * kProductStageRow)),
        right_(arena.take<float>(kProductDepth * kProductStageRow)) {
    const int down = divide_up(rows, kProductTile), across = divide_up(columns, kProductTile);
    const int tile = blockIdx.x % (down * across);
    batch = blockIdx.x / (down * across);
    first_row_ = tile / across * kProductTile;
    first_column_ = tile % across * kProductTile;
  }

  static int64_t blocks(int64_t batch, int rows, int columns) {
    return batch * divide_up(rows, kProductTile) * divide_up(columns, kProductTile);
  }
  static constexpr size_t kShared = 2 * shared_bytes<float>(kProductDepth * kProductStageRow);

  // Adds the product of `left` and `right`, a sum of `depth` terms.
  template <class Left, class Right>
  __device__ __forceinline__ void add(const Left& left, const Right& right, int depth) {
    const int row = threadIdx.x / kColumnThreads * kProductRows, column = threadIdx.x % kColumnThreads;
    for (int k0 = 0; k0 < depth; k0 += kProductDepth) {
      __syncthreads();  // the stage before has been read
      stage(left_, left, first_row_, rows_, k0, depth);
      stage(right_, right, first_column_, columns_, k0, depth);
      __syncthreads();
#pragma unroll
      for (int k = 0; k < kProductDepth; ++k) {
        float x[kProductRows], y[kProductColumns];
#pragma unroll
        for (int i = 0; i < kProductRows; i += 4) {
          const float4 four = *reinterpret_cast<const float4*>(left_ + k * kProductStageRow + row + i);
          x[i] = four.x;
          x[i + 1] = four.y;
          x[i + 2] = four.z;
          x[i + 3] = four.w;
        }
#pragma unroll
        for (int j = 0; j < kProductColumns; ++j) y[j] = right_[k * kProductStageRow + column + j * kColumnThreads];
#pragma unroll
        for (int i = 0; i < kProductRows; ++i) {
#pragma unroll
          for (int j = 0; j < kProductColumns; ++j) sum_[i][j] += x[i] * y[j];
        }
      }
    }
  }

  // use(row, column, sum) for the thread's results; neighbouring threads have neighbouring columns.
  template <class Use>
  __device__ __forceinline__ void for_each(Use use) const {
    const int row = first_row_ + static_cast<int>(threadIdx.x) / kColumnThreads * kProductRows;
    const int column = first_column_ + static_cast<int>(threadIdx.x) % kColumnThreads;
#pragma unroll
    for (int i = 0; i < kProductRows; ++i) {
#pragma unroll
      for (int j = 0; j < kProductColumns; ++j) {
        const int r = row + i, c = column + j * kColumnThreads;
        if (r < rows_ && c < columns_) use(r, c, sum_[i][j]);
      }
    }
  }

 private:
  // [kProductDepth][kProductStageRow] <- terms k0 ... of lines line0 ..., zeros outside. Lanes take the dense axis.
  template <class T, bool kDepthDense>
  __device__ __forceinline__ static void stage(float* to, const Factor<T, kDepthDense>& factor, int line0, int lines,
                                               int k0, int depth) {
    constexpr int kAcross = kDepthDense ? kProductDepth : kProductTile, kStep = kSimilarityThreads / kAcross;
    constexpr int kCount = kProductDepth * kProductTile / kSimilarityThreads;
    const int dense = threadIdx.x % kAcross, other = threadIdx.x / kAcross;
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const int line = kDepthDense ? other + i * kStep : dense, k = kDepthDense ? dense : other + i * kStep;
      const bool inside = line0 + line < lines && k0 + k < depth;
      to[k * kProductStageRow + line] = inside ? load(factor.at(line0 + line, k0 + k)) : 0.0f;
    }
  }

  int rows_, columns_, first_row_, first_column_;
  float *left_, *right_;  // [kProductDepth][kProductStageRow]
  float sum_[kProductRows][kProductColumns] = {};
};

// maps [B, M, N] = sum over d of rows [M, D] and the regions. `step`: from a image's rows to the next one's.
template <class S>
__global__ void __launch_bounds__(kSimilarityThreads, kProductBlocks)
    words_similarity_project_kernel(WordsSimilarityInputs<S> a, const float* rows, int64_t step, float* maps) {
  SharedArena arena;
  ProductTile tile(arena, a.rows(), a.regions);
  const int64_t b = tile.batch;
  tile.add(Factor<float, true>{rows + b * step, a.dimensions}, Factor<S, false>{a.region_of(b), a.regions},
           a.dimensions);
  tile.for_each([&](int m, int n, float sum) { store(maps + a.map_at(b * a.rows() + m) + n, sum); });
}

// rows [slices, M, D] = sum over n and a slice's images of maps [B, M, N] and the regions.
template <class S>
__global__ void __launch_bounds__(kSimilarityThreads, kProductBlocks)
    words_similarity_gather_kernel(WordsSimilarityInputs<S> a, const float* maps, int64_t images_per_slice,
                                   float* rows) {
  SharedArena arena;
  ProductTile tile(arena, a.rows(), a.dimensions);
  const int64_t slice = tile.batch, first = slice * images_per_slice;
  for (int64_t b = first; b < min(first + images_per_slice, a.images); ++b) {
    tile.add(Factor<float, true>{maps + a.map_at(b * a.rows()), a.regions}, Factor<S, true>{a.region_of(b), a.regions},
             a.regions);
  }
  tile.for_each([&](int m, int d, float sum) { store(rows + a.row_at(slice * a.rows() + m) + d, sum); });
}

// ---------------------------------------------------------------------------------------------- words as a matrix
constexpr int kTransposeRow = kWarp + 1;  // no bank conflicts either way

// visit(x, y) for a tile of at most kWarp by kWarp elements; lanes run along x.
template <class Visit>
__device__ __forceinline__ void for_square(int columns, int rows, Visit visit) {
  const int x = threadIdx.x % kWarp;
  for (int y = threadIdx.x / kWarp; y < min(rows, kWarp) && x < columns; y += kSimilarityWarps) visit(x, y);
}

// rows [M, D] <- words [K, D, T], one block per caption and kWarp dimensions.
template <class S>
__global__ void __launch_bounds__(kSimilarityThreads)
    words_similarity_rows_kernel(WordsSimilarityInputs<S> a, float* rows) {
  SharedArena arena;
  float* square = arena.take<float>(kWarp * kTransposeRow);  // [d][t]
  const int parts = divide_up(a.dimensions, kWarp), k = blockIdx.x / parts, d0 = blockIdx.x % parts * kWarp;
  for (int t0 = 0; t0 < a.words; t0 += kWarp) {
    __syncthreads();  // the square before has been read
    for_square(a.words - t0, a.dimensions - d0,
               [&](int t, int d) { square[d * kTransposeRow + t] = load(a.word + a.word_at(k, d0 + d, t0 + t)); });
    __syncthreads();
    for_square(a.dimensions - d0, a.words - t0, [&](int d, int t) {
      store(rows + a.row_at(k * a.words + t0 + t) + d0 + d, square[d * kTransposeRow + t]);
    });
  }
}

// --------------------------------------------------------------------------------------------------------- softmaxes
__device__ __forceinline__ float warp_maximum(float value) {
#pragma unroll
  for (int bits = kWarp / 2; bits > 0; bits /= 2) value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, bits));
  return value;
}

// A thread's region of a pair of image and caption, and that column of the maps [B, M, N].
struct Column {
  int64_t b, first;  // element of word 0
  int k, stride;     // from word to word
  bool exists;

  template <class S>
  __device__ __forceinline__ explicit Column(const WordsSimilarityInputs<S>& a) : stride(a.regions) {
    const int parts = divide_up(a.regions, kSimilarityThreads), pair = blockIdx.x / parts;
    const int n = blockIdx.x % parts * kSimilarityThreads + threadIdx.x;
    b = pair / a.captions;
    k = pair % a.captions;
    first = static_cast<int64_t>(pair) * a.words * a.regions + n;
    exists = n < a.regions;
  }

  template <class S>
  static int64_t blocks(const WordsSimilarityInputs<S>& a) {
    return a.images * a.captions * divide_up(a.regions, kSimilarityThreads);
  }

  __device__ __forceinline__ int64_t at(int t) const { return first + static_cast<int64_t>(t) * stride; }
};

// In place: logits become s, the softmax over the caption's words; zero for padding.
template <class S>
__global__ void __launch_bounds__(kSimilarityThreads)
    words_similarity_over_words_kernel(WordsSimilarityInputs<S> a, float* maps) {
  const Column column(a);
  if (!column.exists) return;
  const int length = a.length(column.k);
  float highest = -INFINITY, total = 0.0f;
#pragma unroll 4
  for (int t = 0; t < length; ++t) highest = fmaxf(highest, load(maps + column.at(t)));
#pragma unroll 4
  for (int t = 0; t < length; ++t) {
    const float exponential = expf(load(maps + column.at(t)) - highest);
    store(maps + column.at(t), exponential);
    total += exponential;
  }
  const float scale = 1.0f / total;
#pragma unroll 4
  for (int t = 0; t < a.words; ++t) store(maps + column.at(t), t < length ? load(maps + column.at(t)) * scale : 0.0f);
}

// attention [B, M, N] <- softmax over regions of gamma1 s; zero for padding. One warp per row; may be in place.
template <class S>
__global__ void __launch_bounds__(kSimilarityThreads)
    words_similarity_over_regions_kernel(WordsSimilarityInputs<S> a, const float* maps, float* attention) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kSimilarityWarps + threadIdx.x / kWarp;
  if (row >= a.images * a.rows()) return;
  const bool padding = a.is_padding(static_cast<int>(row % a.rows()));
  const float* from = maps + a.map_at(row);
  const int lane = threadIdx.x % kWarp;
  float highest = 0.0f, total = 0.0f;  // s is not negative
  for (int n = lane; n < a.regions; n += kWarp) highest = fmaxf(highest, load(from + n));
  highest = warp_maximum(highest);
  for (int n = lane; n < a.regions; n += kWarp) total += expf(a.gamma1 * (load(from + n) - highest));
  const float scale = 1.0f / warp_sum(total);
  for (int n = lane; n < a.regions; n += kWarp) {
    store(attention + a.map_at(row) + n, padding ? 0.0f : expf(a.gamma1 * (load(from + n) - highest)) * scale);
  }
}

// ----------------------------------------------------------------------------------------------------------- cosines
// How a context c matches a word w; computed by a warp, known to all of its lanes.
struct Match {
  float product, context_square, word_square;  // c . w, c . c, w . w

  __device__ __forceinline__ Match(const float* context, const float* word, int dimensions)
      : product(0.0f), context_square(0.0f), word_square(0.0f) {
#pragma unroll 4
    for (int d = threadIdx.x % kWarp; d < dimensions; d += kWarp) {
      const float c = load(context + d), w = load(word + d);
      product += c * w;
      context_square += c * c;
      word_square += w * w;
    }
    product = warp_sum(product);
    context_square = warp_sum(context_square);
    word_square = warp_sum(word_square);
  }

  __device__ __forceinline__ float norms() const { return sqrtf(context_square) * sqrtf(word_square); }
  __device__ __forceinline__ float clamped_norms() const { return fmaxf(norms(), kCosineEps); }
  __device__ __forceinline__ float cosine() const { return product / clamped_norms(); }
};

// Scores of a group; those of a image are `stride` apart. One block per pair. A caption of padding scores -infinity.
template <class S>
__global__ void __launch_bounds__(kSimilarityThreads)
    words_similarity_score_kernel(WordsSimilarityInputs<S> a, const float* rows, const float* context, float* scores,
                                  int stride) {
  SharedArena arena;
  float* matched = arena.take<float>(a.words);  // gamma2 cos
  const int64_t b = blockIdx.x / a.captions;
  const int k = blockIdx.x % a.captions, length = a.length(k), lane = threadIdx.x % kWarp;
  for (int t = threadIdx.x / kWarp; t < length; t += kSimilarityWarps) {
    const int m = k * a.words + t;
    const Match match(context + a.row_at(b * a.rows() + m), rows + a.row_at(m), a.dimensions);
    if (lane == 0) matched[t] = a.gamma2 * match.cosine();
  }
  __syncthreads();  // every match is there
  if (threadIdx.x >= kWarp) return;
  float highest = -INFINITY, total = 0.0f;
  for (int t = lane; t < length; t += kWarp) highest = fmaxf(highest, matched[t]);
  highest = warp_maximum(highest);
  for (int t = lane; t < length; t += kWarp) total += expf(matched[t] - highest);
  total = warp_sum(total);
  if (lane == 0) store(scores + b * stride + k, highest + logf(total));
}

// -------------------------------------------------------------------------------------------------------- backward
// What the cosines' gradients are made of, for each row of the maps.
struct Slopes {
  float* cross;   // [B, M]: dw += cross c
  float* along;   // [B, M]: dw += along w
  float* pulled;  // [B, M]: c . dc = sum over n of a da
};

// dc [B, M, D] and slopes, one warp per row; zero for padding. Where the clamp holds, norms pass no gradient.
template <class S>
__global__ void __launch_bounds__(kSimilarityThreads)
    words_similarity_cosine_backward_kernel(WordsSimilarityInputs<S> a, const float* grad, const float* scores,
                                            int stride, const float* rows, const float* context, float* grad_context,
                                            Slopes slopes) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kSimilarityWarps + threadIdx.x / kWarp;
  if (row >= a.images * a.rows()) return;
  const int m = static_cast<int>(row % a.rows()), lane = threadIdx.x % kWarp;
  const int64_t pair = row / a.rows() * stride + m / a.words;
  const float *c = context + a.row_at(row), *w = rows + a.row_at(m);
  const Match match(c, w, a.dimensions);
  float grad_cosine = 0.0f;
  if (!a.is_padding(m)) {
    grad_cosine = load(grad + pair) * a.gamma2 * expf(a.gamma2 * match.cosine() - load(scores + pair));
  }
  const bool normalised = match.norms() >= kCosineEps;
  const float cross = grad_cosine / match.clamped_norms(), through_norms = grad_cosine * match.cosine();
  const float along_context = normalised ? -through_norms / match.context_square : 0.0f;
  for (int d = lane; d < a.dimensions; d += kWarp) {
    store(grad_context + a.row_at(row) + d, cross * load(w + d) + along_context * load(c + d));
  }
  if (lane == 0) {
    store(slopes.cross + row, cross);
    store(slopes.along + row, normalised ? -through_norms / match.word_square : 0.0f);
    store(slopes.pulled + row, normalised ? 0.0f : through_norms);
  }
}

// In place: da becomes the gradient of the logits. ds = gamma1 a (da - sum over n of a da).
template <class S>
__global__ void __launch_bounds__(kSimilarityThreads)
    words_similarity_softmax_backward_kernel(WordsSimilarityInputs<S> a, const float* maps, const float* attention,
                                             const float* pulled, float* grad) {
  const Column column(a);
  if (!column.exists) return;
  const int length = a.length(column.k);
  const float* of_pair = pulled + column.b * a.rows() + column.k * a.words;
  const auto grad_s = [&](int t) {
    return a.gamma1 * load(attention + column.at(t)) * (load(grad + column.at(t)) - load(of_pair + t));
  };
  float mean = 0.0f;
#pragma unroll 4
  for (int t = 0; t < length; ++t) mean += load(maps + column.at(t)) * grad_s(t);
#pragma unroll 4
  for (int t = 0; t < a.words; ++t) {
    store(grad + column.at(t), t < length ? load(maps + column.at(t)) * (grad_s(t) - mean) : 0.0f);
  }
}

// dr [B, D, N] = sum over m of w dlogits + dc a, added to the sums of the groups before.
template <class S>
__global__ void __launch_bounds__(kSimilarityThreads, kProductBlocks)
    words_similarity_grad_regions_kernel(WordsSimilarityInputs<S> a, const float* rows, const float* grad_logits,
                                         const float* grad_context, const float* attention, float* sums, bool first,
                                         bool last, S* grad_region) {
  SharedArena arena;
  ProductTile tile(arena, a.dimensions, a.regions);
  const int64_t b = tile.batch, first_row = b * a.rows();
  tile.add(Factor<float, false>{rows, a.dimensions}, Factor<float, false>{grad_logits + a.map_at(first_row), a.regions},
           a.rows());
  tile.add(Factor<float, false>{grad_context + a.row_at(first_row), a.dimensions},
           Factor<float, false>{attention + a.map_at(first_row), a.regions}, a.rows());
  tile.for_each([&](int d, int n, float sum) {
    const int64_t i = (b * a.dimensions + d) * a.regions + n;
    if (!first) sum += load(sums + i);
    if (last) {
      store(grad_region + i, sum);
    } else {
      store(sums + i, sum);
    }
  });
}

// dw [K, D, T]: parts [slices, M, D], which are sums of dlogits r, and the cosines' own gradient, summed over images.
// One block per caption and kWarp dimensions.
template <class S>
__global__ void __launch_bounds__(kSimilarityThreads)
    words_similarity_grad_words_kernel(WordsSimilarityInputs<S> a, const float* rows, const float* context,
                                       Slopes slopes, const float* parts, int slices, S* grad_word) {
  SharedArena arena;
  float* square = arena.take<float>(kWarp * kTransposeRow);  // [t][d]
  const int blocks = divide_up(a.dimensions, kWarp), k = blockIdx.x / blocks, d0 = blockIdx.x % blocks * kWarp;
  const int64_t size = a.row_at(a.rows());
  for (int t0 = 0; t0 < a.words; t0 += kWarp) {
    __syncthreads();  // the square before has been read
    for_square(a.dimensions - d0, a.words - t0, [&](int d, int t) {
      const int m = k * a.words + t0 + t;
      const int64_t i = a.row_at(m) + d0 + d;
      float sum = 0.0f, along = 0.0f;
#pragma unroll 4
      for (int slice = 0; slice < slices; ++slice) sum += load(parts + slice * size + i);
#pragma unroll 8
      for (int64_t b = 0; b < a.images; ++b) {
        sum += load(slopes.cross + b * a.rows() + m) * load(context + b * size + i);
        along += load(slopes.along + b * a.rows() + m);
      }
      square[t * kTransposeRow + d] = sum + along * load(rows + i);
    });
    __syncthreads();
    for_square(a.words - t0, a.dimensions - d0,
               [&](int t, int d) { store(grad_word + a.word_at(k, d0 + d, t0 + t), square[t * kTransposeRow + d]); });
  }
}

// ------------------------------------------------------------------------------------------------------------ host
// Where a group's matrices lie in the work buffer; the backward pass needs all of them. Each starts at a sector.
struct WordsSimilarityWork {
  int64_t images, captions, dimensions, regions, words;

  static int64_t aligned(int64_t floats) { return divide_up(floats, int64_t{8}) * 8; }
  int64_t group() const { return std::min(captions, int64_t{kGroup}); }
  int64_t images_per_slice() const { return divide_up(images, int64_t{kWordSlices}); }
  int64_t slices() const { return divide_up(images, images_per_slice()); }

  int64_t row_floats() const { return aligned(group() * words * dimensions); }                 // [M, D]
  int64_t map_floats() const { return aligned(images * group() * words * regions); }         // [B, M, N]
  int64_t context_floats() const { return aligned(images * group() * words * dimensions); }  // [B, M, D]
  int64_t slope_floats() const { return aligned(images * group() * words); }                 // [B, M]

  int64_t rows() const { return 0; }
  int64_t maps() const { return rows() + row_floats(); }
  int64_t context() const { return maps() + map_floats(); }
  int64_t forward_size() const { return context() + context_floats(); }
  int64_t attention() const { return forward_size(); }
  int64_t grad_maps() const { return attention() + map_floats(); }
  int64_t grad_context() const { return grad_maps() + map_floats(); }
  int64_t slopes() const { return grad_context() + context_floats(); }
  int64_t parts() const { return slopes() + 3 * slope_floats(); }     // [slices, M, D]
  int64_t sums() const { return parts() + slices() * row_floats(); }  // [B, D, N], if there are several groups
  int64_t backward_size() const { return sums() + (captions > kGroup ? images * dimensions * regions : 0); }
};

template <class S>
WordsSimilarityWork words_similarity_work(const WordsSimilarityInputs<S>& a) {
  return {a.images, a.captions, a.dimensions, a.regions, a.words};
}

// Calls run(group, first) for each group of captions: the inputs of captions first ...
template <class S, class Run>
void for_each_group(const WordsSimilarityInputs<S>& a, Run run) {
  for (int first = 0; first < a.captions; first += kGroup) {
    WordsSimilarityInputs<S> group = a;
    group.captions = std::min(kGroup, a.captions - first);
    group.word += a.word_at(first, 0, 0);
    group.lengths += first;
    run(group, first);
  }
}

constexpr size_t kTransposeShared = shared_bytes<float>(kWarp * kTransposeRow);

// Starts the kernels of one group.
template <class S>
struct WordsSimilarityLaunches {
  WordsSimilarityInputs<S> a;
  WordsSimilarityWork at;
  float* work;
  Stream stream;

  int64_t map_rows() const { return a.images * a.rows(); }
  int64_t row_blocks() const { return divide_up(map_rows(), int64_t{kSimilarityWarps}); }
  int64_t transpose_blocks() const { return a.captions * divide_up(a.dimensions, kWarp); }
  float* rows() const { return work + at.rows(); }
  float* maps() const { return work + at.maps(); }
  float* context() const { return work + at.context(); }

  void project(const float* factor, int64_t step, float* to) const {
    launch(words_similarity_project_kernel<S>, ProductTile::blocks(a.images, a.rows(), a.regions), kSimilarityThreads,
           ProductTile::kShared, stream, a, factor, step, to);
  }
  void gather(const float* from, int64_t slices, int64_t images_per_slice, float* to) const {
    launch(words_similarity_gather_kernel<S>, ProductTile::blocks(slices, a.rows(), a.dimensions), kSimilarityThreads,
           ProductTile::kShared, stream, a, from, images_per_slice, to);
  }

  // rows, s in maps(), a in `attention` (which may be maps() too), context.
  void attend(float* attention) const {
    launch(words_similarity_rows_kernel<S>, transpose_blocks(), kSimilarityThreads, kTransposeShared, stream, a,
           rows());
    project(rows(), 0, maps());
    launch(words_similarity_over_words_kernel<S>, Column::blocks(a), kSimilarityThreads, 0, stream, a, maps());
    launch(words_similarity_over_regions_kernel<S>, row_blocks(), kSimilarityThreads, 0, stream, a, maps(), attention);
    gather(attention, a.images, 1, context());
  }

  void score(float* scores) const {
    attend(maps());
    launch(words_similarity_score_kernel<S>, a.images * a.captions, kSimilarityThreads, shared_bytes<float>(a.words),
           stream, a, rows(), context(), scores, static_cast<int>(at.captions));
  }

  void backward(const float* grad, const float* scores, bool first, bool last, S* grad_region, S* grad_word) const {
    float *attention = work + at.attention(), *grad_maps = work + at.grad_maps();
    float *grad_context = work + at.grad_context(), *parts = work + at.parts(), *slope = work + at.slopes();
    const Slopes slopes{slope, slope + at.slope_floats(), slope + 2 * at.slope_floats()};
    attend(attention);
    launch(words_similarity_cosine_backward_kernel<S>, row_blocks(), kSimilarityThreads, 0, stream, a, grad, scores,
           static_cast<int>(at.captions), rows(), context(), grad_context, slopes);
    project(grad_context, a.row_at(a.rows()), grad_maps);
    launch(words_similarity_softmax_backward_kernel<S>, Column::blocks(a), kSimilarityThreads, 0, stream, a, maps(),
           attention, slopes.pulled, grad_maps);
    launch(words_similarity_grad_regions_kernel<S>, ProductTile::blocks(a.images, a.dimensions, a.regions),
           kSimilarityThreads, ProductTile::kShared, stream, a, rows(), grad_maps, grad_context, attention,
           work + at.sums(), first, last, grad_region);
    gather(grad_maps, at.slices(), at.images_per_slice(), parts);
    launch(words_similarity_grad_words_kernel<S>, transpose_blocks(), kSimilarityThreads, kTransposeShared, stream, a,
           rows(), context(), slopes, parts, static_cast<int>(at.slices()), grad_word);
  }
};

// scores [B, B']; `work` has forward_size() floats.
template <class S>
void launch_words_similarity_forward(const WordsSimilarityInputs<S>& a, float* scores, float* work, Stream stream) {
  for_each_group(a, [&](const WordsSimilarityInputs<S>& group, int first) {
    WordsSimilarityLaunches<S>{group, words_similarity_work(a), work, stream}.score(scores + first);
  });
}

// grad, scores [B, B']; `work` has backward_size() floats.
template <class S>
void launch_words_similarity_backward(const WordsSimilarityInputs<S>& a, const float* grad, const float* scores,
                                      S* grad_region, S* grad_word, float* work, Stream stream) {
  for_each_group(a, [&](const WordsSimilarityInputs<S>& group, int first) {
    WordsSimilarityLaunches<S>{group, words_similarity_work(a), work, stream}.backward(
        grad + first, scores + first, first == 0, first + group.captions == a.captions, grad_region,
        grad_word + a.word_at(first, 0, 0));
  });
}

}  // namespace dmgan
