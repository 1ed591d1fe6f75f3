#define SSG_NAMESPACE avx512
#include "sample_impl.h"
