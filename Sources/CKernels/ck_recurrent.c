#include "ck_recurrent.h"

#include <string.h>

#include "ck_gemm.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

typedef float vector4 __attribute__((vector_size(16)));
typedef float vector4u __attribute__((vector_size(16), aligned(4)));
typedef int32_t integer4 __attribute__((vector_size(16)));

static inline vector4 load_part4(const float *p, int count) {
    vector4 v = {0, 0, 0, 0};
    memcpy(&v, p, (size_t)count * sizeof(float));
    return v;
}
static inline void store_part4(float *p, vector4 v, int count) { memcpy(p, &v, (size_t)count * sizeof(float)); }
static inline vector4 select4(integer4 mask, vector4 x, vector4 y) {
    return (vector4)(((integer4)x & mask) | ((integer4)y & ~mask));
}
static inline vector4 scale4(vector4 x, vector4 n) {
    // In two steps, each with an exponent in range. Adding 1.5 * 2^23 leaves the integer in the low bits of the sum.
    const vector4 magic = {12582912.0f, 12582912.0f, 12582912.0f, 12582912.0f};
    const integer4 whole = (integer4)(n + magic) - (integer4)magic, half = whole >> 1;
    return x * (vector4)((half + 127) << 23) * (vector4)((whole - half + 127) << 23);
}

#define NAME(x) portable_##x
#define V vector4
#define VW 4
#define V_SET1(x) ((vector4){0, 0, 0, 0} + (x))
#define V_LOAD(p) (*(const vector4u *)(p))
#define V_STORE(p, v) (*(vector4u *)(p) = (v))
#define V_FMA(a, b, c) ((a) * (b) + (c))
#define V_LOAD_PART(p, count) load_part4(p, count)
#define V_STORE_PART(p, v, count) store_part4(p, v, count)
#define V_LESS(a, b, x, y) select4((integer4)((a) < (b)), x, y)
#define V_ROUND(x) (((x) + 12582912.0f) - 12582912.0f)
#define V_SCALE(x, n) scale4(x, n)
#include "ck_recurrent_variant.inc"

#if defined(__x86_64__)

#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
static inline __m256i first_lanes8(int count) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
static inline __m256 scale8(__m256 x, __m256 n) {
    const __m256i whole = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(whole, 1), bias = _mm256_set1_epi32(127);
    const __m256i first = _mm256_slli_epi32(_mm256_add_epi32(half, bias), 23);
    const __m256i second = _mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(whole, half), bias), 23);
    return _mm256_mul_ps(_mm256_mul_ps(x, _mm256_castsi256_ps(first)), _mm256_castsi256_ps(second));
}
#define NAME(x) avx2_##x
#define V __m256
#define VW 8
#define V_SET1(x) _mm256_set1_ps(x)
#define V_LOAD(p) _mm256_loadu_ps(p)
#define V_STORE(p, v) _mm256_storeu_ps(p, v)
#define V_FMA(a, b, c) _mm256_fmadd_ps(a, b, c)
#define V_LOAD_PART(p, count) _mm256_maskload_ps(p, first_lanes8(count))
#define V_STORE_PART(p, v, count) _mm256_maskstore_ps(p, first_lanes8(count), v)
#define V_LESS(a, b, x, y) _mm256_blendv_ps(y, x, _mm256_cmp_ps(a, b, _CMP_LT_OQ))
#define V_ROUND(x) _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)
#define V_SCALE(x, n) scale8(x, n)
#include "ck_recurrent_variant.inc"
#pragma clang attribute pop

#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma"))), apply_to = function)
static inline __mmask16 first_lanes16(int count) { return (__mmask16)((1u << count) - 1); }
#define NAME(x) avx512_##x
#define V __m512
#define VW 16
#define V_SET1(x) _mm512_set1_ps(x)
#define V_LOAD(p) _mm512_loadu_ps(p)
#define V_STORE(p, v) _mm512_storeu_ps(p, v)
#define V_FMA(a, b, c) _mm512_fmadd_ps(a, b, c)
#define V_LOAD_PART(p, count) _mm512_maskz_loadu_ps(first_lanes16(count), p)
#define V_STORE_PART(p, v, count) _mm512_mask_storeu_ps(p, first_lanes16(count), v)
#define V_LESS(a, b, x, y) _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), y, x)
#define V_ROUND(x) _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)
#define V_SCALE(x, n) _mm512_scalef_ps(x, n)
#include "ck_recurrent_variant.inc"
#pragma clang attribute pop

#define DISPATCH(isa, function, ...)                                  \
    switch (isa) {                                                    \
    case CK_ISA_AVX512: avx512_##function(__VA_ARGS__); break;        \
    case CK_ISA_AVX2: avx2_##function(__VA_ARGS__); break;            \
    default: portable_##function(__VA_ARGS__); break;                 \
    }
#else
#define DISPATCH(isa, function, ...) portable_##function(__VA_ARGS__)
#endif

void ck_lstm_forward(
    int isa, ptrdiff_t rows, ptrdiff_t units, const float *product, ptrdiff_t product_gate, float *gates, ptrdiff_t gate,
    ptrdiff_t gates_row, const float *c_previous, ptrdiff_t c_previous_row, float *c, ptrdiff_t c_row, float *y,
    ptrdiff_t y_row, float *state, ptrdiff_t state_row) {
    DISPATCH(
        isa, lstm_forward, rows, units, product, product_gate, gates, gate, gates_row, c_previous, c_previous_row, c, c_row,
        y, y_row, state, state_row);
}

void ck_lstm_backward(
    int isa, ptrdiff_t rows, ptrdiff_t units, float *gates, ptrdiff_t gate, ptrdiff_t gates_row, const float *c,
    ptrdiff_t c_row, const float *c_previous, ptrdiff_t c_previous_row, const float *dy, ptrdiff_t dy_row, const float *dh,
    ptrdiff_t dh_row, float *dc, ptrdiff_t dc_row, float *d_copy, ptrdiff_t copy_gate, ptrdiff_t copy_row) {
    DISPATCH(
        isa, lstm_backward, rows, units, gates, gate, gates_row, c, c_row, c_previous, c_previous_row, dy, dy_row, dh, dh_row,
        dc, dc_row, d_copy, copy_gate, copy_row);
}

void ck_gru_forward(
    int isa, ptrdiff_t rows, ptrdiff_t units, const float *product, ptrdiff_t product_gate, const float *bias_n,
    float *gates, ptrdiff_t gate, ptrdiff_t gates_row, float *q, ptrdiff_t q_row, const float *h_previous,
    ptrdiff_t h_previous_row, float *y, ptrdiff_t y_row, float *state, ptrdiff_t state_row) {
    DISPATCH(
        isa, gru_forward, rows, units, product, product_gate, bias_n, gates, gate, gates_row, q, q_row, h_previous,
        h_previous_row, y, y_row, state, state_row);
}

void ck_gru_backward(
    int isa, ptrdiff_t rows, ptrdiff_t units, float *gates, ptrdiff_t gate, ptrdiff_t gates_row, float *q, ptrdiff_t q_row,
    const float *h_previous, ptrdiff_t h_previous_row, const float *dy, ptrdiff_t dy_row, float *dh, ptrdiff_t dh_row,
    float *d_copy, ptrdiff_t copy_gate, ptrdiff_t copy_row) {
    DISPATCH(
        isa, gru_backward, rows, units, gates, gate, gates_row, q, q_row, h_previous, h_previous_row, dy, dy_row, dh, dh_row,
        d_copy, copy_gate, copy_row);
}

void ck_elman_forward(
    int isa, ptrdiff_t rows, ptrdiff_t units, int relu, const float *product, ptrdiff_t product_gate, const float *pre,
    ptrdiff_t pre_row, float *y, ptrdiff_t y_row, float *state, ptrdiff_t state_row) {
    DISPATCH(
        isa, elman_forward, rows, units, relu, product, product_gate, pre, pre_row, y, y_row, state, state_row);
}

void ck_elman_backward(
    int isa, ptrdiff_t rows, ptrdiff_t units, int relu, const float *y, ptrdiff_t y_row, const float *dy, ptrdiff_t dy_row,
    const float *dh, ptrdiff_t dh_row, float *d_pre, ptrdiff_t d_pre_row, float *d_copy, ptrdiff_t copy_row) {
    DISPATCH(
        isa, elman_backward, rows, units, relu, y, y_row, dy, dy_row, dh, dh_row, d_pre, d_pre_row, d_copy, copy_row);
}

void ck_slstm_forward(
    int isa, ptrdiff_t rows, ptrdiff_t units, const float *product, ptrdiff_t product_gate, float *gates, ptrdiff_t gate,
    ptrdiff_t gates_row, ptrdiff_t ahead, const float *c_previous, const float *n_previous, ptrdiff_t previous_row, float *m,
    ptrdiff_t m_row, float *cells, ptrdiff_t cell, ptrdiff_t cells_row, float *y, ptrdiff_t y_row, float *state,
    ptrdiff_t state_row) {
    DISPATCH(
        isa, slstm_forward, rows, units, product, product_gate, gates, gate, gates_row, ahead, c_previous, n_previous,
        previous_row, m, m_row, cells, cell, cells_row, y, y_row, state, state_row);
}

void ck_slstm_backward(
    int isa, ptrdiff_t rows, ptrdiff_t units, float *gates, ptrdiff_t gate, ptrdiff_t gates_row, ptrdiff_t ahead,
    const float *cells, ptrdiff_t cell, ptrdiff_t cells_row, const float *c_previous, const float *n_previous,
    ptrdiff_t previous_row, const float *dy, ptrdiff_t dy_row, const float *dh, ptrdiff_t dh_row, float *dc, float *dn,
    ptrdiff_t d_row, float *d_copy, ptrdiff_t copy_gate, ptrdiff_t copy_row) {
    DISPATCH(
        isa, slstm_backward, rows, units, gates, gate, gates_row, ahead, cells, cell, cells_row, c_previous, n_previous,
        previous_row, dy, dy_row, dh, dh_row, dc, dn, d_row, d_copy, copy_gate, copy_row);
}

void ck_highway_forward(
    int isa, ptrdiff_t rows, ptrdiff_t units, int coupled, const float *product, ptrdiff_t product_gate, const float *pre,
    ptrdiff_t pre_row, float *gates, ptrdiff_t gate, ptrdiff_t gates_row, const float *s_previous, ptrdiff_t s_previous_row,
    float *s, ptrdiff_t s_row, float *state, ptrdiff_t state_row) {
    DISPATCH(
        isa, highway_forward, rows, units, coupled, product, product_gate, pre, pre_row, gates, gate, gates_row, s_previous,
        s_previous_row, s, s_row, state, state_row);
}

void ck_highway_backward(
    int isa, ptrdiff_t rows, ptrdiff_t units, int coupled, float *gates, ptrdiff_t gate, ptrdiff_t gates_row,
    const float *s_previous, ptrdiff_t s_previous_row, const float *dy, ptrdiff_t dy_row, float *dh, ptrdiff_t dh_row,
    float *d_copy, ptrdiff_t copy_gate, ptrdiff_t copy_row) {
    DISPATCH(
        isa, highway_backward, rows, units, coupled, gates, gate, gates_row, s_previous, s_previous_row, dy, dy_row, dh,
        dh_row, d_copy, copy_gate, copy_row);
}

void ck_leaky_forward(
    int isa, ptrdiff_t rows, ptrdiff_t units, int inside, int phi, const float *product, ptrdiff_t product_gate, float *pre,
    ptrdiff_t pre_row, const float *rate, const float *h_previous, ptrdiff_t h_previous_row, float *y, ptrdiff_t y_row,
    float *state, ptrdiff_t state_row) {
    DISPATCH(
        isa, leaky_forward, rows, units, inside, phi, product, product_gate, pre, pre_row, rate, h_previous, h_previous_row,
        y, y_row, state, state_row);
}

void ck_leaky_backward(
    int isa, ptrdiff_t rows, ptrdiff_t units, int inside, int phi, float *pre, ptrdiff_t pre_row, const float *rate,
    const float *y, ptrdiff_t y_row, const float *h_previous, ptrdiff_t h_previous_row, const float *dy, ptrdiff_t dy_row,
    float *dh, ptrdiff_t dh_row, float *d_rate, ptrdiff_t d_rate_row, float *d_copy, ptrdiff_t copy_row) {
    DISPATCH(
        isa, leaky_backward, rows, units, inside, phi, pre, pre_row, rate, y, y_row, h_previous, h_previous_row, dy, dy_row,
        dh, dh_row, d_rate, d_rate_row, d_copy, copy_row);
}
