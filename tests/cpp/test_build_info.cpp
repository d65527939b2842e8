// The library's operators are reachable through PyTorch's dispatcher, by name and without Python. Its path is given.
#include <dlfcn.h>
#include <torch/csrc/stable/c/shim.h>
#include <torch/csrc/stable/stableivalue_conversions.h>

#include <cstdio>

int main(int, char** arguments) {
  if (!dlopen(arguments[1], RTLD_LAZY)) {
    std::puts(dlerror());
    return 1;
  }
  StableIValue stack[1] = {};
  if (torch_call_dispatcher("dmgan_fast_cpu::target_version", "", stack, TORCH_ABI_VERSION)) {
    std::puts("dmgan_fast_cpu::target_version can't be called");
    return 1;
  }
  const auto version = torch::stable::detail::to<int64_t>(stack[0]);
  if (version != 2011) {
    std::printf("target_version: expected 2011, got %lld\n", static_cast<long long>(version));
    return 1;
  }
  return 0;
}
