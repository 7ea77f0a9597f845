#pragma once
#include <stddef.h>

// OpenBLAS, loaded when it is first asked for rather than linked: it chooses its kernels while it loads, and it does not
// know every CPU, so the choice has to be put right before. The library is optional.

// Loads the library once. `core_type`: value for OPENBLAS_CORETYPE, or NULL to leave the environment as it is.
// Returns 1 if the library is ready, 0 if it is missing or lacks the functions used here.
int cob_load(const char *core_type);

// The kernels the loaded library chose, as it names them ("SkylakeX"); "unknown" if it cannot tell; NULL if not loaded.
const char *cob_core_name(void);

// Single-threaded C[m, n] = A B (+ C if `accumulate`), row-major; `transpose_*` as in cblas_sgemm.
void cob_sgemm(
    int transpose_a, int transpose_b, int m, int n, int k, const float *a, int lda, const float *b, int ldb,
    int accumulate, float *c, int ldc);

// Whether the loaded library holds LAPACK's singular value decomposition.
int cob_has_svd(void);

// A[m, n] = U[m, r] diag(s[r]) V^T[r, n] with r = min(m, n), all row-major, s descending; `a` is destroyed. Returns 0, or
// LAPACK's code (dgesdd): above 0 it did not converge, below 0 an argument was wrong (NaN among them) or memory is short.
int cob_svd(int m, int n, double *a, double *s, double *u, double *vt);
