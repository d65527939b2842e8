// Which form of a convolution takes the fewest products for a map.
#pragma once
#include "convolutions.h"

namespace dmgan {

using Large = Form<Four, Four, 16>;
using Wide = Form<Two, Four, 32>;
using Small = Form<Two, Two, 32>;
constexpr int64_t kLargeInputs = 64;  // with fewer, Four x Four is over three times as inexact as a direct convolution

// Products of a form for every pair of channels; tiles fill whole vectors.
template <class F>
int64_t products(const FeatureMap& results) {
  return round_up(tiling_of<F>(results).count(), kColumns * kLanes) * F::kProducts;
}

// f(form) with the form of results that takes the fewest products.
template <class Function>
auto with_best_form(const FeatureMap& results, const Function& f) {
  return products<Wide>(results) < products<Small>(results) ? f(Wide{}) : f(Small{});
}

inline bool large_is_best(const FeatureMap& results) {
  return products<Large>(results) < std::min(products<Wide>(results), products<Small>(results));
}

using UpForward = Form<Up, Up, 128>;
using UpPairForward = Form<UpPair, UpPair, 64>;

// Whether tiles of two by two pixels of x are faster: they take fewer products from here on, but 25 weights for 9.
constexpr int64_t kPairs = 128;

inline bool takes_pairs(const FeatureMap& map) {
  const Tiling pairs = {map.batch, (map.height + 1) / 2, (map.width + 1) / 2};
  return pairs.count() >= kPairs && pairs.count() * UpPairForward::kProducts <
                                         map.batch * map.pixels() * UpForward::kProducts;
}

}  // namespace dmgan
