#include "ck_cells.h"
#include "ck_vector_dispatch.h"

#define CK_VARIANT 0
#include "ck_cells_loops.h"
#undef CK_VARIANT
#if defined(__x86_64__)
#define CK_VARIANT 3
#include "ck_cells_loops.h"
#undef CK_VARIANT
#define CK_VARIANT 4
#include "ck_cells_loops.h"
#undef CK_VARIANT
#endif

CK_DISPATCH(void, ck_min_gru, (float *gates, float *y, float *h, size_t time, size_t n, size_t width, int positive), gates, y, h, time, n, width, positive)
CK_DISPATCH(void, ck_min_gru_backward, (float *gates, const float *y, const float *h0, const float *dy, float *dh, size_t time, size_t n, size_t width, int positive), gates, y, h0, dy, dh, time, n, width, positive)
CK_DISPATCH(void, ck_min_lstm, (float *gates, float *forget, float *y, float *h, size_t time, size_t n, size_t width, int positive), gates, forget, y, h, time, n, width, positive)
CK_DISPATCH(void, ck_min_lstm_backward, (float *gates, const float *forget, const float *y, const float *h0, const float *dy, float *dh, size_t time, size_t n, size_t width, int positive), gates, forget, y, h0, dy, dh, time, n, width, positive)
CK_DISPATCH(void, ck_diagonal_gru, (float *gates, const float *a, float *y, float *h, size_t time, size_t n, size_t width), gates, a, y, h, time, n, width)
CK_DISPATCH(void, ck_diagonal_gru_backward, (float *gates, const float *a, const float *y, const float *h0, const float *dy, float *dh, float *da, size_t time, size_t n, size_t width), gates, a, y, h0, dy, dh, da, time, n, width)
CK_DISPATCH(float, ck_diagonal_gru_newton, (const float *gates, const float *a, const float *s, const float *before, float *delta, float *product, size_t time, size_t n, size_t width), gates, a, s, before, delta, product, time, n, width)
CK_DISPATCH(void, ck_diagonal_lstm, (float *gates, const float *a, const float *p, float *cells, float *y, float *h, float *c, size_t time, size_t n, size_t width), gates, a, p, cells, y, h, c, time, n, width)
CK_DISPATCH(void, ck_diagonal_lstm_backward, (float *gates, const float *a, const float *p, const float *cells, const float *y, const float *h0, const float *c0, const float *dy, float *dh, float *dc, float *da, size_t time, size_t n, size_t width), gates, a, p, cells, y, h0, c0, dy, dh, dc, da, time, n, width)
CK_DISPATCH(float, ck_diagonal_lstm_newton, (const float *gates, const float *a, const float *p, const float *cells, const float *y, const float *c_before, const float *h_before, float *delta, float *product, size_t plane, size_t time, size_t n, size_t width), gates, a, p, cells, y, c_before, h_before, delta, product, plane, time, n, width)
