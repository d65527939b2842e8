// The library's operators are reachable through PyTorch's dispatcher, by name and without Python. Its path and its
// operators' namespace are given.
#include <dlfcn.h>
#include <torch/csrc/stable/c/shim.h>
#include <torch/csrc/stable/stableivalue_conversions.h>

#include <cstdio>
#include <string>

int main(int, char** arguments) {
  if (!dlopen(arguments[1], RTLD_LAZY)) {
    std::puts(dlerror());
    return 1;
  }
  StableIValue stack[1] = {};
  const std::string name = std::string(arguments[2]) + "::target_version";
  if (torch_call_dispatcher(name.c_str(), "", stack, TORCH_ABI_VERSION)) {
    std::printf("%s can't be called\n", name.c_str());
    return 1;
  }
  const auto version = torch::stable::detail::to<int64_t>(stack[0]);
  if (version != 2011) {
    std::printf("target_version: expected 2011, got %lld\n", static_cast<long long>(version));
    return 1;
  }
  return 0;
}
