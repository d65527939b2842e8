// What the C++ tests of the kernels share: random inputs in buffers of the exact size, feature maps in every layout,
// outputs that start as NaN, and a comparison with double loops.
#pragma once

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <limits>
#include <new>
#include <random>
#include <string>
#include <vector>

#include "common.cuh"

namespace check {

inline std::mt19937 random_bits(1);
inline int failures = 0;

template <class S>
constexpr const char* kName = sizeof(S) == 4                 ? "float32"
                              : std::is_same_v<S, c10::Half> ? "float16"
                                                             : "bfloat16";

// Allowed error, as RMS of the difference relative to RMS of the truth: a few roundings of the output's type.
template <class S>
constexpr double kTolerance = sizeof(S) == 4                 ? 3e-6
                              : std::is_same_v<S, c10::Half> ? 2e-3
                                                             : 1.5e-2;

// Starts at a sector, as a GPU's allocations do.
template <class T>
struct SectorAllocator {
  using value_type = T;
  SectorAllocator() = default;
  template <class U>
  SectorAllocator(const SectorAllocator<U>&) {}
  T* allocate(size_t count) { return static_cast<T*>(::operator new(count * sizeof(T), kSector)); }
  void deallocate(T* data, size_t) { ::operator delete(data, kSector); }
  bool operator==(const SectorAllocator&) const { return true; }

 private:
  static constexpr std::align_val_t kSector{32};
};
template <class T>
using Buffer = std::vector<T, SectorAllocator<T>>;

template <class S>
Buffer<S> normal(size_t count, float scale) {
  std::normal_distribution<float> distribution(0.0f, scale);
  Buffer<S> values(count);
  for (auto& value : values) value = static_cast<S>(distribution(random_bits));
  return values;
}

template <class S>
Buffer<S> nans(size_t count) {
  return Buffer<S>(count, static_cast<S>(std::numeric_limits<float>::quiet_NaN()));
}

enum class Layout { kNchw, kChannelsLast, kSliced, kExpanded };

// A [B, C, N] feature map and the buffer it lies in.
template <class S>
struct Map {
  Buffer<S> buffer;
  int64_t sample, channel, pixel, first = 0;

  dmgan::FeatureMap<S> map() { return {buffer.data() + first, sample, channel, pixel}; }
  dmgan::FeatureMap<const S> map() const { return {buffer.data() + first, sample, channel, pixel}; }
  double operator()(int64_t b, int64_t c, int64_t n) const { return static_cast<float>(*map().at(b, c, n)); }
};

// kSliced: the middle channels of a larger map. kExpanded: one sample seen B times.
template <class S>
Map<S> feature_map(Layout layout, int64_t batch, int64_t channels, int64_t pixels, float scale) {
  const auto dense = [&](int64_t samples, int64_t all, bool last, int64_t first) {
    Map<S> map{normal<S>(samples * all * pixels, scale), all * pixels, last ? 1 : pixels, last ? all : 1, 0};
    map.first = first * map.channel;
    return map;
  };
  if (layout == Layout::kChannelsLast) return dense(batch, channels, true, 0);
  if (layout == Layout::kSliced) return dense(batch, channels + 3, false, 2);
  Map<S> map = dense(layout == Layout::kExpanded ? 1 : batch, channels, false, 0);
  if (layout == Layout::kExpanded) map.sample = 0;
  return map;
}

template <class S>
Map<S> dense_output(Layout layout, int64_t batch, int64_t channels, int64_t pixels) {
  const bool last = layout == Layout::kChannelsLast;
  return {nans<S>(batch * channels * pixels), channels * pixels, last ? 1 : pixels, last ? channels : 1};
}

// A failure if the error of `got` is above the bar, as a NaN is; infinities must agree.
inline void close(const std::string& what, size_t count, const std::function<double(size_t)>& got,
                  const std::function<double(size_t)>& truth, double tolerance) {
  constexpr double kSlack = 1e-12;  // for truths that are all zero
  double error = 0.0, size = count * kSlack;
  for (size_t i = 0; i < count; ++i) {
    const double a = got(i), b = truth(i);
    error += a == b ? 0.0 : (a - b) * (a - b);
    size += std::isfinite(b) ? b * b : 0.0;
  }
  const double relative = std::sqrt(error / size);
  if (!(relative <= tolerance)) {
    std::printf("FAILED %s: error %.2e, allowed %.1e\n", what.c_str(), relative, tolerance);
    ++failures;
  }
}

template <class S>
void close(const std::string& what, const Buffer<S>& got, const std::vector<double>& truth, double tolerance) {
  close(
      what, truth.size(), [&](size_t i) { return static_cast<float>(got[i]); }, [&](size_t i) { return truth[i]; },
      tolerance);
}

// [B, C, N] in any layout against a dense truth.
template <class S>
void close(const std::string& what, const Map<S>& got, const std::vector<double>& truth, int64_t channels,
           int64_t pixels, double tolerance) {
  const auto at = [&](size_t i) { return got(i / pixels / channels, i / pixels % channels, i % pixels); };
  close(what, truth.size(), at, [&](size_t i) { return truth[i]; }, tolerance);
}

// The sectors touched since counting began are at most a tenth more than the bytes need. Stops counting.
inline void coalesced(const std::string& what) {
#ifndef SIMT_THREADS
  for (const bool stores : {false, true}) {
    const simt::Traffic traffic = simt::probe.total(stores);
    if (traffic.requests == 0 || traffic.ratio() > 1.1) {
      std::printf("FAILED %s: uncoalesced %s, %.2f times the ideal sectors\n%s", what.c_str(),
                  stores ? "stores" : "loads", traffic.ratio(), simt::probe.report().c_str());
      ++failures;
    }
  }
  simt::probe.reset();
  simt::probe.enabled = false;
#endif
}

inline void count_traffic() {
#ifndef SIMT_THREADS
  simt::probe.enabled = true;
#endif
}

// Runs `tests`; the exit status of main.
inline int run(const std::function<void()>& tests) {
#ifndef SIMT_THREADS
  if (const char* seed = std::getenv("SIMT_SEED")) simt::seed = static_cast<unsigned>(std::atoi(seed));
#endif
  try {
    tests();
  } catch (const std::exception& error) {
    std::printf("FAILED %s\n", error.what());
    ++failures;
  }
  std::printf(failures ? "%d failures\n" : "all right\n", failures);
  return failures != 0;
}

}  // namespace check
