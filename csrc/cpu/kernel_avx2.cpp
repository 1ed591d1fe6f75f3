#define SSG_NAMESPACE avx2
#define SSG_NAME "avx2"
#include "kernel_impl.h"
