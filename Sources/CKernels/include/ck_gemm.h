#pragma once
#include <stddef.h>
#include <stdint.h>

// Single-precision matrix products, one thread per call. Row-major everywhere; sizes and leading dimensions in floats.
//
// Order of summation. K is cut in blocks of CK_GEMM_KC; inside a block every element of C is one chain of multiply-adds
// in ascending k that starts from zero, and the block sums are added to C in ascending order. Nothing else enters: not m,
// n, the position of the element, the tile it falls into, how operands are stored, or who else computes what.

enum { CK_ISA_PORTABLE = 0, CK_ISA_AVX2 = 1, CK_ISA_AVX512 = 2 };
enum { CK_GEMM_KC = 512 };

// 1 if this CPU (and operating system) can run the variant.
int ck_isa_supported(int isa);

// C[m, n] (+)= A B, optionally + bias [n] when `accumulate` is 0.
//   transpose_a: 0: a[i * lda + p]; 1: a[p * lda + i].   transpose_b: 0: b[p * ldb + j]; 1: b[j * ldb + p].
//   scratch: ck_gemm_scratch_floats(isa) floats, 64-byte aligned.
void ck_gemm(
    int isa, int transpose_a, const float *a, ptrdiff_t lda, int transpose_b, const float *b, ptrdiff_t ldb, ptrdiff_t m,
    ptrdiff_t n, ptrdiff_t k, int accumulate, const float *bias, float *c, ptrdiff_t ldc, float *scratch);

size_t ck_gemm_scratch_floats(int isa);

// B operands packed beforehand. Columns are cut in slivers of ck_gemm_sliver_width(isa), the last one rounded up to whole
// vectors; a sliver is [k][width], and sliver follows sliver: column j, a multiple of the sliver width, starts at j * k.

ptrdiff_t ck_gemm_sliver_width(int isa);
ptrdiff_t ck_gemm_sliver_vectors(int isa);

// Floats that a packed [k, n] matrix takes.
size_t ck_gemm_packed_floats(int isa, ptrdiff_t k, ptrdiff_t n);

// Packs columns [column0, column1) of B [k, n]; column0 is a multiple of the sliver width, column1 too unless it is n.
// transposed: 0: b[p * ldb + j]; 1: b[j * ldb + p].
void ck_gemm_pack(
    int isa, int transposed, const float *b, ptrdiff_t ldb, ptrdiff_t k, ptrdiff_t n, ptrdiff_t column0,
    ptrdiff_t column1, float *packed);

// As ck_gemm; `b` is where the first of the n columns starts in a packed matrix.
void ck_gemm_packed(
    int isa, const float *a, ptrdiff_t lda, const float *b, ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, int accumulate,
    const float *bias, float *c, ptrdiff_t ldc);

// The same for one sliver (n <= ck_gemm_sliver_width), for callers that choose the order of slivers themselves. While it
// runs it fetches the memory at `next`, the sliver that the caller uses afterwards, into L2.
void ck_gemm_one_sliver(
    int isa, const float *a, ptrdiff_t lda, const float *b, const float *next, ptrdiff_t m, ptrdiff_t n, ptrdiff_t k,
    int accumulate, float *c, ptrdiff_t ldc);

// A pause in a spin loop, kind to the other hyper-thread.
static inline void ck_spin_pause(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}
