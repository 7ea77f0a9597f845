#pragma once
#include <stddef.h>
// Causal depth-wise convolution with as many taps as a sequence is long, 16 channels side by side: rows of 16 floats.

enum { CK_LONG_CONVOLUTION_MARGIN = 16 }; ///< rows of zeros that x needs ahead of its first row

/// y_i = Σ_j k_j x_{i−j} for i in 0 ..< count, j ascending over 0 ..< taps; x has `history` rows before row 0 (x points at
/// row 0), and before those the margin. `limit`: rows of x from there on are zero; pass `count` when none are.
void ck_long_convolution(float *y, const float *x, const float *k, size_t count, size_t taps, size_t history, size_t limit);
/// dk_j += Σ_i dy_i x_{i−j}, i ascending, for j in 0 ..< taps, a multiple of 8; x as above.
void ck_long_convolution_kernel_gradient(float *dk, const float *dy, const float *x, size_t count, size_t taps, size_t history);
