// The shim itself: its warps compute what a GPU's do, and it refuses what a GPU would get wrong in silence.
#include "check.h"
#include "common.cuh"

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

    check::count_traffic();
    dmgan::launch(strided_kernel, 1, WARP, 0, nullptr, x.data(), out.data());
    expect(simt::probe.total(false).sectors == 32, "a strided load touches a sector per lane");
    expect(simt::probe.total(true).sectors == 4, "a warp's floats fill four sectors");
  });
}
