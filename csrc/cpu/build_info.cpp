// Tells how this library was built.
#include "../schemas.h"

STABLE_TORCH_LIBRARY_FRAGMENT(DMGAN_CPU, m) { m.def(dmgan::schemas::target_version); }
STABLE_TORCH_LIBRARY_IMPL(DMGAN_CPU, CompositeExplicitAutograd, m) {
  m.impl("target_version", TORCH_BOX(&dmgan::target_version));
}
