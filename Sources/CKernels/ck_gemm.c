#include "ck_gemm.h"

#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

// Cache blocks, in columns of B and rows of A: B block [KC, 528] about 1 MB, half of a server core's L2, and enough for
// the common width 512 in one piece.
#define BLOCK_COLUMNS 528
#define BLOCK_ROWS 96
// Up to so many rows, a plain B is not packed (DIRECT_ROWS), and a transposed one is transposed on the fly (FEW_ROWS).
#define DIRECT_ROWS 16
#define FEW_ROWS 4

typedef float vector4 __attribute__((vector_size(16)));
typedef float vector4u __attribute__((vector_size(16), aligned(4)));

static inline vector4 load_part4(const float *p, int count) {
    vector4 v = {0, 0, 0, 0};
    memcpy(&v, p, (size_t)count * sizeof(float));
    return v;
}
static inline void store_part4(float *p, vector4 v, int count) { memcpy(p, &v, (size_t)count * sizeof(float)); }

#define NAME(x) portable_##x
#define V vector4
#define VW 4
#define MR 6
#define NV 2
#define V_SET1(x) ((vector4){0, 0, 0, 0} + (x))
#define V_LOAD(p) (*(const vector4u *)(p))
#define V_STORE(p, v) (*(vector4u *)(p) = (v))
#define V_FMA(a, b, c) ((a) * (b) + (c))
#define V_LOAD_PART(p, count) load_part4(p, count)
#define V_STORE_PART(p, v, count) store_part4(p, v, count)
#define V_TRANSPOSE_LANES(out, in, c) ((out)[0] = (in)[c])
#define V_UNPACK_LOW(a, b) __builtin_shufflevector(a, b, 0, 4, 1, 5)
#define V_UNPACK_HIGH(a, b) __builtin_shufflevector(a, b, 2, 6, 3, 7)
#define V_PAIR_LOW(a, b) __builtin_shufflevector(a, b, 0, 1, 4, 5)
#define V_PAIR_HIGH(a, b) __builtin_shufflevector(a, b, 2, 3, 6, 7)
#include "ck_gemm_variant.inc"

#if defined(__x86_64__)

#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
static inline __m256i first_lanes8(int count) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
#define NAME(x) avx2_##x
#define V __m256
#define VW 8
#define MR 6
#define NV 2
#define V_SET1(x) _mm256_set1_ps(x)
#define V_LOAD(p) _mm256_loadu_ps(p)
#define V_STORE(p, v) _mm256_storeu_ps(p, v)
#define V_FMA(a, b, c) _mm256_fmadd_ps(a, b, c)
#define V_LOAD_PART(p, count) _mm256_maskload_ps(p, first_lanes8(count))
#define V_STORE_PART(p, v, count) _mm256_maskstore_ps(p, first_lanes8(count), v)
#define V_TRANSPOSE_LANES(out, in, c)                                 \
    ((out)[0] = _mm256_permute2f128_ps((in)[c], (in)[(c) + 4], 0x20), \
     (out)[1] = _mm256_permute2f128_ps((in)[c], (in)[(c) + 4], 0x31))
#define V_UNPACK_LOW(a, b) _mm256_unpacklo_ps(a, b)
#define V_UNPACK_HIGH(a, b) _mm256_unpackhi_ps(a, b)
#define V_PAIR_LOW(a, b) _mm256_castpd_ps(_mm256_unpacklo_pd(_mm256_castps_pd(a), _mm256_castps_pd(b)))
#define V_PAIR_HIGH(a, b) _mm256_castpd_ps(_mm256_unpackhi_pd(_mm256_castps_pd(a), _mm256_castps_pd(b)))
#include "ck_gemm_variant.inc"
#pragma clang attribute pop

#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma"))), apply_to = function)
static inline __mmask16 first_lanes16(int count) { return (__mmask16)((1u << count) - 1); }
static inline __attribute__((always_inline)) void transpose_lanes16(__m512 *out, const __m512 *in, int c) {
    const __m512 low01 = _mm512_shuffle_f32x4(in[c], in[c + 4], 0x44), high01 = _mm512_shuffle_f32x4(in[c], in[c + 4], 0xee);
    const __m512 low23 = _mm512_shuffle_f32x4(in[c + 8], in[c + 12], 0x44);
    const __m512 high23 = _mm512_shuffle_f32x4(in[c + 8], in[c + 12], 0xee);
    out[0] = _mm512_shuffle_f32x4(low01, low23, 0x88);
    out[1] = _mm512_shuffle_f32x4(low01, low23, 0xdd);
    out[2] = _mm512_shuffle_f32x4(high01, high23, 0x88);
    out[3] = _mm512_shuffle_f32x4(high01, high23, 0xdd);
}
#define NAME(x) avx512_##x
#define V __m512
#define VW 16
#define MR 8
#define NV 3
#define V_SET1(x) _mm512_set1_ps(x)
#define V_LOAD(p) _mm512_loadu_ps(p)
#define V_STORE(p, v) _mm512_storeu_ps(p, v)
#define V_FMA(a, b, c) _mm512_fmadd_ps(a, b, c)
#define V_LOAD_PART(p, count) _mm512_maskz_loadu_ps(first_lanes16(count), p)
#define V_STORE_PART(p, v, count) _mm512_mask_storeu_ps(p, first_lanes16(count), v)
#define V_TRANSPOSE_LANES(out, in, c) transpose_lanes16(out, in, c)
#define V_UNPACK_LOW(a, b) _mm512_unpacklo_ps(a, b)
#define V_UNPACK_HIGH(a, b) _mm512_unpackhi_ps(a, b)
#define V_PAIR_LOW(a, b) _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)))
#define V_PAIR_HIGH(a, b) _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)))
#include "ck_gemm_variant.inc"
#pragma clang attribute pop

#define DISPATCH(isa, function, ...)                                              \
    switch (isa) {                                                                \
    case CK_ISA_AVX512: avx512_##function(__VA_ARGS__); break;                    \
    case CK_ISA_AVX2: avx2_##function(__VA_ARGS__); break;                        \
    default: portable_##function(__VA_ARGS__); break;                             \
    }
#else
#define DISPATCH(isa, function, ...) portable_##function(__VA_ARGS__)
#endif

int ck_isa_supported(int isa) {
    if (isa == CK_ISA_PORTABLE) return 1;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (isa == CK_ISA_AVX2) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (isa == CK_ISA_AVX512)
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")
            && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#endif
    return 0;
}

static ptrdiff_t vector_width(int isa) { return isa == CK_ISA_AVX512 ? 16 : isa == CK_ISA_AVX2 ? 8 : 4; }

ptrdiff_t ck_gemm_sliver_vectors(int isa) { return isa == CK_ISA_AVX512 ? 3 : 2; }

ptrdiff_t ck_gemm_sliver_width(int isa) { return vector_width(isa) * ck_gemm_sliver_vectors(isa); }

size_t ck_gemm_scratch_floats(int isa) { return CK_GEMM_KC * (BLOCK_COLUMNS + BLOCK_ROWS); }

size_t ck_gemm_packed_floats(int isa, ptrdiff_t k, ptrdiff_t n) {
    const ptrdiff_t width = vector_width(isa);
    return (size_t)(k * ((n + width - 1) / width * width));
}

void ck_gemm_pack(
    int isa, int transposed, const float *b, ptrdiff_t ldb, ptrdiff_t k, ptrdiff_t n, ptrdiff_t column0,
    ptrdiff_t column1, float *packed) {
    DISPATCH(isa, pack, transposed, b, ldb, k, n, column0, column1, packed);
}

void ck_gemm(
    int isa, int transpose_a, const float *a, ptrdiff_t lda, int transpose_b, const float *b, ptrdiff_t ldb, ptrdiff_t m,
    ptrdiff_t n, ptrdiff_t k, int accumulate, const float *bias, float *c, ptrdiff_t ldc, float *scratch) {
    DISPATCH(isa, gemm, transpose_a, a, lda, transpose_b, b, ldb, m, n, k, accumulate, bias, c, ldc, scratch);
}

void ck_gemm_packed(
    int isa, const float *a, ptrdiff_t lda, const float *b, ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, int accumulate,
    const float *bias, float *c, ptrdiff_t ldc) {
    DISPATCH(isa, gemm_packed, a, lda, b, m, n, k, accumulate, bias, c, ldc);
}

void ck_gemm_one_sliver(
    int isa, const float *a, ptrdiff_t lda, const float *b, const float *next, ptrdiff_t m, ptrdiff_t n, ptrdiff_t k,
    int accumulate, float *c, ptrdiff_t ldc) {
    DISPATCH(isa, sliver, a, lda, m, n, k, b, next, accumulate, NULL, c, ldc);
}
