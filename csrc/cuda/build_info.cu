// Tells how this library was built.
#include "register.h"

STABLE_TORCH_LIBRARY_FRAGMENT(DMGAN_LIBRARY, m) { m.def(dmgan::schemas::target_version); }
STABLE_TORCH_LIBRARY_IMPL(DMGAN_LIBRARY, CompositeExplicitAutograd, m) {
  m.impl("target_version", TORCH_BOX(&dmgan::target_version));
}
