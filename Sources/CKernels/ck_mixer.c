#include "ck_mixer.h"
#include "ck_vector_dispatch.h"

#define CK_VARIANT 0
#include "ck_mixer_loops.h"
#undef CK_VARIANT
#if defined(__x86_64__)
#define CK_VARIANT 3
#include "ck_mixer_loops.h"
#undef CK_VARIANT
#define CK_VARIANT 4
#include "ck_mixer_loops.h"
#undef CK_VARIANT
#endif

CK_DISPATCH(void, ck_short_convolution, (float *y, const float *x, const float *past, const float *w, const float *bias, const ck_short_convolution_shape *shape, size_t first, size_t count, int silu), y, x, past, w, bias, shape, first, count, silu)
CK_DISPATCH(void, ck_short_convolution_slope, (float *dpre, const float *dy, const float *x, const float *past, const float *w, const float *bias, const ck_short_convolution_shape *shape, size_t first, size_t count), dpre, dy, x, past, w, bias, shape, first, count)
CK_DISPATCH(void, ck_short_convolution_input_gradient, (float *dx, const float *dpre, const float *w, const ck_short_convolution_shape *shape, ptrdiff_t first, size_t count), dx, dpre, w, shape, first, count)
CK_DISPATCH(void, ck_short_convolution_weight_gradient, (float *dw, const float *dpre, const float *x, const float *past, const ck_short_convolution_shape *shape, size_t columns), dw, dpre, x, past, shape, columns)
CK_DISPATCH(void, ck_gated_norm, (float *y, float *mean, float *rstd, const float *x, const float *z, const float *w, size_t rows, const ck_gated_norm_shape *shape), y, mean, rstd, x, z, w, rows, shape)
CK_DISPATCH(void, ck_gated_norm_backward, (float *dx, float *dz, float *dw, const float *dy, const float *x, const float *z, const float *w, const float *mean, const float *rstd, size_t rows, const ck_gated_norm_shape *shape), dx, dz, dw, dy, x, z, w, mean, rstd, rows, shape)
CK_DISPATCH(void, ck_scaled_heads, (float *y, const float *x, size_t x_row, const float *factors, size_t rows, size_t heads, size_t width), y, x, x_row, factors, rows, heads, width)
CK_DISPATCH(void, ck_scaled_heads_backward, (float *dx, float *dfactors, const float *dy, const float *x, size_t x_row, const float *factors, size_t rows, size_t heads, size_t width), dx, dfactors, dy, x, x_row, factors, rows, heads, width)
CK_DISPATCH(void, ck_softplus, (float *y, const float *x, size_t n), y, x, n)
CK_DISPATCH(void, ck_log_sigmoid, (float *y, const float *x, float factor, size_t n), y, x, factor, n)
CK_DISPATCH(void, ck_log_sigmoid_backward, (float *dx, const float *dy, const float *x, float factor, size_t n), dx, dy, x, factor, n)
CK_DISPATCH(void, ck_l2_norm, (float *y, float *rstd, const float *x, size_t rows, size_t width, float epsilon), y, rstd, x, rows, width, epsilon)
CK_DISPATCH(void, ck_l2_norm_backward, (float *dx, const float *dy, const float *y, const float *rstd, size_t rows, size_t width), dx, dy, y, rstd, rows, width)
CK_DISPATCH(void, ck_paired_product, (float *y, const float *pairs, size_t rows, size_t width), y, pairs, rows, width)
CK_DISPATCH(void, ck_paired_product_backward, (float *pairs, const float *dy, size_t rows, size_t width), pairs, dy, rows, width)
CK_DISPATCH(void, ck_elu_plus_one, (float *y, const float *x, size_t n), y, x, n)
CK_DISPATCH(void, ck_elu_plus_one_backward, (float *dx, const float *dy, const float *y, size_t n), dx, dy, y, n)
CK_DISPATCH(void, ck_signed_softmax, (float *y, const float *x, size_t rows, size_t width), y, x, rows, width)
CK_DISPATCH(void, ck_signed_softmax_backward, (float *dx, const float *dy, const float *y, size_t rows, size_t width), dx, dy, y, rows, width)
CK_DISPATCH(void, ck_softmax_gate, (float *weight, float *log_decay, float *z, const float *x, const float *past, size_t time, size_t width), weight, log_decay, z, x, past, time, width)
CK_DISPATCH(void, ck_softmax_gate_backward, (float *dx, float *dpast, const float *dweight, const float *dlog_decay, const float *dlast, const float *weight, const float *log_decay, size_t has_past, size_t time, size_t width), dx, dpast, dweight, dlog_decay, dlast, weight, log_decay, has_past, time, width)
