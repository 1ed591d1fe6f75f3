#define SSG_NAMESPACE avx2
#include "sample_impl.h"
