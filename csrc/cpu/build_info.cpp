// Tells how this library was built.
#include "../schemas.h"

STABLE_TORCH_LIBRARY_FRAGMENT(dmgan_fast_cpu, m) { m.def(dmgan::schemas::target_version); }
STABLE_TORCH_LIBRARY_IMPL(dmgan_fast_cpu, CompositeExplicitAutograd, m) {
  m.impl("target_version", TORCH_BOX(&dmgan::target_version));
}
