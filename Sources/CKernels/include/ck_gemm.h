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

// How the B operand [k, n] lies in memory.
enum {
    CK_B_PLAIN = 0,       // b[p * ldb + j]
    CK_B_TRANSPOSED = 1,  // b[j * ldb + p]
    CK_B_PACKED = 2,      // written by ck_gemm_pack; ldb is unused
};

// C[m, n] (+)= A B, optionally + bias [n] when `accumulate` is 0.
//   transpose_a: 0: a[i * lda + p]; 1: a[p * lda + i].
//   first_column: only for CK_B_PACKED: column of the packed matrix at which this product starts, a multiple of
//     ck_gemm_sliver(isa); `packed_columns` is the n it was packed with. The other operands start at that column already.
//   scratch: ck_gemm_scratch_floats(isa) floats, 64-byte aligned.
void ck_gemm(
    int isa, int transpose_a, const float *a, ptrdiff_t lda, int b_kind, const float *b, ptrdiff_t ldb,
    ptrdiff_t first_column, ptrdiff_t packed_columns, ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, int accumulate,
    const float *bias, float *c, ptrdiff_t ldc, float *scratch);

size_t ck_gemm_scratch_floats(int isa);

// Columns of B that are packed side by side.
ptrdiff_t ck_gemm_sliver(int isa);

// Floats that a packed [k, n] matrix takes (n is rounded up to whole vectors).
size_t ck_gemm_packed_floats(int isa, ptrdiff_t k, ptrdiff_t n);

// Packs columns [column0, column1) of B [k, n]; column0 is a multiple of the sliver, column1 too unless it is n.
void ck_gemm_pack(
    int isa, int transposed, const float *b, ptrdiff_t ldb, ptrdiff_t k, ptrdiff_t n, ptrdiff_t column0,
    ptrdiff_t column1, float *packed);

// A pause in a spin loop, kind to the other hyper-thread.
static inline void ck_spin_pause(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}
