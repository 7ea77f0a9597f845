#pragma once
#include <stddef.h>
#include <stdint.h>
// Vector loops over float arrays. Each is compiled for AVX-512, AVX2 and the baseline; the CPU's best is chosen at load.
// The result of an element does not depend on its position or on how a caller cuts an array; the order of every sum
// depends on the length alone. No fast-math: NaN and infinities propagate.

/// Key and upper counter words of a random stream.
typedef struct {
  uint32_t key[2];
  uint32_t counter[3];
} ck_philox_key;

/// One step of Adam or AdamW, with the powers of beta already taken.
typedef struct {
  float beta1, beta2, epsilon;
  float step_size;         ///< learning rate / (1 − beta1^t)
  float second_correction; ///< (1 − beta2^t)^(−1/2)
  float decay;             ///< 1 − learning rate · decoupled weight decay
  float l2_penalty;        ///< added to the gradient as l2_penalty · p
  float gradient_scale;
} ck_adam_step;

typedef struct {
  float learning_rate, momentum, l2_penalty, gradient_scale;
  int32_t nesterov;
} ck_sgd_step;

/// Variant in use: 4 = AVX-512, 3 = AVX2, 0 = baseline. Ranks whose results must agree bitwise must agree on it.
int ck_vector_level(void);
/// Selects a variant for tests; ignored unless this CPU can run it. Not thread-safe.
void ck_vector_select_level(int level);


// Elementwise; y may be any of the inputs.
/// y = a + b
void ck_add(float *y, const float *a, const float *b, size_t n);
/// y = a − b
void ck_subtract(float *y, const float *a, const float *b, size_t n);
/// y = a · b
void ck_multiply(float *y, const float *a, const float *b, size_t n);
/// y += a · b
void ck_multiply_add(float *y, const float *a, const float *b, size_t n);
/// y = s · x
void ck_scale(float *y, const float *x, float s, size_t n);
/// y += s · x
void ck_axpy(float *y, float s, const float *x, size_t n);
/// 1 if no element is infinite or NaN.
int ck_all_finite(const float *x, size_t n);
/// sums[c] (+)= Σ_r x[r·ld + c]; eight rows at a time as a tree, then in row order.
void ck_column_sums(float *sums, const float *x, size_t ld, size_t rows, size_t columns, int accumulate);
/// Σ a·b in double, sixteen running sums.
double ck_dot(const float *a, const float *b, size_t n);

// Activations: forward y = f(x). Backward dx = dy · f′; tanh and sigmoid take their own output y, the others the input x.
/// Relative error ≤ 1.1 ulp; 0, ∞ and NaN as in the C library.
void ck_exp(float *y, const float *x, size_t n);
/// ≤ 2.5 ulp.
void ck_tanh(float *y, const float *x, size_t n);
/// ≤ 2 ulp.
void ck_sigmoid(float *y, const float *x, size_t n);
/// max(x, 0); NaN stays.
void ck_relu(float *y, const float *x, size_t n);
/// x·σ(x); 0 at −∞.
void ck_silu(float *y, const float *x, size_t n);
/// ½x(1 + tanh(√(2/π)(x + 0.044715x³)))
void ck_gelu_tanh(float *y, const float *x, size_t n);
/// x·Φ(x)
void ck_gelu_erf(float *y, const float *x, size_t n);
void ck_tanh_backward(float *dx, const float *dy, const float *y, size_t n);
void ck_sigmoid_backward(float *dx, const float *dy, const float *y, size_t n);
void ck_relu_backward(float *dx, const float *dy, const float *x, size_t n);
void ck_silu_backward(float *dx, const float *dy, const float *x, size_t n);
void ck_gelu_tanh_backward(float *dx, const float *dy, const float *x, size_t n);
void ck_gelu_erf_backward(float *dx, const float *dy, const float *x, size_t n);
/// y = silu(gate)·up
void ck_swiglu(float *y, const float *gate, const float *up, size_t n);
/// dgate = dy·up·silu′(gate), dup = dy·silu(gate). dgate and dup may be gate and up.
void ck_swiglu_backward(float *dgate, float *dup, const float *dy, const float *gate, const float *up, size_t n);
/// y = σ(gate)·up
void ck_glu(float *y, const float *gate, const float *up, size_t n);
/// dgate = dy·up·σ′(gate), dup = dy·σ(gate). dgate and dup may be gate and up.
void ck_glu_backward(float *dgate, float *dup, const float *dy, const float *gate, const float *up, size_t n);

// Norms over rows of d. rstd = (mean of squares + eps)^(−1/2), one per row.
/// y = w·x·rstd. With a residual: sum = x + residual is stored and normalised instead of x.
void ck_rms_norm(float *y, float *sum, const float *x, const float *residual, const float *w, float *rstd, size_t rows, size_t d, float eps);
/// dx (+)= rstd·(w·dy − z·mean(w·dy·z)), z = x·rstd
void ck_rms_norm_input_gradient(float *dx, const float *dy, const float *x, const float *w, const float *rstd, size_t rows, size_t d, int accumulate);
/// dw += Σ_r dy·x·rstd over `columns` columns of rows of length ld; eight rows at a time.
void ck_rms_norm_weight_gradient(float *dw, const float *dy, const float *x, const float *rstd, size_t ld, size_t rows, size_t columns);
/// y = w·(x − mean)·rstd + bias (bias may be null); biased variance, in two passes.
void ck_layer_norm(float *y, const float *x, const float *w, const float *bias, float *mean, float *rstd, size_t rows, size_t d, float eps);
/// dx (+)= rstd·(g − mean(g) − z·mean(g·z)), g = w·dy, z = (x − mean)·rstd
void ck_layer_norm_input_gradient(float *dx, const float *dy, const float *x, const float *w, const float *mean, const float *rstd, size_t rows, size_t d, int accumulate);
/// dw += Σ_r dy·(x − mean)·rstd over `columns` columns of rows of length ld; eight rows at a time.
void ck_layer_norm_weight_gradient(float *dw, const float *dy, const float *x, const float *mean, const float *rstd, size_t ld, size_t rows, size_t columns);

// Softmax over rows of n; the largest element is subtracted first. y may be x.
void ck_softmax(float *y, const float *x, size_t rows, size_t n);
/// dx = y·(dy − Σ dy·y); dx may be dy.
void ck_softmax_backward(float *dx, const float *dy, const float *y, size_t rows, size_t n);
/// out[r] = log Σ e^x
void ck_log_sum_exp(float *out, const float *x, size_t rows, size_t n);
/// loss[r] = log Σ e^x − x[target], in nats; 0 where target < 0. Unless scales is 0 the logits become
/// (softmax − onehot)·scales[r], or 0 in ignored rows.
void ck_cross_entropy(float *loss, float *logits, size_t ld, const int32_t *targets, size_t rows, size_t n, const float *scales);
/// loss[r] as above for p = softmax(logits); divergence[r] = Σ q log(q/p), q = softmax(teacher); 0 where target < 0. The logits
/// become (p − (1 − share)·onehot − share·q)·scales[r], or 0 in ignored rows.
void ck_distilled_cross_entropy(float *loss, float *divergence, float *logits, const float *teacher, size_t ld, const int32_t *targets, size_t rows, size_t n, float share, const float *scales);
/// hits[r] = 1 where the target's logit is the largest of its row, the first of equals; 0 elsewhere and where target < 0.
void ck_top_one(int32_t *hits, const float *logits, size_t ld, const int32_t *targets, size_t rows, size_t n);

// Rotary position embedding of one token.
/// (a, b) → (a·cos − b·sin, b·cos + a·sin) for pairs (i, i + half) of each head; direction −1 rotates back. y may be x.
void ck_rotate_half(float *y, const float *x, const float *cosine, const float *sine, size_t heads, size_t half, float direction);
/// The same for pairs (2i, 2i + 1).
void ck_rotate_interleaved(float *y, const float *x, const float *cosine, const float *sine, size_t heads, size_t half, float direction);

// Philox4x32-10 (Salmon et al. 2011). Element e is word e mod 4 of counter (e/4 mod 2^32, counter[0], counter[1], counter[2]).
void ck_philox_words(uint32_t *out, uint64_t first, size_t n, const ck_philox_key *key);
/// word / 2^8 / 2^24: [0, 1)
void ck_philox_uniform(float *out, uint64_t first, size_t n, const ck_philox_key *key);
/// Standard normal by Box-Muller; elements 2i and 2i + 1 share two words. |value| ≤ 5.8.
void ck_philox_normal(float *out, uint64_t first, size_t n, const ck_philox_key *key);
/// y = word ≥ threshold ? x·factor : x·0; y may be x.
void ck_dropout(float *y, const float *x, uint64_t first, size_t n, const ck_philox_key *key, uint32_t threshold, float factor);

// Optimisers
/// g ← g·gradient_scale + p·l2_penalty; m, v ← moments; p ← p·decay − step_size·m / (√v·second_correction + epsilon)
void ck_adam(float *p, float *m, float *v, const float *g, size_t n, const ck_adam_step *s);
/// g ← g·gradient_scale + p·l2_penalty; velocity ← momentum·velocity + g; p ← p − learning_rate·(velocity, or g + momentum·velocity
/// with nesterov, or g if velocity is null)
void ck_sgd(float *p, float *velocity, const float *g, size_t n, const ck_sgd_step *s);
