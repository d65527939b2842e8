// Tells how this library was built.
#include "../schemas.h"

DMGAN_REGISTER(DMGAN_CPU, CompositeExplicitAutograd, target_version)
