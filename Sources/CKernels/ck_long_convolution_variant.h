// The loops of ck_long_convolution.h, for one variant; included by ck_long_convolution.c.
//
// Tiles of 8 rows by 4 taps: 15 loads for 32 multiply-adds. Below the point where a transform of the whole sequence needs
// fewer operations (about 2,000 taps) this runs faster than it, and it needs neither transposes nor a library.
#include "ck_vector_variant.h"

CK_LOOP void CK_NAME(ck_long_convolution)(float *y, const float *x, const float *k, size_t count, size_t taps, size_t history, size_t limit) {
  for (size_t i = 0; i < count; i += ROWS) {
    const size_t rows = count - i < ROWS ? count - i : ROWS, reach = i + ROWS + history;
    const size_t last = taps < reach ? taps : reach;
    // Taps below this one meet only rows past the limit.
    size_t j = i > limit ? (i - limit) / TAPS * TAPS : 0;
    vf sum[ROWS];
    for (int r = 0; r < ROWS; r++) sum[r] = v_all(0.0f);
    if (rows == ROWS)
      for (; j + TAPS <= last; j += TAPS) {
        const float *in = x + ((ptrdiff_t)i - (ptrdiff_t)j - TAPS + 1) * CK_LANES;
        vf window[ROWS + TAPS - 1];
        for (int r = 0; r < ROWS + TAPS - 1; r++) window[r] = v_load(in + r * CK_LANES);
        for (int n = 0; n < TAPS; n++) {
          vf tap = v_load(k + (j + n) * CK_LANES);
          for (int r = 0; r < ROWS; r++) sum[r] = tap * window[r + TAPS - 1 - n] + sum[r];
        }
      }
    for (; j < last; j++) {
      vf tap = v_load(k + j * CK_LANES);
      for (size_t r = 0; r < rows; r++) sum[r] = tap * v_load(x + ((ptrdiff_t)(i + r) - (ptrdiff_t)j) * CK_LANES) + sum[r];
    }
    for (size_t r = 0; r < rows; r++) v_store(y + (i + r) * CK_LANES, sum[r]);
  }
}

CK_LOOP void CK_NAME(ck_long_convolution_kernel_gradient)(float *dk, const float *dy, const float *x, size_t count, size_t taps, size_t history) {
  for (size_t j = 0; j < taps; j += ROWS) {
    // Earlier rows meet only what lies before the history.
    size_t i = j > history ? (j - history) / TAPS * TAPS : 0;
    vf sum[ROWS];
    for (int r = 0; r < ROWS; r++) sum[r] = v_load(dk + (j + r) * CK_LANES);
    for (; i + TAPS <= count; i += TAPS) {
      const float *in = x + ((ptrdiff_t)i - (ptrdiff_t)j - ROWS + 1) * CK_LANES;
      vf window[ROWS + TAPS - 1];
      for (int r = 0; r < ROWS + TAPS - 1; r++) window[r] = v_load(in + r * CK_LANES);
      for (int n = 0; n < TAPS; n++) {
        vf slope = v_load(dy + (i + n) * CK_LANES);
        for (int r = 0; r < ROWS; r++) sum[r] = slope * window[n + ROWS - 1 - r] + sum[r];
      }
    }
    for (; i < count; i++) {
      vf slope = v_load(dy + i * CK_LANES);
      for (int r = 0; r < ROWS; r++) sum[r] = slope * v_load(x + ((ptrdiff_t)i - (ptrdiff_t)j - r) * CK_LANES) + sum[r];
    }
    for (int r = 0; r < ROWS; r++) v_store(dk + (j + r) * CK_LANES, sum[r]);
  }
}
