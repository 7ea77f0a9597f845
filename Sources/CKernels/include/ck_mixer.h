#pragma once
#include <stddef.h>
#include <stdint.h>
// Point-wise and row-wise parts that several sequence mixers share. Bits do not depend on how callers cut rows.

// Depth-wise convolution of one sequence, W taps, tap-major weights [W, C], whose last tap is `ahead` tokens ahead (0: causal):
//   y_t = bias + Σ_k w_k ⊙ x_{t+ahead−W+1+k},  k ascending; x_{−W+1} … x_{−1} are the rows of `past` [W−1, C] (null: zeros), and
// what follows the sequence is zero.
typedef struct {
  size_t time, channels, taps, ahead;
} ck_short_convolution_shape;

/// Rows first ..< first + count of y [T, C] from x [T, C]; `silu` ≠ 0: y_t = silu(·). bias may be null.
void ck_short_convolution(float *y, const float *x, const float *past, const float *w, const float *bias, const ck_short_convolution_shape *shape, size_t first, size_t count, int silu);
/// dpre = dy ⊙ silu′(·), rows as above; the argument is computed again.
void ck_short_convolution_slope(float *dpre, const float *dy, const float *x, const float *past, const float *w, const float *bias, const ck_short_convolution_shape *shape, size_t first, size_t count);
/// dx_j = Σ_k w_k ⊙ dpre_{j+W−1−ahead−k} for j = first ..< first + count, terms inside 0 ..< time; j < 0 names rows of the past. dx is
/// where row `first` goes.
void ck_short_convolution_input_gradient(float *dx, const float *dpre, const float *w, const ck_short_convolution_shape *shape, ptrdiff_t first, size_t count);
/// dw [W, C] += Σ_t dpre_t ⊙ x_{t+ahead−W+1+k} for `columns` neighbouring channels; 32 rows at a time. All pointers are to the first of them.
void ck_short_convolution_weight_gradient(float *dw, const float *dpre, const float *x, const float *past, const ck_short_convolution_shape *shape, size_t columns);

/// How ck_gated_norm works on rows of groups·width channels.
typedef struct {
  size_t groups, width;
  int centred;      ///< 1: LayerNorm (mean removed), 0: RMSNorm
  int gate;         ///< 0: none, 1: silu(z), 2: σ(z)
  int gate_first;   ///< 1: norm(x ⊙ a(z)) ⊙ w, 0: norm(x) ⊙ w ⊙ a(z)
  int shared;       ///< 1: w is [width] for all groups, 0: [groups·width]
  float epsilon;
} ck_gated_norm_shape;

/// y = norm_group(x) ⊙ w ⊙ a(z); mean and rstd [rows, groups] are kept for the backward (mean only when centred).
void ck_gated_norm(float *y, float *mean, float *rstd, const float *x, const float *z, const float *w, size_t rows, const ck_gated_norm_shape *shape);
/// dx, dz (null without a gate) overwritten; dw += the sum over these rows, in row order.
void ck_gated_norm_backward(float *dx, float *dz, float *dw, const float *dy, const float *x, const float *z, const float *w, const float *mean, const float *rstd, size_t rows, const ck_gated_norm_shape *shape);

/// y = log(1 + e^x), relative error a few ulp also where y is small.
void ck_softplus(float *y, const float *x, size_t n);
/// y = factor · log σ(x) = −factor · softplus(−x)
void ck_log_sigmoid(float *y, const float *x, float factor, size_t n);
/// dx = dy · factor · σ(−x)
void ck_log_sigmoid_backward(float *dx, const float *dy, const float *x, float factor, size_t n);

/// Rows of `width`: y = x / √(Σ x² + epsilon); rstd keeps the factors.
void ck_l2_norm(float *y, float *rstd, const float *x, size_t rows, size_t width, float epsilon);
/// dx = rstd · (dy − y · Σ dy·y)
void ck_l2_norm_backward(float *dx, const float *dy, const float *y, const float *rstd, size_t rows, size_t width);

/// y [rows, heads·width] = x with every head times its factor [rows, heads]; rows of x are `x_row` apart.
void ck_scaled_heads(float *y, const float *x, size_t x_row, const float *factors, size_t rows, size_t heads, size_t width);
/// dx, laid out as x, += dy times the factor; dfactors are overwritten.
void ck_scaled_heads_backward(float *dx, float *dfactors, const float *dy, const float *x, size_t x_row, const float *factors, size_t rows, size_t heads, size_t width);

/// y [rows, width] = a ⊙ b of rows [a, b].
void ck_paired_product(float *y, const float *pairs, size_t rows, size_t width);
/// The pairs become their gradients, [dy ⊙ b, dy ⊙ a].
void ck_paired_product_backward(float *pairs, const float *dy, size_t rows, size_t width);

// Feature maps of linear attention, rows of `width`.
/// y = x + 1 above 0, e^x below.
void ck_elu_plus_one(float *y, const float *x, size_t n);
/// dx = dy · min(y, 1)
void ck_elu_plus_one_backward(float *dx, const float *dy, const float *y, size_t n);
/// y [rows, 2·width] = softmax of [2x, −2x].
void ck_signed_softmax(float *y, const float *x, size_t rows, size_t width);
void ck_signed_softmax_backward(float *dx, const float *dy, const float *y, size_t rows, size_t width);

// Running softmax of LightNet over one sequence, rows of `width`: z_t = log(e^{z_{t−1}} + e^{x_t}), weight = e^{x_t − z_t},
// log_decay = z_{t−1} − z_t. `past` is z before the first row; null: −∞, whose log_decay is 0.
void ck_softmax_gate(float *weight, float *log_decay, float *z, const float *x, const float *past, size_t time, size_t width);
/// dx from dweight and dlog_decay; dlast (null: 0): gradient of z after the last row; dpast (null: not wanted) of that before the first.
void ck_softmax_gate_backward(float *dx, float *dpast, const float *dweight, const float *dlog_decay, const float *dlast, const float *weight, const float *log_decay, size_t has_past, size_t time, size_t width);
