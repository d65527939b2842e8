// Tells how this library was built.
#include "register.h"

DMGAN_REGISTER(DMGAN_LIBRARY, CompositeExplicitAutograd, target_version)
