#include "ck_long_convolution.h"
#include "ck_vector_dispatch.h"

enum { ROWS = 8, TAPS = 4 };

#define CK_VARIANT 0
#include "ck_long_convolution_variant.h"
#undef CK_VARIANT
#if defined(__x86_64__)
#define CK_VARIANT 3
#include "ck_long_convolution_variant.h"
#undef CK_VARIANT
#define CK_VARIANT 4
#include "ck_long_convolution_variant.h"
#undef CK_VARIANT
#endif

CK_DISPATCH(void, ck_long_convolution, (float *y, const float *x, const float *k, size_t count, size_t taps, size_t history, size_t limit), y, x, k, count, taps, history, limit)
CK_DISPATCH(void, ck_long_convolution_kernel_gradient, (float *dk, const float *dy, const float *x, size_t count, size_t taps, size_t history), dk, dy, x, count, taps, history)
