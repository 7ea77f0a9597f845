#include "ck_average.h"
#include "ck_vector_dispatch.h"

#define CK_VARIANT 0
#include "ck_average_loops.h"
#undef CK_VARIANT
#if defined(__x86_64__)
#define CK_VARIANT 3
#include "ck_average_loops.h"
#undef CK_VARIANT
#define CK_VARIANT 4
#include "ck_average_loops.h"
#undef CK_VARIANT
#endif

CK_DISPATCH(void, ck_running_softmax, (float *out, float *m, float *u, float *w, float *weights, float *shrinks, float *sums, const float *scores, size_t score_stride, const float *v, size_t stride, size_t time, size_t d), out, m, u, w, weights, shrinks, sums, scores, score_stride, v, stride, time, d)
CK_DISPATCH(void, ck_running_softmax_backward, (float *dscores, float *dv, float *du, float *dw, const float *dout, const float *out, const float *weights, const float *shrinks, const float *sums, size_t score_stride, const float *v, size_t stride, size_t time, size_t d), dscores, dv, du, dw, dout, out, weights, shrinks, sums, score_stride, v, stride, time, d)
CK_DISPATCH(void, ck_average, (float *y, float *state_out, float *kept, const float *x, const float *state_in, const ck_average_shape *shape, size_t first), y, state_out, kept, x, state_in, shape, first)
CK_DISPATCH(void, ck_average_backward, (float *dx, float *dstate_in, float *dcoefficients, const float *dy, const float *dstate_out, const float *x, const float *kept, const ck_average_shape *shape, size_t first, float *scratch), dx, dstate_in, dcoefficients, dy, dstate_out, x, kept, shape, first, scratch)
CK_DISPATCH(void, ck_biased_weights, (float *p, const float *s, const float *bias, float scale, int kind, size_t visible, size_t n), p, s, bias, scale, kind, visible, n)
CK_DISPATCH(void, ck_biased_weights_backward, (float *p, float *dp, float *dbias, const float *s, const float *bias, float scale, int kind, size_t visible, size_t n), p, dp, dbias, s, bias, scale, kind, visible, n)
CK_DISPATCH(void, ck_gated_residual, (float *y, const float *x, const float *a, const float *c, const float *e, size_t n), y, x, a, c, e, n)
CK_DISPATCH(void, ck_gated_residual_backward, (float *dx, float *da, float *dc, const float *dy, const float *x, const float *a, const float *c, const float *e, size_t n), dx, da, dc, dy, x, a, c, e, n)
CK_DISPATCH(void, ck_gated_sum, (float *y, const float *a, const float *l, const float *b, const float *g, size_t n), y, a, l, b, g, n)
CK_DISPATCH(void, ck_gated_sum_backward, (float *da, float *dl, float *db, float *dg, const float *dy, const float *a, const float *l, const float *b, const float *g, size_t n), da, dl, db, dg, dy, a, l, b, g, n)
