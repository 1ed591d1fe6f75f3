#define SSG_NAMESPACE avx512
#define SSG_NAME "avx512"
#include "kernel_impl.h"
