#include "ck_rwkv.h"
#include "ck_vector_dispatch.h"

enum { STEPS = CK_WKV_STEPS };

#define CK_VARIANT 0
#include "ck_rwkv_variant.h"
#undef CK_VARIANT
#if defined(__x86_64__)
#define CK_VARIANT 3
#include "ck_rwkv_variant.h"
#undef CK_VARIANT
#define CK_VARIANT 4
#include "ck_rwkv_variant.h"
#undef CK_VARIANT
#endif

CK_DISPATCH(void, ck_wkv_forward, (const ck_wkv_stretch *in, float *state, ptrdiff_t plane, float *y), in, state, plane, y)
CK_DISPATCH(void, ck_wkv_backward, (const ck_wkv_stretch *in, const float *state, float *g, ptrdiff_t plane, const float *dy, float *dk, float *dv, float *dw, float *du), in, state, g, plane, dy, dk, dv, dw, du)
CK_DISPATCH(void, ck_wkv_scale_gradient, (float *value, const float *a, const float *p, const float *b, const float *q, size_t n), value, a, p, b, q, n)
CK_DISPATCH(void, ck_token_shift, (float *y, const float *x, const float *before, const float *mix, size_t n), y, x, before, mix, n)
CK_DISPATCH(void, ck_token_shift_input_gradient, (float *dx, const float *dy, const float *dnext, const float *mix, size_t n, int accumulate), dx, dy, dnext, mix, n, accumulate)
CK_DISPATCH(void, ck_token_shift_mix_gradient, (float *dmix, const float *dy, const float *x, const float *before, size_t n), dmix, dy, x, before, n)
