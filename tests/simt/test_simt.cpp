// The shim itself: its warps compute what a GPU's do, and it refuses what a GPU would get wrong in silence.
#include "check.h"
#include "tile.cuh"

namespace {

using dmgan::SharedArena;
using dmgan::WARP;

void warp_sum_kernel(const float* x, float* sums) {
  const float sum = dmgan::warp_sum(dmgan::load(x + threadIdx.x));
  dmgan::store(sums + threadIdx.x, sum);
}

void unwritten_kernel(float* out) {
  SharedArena arena;
  const float* shared = arena.take<float>(WARP);
  dmgan::store(out + threadIdx.x, shared[threadIdx.x]);
}

void half_waits_kernel() {
  if (threadIdx.x < WARP) __syncthreads();
}

void two_places_kernel() {
  if (threadIdx.x < WARP) {
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
  arena.take<float>(WARP);
  arena.take<float>(1);
}

void disagreeing_kernel() {
  SharedArena arena;
  arena.take<float>(threadIdx.x + 1);
}

// One float of `from` for each lane, by an asynchronous copy.
void copy_kernel(const float* from, float* out, bool waits) {
  SharedArena arena;
  float* shared = arena.take<float>(WARP);
  if (threadIdx.x < WARP / 4) dmgan::copy_async_if(true, shared + 4 * threadIdx.x, from + 4 * threadIdx.x);
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
  using dmgan::Dense, dmgan::TILE;
  SharedArena arena;
  S *a = arena.take<S>(TILE * TILE), *b = arena.take<S>(TILE * TILE);
  float* sums = arena.take<float>(TILE * TILE);
  for (int i = threadIdx.x; i < TILE * TILE; i += WARP) {
    a[i] = dmgan::load_as_is(left + i);
    b[i] = dmgan::load_as_is(right + i);
  }
  __syncwarp();
  dmgan::SumTile<S> sum;
  for (int k = 0; k < TILE; k += dmgan::TILE_DEPTH<S>) {
    dmgan::LeftTile<S, Dense::DEPTH> a_tile;
    dmgan::RightTile<S, Dense::DEPTH> b_tile;
    a_tile.load(a + k, TILE);
    b_tile.load(b + k, TILE);
    sum.add(a_tile, b_tile);
  }
  sum.store(sums, TILE, true);
  __syncwarp();
  for (int i = threadIdx.x; i < TILE * TILE; i += WARP) dmgan::store(out + i, sums[i]);
}

enum class Misuse { TWO_PLACES, HALF_A_WARP, MISALIGNED };

void misused_product_kernel(Misuse misuse) {
  SharedArena arena;
  using S = c10::Half;
  S* tile = arena.take<S>(32 * 32);
  dmgan::LeftTile<S, dmgan::Dense::DEPTH> left;
  dmgan::RightTile<S, dmgan::Dense::DEPTH> right;
  left.load(tile + (misuse == Misuse::TWO_PLACES ? threadIdx.x % 2 * 16 : 0), 32);
  right.load(tile + (misuse == Misuse::MISALIGNED ? 8 : 0), 32);
  dmgan::SumTile<S> sum;
  if (misuse != Misuse::HALF_A_WARP || threadIdx.x % 2 == 0) sum.add(left, right);
}

template <class S>
void test_product(const char* what) {
  constexpr int SIDE = dmgan::TILE;
  const auto left = check::normal<S>(SIDE * SIDE, 1.0f), right = check::normal<S>(SIDE * SIDE, 1.0f);
  auto out = check::nans<float>(SIDE * SIDE);
  const size_t shared = 2 * dmgan::shared_bytes<S>(SIDE * SIDE) + dmgan::shared_bytes<float>(SIDE * SIDE);
  dmgan::launch(product_kernel<S>, 1, WARP, shared, nullptr, left.data(), right.data(), out.data());
  std::vector<double> truth(SIDE * SIDE);
  for (int i = 0; i < SIDE * SIDE; ++i) {
    for (int k = 0; k < SIDE; ++k) {
      truth[i] += static_cast<double>(left[i / SIDE * SIDE + k]) * static_cast<double>(right[i % SIDE * SIDE + k]);
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
    const auto x = check::normal<float>(8 * 2 * WARP, 1.0f);
    auto out = check::nans<float>(2 * WARP);
    dmgan::launch(warp_sum_kernel, 1, 2 * WARP, 0, nullptr, x.data(), out.data());
    const double first = std::accumulate(x.begin(), x.begin() + WARP, 0.0);
    const double second = std::accumulate(x.begin() + WARP, x.begin() + 2 * WARP, 0.0);
    expect(std::fabs(out[0] - first) < 1e-5 && std::fabs(out[2 * WARP - 1] - second) < 1e-5, "warp_sum");

    dmgan::launch(unwritten_kernel, 1, WARP, dmgan::shared_bytes<float>(WARP), nullptr, out.data());
    expect(std::isnan(out[0]), "shared memory starts as NaN");

    const auto run = [](void (*kernel)(), int threads, size_t shared) {
      return [=] { dmgan::launch(kernel, 1, threads, shared, nullptr); };
    };
    expect_refusal("deadlock", run(half_waits_kernel, 2 * WARP, 0));
    expect_refusal("divergent barrier", run(two_places_kernel, 2 * WARP, 0));
    expect_refusal("deadlock", run(half_shuffles_kernel, WARP, 0));
    expect_refusal("bytes of shared memory, the launch gave", run(greedy_kernel, WARP, 128));
    expect_refusal("disagree", run(disagreeing_kernel, WARP, 1024));
    expect_refusal("asked for", run(greedy_kernel, WARP, simt::SHARED_LIMIT + 1));
    expect_refusal("whole warps", run(half_waits_kernel, WARP + 1, 0));

    for (const bool waits : {false, true}) {
      dmgan::launch(copy_kernel, 1, WARP, dmgan::shared_bytes<float>(WARP), nullptr, x.data(), out.data(), waits);
      const bool arrived = std::equal(x.begin(), x.begin() + WARP, out.begin());
      expect(arrived == waits, "an asynchronous copy arrives when it is waited for");
    }
    expect_refusal("misaligned", [&] {
      dmgan::launch(misaligned_copy_kernel, 1, WARP, dmgan::shared_bytes<float>(8), nullptr, x.data());
    });

    test_product<float>("product of floats");
    test_product<c10::Half>("product of halves");
    test_product<c10::BFloat16>("product of bfloat16");
    const auto misuse = [](Misuse how) {
      return [=] { dmgan::launch(misused_product_kernel, 1, WARP, 2048, nullptr, how); };
    };
    expect_refusal("two places", misuse(Misuse::TWO_PLACES));
    expect_refusal("deadlock", misuse(Misuse::HALF_A_WARP));
    expect_refusal("multiple of 32 bytes", misuse(Misuse::MISALIGNED));

    check::count_traffic();
    dmgan::launch(strided_kernel, 1, WARP, 0, nullptr, x.data(), out.data());
    expect(simt::probe.total(false).sectors == 32, "a strided load touches a sector per lane");
    expect(simt::probe.total(true).sectors == 4, "a warp's floats fill four sectors");
  });
}
