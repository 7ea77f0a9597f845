#define _GNU_SOURCE
#include "COpenBLAS.h"

#include <dlfcn.h>
#include <stdlib.h>

// The ABI of cblas.h with 32-bit integers (LP64), so that its header is not needed to build.
enum { ROW_MAJOR = 101, NO_TRANSPOSE = 111, TRANSPOSE = 112 };
typedef void (*sgemm_function)(
    int, int, int, int, int, int, float, const float *, int, const float *, int, float, float *, int);
// LAPACK in Fortran's ABI, with the length of the character argument at the end.
typedef void (*dgesdd_function)(
    const char *, const int *, const int *, double *, const int *, double *, double *, const int *, double *, const int *,
    double *, const int *, int *, int *, size_t);
typedef char *(*core_name_function)(void);
typedef void (*set_threads_function)(int);

static sgemm_function sgemm;
static core_name_function core_name;
static dgesdd_function dgesdd;

int cob_load(const char *core_type) {
    if (sgemm) return 1;
    if (core_type) setenv("OPENBLAS_CORETYPE", core_type, 1);
    // Threads belong to the caller; the library must not start its own.
    setenv("OPENBLAS_NUM_THREADS", "1", 1);
    void *library = dlopen("libopenblas.so.0", RTLD_NOW | RTLD_LOCAL);
    if (!library) library = dlopen("libopenblas.so", RTLD_NOW | RTLD_LOCAL);
    if (!library) return 0;
    sgemm_function found = (sgemm_function)dlsym(library, "cblas_sgemm");
    if (!found) {
        dlclose(library);
        return 0;
    }
    core_name = (core_name_function)dlsym(library, "openblas_get_corename");
    dgesdd = (dgesdd_function)dlsym(library, "dgesdd_");
    set_threads_function set_threads = (set_threads_function)dlsym(library, "openblas_set_num_threads");
    if (set_threads) set_threads(1);
    sgemm = found;
    return 1;
}

const char *cob_core_name(void) {
    if (!sgemm) return NULL;
    return core_name ? core_name() : "unknown";
}

void cob_sgemm(
    int transpose_a, int transpose_b, int m, int n, int k, const float *a, int lda, const float *b, int ldb,
    int accumulate, float *c, int ldc) {
    sgemm(
        ROW_MAJOR, transpose_a ? TRANSPOSE : NO_TRANSPOSE, transpose_b ? TRANSPOSE : NO_TRANSPOSE, m, n, k, 1.0f, a, lda, b,
        ldb, accumulate ? 1.0f : 0.0f, c, ldc);
}

int cob_has_svd(void) { return dgesdd != NULL; }

int cob_svd(int m, int n, double *a, double *s, double *u, double *vt) {
    // Fortran sees the transpose, whose right factor is our left one.
    int rank = m < n ? m : n, info = 0, query = -1;
    double size;
    int *indices = malloc(sizeof(int) * 8 * (size_t)rank);
    if (!indices) return -1;
    dgesdd("S", &n, &m, a, &n, s, vt, &n, u, &rank, &size, &query, indices, &info, 1);
    int count = (int)size;
    double *work = info == 0 ? malloc(sizeof(double) * (size_t)count) : NULL;
    if (work) dgesdd("S", &n, &m, a, &n, s, vt, &n, u, &rank, work, &count, indices, &info, 1);
    else info = -1;
    free(work);
    free(indices);
    return info;
}
