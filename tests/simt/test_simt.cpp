// The shim itself: its warps compute what a GPU's do, and it refuses what a GPU would get wrong in silence.
#include "check.h"
#include "tile.cuh"

namespace {

using dmgan::kWarp;
using dmgan::SharedArena;

void warp_sum_kernel(const float* x, float* sums) {
  const float sum = dmgan::warp_sum(dmgan::load(x + threadIdx.x));
  dmgan::store(sums + threadIdx.x, sum);
}

void unwritten_kernel(float* out) {
  SharedArena arena;
  const float* shared = arena.take<float>(kWarp);
  dmgan::store(out + threadIdx.x, shared[threadIdx.x]);
}

void half_waits_kernel() {
  if (threadIdx.x < kWarp) __syncthreads();
}

void two_places_kernel() {
  if (threadIdx.x < kWarp) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}

void half_shuffles_kernel() {
  if (threadIdx.x % 2 == 0) dmgan::warp_sum(1.0f);
}

void greedy_kernel() {
  SharedArena arena;
  arena.take<float>(kWarp);
  arena.take<float>(1);
}

void disagreeing_kernel() {
  SharedArena arena;
  arena.take<float>(threadIdx.x + 1);
}

// One float of `from` for each lane, by an asynchronous copy.
void copy_kernel(const float* from, float* out, bool waits) {
  SharedArena arena;
  float* shared = arena.take<float>(kWarp);
  if (threadIdx.x < kWarp / 4) dmgan::copy_async_if(true, shared + 4 * threadIdx.x, from + 4 * threadIdx.x);
  if (waits) dmgan::wait_for_copies();
  __syncthreads();
  dmgan::store(out + threadIdx.x, shared[threadIdx.x]);
}

void misaligned_copy_kernel(const float* from) {
  SharedArena arena;
  dmgan::copy_async_if(true, arena.take<float>(8) + 1, from);
}

// out = left right, 16 x 16 each; the right one is stored column by column.
template <class S>
void product_kernel(const S* left, const S* right, float* out) {
  using dmgan::Dense, dmgan::kTile;
  SharedArena arena;
  S *a = arena.take<S>(kTile * kTile), *b = arena.take<S>(kTile * kTile);
  float* sums = arena.take<float>(kTile * kTile);
  for (int i = threadIdx.x; i < kTile * kTile; i += kWarp) {
    a[i] = dmgan::load_as_is(left + i);
    b[i] = dmgan::load_as_is(right + i);
  }
  __syncwarp();
  dmgan::SumTile<S> sum;
  for (int k = 0; k < kTile; k += dmgan::kTileDepth<S>) {
    dmgan::LeftTile<S, Dense::kDepth> a_tile;
    dmgan::RightTile<S, Dense::kDepth> b_tile;
    a_tile.load(a + k, kTile);
    b_tile.load(b + k, kTile);
    sum.add(a_tile, b_tile);
  }
  sum.store(sums, kTile, true);
  __syncwarp();
  for (int i = threadIdx.x; i < kTile * kTile; i += kWarp) dmgan::store(out + i, sums[i]);
}

enum class Misuse { kTwoPlaces, kHalfAWarp, kMisaligned };

void misused_product_kernel(Misuse misuse) {
  SharedArena arena;
  using S = c10::Half;
  S* tile = arena.take<S>(32 * 32);
  dmgan::LeftTile<S, dmgan::Dense::kDepth> left;
  dmgan::RightTile<S, dmgan::Dense::kDepth> right;
  left.load(tile + (misuse == Misuse::kTwoPlaces ? threadIdx.x % 2 * 16 : 0), 32);
  right.load(tile + (misuse == Misuse::kMisaligned ? 8 : 0), 32);
  dmgan::SumTile<S> sum;
  if (misuse != Misuse::kHalfAWarp || threadIdx.x % 2 == 0) sum.add(left, right);
}

template <class S>
void test_product(const char* what) {
  constexpr int kSide = dmgan::kTile;
  const auto left = check::normal<S>(kSide * kSide, 1.0f), right = check::normal<S>(kSide * kSide, 1.0f);
  auto out = check::nans<float>(kSide * kSide);
  const size_t shared = 2 * dmgan::shared_bytes<S>(kSide * kSide) + dmgan::shared_bytes<float>(kSide * kSide);
  dmgan::launch(product_kernel<S>, 1, kWarp, shared, nullptr, left.data(), right.data(), out.data());
  std::vector<double> truth(kSide * kSide);
  for (int i = 0; i < kSide * kSide; ++i) {
    for (int k = 0; k < kSide; ++k) {
      truth[i] += static_cast<double>(left[i / kSide * kSide + k]) * static_cast<double>(right[i % kSide * kSide + k]);
    }
  }
  check::close(what, out, truth, 1e-6);
}

void strided_kernel(const float* x, float* out) { dmgan::store(out + threadIdx.x, dmgan::load(x + 8 * threadIdx.x)); }

void expect(bool right, const char* what) {
  if (right) return;
  std::printf("FAILED %s\n", what);
  ++check::failures;
}

template <class Launch>
void expect_refusal(const std::string& message, Launch launch) {
  try {
    launch();
    expect(false, ("no error: " + message).c_str());
  } catch (const std::runtime_error& error) {
    expect(std::string(error.what()).find(message) != std::string::npos, error.what());
  }
}

}  // namespace

int main() {
  return check::run([] {
    const auto x = check::normal<float>(8 * 2 * kWarp, 1.0f);
    auto out = check::nans<float>(2 * kWarp);
    dmgan::launch(warp_sum_kernel, 1, 2 * kWarp, 0, nullptr, x.data(), out.data());
    const double first = std::accumulate(x.begin(), x.begin() + kWarp, 0.0);
    const double second = std::accumulate(x.begin() + kWarp, x.begin() + 2 * kWarp, 0.0);
    expect(std::fabs(out[0] - first) < 1e-5 && std::fabs(out[2 * kWarp - 1] - second) < 1e-5, "warp_sum");

    dmgan::launch(unwritten_kernel, 1, kWarp, dmgan::shared_bytes<float>(kWarp), nullptr, out.data());
    expect(std::isnan(out[0]), "shared memory starts as NaN");

    const auto run = [](void (*kernel)(), int threads, size_t shared) {
      return [=] { dmgan::launch(kernel, 1, threads, shared, nullptr); };
    };
    expect_refusal("deadlock", run(half_waits_kernel, 2 * kWarp, 0));
    expect_refusal("divergent barrier", run(two_places_kernel, 2 * kWarp, 0));
    expect_refusal("deadlock", run(half_shuffles_kernel, kWarp, 0));
    expect_refusal("bytes of shared memory, the launch gave", run(greedy_kernel, kWarp, 128));
    expect_refusal("disagree", run(disagreeing_kernel, kWarp, 1024));
    expect_refusal("asked for", run(greedy_kernel, kWarp, simt::kSharedLimit + 1));
    expect_refusal("whole warps", run(half_waits_kernel, kWarp + 1, 0));
    expect_refusal("a grid has at most", [] {
      dmgan::launch(half_shuffles_kernel, (int64_t{1} << 32) + 1, kWarp, 0, nullptr);  // as 32 bits: one
    });

    for (const bool waits : {false, true}) {
      dmgan::launch(copy_kernel, 1, kWarp, dmgan::shared_bytes<float>(kWarp), nullptr, x.data(), out.data(), waits);
      const bool arrived = std::equal(x.begin(), x.begin() + kWarp, out.begin());
      expect(arrived == waits, "an asynchronous copy arrives when it is waited for");
    }
    expect_refusal("misaligned", [&] {
      dmgan::launch(misaligned_copy_kernel, 1, kWarp, dmgan::shared_bytes<float>(8), nullptr, x.data());
    });

    test_product<float>("product of floats");
    test_product<c10::Half>("product of halves");
    test_product<c10::BFloat16>("product of bfloat16");
    const auto misuse = [](Misuse how) {
      return [=] { dmgan::launch(misused_product_kernel, 1, kWarp, 2048, nullptr, how); };
    };
    expect_refusal("two places", misuse(Misuse::kTwoPlaces));
    expect_refusal("deadlock", misuse(Misuse::kHalfAWarp));
    expect_refusal("multiple of 32 bytes", misuse(Misuse::kMisaligned));

    check::count_traffic();
    dmgan::launch(strided_kernel, 1, kWarp, 0, nullptr, x.data(), out.data());
    expect(simt::probe.total(false).sectors == 32, "a strided load touches a sector per lane");
    expect(simt::probe.total(true).sectors == 4, "a warp's floats fill four sectors");
  });
}
