// Tells how this library was built.
#include "register.h"

namespace {

// target_version: the oldest torch this build runs on, as major * 1000 + minor.
int64_t target_version() {
  constexpr uint64_t target = TORCH_TARGET_VERSION;
  return static_cast<int64_t>((target >> 56) * 1000 + ((target >> 48) & 0xff));
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(DMGAN_LIBRARY, m) { m.def("target_version() -> int"); }
STABLE_TORCH_LIBRARY_IMPL(DMGAN_LIBRARY, CompositeExplicitAutograd, m) {
  m.impl("target_version", TORCH_BOX(&target_version));
}
