// Products of small matrices that lie in cache, for one instruction-set variant: the building blocks of attention and of
// the chunk engines. Included after CK_VARIANT is set; every function is private to its file.
//
// Operands are packed to whole vectors (16 columns) and whole groups of TILE_ROWS rows, with zeros in the padding.
#include "ck_vector_variant.h"

#ifndef TILE_ROWS
#define TILE_ROWS 4
#endif
#undef TILE_VECTORS
#if CK_VARIANT == 4
#define TILE_VECTORS 4 // 4 × 4 accumulators, 4 of B: 8 loads feed 16 FMAs
#else
#define TILE_VECTORS 1 // one vector is two or four registers here
#endif

#define tile CK_NAME(ck_small_tile)
#define product CK_NAME(ck_small_product)
#define transpose16 CK_NAME(ck_small_transpose16)
#define pack_transposed CK_NAME(ck_small_pack_transposed)
#define pack_rows CK_NAME(ck_small_pack_rows)

// c[0..<TILE_ROWS][0..<16·n] (+)= Σ_k a[m·am + k·ak] · b[k·ldb + ...] for k in k0 ..< k1 in ascending order.
CK_INLINE void tile(float *c, size_t ldc, const float *a, size_t am, size_t ak, const float *b, size_t ldb, size_t k0, size_t k1, const int n, int accumulate) {
  vf sum[TILE_ROWS][TILE_VECTORS];
  for (int m = 0; m < TILE_ROWS; m++)
    for (int j = 0; j < n; j++) sum[m][j] = accumulate ? v_load(c + m * ldc + j * CK_LANES) : v_all(0);
  for (size_t k = k0; k < k1; k++) {
    const float *row = b + k * ldb, *column = a + k * ak;
    vf right[TILE_VECTORS];
    for (int j = 0; j < n; j++) right[j] = v_load(row + j * CK_LANES);
    for (int m = 0; m < TILE_ROWS; m++) {
      vf left = v_all(column[m * am]);
      for (int j = 0; j < n; j++) sum[m][j] = left * right[j] + sum[m][j];
    }
  }
  for (int m = 0; m < TILE_ROWS; m++)
    for (int j = 0; j < n; j++) v_store(c + m * ldc + j * CK_LANES, sum[m][j]);
}

// As `tile`, for any number of column vectors.
CK_LOOP void product(float *c, size_t ldc, const float *a, size_t am, size_t ak, const float *b, size_t ldb, size_t k0, size_t k1, size_t vectors, int accumulate) {
  for (size_t j = 0; j < vectors; j += TILE_VECTORS) {
    float *cj = c + j * CK_LANES;
    const float *bj = b + j * CK_LANES;
#if TILE_VECTORS == 4
    switch (vectors - j) {
    case 1: tile(cj, ldc, a, am, ak, bj, ldb, k0, k1, 1, accumulate); break;
    case 2: tile(cj, ldc, a, am, ak, bj, ldb, k0, k1, 2, accumulate); break;
    case 3: tile(cj, ldc, a, am, ak, bj, ldb, k0, k1, 3, accumulate); break;
    default: tile(cj, ldc, a, am, ak, bj, ldb, k0, k1, 4, accumulate); break;
    }
#else
    tile(cj, ldc, a, am, ak, bj, ldb, k0, k1, 1, accumulate);
#endif
  }
}

// Four rounds of interleaving rows i and i + 8 transpose 16 × 16.
CK_INLINE void transpose16(vf rows[16]) {
  for (int round = 0; round < 4; round++) {
    vf next[16];
    for (int i = 0; i < 8; i++) {
      next[2 * i] = __builtin_shufflevector(rows[i], rows[i + 8], 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
      next[2 * i + 1] = __builtin_shufflevector(rows[i], rows[i + 8], 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    }
    for (int i = 0; i < 16; i++) rows[i] = next[i];
  }
}

// out[c·ldo + r] = in[r·stride + c] for r < rows, c < width; 0 for r in rows ..< ldo. ldo is a multiple of 16.
CK_LOOP void pack_transposed(float *out, size_t ldo, const float *in, size_t stride, size_t rows, size_t width) {
  for (size_t r = 0; r < ldo; r += CK_LANES)
    for (size_t c = 0; c < width; c += CK_LANES) {
      size_t columns = width - c < CK_LANES ? width - c : CK_LANES;
      vf block[16];
      for (size_t i = 0; i < 16; i++) {
        const float *p = in + (r + i) * stride + c;
        block[i] = r + i >= rows ? v_all(0) : columns == CK_LANES ? v_load(p) : v_load_part(p, columns);
      }
      transpose16(block);
      for (size_t i = 0; i < columns; i++) v_store(out + (c + i) * ldo + r, block[i]);
    }
}

// Rows of `width`, padded with zeros to `padded` columns and `padded_rows` rows.
CK_LOOP void pack_rows(float *out, const float *in, size_t stride, size_t rows, size_t padded_rows, size_t width, size_t padded) {
  for (size_t r = 0; r < rows; r++, in += stride, out += padded) {
    size_t c = 0;
    for (; c + CK_LANES <= width; c += CK_LANES) v_store(out + c, v_load(in + c));
    if (c < width) v_store(out + c, v_load_part(in + c, width - c));
  }
  __builtin_memset(out, 0, (padded_rows - rows) * padded * sizeof(float));
}
