// Tells how this library was built. Registered through PyTorch's stable ABI, so one build serves torch >= 2.11.
#include <torch/csrc/stable/library.h>

#include <cstdint>

namespace {

// torch.ops.dmgan_fast_cpu.target_version: the oldest torch this build runs on, as major * 1000 + minor.
int64_t target_version() {
  constexpr uint64_t target = TORCH_TARGET_VERSION;
  return static_cast<int64_t>((target >> 56) * 1000 + ((target >> 48) & 0xff));
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(dmgan_fast_cpu, m) { m.def("target_version() -> int"); }
STABLE_TORCH_LIBRARY_IMPL(dmgan_fast_cpu, CompositeExplicitAutograd, m) {
  m.impl("target_version", TORCH_BOX(&target_version));
}
