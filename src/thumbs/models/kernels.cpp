// For CPUs: norm, SwiGLU, rotary attention, sums over the vocabulary, drawing a token, and products with few rows.
//
// operators.py holds the same formulas in torch, which tests compare with these. Numbers are read as float or bfloat16 and computed in
// float. A row's bits depend on that row alone: sums run in one order whatever else is computed, and no two threads add to one number.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <omp.h>
#include <vector>

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

namespace {

constexpr long FEW = 1 << 15;  // numbers that one thread has read before a second one has woken up

// Floats in a register. Never more: gcc does not split a wider vector between registers, it goes through memory.
#if defined(__AVX512F__)
constexpr int W = 16;
#elif defined(__AVX2__)
constexpr int W = 8;
#else
constexpr int W = 4;
#endif
typedef float vec __attribute__((vector_size(4 * W), aligned(4), may_alias));
typedef int32_t ints __attribute__((vector_size(4 * W)));
typedef int32_t word __attribute__((aligned(2), may_alias));
typedef uint16_t bf16;
typedef bf16 halves __attribute__((vector_size(2 * W), aligned(2), may_alias));

inline ints bits(vec x) { return reinterpret_cast<ints>(x); }
inline vec floats(ints x) { return reinterpret_cast<vec>(x); }
inline vec load(const float* p) { return *reinterpret_cast<const vec*>(p); }
inline void store(float* p, vec x) { *reinterpret_cast<vec*>(p) = x; }
// x - 0 is x for every x, signed zeros too, so this is one broadcast; 0 + x would turn -0 into 0, an addition each time.
inline vec all(float x) { return x - vec{}; }

inline vec load(const bf16* p) { return floats(__builtin_convertvector(*reinterpret_cast<const halves*>(p), ints) << 16); }
// Bits whose upper half is the nearest bfloat16, ties to even.
inline ints rounded(vec x) {
    ints is_number = x == x;
    return ((bits(x) + 0x7fff + ((bits(x) >> 16) & 1)) & is_number) | (0x7fc00000 & ~is_number);
}
inline void store(bf16* p, vec x) { *reinterpret_cast<halves*>(p) = __builtin_convertvector(rounded(x) >> 16, halves); }

inline float sum(vec x) {
    for (int half = W / 2; half > 0; half /= 2) {
        ints partner;
        for (int i = 0; i < W; i++) partner[i] = (i + half) % W;
        x += __builtin_shuffle(x, partner);
    }
    return x[0];
}

// e^x, relative error below 2e-7; x below -87 gives 0 (Cephes: x = n ln 2 + r, a polynomial in r).
inline vec exp(vec x) {
    ints tiny = x < -87.0f;
    vec clipped = x > 88.0f ? all(88.0f) : x;
    clipped = x < -87.0f ? all(-87.0f) : clipped;
    vec shifted = clipped * 1.44269504f + 12582912.0f;  // 1.5 · 2^23: rounds to an integer
    vec n = shifted - 12582912.0f;
    vec r = clipped - n * 0.693359375f + n * 2.12194440e-4f;
    vec p = all(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    ints power = (bits(shifted) - bits(all(12582912.0f)) + 127) << 23;
    return floats(bits(p * floats(power)) & ~tiny);
}

// A sum and one more product: of a number with a vector, of a pair of bfloat16 with a vector of pairs.
inline vec fused(vec sum, vec a, vec b) { return sum + a * b; }
inline vec fused(vec sum, ints a, ints b) {
#if defined(__AVX512BF16__)
    return vec(_mm512_dpbf16_ps(__m512(sum), __m512bh(a), __m512bh(b)));
#else
    return sum + floats(a << 16) * floats(b << 16) + floats(a & ~0xffff) * floats(b & ~0xffff);
#endif
}

// C [m, n] (+)= A [m, k] B [k, n] with sums in float. Rows stand lda, ldb and ldc numbers apart; n is a multiple of W.
// Where A and B are both bfloat16, k is even and B lies in pairs: its rows 2t and 2t + 1 are one row of pairs.
template <class A, class B>
constexpr int EACH = sizeof(A) == 2 && sizeof(B) == 2 ? 2 : 1;  // rows of B that lie together
constexpr int WIDE = W == 16 ? 4 : 2;  // vectors that a tile is wide at most; with them 6 rows of C fit into the registers

template <class A, class B>
inline auto step_of(const A* a) {
    if constexpr (EACH<A, B> == 1) return all(*a);
    else return ints{} + *reinterpret_cast<const word*>(a);
}
template <class A, class B>
inline auto step_of(const B* b, const A*) {
    if constexpr (EACH<A, B> == 1) return load(b);
    else return bits(load(reinterpret_cast<const float*>(b)));
}
// R rows by S vectors of C. AHEAD: another B follows this one in memory and is wanted next.
template <int R, int S, bool AHEAD, class A, class B>
inline void tile(const A* a, long lda, const B* b, long ldb, float* c, long ldc, int k, bool add) {
    vec acc[R][S];
    for (int i = 0; i < R; i++)
        for (int j = 0; j < S; j++) acc[i][j] = add ? load(c + i * ldc + j * W) : vec{};
    for (int t = 0; t < k; t += EACH<A, B>) {
        decltype(step_of(b, a)) x[S];
        for (int j = 0; j < S; j++) x[j] = step_of(b + t * ldb + EACH<A, B> * j * W, a);
        for (int j = 0; AHEAD && j < S; j++) __builtin_prefetch(b + (t + k) * ldb + EACH<A, B> * j * W, 0, 2);
        for (int i = 0; i < R; i++)
            for (int j = 0; j < S; j++) acc[i][j] = fused(acc[i][j], step_of<A, B>(a + i * lda + t), x[j]);
    }
    for (int i = 0; i < R; i++)
        for (int j = 0; j < S; j++) store(c + i * ldc + j * W, acc[i][j]);
}
template <int R, int S, bool AHEAD, class A, class B>
inline void rows(const A* a, long lda, const B* b, long ldb, float* c, long ldc, int m, int k, bool add) {
    for (; m >= R; m -= R, a += R * lda, c += R * ldc) tile<R, S, AHEAD>(a, lda, b, ldb, c, ldc, k, add);
    if constexpr (R > 1) rows<R - 1, S, AHEAD>(a, lda, b, ldb, c, ldc, m, k, add);
}
template <bool AHEAD = false, class A, class B>
void product(const A* a, long lda, const B* b, long ldb, float* c, long ldc, int m, int n, int k, bool add) {
    constexpr int E = EACH<A, B>;
    int j = 0;
    for (; j + WIDE * W <= n; j += WIDE * W) rows<6, WIDE, AHEAD>(a, lda, b + E * j, ldb, c + j, ldc, m, k, add);
    for (; j + 2 * W <= n; j += 2 * W) rows<6, 2, AHEAD>(a, lda, b + E * j, ldb, c + j, ldc, m, k, add);
    if (j < n) rows<6, 1, AHEAD>(a, lda, b + E * j, ldb, c + j, ldc, m, k, add);
}

inline int even(int n) { return n + n % 2; }
inline int filled(int n) { return (n + W - 1) / W * W; }

template <class T>
void copy(const float* x, long n, T* y) { for (long i = 0; i < n; i += W) store(y + i, load(x + i)); }
inline void add(const float* x, long n, float* y) { for (long i = 0; i < n; i += W) store(y + i, load(y + i) + load(x + i)); }
// x [rows, D] as a product's B [even(rows), D]; a row added is 0.
template <class X, class T>
void lay_rows(const X* x, int rows, int D, T* b) {
    for (int r = 0; r < rows; r += 2)
        for (int i = 0; i < D; i += W) {
            const X* at = x + long(r) * D + i;
            vec first = load(at), second = r + 1 < rows ? load(at + D) : vec{};
            ints pairs = ((rounded(first) >> 16) & 0xffff) | (rounded(second) & ~0xffff);
            if constexpr (sizeof(T) == 2) store(reinterpret_cast<float*>(b + long(r) * D + 2 * i), floats(pairs));
            else store(b + long(r) * D + i, first), store(b + long(r + 1) * D + i, second);
        }
}
// x [rows, D] transposed as a product's B [D, wide]; columns added are 0. A float is a word, and so is a pair of bfloat16.
template <class T>
void lay_columns(const T* x, int rows, int D, T* b, int wide) {
    long words = D * sizeof(T) / sizeof(int32_t);
    auto from = reinterpret_cast<const int32_t*>(x);
    auto to = reinterpret_cast<int32_t*>(b);
    for (long w = 0; w < words; w++, to += wide) {
        for (int r = 0; r < rows; r++) to[r] = from[r * words + w];
        std::fill(to + rows, to + wide, 0);
    }
}

// A weight [out, in] as one B [in, PANEL] after the other; `out` is a multiple of PANEL.
constexpr int PANEL = WIDE * W, TALL = 128;
template <class T>
void pack(const T* weight, T* packed, long out, long in) {
    for (long o = 0; o < out; o += PANEL) lay_columns(weight + o * in, PANEL, in, packed + o * in, PANEL);
}
// y [N, out] = x [N, in] Wᵀ + plus [N, out] (which may be absent); a packed weight is fetched before it is used.
template <class T, class Y = T>
void linear(const T* x, const T* packed, const Y* plus, Y* y, long N, long out, long in) {
    long blocks = (N + TALL - 1) / TALL;
#pragma omp parallel
    {
        std::vector<float> c(std::min<long>(N, TALL) * PANEL);
#pragma omp for collapse(2) schedule(static)
        for (long block = 0; block < blocks; block++)
            for (long o = 0; o < out; o += PANEL) {
                long n = N * block / blocks;
                int rows = int(N * (block + 1) / blocks - n);
                product<true>(x + n * in, in, packed + o * in, PANEL, c.data(), PANEL, rows, PANEL, in, false);
                for (long r = 0, at = n * out + o; r < rows; r++, at += out)
                    for (int i = 0; i < PANEL; i += W)
                        store(y + at + i, plus ? load(&c[r * PANEL + i]) + load(plus + at + i) : load(&c[r * PANEL + i]));
            }
    }
}

// Softmax of each column of scores [count, wide], in place; column i sees the first `visible` + i rows, the others become 0.
inline void softmax(float* scores, int count, int wide, int visible) {
    ints lane;
    for (int i = 0; i < W; i++) lane[i] = i;
    for (int i = 0; i < wide; i += W) {
        float* column = scores + i;
        vec top = all(-INFINITY), total{};
        for (int j = 0; j < count; j++, column += wide) {
            if (j >= visible + i) store(column, lane + (visible + i) > j ? load(column) : all(-INFINITY));
            top = load(column) > top ? load(column) : top;
        }
        for (int j = 0; j < count; j++) {
            column -= wide;
            store(column, exp(load(column) - top)), total += load(column);
        }
        vec inverse = 1.0f / total;
        for (int j = 0; j < count; j++, column += wide) store(column, load(column) * inverse);
    }
}

// d_score = p (d_p - Σ p d_p) of each column, in place of d_p.
inline void softmax_backward(const float* p, float* dp, int count, int wide) {
    for (int i = 0; i < wide; i += W) {
        vec dot{};
        for (long j = 0; j < count; j++) dot += load(p + j * wide + i) * load(dp + j * wide + i);
        for (long j = 0; j < count; j++) store(dp + j * wide + i, load(p + j * wide + i) * (load(dp + j * wide + i) - dot));
    }
}

// Rotates one head of C numbers: (a, b) → (a cos - b sin, b cos + a sin), the halves as Hugging Face lays them out; back with turn -1.
template <class X, class T>
inline void rotate(const X* x, const float* cos, const float* sin, T* out, long C, float scale = 1.0f, float turn = 1.0f) {
    long h = C / 2;
    for (long i = 0; i < h; i += W) {
        vec a = load(x + i), b = load(x + h + i), c = load(cos + i) * scale, s = load(sin + i) * (scale * turn);
        store(out + i, a * c - b * s);
        store(out + h + i, b * c + a * s);
    }
}

template <class T>
void rms_norm(const T* x, const T* weight, T* y, float* scale, long N, long D, float eps) {
#pragma omp parallel for schedule(static) if (N * D > FEW)
    for (long n = 0; n < N; n++) {
        const T* row = x + n * D;
        vec squares{};
        for (int i = 0; i < D; i += W) squares += load(row + i) * load(row + i);
        float s = 1.0f / std::sqrt(sum(squares) / D + eps);
        scale[n] = s;
        for (int i = 0; i < D; i += W) store(y + n * D + i, load(row + i) * s * load(weight + i));
    }
}

// d_x = s (g w - x s² mean(g w x)); d_w, where wanted, is one row a thread block, summed by the caller.
template <class T>
void rms_norm_backward(const T* g, const T* x, const T* weight, const float* scale, T* dx, float* dw, long N, long D, long blocks) {
#pragma omp parallel for schedule(static) if (N * D > FEW)
    for (long block = 0; block < blocks; block++) {
        float* mine = dw ? dw + block * D : nullptr;
        for (long n = N * block / blocks; n < N * (block + 1) / blocks; n++) {
            const T *gn = g + n * D, *xn = x + n * D;
            float s = scale[n];
            vec dot{};
            for (int i = 0; i < D; i += W) dot += load(gn + i) * load(weight + i) * load(xn + i);
            float pull = sum(dot) / D * s * s;
            for (int i = 0; i < D; i += W) {
                vec gi = load(gn + i), xi = load(xn + i);
                store(dx + n * D + i, (gi * load(weight + i) - xi * pull) * s);
                if (mine) store(mine + i, load(mine + i) + gi * xi * s);
            }
        }
    }
}

// y = silu(gate) · up of rows [gate, up].
template <class T>
void swiglu(const T* x, T* y, long N, long D) {
#pragma omp parallel for schedule(static) if (N * D > FEW)
    for (long n = 0; n < N; n++)
        for (int i = 0; i < D; i += W) {
            vec gate = load(x + n * 2 * D + i), up = load(x + n * 2 * D + D + i);
            store(y + n * D + i, gate * up / (1.0f + exp(-gate)));
        }
}
template <class T>
void swiglu_backward(const T* g, const T* x, T* dx, long N, long D) {
#pragma omp parallel for schedule(static) if (N * D > FEW)
    for (long n = 0; n < N; n++)
        for (int i = 0; i < D; i += W) {
            vec gate = load(x + n * 2 * D + i), up = load(x + n * 2 * D + D + i), gi = load(g + n * D + i);
            vec sigma = 1.0f / (1.0f + exp(-gate));
            store(dx + n * 2 * D + i, gi * up * sigma * (1.0f + gate * (1.0f - sigma)));
            store(dx + n * 2 * D + D + i, gi * gate * sigma);
        }
}

// Rows of queries, keys and values side by side, [N, (H + 2 K) C], and the rotary angles of each row.
template <class T>
struct Mixed {
    const T* x;
    const float *cos, *sin;
    long H, K, C;
    long group() const { return H / K; }
    float scale() const { return 1.0f / std::sqrt(float(C)); }
    long at(long n, long head) const { return (n * (H + 2 * K) + head) * C; }
    void rotated(long n, long head, T* out, float scale = 1.0f) const { rotate(x + at(n, head), cos + n * C, sin + n * C, out, C, scale); }
    void unrotated(const float* g, long n, long head, T* dx, float scale = 1.0f) const {
        rotate(g, cos + n * C, sin + n * C, dx + at(n, head), C, scale, -1.0f);
    }
};

constexpr int BLOCK = 32;  // queries whose scores exist at a time

// Attention of up to BLOCK queries of one head to what one segment sees; the scores of a query are a column.
template <class T>
struct Attention {
    Mixed<T> in;
    long C;
    int count, rows, wide, most;  // keys; queries, and the same filled up; keys that the last query sees
    std::vector<T> k, v, turned, q, laid, narrow;
    std::vector<float> p, columns, out;

    explicit Attention(const Mixed<T>& mixed) : in(mixed), C(mixed.C), q(BLOCK * C), out(BLOCK * C) {}

    // Takes rotated keys and values of `seen` tokens, and the values (for the gradient the keys) transposed.
    void see(const int64_t* tokens, long seen, long head, bool backward) {
        count = int(seen);
        k.resize(count * C), v.resize(count * C), turned.assign(even(count) * C, 0);
        for (long j = 0; j < count; j++) {
            in.rotated(tokens[j], in.H + head, &k[j * C]);
            std::copy_n(in.x + in.at(tokens[j], in.H + in.K + head), C, &v[j * C]);
        }
        for (long i = 0; i < C; i++)
            for (long j = 0; j < count; j++) turned[i * even(count) + j] = (backward ? k : v)[j * C + i];
    }
    // Result [most, wide] = X [most, C] times the transpose of y [rows, C].
    void meet(const std::vector<T>& x, const std::vector<T>& y, std::vector<float>& result) {
        laid.resize(wide * C), result.resize(most * wide);
        lay_columns(y.data(), rows, C, laid.data(), wide);
        product(x.data(), C, laid.data(), wide, result.data(), wide, most, wide, C, false);
    }
    // Softmax weights p of the queries n … n + asked - 1 of a head, the first of which sees `before` keys and itself.
    void weigh(long head, long n, long asked, long before) {
        rows = int(asked), wide = filled(rows), most = int(before) + rows;
        for (long r = 0; r < rows; r++) in.rotated(n + r, head, &q[r * C], in.scale());
        meet(k, q, p);
        softmax(p.data(), most, wide, most - rows + 1);
    }
    // out [rows, C] = the transpose of weights [most, wide] times what `turned` holds the transpose of.
    void mix(const std::vector<float>& weights) {
        laid.resize(even(most) * wide), columns.resize(C * wide);
        lay_rows(weights.data(), most, wide, laid.data());
        product(turned.data(), even(count), laid.data(), wide, columns.data(), wide, C, wide, even(most), false);
        for (long r = 0; r < rows; r++)
            for (long i = 0; i < C; i++) out[r * C + i] = columns[i * wide + r];
    }
    // sum [most, C] += weights [most, wide] times x [rows, C].
    void spread(const std::vector<float>& weights, const std::vector<T>& x, std::vector<float>& sum) {
        narrow.resize(most * wide), laid.resize(even(rows) * C);
        copy(weights.data(), most * wide, narrow.data());
        lay_rows(x.data(), rows, C, laid.data());
        product(narrow.data(), wide, laid.data(), C, sum.data(), C, most, C, even(rows), true);
    }
};

// Segments of packed tokens as a forest: segment s holds the tokens start[s] … start[s + 1] - 1 and sees keys[first[s]] …
// keys[first[s + 1] - 1], its own tokens last. Segments of one tree stand side by side; tree t begins at segment trees[t].
template <class T>
void attention(const T* x, const float* cos, const float* sin, T* out, const int64_t* start, const int64_t* first, const int64_t* keys,
               const int64_t* trees, long count, long H, long K, long C) {
    const Mixed<T> in{x, cos, sin, H, K, C};
    const long segments = trees[count];
#pragma omp parallel if (first[segments] * H * C > FEW)
    {
        Attention<T> block(in);
#pragma omp for schedule(dynamic)
        for (long task = 0; task < segments * K; task++) {
            long s = task / K, head = task % K, own = start[s + 1] - start[s];
            block.see(keys + first[s], first[s + 1] - first[s], head, false);
            for (long g = head * in.group(); g < (head + 1) * in.group(); g++)
                for (long begin = 0; begin < own; begin += BLOCK) {
                    long n = start[s] + begin;
                    block.weigh(g, n, std::min<long>(BLOCK, own - begin), block.count - own + begin);
                    block.mix(block.p);
                    for (long r = 0; r < block.rows; r++) copy(&block.out[r * C], C, out + ((n + r) * H + g) * C);
                }
        }
    }
}

template <class T>
void attention_backward(const T* grad, const T* x, const float* cos, const float* sin, T* dx, const int64_t* start, const int64_t* first,
                        const int64_t* keys, const int64_t* trees, long count, long H, long K, long C) {
    const Mixed<T> in{x, cos, sin, H, K, C};
#pragma omp parallel if (first[trees[count]] * H * C > FEW)
    {
        Attention<T> block(in);
        std::vector<T> go(BLOCK * C);
        std::vector<float> dp, dk, dv, tree_k, tree_v;
#pragma omp for schedule(dynamic)
        for (long task = 0; task < count * K; task++) {
            long tree = task / K, head = task % K, root = start[trees[tree]], tokens = start[trees[tree + 1]] - root;
            tree_k.assign(tokens * C, 0), tree_v.assign(tokens * C, 0);
            for (long s = trees[tree]; s < trees[tree + 1]; s++) {
                long own = start[s + 1] - start[s];
                block.see(keys + first[s], first[s + 1] - first[s], head, true);
                dk.assign(block.count * C, 0), dv.assign(block.count * C, 0);
                for (long g = head * in.group(); g < (head + 1) * in.group(); g++)
                    for (long begin = 0; begin < own; begin += BLOCK) {
                        long n = start[s] + begin;
                        block.weigh(g, n, std::min<long>(BLOCK, own - begin), block.count - own + begin);
                        for (long r = 0; r < block.rows; r++) std::copy_n(grad + ((n + r) * H + g) * C, C, &go[r * C]);
                        block.spread(block.p, go, dv);
                        block.meet(block.v, go, dp);
                        softmax_backward(block.p.data(), dp.data(), block.most, block.wide);
                        block.spread(dp, block.q, dk);
                        block.mix(dp);
                        for (long r = 0; r < block.rows; r++) in.unrotated(&block.out[r * C], n + r, g, dx, in.scale());
                    }
                for (long j = 0; j < block.count; j++) {
                    long n = keys[first[s] + j] - root;
                    add(&dk[j * C], C, &tree_k[n * C]), add(&dv[j * C], C, &tree_v[n * C]);
                }
            }
            for (long n = 0; n < tokens; n++) {
                in.unrotated(&tree_k[n * C], root + n, H + head, dx);
                copy(&tree_v[n * C], C, dx + in.at(root + n, H + K + head));
            }
        }
    }
}

// Asks for memory that will be read soon: it is too scattered for the processor to foresee.
template <class T>
void fetch(const T* p, long n) { for (long i = 0; i < n; i += 64 / sizeof(T)) __builtin_prefetch(p + i); }

// One more token a row: rotates its query and key, puts key and value into the caches [B, K, L, C] at length[b] - 1, attends.
template <class T>
void cached_attention(const T* x, const float* cos, const float* sin, T* keys, T* values, const int64_t* length, T* out, long B, long L,
                      long H, long K, long C) {
    const Mixed<T> in{x, cos, sin, H, K, C};
    const int group = int(in.group()), wide = filled(group);  // the heads of a group are the columns of the scores
#pragma omp parallel if (B * L * K * C > FEW)
    {
        std::vector<T> q(group * C), laid(wide * C);
        std::vector<float> s(L * wide), p(L * group), o(group * C);
#pragma omp for schedule(static)
        for (long task = 0; task < B * K; task++) {
            long b = task / K, head = task % K, count = length[b];
            T *k = keys + task * L * C, *v = values + task * L * C;
            fetch(v, count * C);
            in.rotated(b, H + head, k + (count - 1) * C);
            std::copy_n(x + in.at(b, H + K + head), C, v + (count - 1) * C);
            for (int g = 0; g < group; g++) in.rotated(b, head * group + g, &q[g * C], in.scale());
            lay_columns(q.data(), group, C, laid.data(), wide);
            product(k, C, laid.data(), wide, s.data(), wide, int(count), wide, int(C), false);
            if (task + 1 < B * K) fetch(k + L * C, length[(task + 1) / K] * C);
            softmax(s.data(), int(count), wide, int(count));
            for (int g = 0; g < group; g++)
                for (long j = 0; j < count; j++) p[g * count + j] = s[j * wide + g];
            product(p.data(), count, v, C, o.data(), C, group, int(C), int(count), false);
            copy(o.data(), group * C, out + (b * H + head * group) * C);
        }
    }
}

constexpr int TOKENS = 128;  // rows of the vocabulary whose logits exist at a time, of TALL hidden states

// Of p = softmax(H Wᵀ · scale), H [M, D], W [V, D]: the log of its denominator [M] and, where wanted, Σ_v p_v w_v [M, D].
template <class T>
void vocabulary(const T* hidden, const T* weight, float* normaliser, float* expected, long M, long V, long D, float scale) {
    long threads = omp_get_max_threads(), chunks = ((M + TALL - 1) / TALL + threads - 1) / threads * threads;
#pragma omp parallel
    {
        std::vector<T> columns(TALL * D), laid(TOKENS * D), p(TALL * TOKENS);
        std::vector<float> s(TOKENS * TALL), e(TALL * D), top(TALL), total(TALL), shrink(TALL);
#pragma omp for schedule(dynamic)
        for (long chunk = 0; chunk < chunks; chunk++) {
            long begin = M * chunk / chunks;
            int rows = int(M * (chunk + 1) / chunks - begin), wide = filled(rows);
            lay_columns(hidden + begin * D, rows, D, columns.data(), wide);
            e.assign(TALL * D, 0), total.assign(TALL, 0), top.assign(TALL, -INFINITY);
            for (long v = 0; v < V; v += TOKENS) {
                int n = int(std::min<long>(TOKENS, V - v));
                product(weight + v * D, D, columns.data(), wide, s.data(), wide, n, wide, D, false);
                for (int i = 0; i < wide; i += W) {  // by column, with the largest logit so far
                    vec most = load(&top[i]), part{};
                    for (int j = 0; j < n; j++) most = load(&s[j * wide + i]) * scale > most ? load(&s[j * wide + i]) * scale : most;
                    for (int j = 0; j < n; j++) {
                        vec share = exp(load(&s[j * wide + i]) * scale - most);
                        store(&s[j * wide + i], share), part += share;
                    }
                    vec less = exp(load(&top[i]) - most);
                    store(&shrink[i], less), store(&top[i], most), store(&total[i], load(&total[i]) * less + part);
                }
                if (!expected) continue;
                for (int r = 0; r < rows; r++) {
                    for (int i = 0; shrink[r] != 1.0f && i < D; i += W) store(&e[r * D + i], load(&e[r * D + i]) * shrink[r]);
                    for (int j = 0; j < TOKENS; j += W) {
                        vec part;
                        for (int i = 0; i < W; i++) part[i] = j + i < n ? s[(j + i) * wide + r] : 0.0f;
                        store(&p[r * TOKENS + j], part);
                    }
                }
                lay_rows(weight + v * D, n, D, laid.data());
                product(p.data(), TOKENS, laid.data(), D, e.data(), D, rows, D, even(n), true);
            }
            for (int r = 0; r < rows; r++) {
                normaliser[begin + r] = top[r] + std::log(total[r]);
                for (int i = 0; expected && i < D; i += W) store(expected + (begin + r) * D + i, load(&e[r * D + i]) / total[r]);
            }
        }
    }
}

// d_W [V, D] = Σ_m slope_m p_m h_m, the logits computed again.
template <class T>
void vocabulary_backward(const T* hidden, const T* weight, const float* lse, const float* slope, float* dw, long M, long V, long D, float scale) {
    constexpr int FEWER = TOKENS / 2;
    long filled_rows = (M + TALL - 1) / TALL * TALL;
    std::vector<T> columns(filled_rows * D), laid(filled_rows * D);
    std::vector<float> minus(filled_rows), factor(filled_rows);  // 0 for what fills up the last rows
    std::copy_n(lse, M, minus.begin()), std::copy_n(slope, M, factor.begin());
    for (long m = 0; m < M; m += TALL) {
        int rows = int(std::min<long>(TALL, M - m));
        lay_columns(hidden + m * D, rows, D, &columns[m * D], filled(rows)), lay_rows(hidden + m * D, rows, D, &laid[m * D]);
    }
    if (!M) std::fill_n(dw, V * D, 0.0f);
#pragma omp parallel
    {
        std::vector<T> p(FEWER * TALL);
        std::vector<float> s(FEWER * TALL);
#pragma omp for schedule(static)
        for (long v = 0; v < V; v += FEWER)
            for (long m = 0; m < M; m += TALL) {
                int n = int(std::min<long>(FEWER, V - v)), rows = int(std::min<long>(TALL, M - m)), wide = filled(rows);
                product(weight + v * D, D, &columns[m * D], wide, s.data(), wide, n, wide, D, false);
                for (int j = 0; j < n; j++)
                    for (int i = 0; i < wide; i += W)
                        store(&p[j * wide + i], exp(load(&s[j * wide + i]) * scale - load(&minus[m + i])) * load(&factor[m + i]));
                product(p.data(), wide, &laid[m * D], D, dw + v * D, D, n, D, even(rows), m > 0);
            }
    }
}

// The token where the distribution function of softmax(logits) passes u, and its logprob. Sums run over pieces, then inside one.
void draw(const float* logits, const float* u, int64_t* token, float* logprob, long B, long V, float temperature) {
    const int PIECE = 256;
    const float scale = 1.0f / temperature;
#pragma omp parallel for schedule(static) if (B * V > FEW)
    for (long b = 0; b < B; b++) {
        const float* row = logits + b * V;
        vec top = all(-INFINITY);
        for (int j = 0; j < V; j += W) top = load(row + j) > top ? load(row + j) : top;
        float most = top[0];
        for (int i = 1; i < W; i++) most = std::max(most, top[i]);
        std::vector<double> upto;
        double total = 0;
        for (int begin = 0; begin < V; begin += PIECE) {
            vec part{};
            for (int j = begin; j < std::min<long>(begin + PIECE, V); j += W) part += exp((load(row + j) - most) * scale);
            upto.push_back(total += sum(part));
        }
        double aim = double(u[b]) * total;
        int piece = int(std::upper_bound(upto.begin(), upto.end() - 1, aim) - upto.begin());
        double reached = piece ? upto[piece - 1] : 0;
        int chosen = piece * PIECE;
        for (int j = chosen; j < std::min<long>(piece * PIECE + PIECE, V); j++) {
            float w = exp(all((row[j] - most) * scale))[0];
            if (w > 0) chosen = j;  // rounding can point past the last token with weight
            if ((reached += w) > aim) break;
        }
        token[b] = chosen;
        logprob[b] = (row[chosen] - most) * scale - float(std::log(total));
    }
}

// Each kernel for tensors of float and of bfloat16; angles, scales and gradients of weights are always float.
#define BOTH(name) {#name, (void*)name<float>, (void*)name<bf16>}
const struct { const char* name; void *of_float, *of_bf16; } KERNELS[] = {
    BOTH(rms_norm), BOTH(rms_norm_backward), BOTH(swiglu), BOTH(swiglu_backward), BOTH(attention), BOTH(attention_backward),
    BOTH(cached_attention), BOTH(pack), BOTH(linear), BOTH(vocabulary), BOTH(vocabulary_backward),
    {"logits", (void*)linear<float, float>, (void*)linear<bf16, float>}, {"draw", (void*)draw, nullptr},
};

}  // namespace

extern "C" {

// Whether this processor has the instructions that the compiler was allowed to use.
int supported() {
#if defined(__AVX512BF16__)
    return __builtin_cpu_supports("avx512bf16");
#elif defined(__AVX512F__)
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw");
#elif defined(__AVX2__)
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
    return 1;
#endif
}

// Outputs that lie together in a packed weight.
int panel() { return PANEL; }

void* find(const char* name, int bf16) {
    for (auto& kernel : KERNELS)
        if (!std::strcmp(kernel.name, name)) return bf16 ? kernel.of_bf16 : kernel.of_float;
    return nullptr;
}
}
