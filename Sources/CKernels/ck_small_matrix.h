// Products of small matrices that lie in cache, for one instruction-set variant: the building blocks of attention and of
// the chunk engines. Included after CK_VARIANT is set; every function is private to its file.
//
// Operands are packed to whole vectors (16 columns) and whole groups of TILE_ROWS rows, with zeros in the padding.
#include "ck_vector_variant.h"

#ifndef TILE_ROWS
#define TILE_ROWS 4
#endif
#undef TILE_VECTORS
#undef CK_PIECE
#define CK_PIECE static __attribute__((unused, noinline, CK_TARGET_ATTRIBUTES))
#if CK_VARIANT == 4
#define TILE_VECTORS 4 // 4 × 4 accumulators, 4 of B: 8 loads feed 16 FMAs
#else
#define TILE_VECTORS 1 // one vector is two or four registers here
#endif

#define tile CK_NAME(ck_small_tile)
#define product CK_NAME(ck_small_product)
#define tile_onto CK_NAME(ck_small_tile_onto)
#define product_onto CK_NAME(ck_small_product_onto)
#define lower_product CK_NAME(ck_small_lower_product)
#define pack_scaled CK_NAME(ck_small_pack_scaled)
#define unpack_rows CK_NAME(ck_small_unpack_rows)
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
CK_PIECE void product(float *c, size_t ldc, const float *a, size_t am, size_t ak, const float *b, size_t ldb, size_t k0, size_t k1, size_t vectors, int accumulate) {
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

// c[m] = base_scale · base[m] + row_scale[m] · Σ_k a[m·am + k·ak] · b[k·ldb + ...]: rows and sums as in `tile`. base has the
// layout of c, may be c, and null stands for zeros; row_scale null: ones.
CK_INLINE void tile_onto(float *c, size_t ldc, const float *base, float base_scale, const float *row_scale, const float *a, size_t am, size_t ak, const float *b, size_t ldb, size_t k0, size_t k1, const int n) {
  vf sum[TILE_ROWS][TILE_VECTORS];
  for (int m = 0; m < TILE_ROWS; m++)
    for (int j = 0; j < n; j++) sum[m][j] = v_all(0);
  for (size_t k = k0; k < k1; k++) {
    const float *row = b + k * ldb, *column = a + k * ak;
    vf right[TILE_VECTORS];
    for (int j = 0; j < n; j++) right[j] = v_load(row + j * CK_LANES);
    for (int m = 0; m < TILE_ROWS; m++) {
      vf left = v_all(column[m * am]);
      for (int j = 0; j < n; j++) sum[m][j] = left * right[j] + sum[m][j];
    }
  }
  for (int m = 0; m < TILE_ROWS; m++) {
    vf factor = v_all(row_scale ? row_scale[m] : 1.0f);
    for (int j = 0; j < n; j++) {
      vf value = sum[m][j] * factor;
      if (base) value = v_load(base + m * ldc + j * CK_LANES) * base_scale + value;
      v_store(c + m * ldc + j * CK_LANES, value);
    }
  }
}

// As `tile_onto`, for any number of column vectors.
CK_PIECE void product_onto(float *c, size_t ldc, const float *base, float base_scale, const float *row_scale, const float *a, size_t am, size_t ak, const float *b, size_t ldb, size_t k0, size_t k1, size_t vectors) {
  for (size_t j = 0; j < vectors; j += TILE_VECTORS) {
    const size_t at = j * CK_LANES;
    const float *under = base ? base + at : 0;
#if TILE_VECTORS == 4
    switch (vectors - j) {
    case 1: tile_onto(c + at, ldc, under, base_scale, row_scale, a, am, ak, b + at, ldb, k0, k1, 1); break;
    case 2: tile_onto(c + at, ldc, under, base_scale, row_scale, a, am, ak, b + at, ldb, k0, k1, 2); break;
    case 3: tile_onto(c + at, ldc, under, base_scale, row_scale, a, am, ak, b + at, ldb, k0, k1, 3); break;
    default: tile_onto(c + at, ldc, under, base_scale, row_scale, a, am, ak, b + at, ldb, k0, k1, 4); break;
    }
#else
    tile_onto(c + at, ldc, under, base_scale, row_scale, a, am, ak, b + at, ldb, k0, k1, 1);
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
CK_PIECE void pack_transposed(float *out, size_t ldo, const float *in, ptrdiff_t stride, size_t rows, size_t width) {
  for (size_t r = 0; r < ldo; r += CK_LANES)
    for (size_t c = 0; c < width; c += CK_LANES) {
      size_t columns = width - c < CK_LANES ? width - c : CK_LANES;
      vf block[16];
      for (size_t i = 0; i < 16; i++) {
        const float *p = in + (ptrdiff_t)(r + i) * stride + c;
        block[i] = r + i >= rows ? v_all(0) : columns == CK_LANES ? v_load(p) : v_load_part(p, columns);
      }
      transpose16(block);
      for (size_t i = 0; i < columns; i++) v_store(out + (c + i) * ldo + r, block[i]);
    }
}

// Rows of `width`, padded with zeros to `padded` columns and `padded_rows` rows.
CK_PIECE void pack_rows(float *out, const float *in, size_t stride, size_t rows, size_t padded_rows, size_t width, size_t padded) {
  for (size_t r = 0; r < rows; r++, in += stride, out += padded) {
    size_t c = 0;
    for (; c + CK_LANES <= width; c += CK_LANES) v_store(out + c, v_load(in + c));
    if (c < width) v_store(out + c, v_load_part(in + c, width - c));
  }
  __builtin_memset(out, 0, (padded_rows - rows) * padded * sizeof(float));
}

// The lower triangle of a bᵀ by tiles, b transposed beforehand: x[i][j] = Σ_k a[i][k] b_t[k][j] for j up to i's tile.
CK_PIECE void lower_product(float *x, size_t ldx, const float *a, size_t lda, const float *b_t, size_t ldb, size_t rows, size_t depth) {
  for (size_t m = 0; m < rows; m += TILE_ROWS)
    product(x + m * ldx, ldx, a + m * lda, lda, 1, b_t, ldb, 0, depth, (m + TILE_ROWS + CK_LANES - 1) / CK_LANES, 0);
}

// Rows of `width` columns times factors[r] (null: 1), padded with zeros to whole vectors and tiles. The rows of the chunk
// that follows, `ahead` floats away, are fetched into L2 meanwhile.
CK_PIECE void pack_scaled(float *out, const float *in, ptrdiff_t stride, size_t rows, size_t width, const float *factors, ptrdiff_t factor_stride, ptrdiff_t ahead) {
  const size_t padded = lanes_up(width), all = rows_up(rows);
  for (size_t r = 0; r < rows; r++, in += stride, out += padded) {
    float factor = factors ? factors[(ptrdiff_t)r * factor_stride] : 1.0f;
    EACH(width, { v_store(out + i, LOAD(in) * factor); if (ahead) __builtin_prefetch(in + i + ahead, 0, 2); });
  }
  __builtin_memset(out, 0, (all - rows) * padded * sizeof(float));
}

CK_PIECE void unpack_rows(float *out, ptrdiff_t stride, const float *in, size_t rows, size_t width, ptrdiff_t ahead) {
  for (size_t r = 0; r < rows; r++, out += stride, in += lanes_up(width))
    EACH(width, { STORE(out, v_load(in + i)); __builtin_prefetch(out + i + ahead, 1, 2); });
}
