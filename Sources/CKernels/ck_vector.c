#include "ck_vector_dispatch.h"
#include <stdlib.h>
#include <string.h>

#define CK_VARIANT 0
#include "ck_vector_loops.h"
#undef CK_VARIANT
#if defined(__x86_64__)
#define CK_VARIANT 3
#include "ck_vector_loops.h"
#undef CK_VARIANT
#define CK_VARIANT 4
#include "ck_vector_loops.h"
#undef CK_VARIANT
#endif

static int best_level(void) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("x86-64-v4")) return 4;
  if (__builtin_cpu_supports("x86-64-v3")) return 3;
#endif
  return 0;
}

int ck_vector_level_in_use = 0;
int ck_vector_level(void) { return ck_vector_level_in_use; }
void ck_vector_select_level(int level) {
  if (level == 0 || level == best_level() || (level == 3 && best_level() == 4)) ck_vector_level_in_use = level;
}

// The same variable and words as the matrix products; what is wrong with them is reported there, in Swift.
__attribute__((constructor)) static void choose_level(void) {
  const char *asked = getenv("SEQTRAIN_ISA");
  ck_vector_level_in_use = best_level();
  if (!asked) return;
  if (!strcmp(asked, "portable")) ck_vector_select_level(0);
  if (!strcmp(asked, "avx2")) ck_vector_select_level(3);
}

CK_DISPATCH(void, ck_add, (float *y, const float *a, const float *b, size_t n), y, a, b, n)
CK_DISPATCH(void, ck_subtract, (float *y, const float *a, const float *b, size_t n), y, a, b, n)
CK_DISPATCH(void, ck_multiply, (float *y, const float *a, const float *b, size_t n), y, a, b, n)
CK_DISPATCH(void, ck_multiply_add, (float *y, const float *a, const float *b, size_t n), y, a, b, n)
CK_DISPATCH(void, ck_scale, (float *y, const float *x, float s, size_t n), y, x, s, n)
CK_DISPATCH(void, ck_axpy, (float *y, float s, const float *x, size_t n), y, s, x, n)
CK_DISPATCH(int, ck_all_finite, (const float *x, size_t n), x, n)
CK_DISPATCH(void, ck_column_sums, (float *sums, const float *x, size_t ld, size_t rows, size_t columns, int accumulate), sums, x, ld, rows, columns, accumulate)
CK_DISPATCH(double, ck_dot, (const float *a, const float *b, size_t n), a, b, n)
CK_DISPATCH(void, ck_exp, (float *y, const float *x, size_t n), y, x, n)
CK_DISPATCH(void, ck_tanh, (float *y, const float *x, size_t n), y, x, n)
CK_DISPATCH(void, ck_sigmoid, (float *y, const float *x, size_t n), y, x, n)
CK_DISPATCH(void, ck_relu, (float *y, const float *x, size_t n), y, x, n)
CK_DISPATCH(void, ck_silu, (float *y, const float *x, size_t n), y, x, n)
CK_DISPATCH(void, ck_gelu_tanh, (float *y, const float *x, size_t n), y, x, n)
CK_DISPATCH(void, ck_gelu_erf, (float *y, const float *x, size_t n), y, x, n)
CK_DISPATCH(void, ck_tanh_backward, (float *dx, const float *dy, const float *y, size_t n), dx, dy, y, n)
CK_DISPATCH(void, ck_sigmoid_backward, (float *dx, const float *dy, const float *y, size_t n), dx, dy, y, n)
CK_DISPATCH(void, ck_relu_backward, (float *dx, const float *dy, const float *x, size_t n), dx, dy, x, n)
CK_DISPATCH(void, ck_silu_backward, (float *dx, const float *dy, const float *x, size_t n), dx, dy, x, n)
CK_DISPATCH(void, ck_gelu_tanh_backward, (float *dx, const float *dy, const float *x, size_t n), dx, dy, x, n)
CK_DISPATCH(void, ck_gelu_erf_backward, (float *dx, const float *dy, const float *x, size_t n), dx, dy, x, n)
CK_DISPATCH(void, ck_swiglu, (float *y, const float *gate, const float *up, size_t n), y, gate, up, n)
CK_DISPATCH(void, ck_glu, (float *y, const float *gate, const float *up, size_t n), y, gate, up, n)
CK_DISPATCH(void, ck_glu_backward, (float *dgate, float *dup, const float *dy, const float *gate, const float *up, size_t n), dgate, dup, dy, gate, up, n)
CK_DISPATCH(void, ck_swiglu_backward, (float *dgate, float *dup, const float *dy, const float *gate, const float *up, size_t n), dgate, dup, dy, gate, up, n)
CK_DISPATCH(void, ck_rms_norm, (float *y, float *sum, const float *x, const float *residual, const float *w, float *rstd, size_t rows, size_t d, float eps), y, sum, x, residual, w, rstd, rows, d, eps)
CK_DISPATCH(void, ck_rms_norm_input_gradient, (float *dx, const float *dy, const float *x, const float *w, const float *rstd, size_t rows, size_t d, int accumulate), dx, dy, x, w, rstd, rows, d, accumulate)
CK_DISPATCH(void, ck_rms_norm_weight_gradient, (float *dw, const float *dy, const float *x, const float *rstd, size_t ld, size_t rows, size_t columns), dw, dy, x, rstd, ld, rows, columns)
CK_DISPATCH(void, ck_layer_norm, (float *y, const float *x, const float *w, const float *bias, float *mean, float *rstd, size_t rows, size_t d, float eps), y, x, w, bias, mean, rstd, rows, d, eps)
CK_DISPATCH(void, ck_layer_norm_input_gradient, (float *dx, const float *dy, const float *x, const float *w, const float *mean, const float *rstd, size_t rows, size_t d, int accumulate), dx, dy, x, w, mean, rstd, rows, d, accumulate)
CK_DISPATCH(void, ck_layer_norm_weight_gradient, (float *dw, const float *dy, const float *x, const float *mean, const float *rstd, size_t ld, size_t rows, size_t columns), dw, dy, x, mean, rstd, ld, rows, columns)
CK_DISPATCH(void, ck_softmax, (float *y, const float *x, size_t rows, size_t n), y, x, rows, n)
CK_DISPATCH(void, ck_softmax_backward, (float *dx, const float *dy, const float *y, size_t rows, size_t n), dx, dy, y, rows, n)
CK_DISPATCH(void, ck_log_sum_exp, (float *out, const float *x, size_t rows, size_t n), out, x, rows, n)
CK_DISPATCH(void, ck_cross_entropy, (float *loss, float *logits, size_t ld, const int32_t *targets, size_t rows, size_t n, const float *scales), loss, logits, ld, targets, rows, n, scales)
CK_DISPATCH(void, ck_distilled_cross_entropy, (float *loss, float *divergence, float *logits, const float *teacher, size_t ld, const int32_t *targets, size_t rows, size_t n, float share, const float *scales), loss, divergence, logits, teacher, ld, targets, rows, n, share, scales)
CK_DISPATCH(void, ck_top_one, (int32_t *hits, const float *logits, size_t ld, const int32_t *targets, size_t rows, size_t n), hits, logits, ld, targets, rows, n)
CK_DISPATCH(void, ck_rotate_half, (float *y, const float *x, const float *cosine, const float *sine, size_t heads, size_t half, float direction), y, x, cosine, sine, heads, half, direction)
CK_DISPATCH(void, ck_rotate_interleaved, (float *y, const float *x, const float *cosine, const float *sine, size_t heads, size_t half, float direction), y, x, cosine, sine, heads, half, direction)
CK_DISPATCH(void, ck_philox_words, (uint32_t *out, uint64_t first, size_t n, const ck_philox_key *key), out, first, n, key)
CK_DISPATCH(void, ck_philox_uniform, (float *out, uint64_t first, size_t n, const ck_philox_key *key), out, first, n, key)
CK_DISPATCH(void, ck_philox_normal, (float *out, uint64_t first, size_t n, const ck_philox_key *key), out, first, n, key)
CK_DISPATCH(void, ck_dropout, (float *y, const float *x, uint64_t first, size_t n, const ck_philox_key *key, uint32_t threshold, float factor), y, x, first, n, key, threshold, factor)
CK_DISPATCH(void, ck_adam, (float *p, float *m, float *v, const float *g, size_t n, const ck_adam_step *s), p, m, v, g, n, s)
CK_DISPATCH(void, ck_sgd, (float *p, float *velocity, const float *g, size_t n, const ck_sgd_step *s), p, velocity, g, n, s)
