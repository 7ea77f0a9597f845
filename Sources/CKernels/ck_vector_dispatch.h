// How an exported function reaches the variant of this CPU. Private to CKernels.
#pragma once
#include "ck_vector.h"
#if defined(__x86_64__)
#include <immintrin.h>
// The level is one load of a read-mostly word; an indirect function would tie us to one linker.
#define CK_DISPATCH(type, name, parameters, ...)                  \
  type name parameters {                                          \
    switch (ck_vector_level_in_use) {                             \
    case 4: return name##_v4(__VA_ARGS__);                        \
    case 3: return name##_v3(__VA_ARGS__);                        \
    default: return name##_base(__VA_ARGS__);                     \
    }                                                             \
  }
#else
#define CK_DISPATCH(type, name, parameters, ...) \
  type name parameters { return name##_base(__VA_ARGS__); }
#endif
extern int ck_vector_level_in_use;
