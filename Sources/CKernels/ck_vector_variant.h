// One instruction-set variant of the vector code. Included once per variant, after CK_VARIANT is set to
// 4 (AVX-512: x86-64-v4), 3 (AVX2 + FMA: x86-64-v3) or 0 (whatever the compiler targets by default).
//
// Every variant works on the same 16-lane vector, which the compiler splits where registers are narrower. The order of
// every sum is therefore the same everywhere; variants 3 and 4 differ only in how they divide.
//
// The attribute min_vector_width keeps LLVM from halving 512-bit vectors, its default taste for x86-64-v4.
#undef CK_NAME
#undef CK_INLINE
#undef CK_LOOP
#undef CK_TARGET_ATTRIBUTES
#define CK_JOIN_(a, b) a##b
#define CK_JOIN(a, b) CK_JOIN_(a, b)
#if CK_VARIANT == 4
#define CK_NAME(name) CK_JOIN(name, _v4)
#define CK_TARGET_ATTRIBUTES target("arch=x86-64-v4"), min_vector_width(512)
#elif CK_VARIANT == 3
#define CK_NAME(name) CK_JOIN(name, _v3)
#define CK_TARGET_ATTRIBUTES target("arch=x86-64-v3"), min_vector_width(256)
#else
#define CK_NAME(name) CK_JOIN(name, _base)
#define CK_TARGET_ATTRIBUTES unused
#endif
#define CK_INLINE static inline __attribute__((always_inline, unused, CK_TARGET_ATTRIBUTES))
#define CK_LOOP static __attribute__((CK_TARGET_ATTRIBUTES))

#ifndef CK_VECTOR_TYPES
#define CK_VECTOR_TYPES
#pragma clang diagnostic ignored "-Wpsabi" // every function that passes a vector is inlined: no ABI is involved
typedef float vf __attribute__((ext_vector_type(16)));
typedef int32_t vi __attribute__((ext_vector_type(16)));
typedef uint32_t vu __attribute__((ext_vector_type(16)));
typedef double vd __attribute__((ext_vector_type(8)));
enum { CK_LANES = 16 };

// Runs the body for i = 0, 16, 32, ... < n. LOAD and STORE touch at most n elements; the arithmetic of a short last
// vector is that of a full one.
#define EACH(n, ...)                                                                                              \
  do {                                                                                                            \
    const size_t count_ = (n);                                                                                    \
    size_t i = 0;                                                                                                 \
    for (; i + CK_LANES <= count_; i += CK_LANES) { const int whole_ = 1; __VA_ARGS__ }                           \
    if (i < count_) { const int whole_ = 0; __VA_ARGS__ }                                                         \
  } while (0)
#define LOAD(p) (whole_ ? v_load((p) + i) : v_load_part((p) + i, count_ - i))
#define STORE(p, v) (whole_ ? v_store((p) + i, (v)) : v_store_part((p) + i, (v), count_ - i))
// Lanes past the end read as zero; where zero is not neutral, use this value instead.
#define LOAD_OR(p, other) (whole_ ? v_load((p) + i) : v_select(v_iota() < (int32_t)(count_ - i), v_load_part((p) + i, count_ - i), v_all(other)))
#endif

// Short names; each resolves to the function of the variant being compiled.
#define v_load CK_NAME(ck_v_load)
#define v_store CK_NAME(ck_v_store)
#define v_load_part CK_NAME(ck_v_load_part)
#define v_store_part CK_NAME(ck_v_store_part)
#define v_load_lanes CK_NAME(ck_v_load_lanes)
#define v_store_lanes CK_NAME(ck_v_store_lanes)
#define v_all CK_NAME(ck_v_all)
#define v_iota CK_NAME(ck_v_iota)
#define v_select CK_NAME(ck_v_select)
#define v_max CK_NAME(ck_v_max)
#define v_sum CK_NAME(ck_v_sum)
#define v_maximum CK_NAME(ck_v_maximum)
#define v_divide CK_NAME(ck_v_divide)
#define v_scale2 CK_NAME(ck_v_scale2)
#define v_exp CK_NAME(ck_v_exp)
#define v_exp2_flush CK_NAME(ck_v_exp2_flush)
#define v_expm1_positive CK_NAME(ck_v_expm1_positive)
#define v_tanh CK_NAME(ck_v_tanh)
#define v_sigmoid CK_NAME(ck_v_sigmoid)
#define v_log CK_NAME(ck_v_log)
#define v_softplus CK_NAME(ck_v_softplus)
#define v_normal_cdf CK_NAME(ck_v_normal_cdf)
#define v_absolute CK_NAME(ck_v_absolute)

CK_INLINE vf v_load(const float *p) { vf v; __builtin_memcpy(&v, p, 64); return v; }
CK_INLINE void v_store(float *p, vf v) { __builtin_memcpy(p, &v, 64); }

// A short last vector goes through the same arithmetic as a full one: an element's result does not depend on its
// position. Missing lanes read as zero.
CK_INLINE vf v_load_part(const float *p, size_t n) {
#if CK_VARIANT == 4
  return (vf)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
#else
  vf v = {0};
  __builtin_memcpy(&v, p, n * sizeof(float));
  return v;
#endif
}
CK_INLINE void v_store_part(float *p, vf v, size_t n) {
#if CK_VARIANT == 4
  _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), (__m512)v);
#else
  __builtin_memcpy(p, &v, n * sizeof(float));
#endif
}

// The first n ≤ 16 elements.
CK_INLINE vf v_load_lanes(const float *p, size_t n) { return n == CK_LANES ? v_load(p) : v_load_part(p, n); }
CK_INLINE void v_store_lanes(float *p, vf v, size_t n) {
  if (n == CK_LANES) v_store(p, v);
  else v_store_part(p, v, n);
}

CK_INLINE vf v_all(float x) { return (vf)(x); }
CK_INLINE vi v_iota(void) { return (vi){0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}; }
CK_INLINE vf v_select(vi mask, vf yes, vf no) { return mask ? yes : no; }
CK_INLINE vf v_max(vf a, vf b) { return v_select(a > b, a, b); }
CK_INLINE vf v_absolute(vf x) { return (vf)((vi)x & 0x7fffffff); }

// Lanes are summed pairwise: (i, i+8), then (i, i+4), (i, i+2), (0, 1).
CK_INLINE float v_sum(vf v) {
  typedef float v8 __attribute__((ext_vector_type(8)));
  typedef float v4 __attribute__((ext_vector_type(4)));
  v8 a = __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7) + __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
  v4 b = __builtin_shufflevector(a, a, 0, 1, 2, 3) + __builtin_shufflevector(a, a, 4, 5, 6, 7);
  return (b[0] + b[2]) + (b[1] + b[3]);
}
CK_INLINE float v_maximum(vf v) {
  typedef float v8 __attribute__((ext_vector_type(8)));
  typedef float v4 __attribute__((ext_vector_type(4)));
  v8 a = __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7), b = __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
  a = a > b ? a : b;
  v4 c = __builtin_shufflevector(a, a, 0, 1, 2, 3), d = __builtin_shufflevector(a, a, 4, 5, 6, 7);
  c = c > d ? c : d;
  float e = c[0] > c[1] ? c[0] : c[1], f = c[2] > c[3] ? c[2] : c[3];
  return e > f ? e : f;
}

// a / d for d in [1, 2^64]. AVX-512 refines an estimate (vdivps occupies a port for 16 cycles): ≤ 1 ulp.
CK_INLINE vf v_divide(vf a, vf d) {
#if CK_VARIANT == 4
  vf r = (vf)_mm512_rcp14_ps((__m512)d);
  r = r + r * (1.0f - d * r);
  vf q = a * r;
  return q + r * (a - q * d);
#else
  return a / d;
#endif
}

// p · 2^n for integral n in [-160, 160], with gradual underflow and overflow to infinity. `biased` holds n in its low bits.
CK_INLINE vf v_scale2(vf p, vf n, vi biased) {
#if CK_VARIANT == 4
  (void)biased;
  return (vf)_mm512_scalef_ps((__m512)p, (__m512)n);
#else
  (void)n;
  vi whole = biased - 0x4b400000, half = whole >> 1; // two factors, as 2^n itself may leave the range of Float
  return p * (vf)((half + 127) << 23) * (vf)((whole - half + 127) << 23);
#endif
}

// e^x: x = n·ln 2 + r, |r| ≤ ln 2 / 2; 1 + r + r²·q(r) with a minimax q of degree 4 (3e-9). ≤ 1.1 ulp; 0 and ∞ at the ends.
CK_INLINE vf v_exp(vf x) {
  x = v_select(x > 89.0f, v_all(89.0f), x); // a NaN fails both tests and stays
  x = v_select(x < -104.0f, v_all(-104.0f), x);
  vf biased = x * 1.44269504f + 12582912.0f; // 1.5·2^23 rounds to an integer
  vf n = biased - 12582912.0f;
  vf r = x - n * 0.693145752f; // exact: the constant has 15 bits
  r = r - n * 1.42860677e-6f;
  vf q = 0.0013814539f * r + 0.008368745f;
  q = q * r + 0.04166839f;
  q = q * r + 0.16666521f;
  q = q * r + 0.49999994f;
  vf p = (q * r) * r + r;
  return v_scale2(p + 1.0f, n, (vi)biased);
}

// 2^x for x ≤ 0 in attention: degree 5, ≤ 2 ulp, and 0 below 2^-126 so that no subnormal number slows what follows.
CK_INLINE vf v_exp2_flush(vf x) {
  vi tiny = x < -126.0f;
  x = v_select(tiny, v_all(-126.0f), x);
  vf biased = x + 12582912.0f;
  vf n = biased - 12582912.0f, r = x - n;
  vf p = 0.0013264591f * r + 0.009671619f;
  p = p * r + 0.05550735f;
  p = p * r + 0.24022241f;
  p = p * r + 0.693147f;
  p = p * r + 1.0f;
  return v_select(tiny, v_all(0.0f), v_scale2(p, n, (vi)biased));
}

// e^x − 1 for x in [0, 20], relative error ≤ 1.5 ulp also near zero: 2^n·(e^r − 1) + (2^n − 1).
CK_INLINE vf v_expm1_positive(vf x) {
  vf biased = x * 1.44269504f + 12582912.0f;
  vf n = biased - 12582912.0f;
  vf r = x - n * 0.693145752f;
  r = r - n * 1.42860677e-6f;
  vf q = 0.0013882517f * r + 0.0083665475f;
  q = q * r + 0.0416672f;
  q = q * r + 0.16666543f;
  q = q * r + 0.49999997f;
  q = (q * r) * r + r;
  vf t = (vf)(((vi)biased + 127) << 23);
  return t * q + (t - 1.0f);
}

// tanh x = m / (m + 2), m = e^{2|x|} − 1: one formula for all x, ≤ 2.5 ulp; ±1 beyond |x| = 10.
CK_INLINE vf v_tanh(vf x) {
  vf twice = v_absolute(x) * 2.0f;
  twice = v_select(twice > 20.0f, v_all(20.0f), twice);
  vf m = v_expm1_positive(twice);
  vf y = v_divide(m, m + 2.0f);
  return (vf)((vi)y | ((vi)x & (int32_t)0x80000000));
}

// 1 / (1 + e^{-x}) with e^{-|x|}, so that nothing overflows and small results keep their relative accuracy. ≤ 2 ulp.
CK_INLINE vf v_sigmoid(vf x) {
  vf e = v_exp((vf)((vi)x | (int32_t)0x80000000));
  return v_divide(v_select(x < 0.0f, e, v_all(1.0f)), 1.0f + e);
}

// Natural logarithm of positive normal x: x = 2^n·(1 + u), 1 + u in [√½, √2]; series with a minimax tail. ≤ 1 ulp.
CK_INLINE vf v_log(vf x) {
  vi bits = (vi)x - 0x3f3504f3;
  vi exponent = bits >> 23;
  vf n = __builtin_convertvector(exponent, vf);
  vf u = (vf)((bits & 0x7fffff) + 0x3f3504f3) - 1.0f;
  vf p = -0.076345816f * u + 0.12761723f;
  p = p * u - 0.1316022f;
  p = p * u + 0.14201741f;
  p = p * u - 0.16623352f;
  p = p * u + 0.20001227f;
  p = p * u - 0.25000823f;
  p = p * u + 0.3333333f;
  vf square = u * u;
  p = p * u * square + n * 1.42860677e-6f;
  p = p - 0.5f * square;
  return n * 0.693145752f + (p + u);
}

// log(1 + e^{−|x|}) with what rounding 1 + e^{−|x|} lost put back, then max(x, 0) added.
CK_INLINE vf v_softplus(vf x) {
  vf e = v_exp((vf)((vi)x | (int32_t)0x80000000)), u = e + 1.0f;
  vf log = v_log(u) + v_divide(e - (u - 1.0f), u);
  return v_select(x > 0.0f, x, x != x ? x : v_all(0.0f)) + log;
}

// Φ(u) = erfc(−u/√2)/2 and e^{-u²/2}. erfc z = e^{-z²}·g(t)/(1 + 2z), t = (z − 2)/(z + 2), g of degree 9 (1.5e-8).
// The rounding error of u² is put back, so the lower tail keeps its relative accuracy (about 4 ulp).
CK_INLINE vf v_normal_cdf(vf u, vf *gaussian) {
  vf a = v_absolute(u);
  a = v_select(a > 14.8f, v_all(14.8f), a);
  vf square = a * a;
  vf rest = a * a - square; // one FMA where there is one: what rounding lost
  vf e = v_exp(square * -0.5f);
  e = e - e * (0.5f * rest);
  vf z = a * 0.707106781f;
  vf d0 = z + 2.0f, d1 = z * 2.0f + 1.0f;
  vf inverse = v_divide(v_all(1.0f), d0 * d1);
  vf t = (z - 2.0f) * (inverse * d1);
  vf g = -0.00039610412f * t - 0.001222338f;
  g = g * t + 0.0013125681f;
  g = g * t + 0.008625354f;
  g = g * t - 0.008060887f;
  g = g * t - 0.05420262f;
  g = g * t + 0.16405566f;
  g = g * t - 0.16603157f;
  g = g * t - 0.092764f;
  g = g * t + 1.2769784f;
  vf tail = (0.5f * e) * (g * (inverse * d0));
  *gaussian = e;
  return v_select(u > 0.0f, 1.0f - tail, tail);
}
